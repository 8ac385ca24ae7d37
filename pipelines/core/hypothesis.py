"""The claim that retrieval and tuning together beat either alone, as a hypothesis of one corpus. No I/O, no numpy.

It is a claim about two differences at once. Both must lie above zero: an intersection-union test, which needs no
correction for there being two (Berger, "Multiparameter Hypothesis Testing and Acceptance Sampling", 1982).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]
STATEMENT = "both together beat either alone"
PAIRS = ("both - rag", "both - tuned")
LEAST = 20
"""Fewer questions decide nothing, whatever their interval."""
HELD, FAILED, THIN = "held", "did not hold", "too thin"


def verdict(differences: Mapping[str, Mapping[str, Json]], metric: str) -> dict[str, Any] | None:
    """`STATEMENT` on `metric`, of `differences` ({"both - rag": {metric: {value, low, high, n}}}): held when both
    intervals lie above zero, did not hold when one of them reaches no higher than zero, else too thin to say, and so
    on fewer than `LEAST` questions. None when one of the three arms was not asked or not scored by it."""
    found = {pair: differences.get(pair, {}).get(metric) for pair in PAIRS}
    seen = [found[pair] for pair in PAIRS]
    if seen[0] is None or seen[1] is None:
        return None
    both = [seen[0], seen[1]]
    said = THIN
    if min(d["n"] for d in both) >= LEAST:
        if all(d["low"] > 0 for d in both):
            said = HELD
        elif any(d["high"] <= 0 for d in both):
            said = FAILED
    return {"statement": STATEMENT, "metric": metric, "verdict": said, **found}
