"""Train, validation and test, split by document. No I/O.

A question or an example may say itself where it belongs (`split`): a data set that comes with splits keeps them, and
then its author answers for what training has seen (but not for the documents of items that do not say it: `strays`).
Else the method is a threshold on a digest of each document id, so
it is stable: adding or removing documents, questions or examples never moves another item. An item that rests on
several documents takes the strictest of their splits (test before validation before train). So whatever is trained on
rests on training documents only, and whatever is asked in the test has at least one document that training never saw.
Questions and examples of the same corpus are split by the same function. The price of stability is that the realised
shares vary around the asked ones, and that items with several documents lean towards test.

Grouping items that share documents (union-find) would balance better, but one new question can join two groups and
move a document from training to test between revisions; that is why it is not done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pipelines.core.digests import digest_text

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
_STRICTEST = (TEST, VALIDATION, TRAIN)


def fraction(key: str, *, seed: int) -> float:
    """A number in [0, 1) that depends on key and seed only; uniform over keys (32 bits of sha256)."""
    return int(digest_text(f"{seed}:{key}")[:8], 16) / 2**32


def split_of_key(key: str, *, validation: float, test: float, seed: int) -> str:
    """The split of one document id (or of an item without documents, by its own id).

    `validation` and `test` are shares; the rest is training.
    """
    at = fraction(key, seed=seed)
    if at < test:
        return TEST
    return VALIDATION if at < test + validation else TRAIN


def documents_of(item: Mapping[str, Any]) -> tuple[str, ...]:
    """The distinct documents that a question or an example rests on, in order."""
    return tuple(dict.fromkeys(entry["document"] for entry in item.get("evidence") or ()))


def split_of(item: Mapping[str, Any], *, validation: float, test: float, seed: int) -> str:
    """The split of a question or an example with `evidence` and `id`; its own `split`, where it has one, wins.

    An item without evidence (unanswerable questions, refusals, plain training sets) goes by its `id`.
    """
    if "split" in item:
        return str(item["split"])
    keys = documents_of(item) or (f"item:{item['id']}",)
    found = {split_of_key(key, validation=validation, test=test, seed=seed) for key in keys}
    return next(name for name in _STRICTEST if name in found)


def unsaid(items: Iterable[Mapping[str, Any]]) -> set[str]:
    """The documents of those items that do not say themselves where they belong."""
    return {document for item in items if "split" not in item for document in documents_of(item)}


def strays(item: Mapping[str, Any], split: str, *, unsaid: Collection[str], **how: Any) -> list[str]:
    """The documents under an item of `split` that belong to a stricter one; `how` are validation, test and seed.

    An item that says its split answers for its documents, whatever their digests say, save for those in `unsaid`:
    there others count on the split by document, which it would break.
    """
    stricter = _STRICTEST[: _STRICTEST.index(split)]
    known = unsaid if "split" in item else documents_of(item)
    return [d for d in documents_of(item) if d in known and split_of_key(d, **how) in stricter]
