"""Metrics of one answered question. No I/O.

Exact match and token F1 are those of SQuAD's evaluation script (Rajpurkar et al., 2016; version 2.0, 2018):
normalised text, the best over the gold answers. As in version 2.0, a question without an answer scores 1 when the
reply refuses and 0 otherwise, and a refusal of a question that has one scores 0. Token recall is that F1's recall
alone: for replies in sentences it agrees best with people's judgement of correctness (Adlakha et al., "Evaluating
Correctness and Faithfulness of Instruction-Following Models for Question Answering", 2023).

A hallucination is a wrong answer that the passages in the prompt do not support either, and any answer but a refusal
to a question that the corpus cannot answer. So a model that misreads a passage is wrong, one that makes something up
hallucinates. Support is lexical (`core.grounding`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pipelines.core.grounding import groundedness
from pipelines.core.prompts import Passage, Reply, normalised

Similarity = Callable[[str, str], float]
"""Of (answer, gold answer), in [0, 1]."""

METRICS = (
    "exact_match",
    "token_f1",
    "token_recall",
    "contains_answer",
    "rouge_l",
    "format_valid",
    "style",
    "citation_precision",
    "citation_recall",
    "groundedness",
    "hallucination",
    "refused",
    "correct_refusal",
)
MOST_WORDS = 60
"""A plain-text reply longer than this is not the short answer that was asked for."""
WRONG = 0.5
"""An answer that holds a smaller share of every gold answer's tokens is wrong."""
GROUNDED = 0.5
"""The passages support an answer when they support at least this share of its statements."""


def exact_match(answer: str, gold: str) -> float:
    """1.0 when both are equal after normalisation."""
    return float(normalised(answer) == normalised(gold))


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the bags of normalised tokens; of two empty bags 1, of one 0."""
    said, wanted = normalised(answer).split(), normalised(gold).split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def token_recall(answer: str, gold: str) -> float:
    """Share of the gold answer's normalised tokens, as a bag, that the answer holds; of an empty gold 1 when the
    answer is empty too, else 0."""
    said, wanted = Counter(normalised(answer).split()), Counter(normalised(gold).split())
    if not wanted:
        return float(not said)
    return sum((said & wanted).values()) / sum(wanted.values())


def contains_answer(answer: str, gold: str) -> float:
    """1.0 when the gold answer's normalised tokens stand in the answer, in order and side by side."""
    said, wanted = f" {normalised(answer)} ", normalised(gold)
    return float(bool(wanted) and f" {wanted} " in said)


def citation_precision(cited: Sequence[str], documents: Sequence[str]) -> float:
    """Share of the cited documents that are evidence. A reply that cites nothing scores 0 when there is evidence (a
    reader can check nothing) and 1 when there is none."""
    if not cited:
        return float(not documents)
    return sum(document in documents for document in cited) / len(cited)


def citation_recall(cited: Sequence[str], documents: Sequence[str]) -> float | None:
    """Share of the evidence's documents that are cited; None when there is no evidence to cite."""
    if not documents:
        return None
    return sum(document in cited for document in documents) / len(documents)


def hallucination(reply: Reply, recall: float, passages: Sequence[Passage], *, answerable: bool) -> float:
    """1.0 for a made-up answer. `recall`: the best token recall over the gold answers."""
    if reply.refused or not answerable:
        return float(not reply.refused)
    grounded = groundedness(reply.answer, [p.text for p in passages]) or 0.0
    return float(recall < WRONG and grounded < GROUNDED)


def plain_format(text: str) -> bool:
    """A plain-text reply is well formed when it is not empty and at most `MOST_WORDS` words long."""
    return 0 < len(text.split()) <= MOST_WORDS


def score(
    reply: Reply,
    gold: Sequence[str],
    documents: Sequence[str],
    *,
    passages: Sequence[Passage],
    format_valid: bool,
    style: float | None,
    rouge_l: Similarity,
) -> dict[str, float]:
    """The `METRICS` of one reply. `gold` are the acceptable answers (none: the corpus cannot answer the question),
    `documents` the evidence's, `passages` those in the prompt.

    Absent are `style` of plain text, `citation_recall` without evidence, and `groundedness` of a refusal, which
    states nothing: it is the share of the statements that the passages support which the reply cites.
    """
    kinds: dict[str, Similarity] = {
        "exact_match": exact_match,
        "token_f1": token_f1,
        "token_recall": token_recall,
        "contains_answer": contains_answer,
        "rouge_l": rouge_l,
    }
    refused = float(reply.refused)
    if gold and not reply.refused:
        best = {name: max(alike(reply.answer, g) for g in gold) for name, alike in kinds.items()}
    else:
        best = dict.fromkeys(kinds, refused if not gold else 0.0)
    cited = [p.text for p in passages if p.document in reply.citations]
    found: dict[str, float | None] = {
        **best,
        "format_valid": float(format_valid),
        "style": style,
        "citation_precision": citation_precision(reply.citations, documents),
        "citation_recall": citation_recall(reply.citations, documents),
        "groundedness": None if reply.refused else groundedness(reply.answer, cited),
        "hallucination": hallucination(reply, best["token_recall"], passages, answerable=bool(gold)),
        "refused": refused,
        "correct_refusal": float(reply.refused == (not gold)),
    }
    return {name: value for name, value in found.items() if value is not None}
