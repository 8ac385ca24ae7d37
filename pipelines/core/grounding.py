"""Whether what a reply states stands in the passages that it rests on. Lexical, no model, no I/O.

A statement is a sentence of the reply. It is supported when at least `SUPPORTED` of its distinct content tokens occur
in the passages, taken together. Sources: statements held against cited passages are the citation recall of ALCE (Gao
et al., "Enabling Large Language Models to Generate Text with Citations", 2023) and the attribution of AIS (Rashkin et
al., "Measuring Attribution in Natural Language Generation Models", 2023); the share of a reply's tokens that stand in
the passages is the K-precision of Adlakha et al. (2023), which found it to agree best with people's judgement of
faithfulness. ALCE lets an entailment model decide; none is packaged here, so words decide. That errs where a reply
denies what a passage says, and where it says the same in other words: of the handbook's own replies 86 % of the
statements count as supported by the quotes they were written from, 8 % by the best of all other documents' quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from pipelines.core.prompts import normalised

SUPPORTED = 0.5
"""Least share of a statement's content tokens that its passages must hold."""
_LONG = 4
_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@lru_cache(maxsize=4096)
def content(text: str) -> frozenset[str]:
    """Distinct normalised tokens of at least four characters, or with a digit; all tokens where there are none such.
    A rule of length needs no list of stop words, so it serves every language that puts spaces between words."""
    tokens = frozenset(normalised(text).split())
    return frozenset(t for t in tokens if len(t) >= _LONG or any(c.isdigit() for c in t)) or tokens


def statements(text: str) -> list[str]:
    """The sentences of a text that hold any token: split after an end mark that white space follows."""
    return [part for part in _END.split(text) if normalised(part)]


@lru_cache(maxsize=4096)
def _tokens(passage: str) -> frozenset[str]:
    return frozenset(normalised(passage).split())


def supported(statement: str, passages: Iterable[str]) -> bool:
    """True when the passages together hold at least `SUPPORTED` of the statement's content tokens."""
    said = content(statement)
    held = said & frozenset[str]().union(*map(_tokens, passages))
    return bool(said) and len(held) >= SUPPORTED * len(said)


def groundedness(answer: str, passages: Iterable[str]) -> float | None:
    """Share of the answer's statements that the passages support; 0 without passages, None without statements."""
    said, shown = statements(answer), list(passages)
    if not said:
        return None
    return sum(supported(statement, shown) for statement in said) / len(said)
