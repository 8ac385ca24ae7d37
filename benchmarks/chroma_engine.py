"""Chroma as one of the engines of `benchmarks.queries`, in an environment of its own: JSON lines in, JSON lines out.

It imports nothing of the project. First line in: the folder with `vectors.npy`, `questions.npy` and `texts.json`. Then
{"queries": [...], "threads": n} gives {"seconds": [...], "keys": [...], "cpu": seconds}.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chromadb
import numpy as np

STEP = 5_000


def main() -> None:
    folder = Path(json.loads(sys.stdin.readline()))
    vectors, questions = np.load(folder / "vectors.npy"), np.load(folder / "questions.npy")
    texts = json.loads((folder / "texts.json").read_text())
    client = chromadb.PersistentClient(str(folder / "chroma"), settings=chromadb.Settings(anonymized_telemetry=False))
    collection = client.get_or_create_collection("chunks", configuration={"hnsw": {"space": "cosine"}})
    for start in range(0, len(texts), STEP):
        part = slice(start, start + STEP)
        keys = [str(n) for n in range(start, min(start + STEP, len(texts)))]
        collection.upsert(ids=keys, embeddings=vectors[part], documents=texts[part])
    print(json.dumps({"rows": collection.count()}), flush=True)

    def ask(n: int) -> tuple[float, list[int]]:
        began = time.perf_counter()
        found = collection.query(
            query_embeddings=questions[n : n + 1], n_results=10, include=["documents", "distances"]
        )
        return time.perf_counter() - began, [int(key) for key in found["ids"][0]]

    for line in sys.stdin:
        asked = json.loads(line)
        before = time.process_time()
        with ThreadPoolExecutor(asked["threads"]) as pool:
            seconds, keys = zip(*pool.map(ask, asked["queries"]), strict=True)
        print(json.dumps({"seconds": seconds, "keys": keys, "cpu": time.process_time() - before}), flush=True)


if __name__ == "__main__":
    main()
