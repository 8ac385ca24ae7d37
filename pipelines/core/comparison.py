"""Arms side by side: means with intervals, and every paired difference. Rows in, `Metric`s out; no I/O.

Rows are one per question, in the same order of questions for every arm. A metric that has no meaning for a question is
absent from its row; a mean is over the questions that have it, a difference over those that have it in both arms.
The intervals are 95 % each: of ten differences in a table, one may miss its truth by chance alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.core.bootstrap import mean_interval, paired_difference, quantile_interval
from pipelines.core.nouns import Metric

Rows = Sequence[Mapping[str, float]]
QUANTILES = {"latency_p50": 0.5, "latency_p99": 0.99}
"""Of the seconds of a reply."""
SECONDS = "seconds"


def summarise(rows: Rows, names: Sequence[str]) -> dict[str, Metric]:
    """Mean and interval of each metric in `names`; one that no question has is left out. ValueError on no rows."""
    if not rows:
        raise ValueError("an arm without a question has no mean")
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: mean_interval(values) for name, values in found.items() if values}


def difference(ours: Rows, theirs: Rows, names: Sequence[str]) -> dict[str, Metric]:
    """Paired difference (ours minus theirs) of each metric that some question has in both."""
    out = {}
    for name in names:
        pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) if name in a and name in b]
        if pairs:
            out[name] = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    return out


def latencies(rows: Rows, *, less: Rows | None = None) -> dict[str, Metric]:
    """`QUANTILES` of the rows' `seconds`; with `less`, of the difference to another arm's."""
    ours = [row[SECONDS] for row in rows]
    theirs = None if less is None else [row[SECONDS] for row in less]
    return {name: quantile_interval(ours, q, less=theirs) for name, q in QUANTILES.items()}
