"""Score rows (one per question, as `scores/*.jsonl` hold them) turned into question id -> value. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def answer_scores(rows: Iterable[Mapping[str, Any]], metric: str) -> dict[str, dict[str, float]]:
    """arm -> question id -> value of `metric`, of rows `{"id", "arm", "metrics"}`. Absent values are left out;
    the champion's replies are the arm `champion`."""
    out: dict[str, dict[str, float]] = {}
    for row in rows:
        value = row["metrics"].get(metric)
        if value is not None:
            out.setdefault(row["arm"], {})[row["id"]] = float(value)
    return out


def retrieval_scores(rows: Iterable[Mapping[str, Any]], metric: str) -> tuple[dict[str, float], dict[str, float]]:
    """(candidate's, champion's) question id -> value of `metric`, of rows `{"id", "metrics", "champion"?}`."""
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for row in rows:
        for side, found in ((ours, row["metrics"]), (theirs, row.get("champion") or {})):
            if found.get(metric) is not None:
                side[row["id"]] = float(found[metric])
    return ours, theirs
