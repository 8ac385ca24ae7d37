"""ROUGE-L by Google's `rouge-score`, the implementation that papers report (Lin, 2004). Importing it costs 2 CPU-s."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

_WORD = re.compile(r"[^\W_]+")


class _Words:
    """rouge-score's tokenizer keeps ASCII letters and digits only; this one keeps those of every script, and gives
    the same tokens on ASCII text."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


class RougeL:
    """`rouge(answer, gold)`: F-measure of the longest common subsequence of words, in [0, 1]; no stemming."""

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(["rougeL"], tokenizer=_Words())

    def __call__(self, answer: str, gold: str) -> float:
        return float(self._scorer.score(gold, answer)["rougeL"].fmeasure)
