"""The engines that `benchmarks.queries` asks: each is opened on the same vectors and answers blocks of questions.

An engine is a context manager that yields `ask(kind, numbers, threads) -> (seconds of each, keys of each, CPU)`.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alternatives.systems import Alternative
from benchmarks.harness import cpu_seconds
from pipelines.backends.milvus import MilvusStore
from pipelines.errors import BackendError
from pipelines.params import Retrieve, read_raw
from pipelines.ports import Embedder
from pipelines.retrieval import nearest
from pipelines.schemas import VECTORS
from pipelines.settings import checkout

K = 10
NAME = "b_queries_0123456789abcdef"
DENSE, FULL = "search + fetch", "embed + hybrid + fetch"
Ask = Callable[[str, Sequence[int], int], tuple[list[float], list[list[int]], float]]


@dataclass
class Corpus:
    """`texts` (rows), float32 `vectors` (rows, dim), `asked` (queries) and their float32 `questions` (queries, dim)."""

    texts: list[str]
    vectors: np.ndarray
    asked: list[str]
    questions: np.ndarray

    def batches(self, size: int = 500) -> Iterator[Any]:
        """Arrow record batches of a build's schema."""
        import pyarrow as pa

        for start in range(0, len(self.texts), size):
            rows = [
                {
                    **{"key": f"{n:032d}", "document": f"{n // 10}.md", "title": "T", "ordinal": n % 10, "start": 0},
                    **{"end": 9, "tokens": 9, "text": self.texts[n], "text_digest": f"{n:064d}"},
                    **{"vector": self.vectors[n], "access": "public"},
                }
                for n in range(start, min(start + size, len(self.texts)))
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=VECTORS)


def blocks(one: Callable[[str, int], list[int]]) -> Ask:
    """`ask` of an engine that runs in this process or below it; `one(kind, number)` gives the keys of a question."""

    def ask(kind: str, numbers: Sequence[int], threads: int) -> tuple[list[float], list[list[int]], float]:
        def timed(number: int) -> tuple[float, list[int]]:
            began = time.perf_counter()
            keys = one(kind, number)
            return time.perf_counter() - began, keys

        before = cpu_seconds()
        with ThreadPoolExecutor(threads) as pool:
            seconds, keys = zip(*pool.map(timed, numbers), strict=True)
        return list(seconds), list(keys), cpu_seconds() - before

    return ask


_EMBEDDING = threading.Lock()


def embedded(embedder: Embedder, question: str) -> np.ndarray:
    """A question's vector, float32 (1, dim); one at a time, since an embedder answers one thread."""
    with _EMBEDDING:
        return embedder.embed_batch([question])


@contextmanager
def milvus(corpus: Corpus, embedder: Embedder, *, uri: str, index_type: str) -> Iterator[Ask]:
    """Our store: what a service calls. Kind FULL embeds the question and searches by both; one embedder for all."""
    store = MilvusStore(uri)
    store.drop(NAME)
    store.load(NAME, corpus.batches(), dim=corpus.vectors.shape[1], index_type=index_type)
    dense = Retrieve(mode="dense", k=K)
    hybrid = Retrieve.model_validate({**read_raw(checkout() / "params.yaml")["defaults"]["retrieve"], "k": K})

    def one(kind: str, number: int) -> list[int]:
        question, vector, how = corpus.asked[number], corpus.questions[number : number + 1], dense
        if kind == FULL:
            how, vector = hybrid, embedded(embedder, question)
        (hits,) = nearest(store, NAME, [question], vector, retrieve=how, k=K, filters=None, labels=())
        return [int(hit.chunk) for hit in hits]

    try:
        yield blocks(one)
    finally:
        store.close()


def settle(*, share: float = 0.4, every: float = 2.0, patience: float = 900.0) -> None:
    """Return when this process and all below it are quiet: engines build indexes after they said that they are loaded.

    Quiet is less than `share` of a core for `every` seconds: who builds takes a core, while each idle Milvus server
    takes a tenth. BackendError when that does not come within `patience`.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = cpu_seconds()
        time.sleep(every)
        if cpu_seconds() - before < share * every:
            return
    raise BackendError(f"the engines did not come to rest within {patience:.0f} s")


@contextmanager
def faiss_flat(corpus: Corpus) -> Iterator[Ask]:
    """FAISS alone, exact, texts in a list: the least that a search can cost."""
    import faiss

    index = faiss.IndexFlatIP(corpus.vectors.shape[1])
    index.add(corpus.vectors)

    def one(kind: str, number: int) -> list[int]:
        _, found = index.search(corpus.questions[number : number + 1], K)
        assert all(corpus.texts[n] for n in found[0])
        return [int(n) for n in found[0]]

    yield blocks(one)


@contextmanager
def chroma(corpus: Corpus, folder: Path) -> Iterator[Ask]:
    """Chroma, persistent, in a process and an environment of its own: its times are taken there, so no pipe is in them.

    MissingTool when its environment, LangChain's, cannot be made.
    """
    environment = Alternative("langchain", "Chroma")
    environment.prepare()
    np.save(folder / "vectors.npy", corpus.vectors)
    np.save(folder / "questions.npy", corpus.questions)
    (folder / "texts.json").write_text(json.dumps(corpus.texts))
    line = [str(environment.python), str(checkout() / "benchmarks" / "chroma_engine.py")]
    env = {**os.environ, "ANONYMIZED_TELEMETRY": "False"}
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def told(value: Any) -> Any:
            process.stdin.write(json.dumps(value) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise BackendError("Chroma's process ended; its error stands above")
            return json.loads(answer)

        def ask(kind: str, numbers: Sequence[int], threads: int) -> tuple[list[float], list[list[int]], float]:
            answer = told({"queries": list(numbers), "threads": threads})
            return answer["seconds"], answer["keys"], answer["cpu"]

        try:
            told(str(folder))
            yield ask
        finally:
            process.kill()
