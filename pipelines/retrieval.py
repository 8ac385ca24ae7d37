"""Search, then rerank, then the best k: the one way in which passages are found, so that what is judged is what is
served. It knows no vendor, and neither labels nor judges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.params import Retrieve
from pipelines.ports import Embedder, Hit, Reranker, VectorStore

Filters = Mapping[str, str | Sequence[str]]
"""Field of a passage (`document`, `title`) -> the value it must have, or those of which it must have one."""

BATCH = 100
"""Questions embedded and searched for together."""

MOST = 1_000
"""Passages fetched for one question at most, however many of them one document has."""


def search(
    store: VectorStore,
    embedder: Embedder,
    collection: str,
    questions: Sequence[str],
    *,
    retrieve: Retrieve,
    reranker: Reranker | None,
    k: int | None = None,
    filters: Filters | None = None,
    labels: Sequence[str] | None = (),
) -> list[list[Hit]]:
    """The k (`retrieve.k` by default) best passages of each question, in order, best first.

    With a reranker the first `retrieve.rerank.depth` that the store finds are put in the order of its scores, which
    then are the hits' scores; what the store finds beyond that depth follows in the store's own order, so a larger k
    only adds. With `retrieve.per_document` at most so many of one document are among the k: more is fetched, MOST at
    the most, until there are k or the store has no more. `filters` narrow the search itself, so that k passages are
    found where so many match. `labels` are the reader's access labels, and narrow it likewise to these and to what is
    public; by default to what is public. None restricts nothing: it is for stages, which judge the whole index, and
    is never a reader's. NotFound without the collection; BadInput on a filter or label that is not one.
    """
    k = retrieve.k if k is None else k
    quota = retrieve.per_document
    depth = retrieve.rerank.depth if reranker is not None and retrieve.rerank is not None else 0
    out: list[list[Hit]] = []
    for start in range(0, len(questions), BATCH):
        texts = list(questions[start : start + BATCH])
        vectors = embedder.embed_batch(texts)
        how: dict[str, Any] = {"mode": retrieve.mode, "filters": filters, "labels": labels}
        wanted = max(k, depth)
        found = store.search(collection, texts, vectors, k=wanted, **how)
        while quota is not None and wanted < MOST and any(_short(hits, k, quota, wanted) for hits in found):
            wanted = min(4 * wanted, MOST)
            found = store.search(collection, texts, vectors, k=wanted, **how)
        out += found
    if reranker is not None and depth:
        out = [rerank(reranker, text, hits, depth=depth) for text, hits in zip(questions, out, strict=True)]
    return [limited(hits, per_document=quota)[:k] for hits in out]


def limited(hits: Sequence[Hit], *, per_document: int | None) -> list[Hit]:
    """The hits in their order without those of a document beyond its first `per_document`; all of them for None."""
    if per_document is None:
        return list(hits)
    seen: Counter[str] = Counter()
    out = []
    for hit in hits:
        seen[hit.document] += 1
        if seen[hit.document] <= per_document:
            out.append(hit)
    return out


def _short(hits: Sequence[Hit], k: int, quota: int, wanted: int) -> bool:
    """True where the quota leaves fewer than k, and the store may have more."""
    return len(hits) == wanted and len(limited(hits, per_document=quota)) < k


def rerank(reranker: Reranker, question: str, hits: Sequence[Hit], *, depth: int) -> list[Hit]:
    """The first `depth` hits in the order of the reranker's scores, equal ones as they were; the others after them."""
    head = list(hits[:depth])
    scores = reranker.score(question, [hit.text for hit in head])
    order = np.argsort(-scores, kind="stable")
    return [replace(head[n], score=float(scores[n])) for n in order] + list(hits[depth:])
