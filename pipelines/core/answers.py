"""Metrics of one answered question, and of an arm. No I/O.

Exact match and token F1 are those of SQuAD's evaluation script (Rajpurkar et al., 2016; version 2.0, 2018):
normalised text, the best over the gold answers. As in version 2.0, a question without an answer scores 1 when the
reply refuses and 0 otherwise, and a refusal of a question that has one scores 0. Token recall is that F1's recall
alone: for replies in sentences it agrees best with people's judgement of correctness (Adlakha et al., "Evaluating
Correctness and Faithfulness of Instruction-Following Models for Question Answering", 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.core.bootstrap import mean_interval, paired_difference
from pipelines.core.nouns import Metric
from pipelines.core.prompts import Reply, normalised

METRICS = (
    "exact_match",
    "token_f1",
    "token_recall",
    "contains_answer",
    "format_valid",
    "citation_precision",
    "refused",
    "correct_refusal",
)
MOST_WORDS = 60
"""A plain-text reply longer than this is not the short answer that was asked for."""


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


def plain_format(text: str) -> bool:
    """A plain-text reply is well formed when it is not empty and at most `MOST_WORDS` words long."""
    return 0 < len(text.split()) <= MOST_WORDS


def score(reply: Reply, gold: Sequence[str], documents: Sequence[str], *, format_valid: bool) -> dict[str, float]:
    """All `METRICS` of one reply. `gold` are the acceptable answers (none: the corpus cannot answer the question),
    `documents` the evidence's."""
    refused = float(reply.refused)
    if gold and not reply.refused:
        best = {
            "exact_match": max(exact_match(reply.answer, g) for g in gold),
            "token_f1": max(token_f1(reply.answer, g) for g in gold),
            "token_recall": max(token_recall(reply.answer, g) for g in gold),
            "contains_answer": max(contains_answer(reply.answer, g) for g in gold),
        }
    else:
        best = dict.fromkeys(
            ("exact_match", "token_f1", "token_recall", "contains_answer"), refused if not gold else 0.0
        )
    return {
        **best,
        "format_valid": float(format_valid),
        "citation_precision": citation_precision(reply.citations, documents),
        "refused": refused,
        "correct_refusal": float(reply.refused == (not gold)),
    }


def summarise(
    rows: Sequence[Mapping[str, float]], names: Sequence[str], *, confidence: float, resamples: int, seed: int
) -> dict[str, Metric]:
    """Mean and bootstrap interval of each metric in `names` over an arm's questions that have it; a metric that no
    question has is left out. ValueError on no rows."""
    if not rows:
        raise ValueError("an arm without a question has no mean")
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: mean_interval(values, **options) for name, values in found.items() if values}


def differences(
    rows: Sequence[Mapping[str, float]],
    base: Sequence[Mapping[str, float]],
    names: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Metric]:
    """Paired difference (arm minus base) of each metric; both sequences are in the same order of questions, and a
    question counts where both have the metric."""
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    out = {}
    for name in names:
        pairs = [(r[name], b[name]) for r, b in zip(rows, base, strict=True) if name in r and name in b]
        if pairs:
            out[name] = paired_difference([r for r, _ in pairs], [b for _, b in pairs], **options)
    return out


def latency(seconds: Sequence[float]) -> dict[str, dict[str, float | int]]:
    """Median and 99th percentile in seconds, by linear interpolation, with the number of replies behind them."""
    values = np.asarray(seconds, dtype=np.float64)
    return {
        f"latency_p{q}": {"value": round(float(np.quantile(values, q / 100)), 4), "n": len(values)} for q in (50, 99)
    }
