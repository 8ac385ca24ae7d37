"""What our own index holds and finds, in the same form as the others: `with_assay.py look CORPUS QUESTIONS OUT K`.

The build itself is the product's own commands. The store is that of ASSAY_HOME, asked by the params' retrieve.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.builds import build_rows
from pipelines.retrieval import search
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.settings import Settings
from pipelines.wiring import Wiring


def look(corpus: str, questions: str, out: str, k: str) -> None:
    """The sealed build's rows -> OUT/chunks.jsonl; the documents of the k best chunks -> OUT/run.jsonl."""
    ports = Wiring.of(Settings.from_env(), corpus)
    build, held = ports.workspace.receipt("embed"), []
    for batch in build_rows(ports.objects, build, columns=["document", "start", "text"]):
        held += batch.to_pylist()
    write_jsonl(Path(out) / "chunks.jsonl", held)
    rows = list(read_jsonl(Path(questions)))
    texts = [row["question"] for row in rows]
    how = {"retrieve": ports.params.retrieve, "reranker": ports.reranker}
    hits = search(ports.store, ports.embedder, build["collection"], texts, k=int(k), **how)
    found = [
        {"id": row["id"], "documents": [hit.document for hit in best]} for row, best in zip(rows, hits, strict=True)
    ]
    write_jsonl(Path(out) / "run.jsonl", found)


if __name__ == "__main__":
    look(*sys.argv[2:])
