"""What an embedder or a cross-encoder is trained on: questions by split, their passages, and hard negatives. No I/O.

A hard negative is a passage that the search finds for a question and that does not answer it. Gold questions name
some of the passages that answer, seldom all: so a passage that scores within `margin` of the worst positive one is
not taken for a wrong answer (NV-Retriever's TopK-PercPos: Moreira et al., 2024; sentence-transformers'
`mine_hard_negatives` with `relative_margin`). Passages of documents outside the training split are never negatives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.digests import digest_text
from pipelines.core.splits import TEST, TRAIN, VALIDATION, split_of

Row = Mapping[str, Any]
Scored = tuple[str, float]
"""A passage and its cosine to the question."""


@dataclass(frozen=True)
class Asked:
    """A question with the passages that answer it and those found that do not, both best first."""

    question: str
    positives: Sequence[Scored]
    others: Sequence[Scored]


def seen_as(question: str) -> str:
    """How a question is remembered as trained on: whatever its id, case and white space."""
    return digest_text(" ".join(question.lower().split()))


def by_split(questions: Iterable[Row], *, validation: float, test: float, seed: int) -> dict[str, list[Row]]:
    """Questions with evidence of the splits train and validation, by id; those of the test are left out, and so is
    one that another split asks in the same words."""
    rows = sorted((row for row in questions if row.get("evidence")), key=lambda row: row["id"])
    splits = {row["id"]: split_of(row, validation=validation, test=test, seed=seed) for row in rows}
    taken = {seen_as(row["question"]) for row in rows if splits[row["id"]] == TEST}
    out: dict[str, list[Row]] = {}
    for name in (VALIDATION, TRAIN):
        out[name] = [row for row in rows if splits[row["id"]] == name and seen_as(row["question"]) not in taken]
        taken |= {seen_as(row["question"]) for row in out[name]}
    return out


def unseen(questions: Iterable[Row], seen: Collection[str], *, validation: float, test: float, seed: int) -> list[Row]:
    """The questions of the test split whose words (`seen_as`) no training has seen."""
    shares: dict[str, Any] = {"validation": validation, "test": test, "seed": seed}
    return [row for row in questions if split_of(row, **shares) == TEST and seen_as(row["question"]) not in seen]


def hard_negatives(asked: Asked, *, count: int, margin: float) -> list[str]:
    """At most `count` passages, each once: the best whose score is at least `margin` (a share of its size) below the
    worst positive's; where these are too few, the worst of the others, which are the least likely to answer."""
    right = {text for text, _ in asked.positives}
    others = list(dict.fromkeys(pair for pair in asked.others if pair[0] not in right))
    worst = min(score for _, score in asked.positives)
    limit = worst - abs(worst) * margin
    below = [text for text, score in others if score <= limit]
    above = [text for text, score in others if score > limit]
    return list(dict.fromkeys([*below, *reversed(above)]))[:count]


def triplets(found: Iterable[Asked], *, negatives: int, positives: int, margin: float) -> list[dict[str, str]]:
    """Rows {question, positive, negative}: each of the `positives` best and each negative at least once."""
    rows = []
    for asked in found:
        right = [text for text, _ in asked.positives[:positives]]
        wrong = hard_negatives(asked, count=negatives, margin=margin)
        for n in range(max(len(right), len(wrong)) if right and wrong else 0):
            row = {"positive": right[n % len(right)], "negative": wrong[n % len(wrong)]}
            rows.append({"question": asked.question, **row})
    return rows


def pairs(found: Iterable[Asked], *, negatives: int, positives: int, margin: float) -> list[dict[str, Any]]:
    """Rows {question, passage, label}: label 1.0 for each of the `positives` best, 0.0 for each negative."""
    rows: list[dict[str, Any]] = []
    for asked in found:
        right = [text for text, _ in asked.positives[:positives]]
        wrong = hard_negatives(asked, count=negatives, margin=margin)
        for text, label in [*((text, 1.0) for text in right), *((text, 0.0) for text in wrong)]:
            rows.append({"question": asked.question, "passage": text, "label": label})
    return rows


def steps_of(rows: int, *, batch: int, epochs: float, most: int) -> int:
    """Optimizer steps: so many epochs of whole and broken batches, at least one step and at most `most`."""
    return max(1, min(most, round(epochs * -(-rows // batch))))
