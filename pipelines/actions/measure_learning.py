"""Data needed: the primary metric against shares of the documents and of the training examples.

Documents: `rag` is asked again with its search narrowed to a share of the documents, so nothing is built. Examples:
`tuned` is trained again on a share of the training set, with the same number of steps, so what differs is the data
alone. Shares are nested, by digests: what is in a quarter is in the half. The whole is the candidate's own. A question
whose document is not in the share stays asked: that is what a smaller corpus costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.core.splits import fraction
from pipelines.corpus_files import document_batches
from pipelines.ports import Hit
from pipelines.probes import Subject

SHARES = (0.25, 0.5, 1.0)
MOST_DOCUMENTS = 10_000
"""More are not named in a filter of the search."""
_SEED = 7


def _documents(subject: Subject) -> list[dict[str, Any]]:
    ids = [str(d) for batch in document_batches(subject.workspace.versioned, ["id"]) for d in batch["id"].to_pylist()]
    if len(ids) > MOST_DOCUMENTS:
        print(f"measure: learning: {len(ids):,} documents are more than a filter names; they are left out", flush=True)
        return []
    texts = [q["question"] for q in subject.questions]
    out = []
    for share in SHARES:
        kept = [d for d in ids if fraction(f"documents:{d}", seed=_SEED) < share]
        if not kept:
            continue
        hits = subject.passages(texts, filters={"document": kept} if share < 1 else None)
        found = subject.quality(subject.untuned, "rag", hits, what=f"learning: {len(kept)} documents")
        out.append({"of": "documents", "arm": "rag", "share": share, "items": len(kept), **_json(found)})
    return out


def _examples(subject: Subject) -> list[dict[str, Any]]:
    if subject.tuned is None:
        return []
    rows = subject.rows("train")
    nothing: list[list[Hit]] = [[] for _ in subject.questions]
    out = []
    for share in SHARES:
        kept = [row for row in rows if fraction(f"examples:{row['id']}", seed=_SEED) < share]
        if not kept:
            continue
        what = f"learning: {len(kept)} examples"
        generator = subject.tuned if share == 1 else subject.trained_on(kept, what=what)[0]
        found = subject.quality(generator, "tuned", nothing, what=what)
        out.append({"of": "examples", "arm": "tuned", "share": share, "items": len(kept), **_json(found)})
    return out


def _json(found: Any) -> Mapping[str, Any]:
    return {"value": None, "low": None, "high": None, "n": 0} if found is None else found.to_json()


def measure(subject: Subject) -> dict[str, Any]:
    """{"metric", "rows": [{"of", "arm", "share", "items", "value", "low", "high", "n"}]}"""
    return {"metric": subject.primary, "rows": [*_documents(subject), *_examples(subject)]}
