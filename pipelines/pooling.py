"""Two embedders on the same questions and passages: the build's own vectors against what another model makes of them.

They rank one pool, so that they differ by their vectors alone, and the other model embeds 10,000 passages at most,
whatever the size of the corpus. The pool holds what the build's own vectors find first, so its own ranking is that of
the whole index, and the other's lacks rivals that only it would have found: a gain over the other is, if anything,
larger than it is measured here. It neither labels nor scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.builds import build_rows
from pipelines.core.digests import digest_text
from pipelines.core.evidence import Labels
from pipelines.params import Retrieve
from pipelines.ports import Embedder, Ports
from pipelines.retrieval import search

POOL_DEPTH = 50
POOL_QUESTIONS = 200

Json = Mapping[str, Any]
Runs = dict[str, list[str]]
"""Question id -> keys, best first."""


def pool(ports: Ports, build: Json, questions: Sequence[Json], gold: Mapping[str, Labels], retrieve: Retrieve) -> Any:
    """Arrow table (key, document, text, vector), by key: of all `questions` together the 50 passages nearest by vector
    and those that hold gold. Source: the depth-k pool of TREC, Sparck Jones and van Rijsbergen (1975)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    dense = retrieve.model_copy(update={"mode": "dense", "rerank": None, "per_document": None})
    asked = [row["question"] for row in questions]
    collection, depth = build["collection"], POOL_DEPTH
    how: dict[str, Any] = {"retrieve": dense, "reranker": None, "labels": None}
    found = search(ports.store, ports.embedder, collection, asked, k=depth, **how)
    keys = {hit.chunk for hits in found for hit in hits}
    documents: set[str] = set()
    for row in questions:
        (keys if gold[row["id"]].level == "chunk" else documents).update(gold[row["id"]].grades)
    of_keys, of_documents = (pa.array(sorted(ids), type=pa.string()) for ids in (keys, documents))
    held = []
    for batch in build_rows(ports.objects, build, columns=["key", "document", "text", "vector"]):
        chosen = pc.or_(pc.is_in(batch["key"], of_keys), pc.is_in(batch["document"], of_documents))
        held.append(batch.filter(chosen))
    return pa.Table.from_batches(held).sort_by("key")


def nearest(
    table: Any, passages: np.ndarray, asked: np.ndarray, levels: Sequence[str], *, cutoff: int = 10
) -> list[list[str]]:
    """For each row of `asked` (questions, dim) the best chunk keys or documents of the pool, by inner product with
    `passages` (rows of `table`, dim); of equals the smaller key."""
    names = {"chunk": table["key"].to_pylist(), "document": table["document"].to_pylist()}
    out = []
    for vector, level in zip(asked, levels, strict=True):
        order = np.argsort(-(passages @ vector), kind="stable")
        out.append(list(dict.fromkeys(names[level][n] for n in order))[:cutoff])
    return out


def chosen(questions: Sequence[Json]) -> list[Json]:
    """At most 200 of the questions, by digest."""
    return sorted(questions, key=lambda row: digest_text(row["id"]))[:POOL_QUESTIONS]


def both_ways(
    ports: Ports,
    other: Embedder,
    build: Json,
    questions: Sequence[Json],
    *,
    gold: Mapping[str, Labels],
    retrieve: Retrieve,
) -> tuple[Runs, Runs]:
    """What the build's own vectors and what those of `other` rank first, ten of the questions' common pool each."""
    table = pool(ports, build, questions, gold, retrieve)
    asked, levels = [row["question"] for row in questions], [gold[row["id"]].level for row in questions]
    own = np.stack(table["vector"].to_numpy()).astype(np.float32)
    sides = ((ports.embedder, own), (other, other.embed_batch(table["text"].to_pylist())))
    runs = [nearest(table, passages, embedder.embed_batch(asked), levels) for embedder, passages in sides]
    ids = [row["id"] for row in questions]
    return dict(zip(ids, runs[0], strict=True)), dict(zip(ids, runs[1], strict=True))
