"""Search, then rerank, then the best k: the one way in which passages are found, so that what is judged is what is
served. It knows no vendor, and neither labels nor judges.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pipelines.params import Retrieve
from pipelines.ports import Embedder, Hit, Reranker, VectorStore

Filters = Mapping[str, str | Sequence[str]]
"""Field of a passage (`document`, `title`) -> the value it must have, or those of which it must have one."""

BATCH = 100
"""Questions embedded and searched for together."""

FUSED = 50
"""Passages of each search that are fused, at least."""

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

    Hybrid fuses what is found by vector and by BM25: by weights with `retrieve.alpha`, else by rank, as the store does.
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
        once = partial(nearest, store, collection, texts, vectors, retrieve=retrieve, filters=filters, labels=labels)
        wanted = max(k, depth)
        found = once(k=wanted)
        while quota is not None and wanted < MOST and any(_short(hits, k, quota, wanted) for hits in found):
            wanted = min(4 * wanted, MOST)
            found = once(k=wanted)
        out += found
    if reranker is not None and depth:
        out = [rerank(reranker, text, hits, depth=depth) for text, hits in zip(questions, out, strict=True)]
    return [limited(hits, per_document=quota)[:k] for hits in out]


def nearest(
    store: VectorStore, collection: str, texts: Sequence[str], vectors: Any, *, retrieve: Retrieve, k: int, **who: Any
) -> list[list[Hit]]:
    """The k best of each question by `retrieve.mode`; two searches, fused here, where it is hybrid with an alpha."""
    if retrieve.mode != "hybrid" or retrieve.alpha is None:
        return store.search(collection, texts, vectors, k=k, mode=retrieve.mode, **who)
    dense, bm25 = (
        store.search(collection, texts, vectors, k=max(k, FUSED), mode=mode, **who) for mode in ("dense", "bm25")
    )
    return [fused(*both, alpha=retrieve.alpha)[:k] for both in zip(dense, bm25, strict=True)]


def fused(dense: Sequence[Hit], bm25: Sequence[Hit], *, alpha: float) -> list[Hit]:
    """What either search found, best first, scored alpha x dense + (1 - alpha) x BM25, from 0 to 1.

    Scores are brought to one scale between the least that they can be (a cosine's -1, BM25's 0) and the best that was
    found; what a search did not find counts 0 there. This is TM2C2 of Bruch, Gai and Ingber, "An analysis of fusion
    functions for hybrid retrieval" (TOIS 2023). It is here and not left to Milvus, whose WeightedRanker means another
    thing on a server (arc tangent) than in milvus-lite (the range of what was found): what was judged on one would be
    served in another order by the other.
    """
    total: defaultdict[str, float] = defaultdict(float)
    hits: dict[str, Hit] = {}
    for found, share, least in ((dense, alpha, -1.0), (bm25, 1 - alpha, 0.0)):
        span = max((hit.score for hit in found), default=least) - least
        for hit in found:
            total[hit.chunk] += share * ((hit.score - least) / span) if span > 0 else 0.0
            hits.setdefault(hit.chunk, hit)
    order = sorted(hits, key=lambda chunk: (-total[chunk], chunk))
    return [replace(hits[chunk], score=total[chunk]) for chunk in order]


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
