"""A comparison of arms made of its rows: what the receipt says, what was measured, and the MLflow run of it.

Rows are those of scores/answers.jsonl. The receipt holds what the replies decide; latency and cost, which depend on the
machine, are kept apart. It asks and judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core import comparison
from pipelines.core.digests import digest_json
from pipelines.core.nouns import Metric
from pipelines.core.prompts import ARMS, pairs
from pipelines.ports import Ports

Json = Mapping[str, Any]
ByArm = Mapping[str, Sequence[Json]]
SPENT = ("tokens_in", "tokens_out", "cost_per_1000")
_PLOTTED = ("token_f1", "token_recall", "format_valid", "citation_precision", "groundedness", "hallucination")
_COLUMNS = ("id", "arm", "question", "gold", "answer", "citations", "passages", "tokens_in", "tokens_out", "ms")


def _json(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in metrics.items()}


def _asked(by_arm: ByArm) -> list[str]:
    """The candidate's arms, in their order."""
    return [arm for arm in ARMS if arm in by_arm]


def scores(by_arm: ByArm, names: Sequence[str]) -> dict[str, Any]:
    """{"arms": {arm: {metric: {value, low, high, n}}}, "differences": {"B - A": the same}} of the metrics `names`;
    differences are between any two of the candidate's arms."""
    rows = {arm: [row["metrics"] for row in found] for arm, found in by_arm.items()}
    return {
        "arms": {arm: _json(comparison.summarise(found, names)) for arm, found in rows.items()},
        "differences": {
            pair: _json(comparison.difference(rows[ours], rows[theirs], names))
            for pair, ours, theirs in pairs(_asked(by_arm))
        },
    }


def _spent(found: Sequence[Json]) -> list[dict[str, float]]:
    """Tokens, seconds and the price of a thousand such replies, of each row; without the price where none is known."""
    out = []
    for row in found:
        spent = {"tokens_in": row["tokens_in"], "tokens_out": row["tokens_out"], "seconds": row["ms"] / 1000}
        if row["cost"] is not None:
            spent["cost_per_1000"] = row["cost"] * 1000
        out.append(spent)
    return out


def costs(by_arm: ByArm) -> dict[str, Any]:
    """What `scores` gives, of latency (seconds), tokens and cost. Generation alone: that passages were found first is
    not in it, and a reply's seconds are those of its batch over the batch's size."""
    rows = {arm: _spent(found) for arm, found in by_arm.items()}
    return {
        "arms": {
            arm: _json({**comparison.latencies(found), **comparison.summarise(found, SPENT)})
            for arm, found in rows.items()
        },
        "differences": {
            pair: _json(
                {
                    **comparison.latencies(rows[ours], less=rows[theirs]),
                    **comparison.difference(rows[ours], rows[theirs], SPENT),
                }
            )
            for pair, ours, theirs in pairs(_asked(by_arm))
        },
    }


def _figure(arms: Mapping[str, Json]) -> Any:
    """Bars by arm with their intervals, one group a metric; `_PLOTTED` first, others where a task has none of them."""
    import numpy as np
    from matplotlib.figure import Figure

    known = list(dict.fromkeys(name for metrics in arms.values() for name in metrics))
    names = [name for name in _PLOTTED if name in known] or known[:6]
    drawn = Figure(figsize=(10, 4), layout="constrained")
    axes = drawn.subplots()
    width = 0.8 / len(arms)
    nothing = dict.fromkeys(("value", "low", "high"), np.nan)
    for number, (arm, metrics) in enumerate(arms.items()):
        values = np.array([[metrics.get(n, nothing)[end] for end in ("value", "low", "high")] for n in names])
        errors = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
        axes.bar(np.arange(len(names)) + number * width, values[:, 0], width, yerr=errors, capsize=2, label=arm)
    axes.set_xticks(np.arange(len(names)) + width * (len(arms) - 1) / 2, names)
    axes.set(ylim=(0, 1), ylabel="mean, 95 % interval", title="The arms on the same questions")
    axes.legend(ncols=len(arms))
    return drawn


def _flat(value: Any) -> Any:
    """A list as one text, a passage as its document, span and score, and its access label where it is not public."""
    if isinstance(value, Mapping):
        label = f" ({value['access']})" if "access" in value else ""
        return f"{value['document']} [{value['start']}:{value['end']}] {value['score']:.3f}{label}"
    return " | ".join(str(_flat(entry)) for entry in value) if isinstance(value, list | tuple) else value


def _table(values: Json) -> list[dict[str, Any]]:
    return [{"metric": f"{of}.{n}", **metric} for of, metrics in values.items() for n, metric in metrics.items()]


def record(ports: Ports, corpus: str, *, facts: Json, measured: Json, rows: Sequence[Json]) -> str:
    """The MLflow run of a comparison: means, intervals and differences, and a row per question and arm; its id."""
    tags = {
        "assay.key": f"score_answers:{digest_json([facts, [[r['id'], r['arm'], r['reply']] for r in rows]])}",
        "assay.stage": "score_answers",
        "assay.collection": facts["collection"],
        "assay.adapter": str(facts["adapter"]),
    }
    with ports.registry.run(corpus, f"answers {facts['collection']}", tags=tags) as log:
        log.params({name: facts[name] for name in ("questions", "adapter", "collection", "prompt_digest")})
        log.params({"models": {arm: model["name"] for arm, model in facts["models"].items()}})
        for values in (facts["arms"], measured["arms"]):
            log.metrics({f"{arm}.{n}": metric["value"] for arm, found in values.items() for n, metric in found.items()})
        log.table("arms", [*_table(facts["arms"]), *_table(measured["arms"])])
        log.table("differences", [*_table(facts["differences"]), *_table(measured["differences"])])
        log.dataset(
            f"{corpus} test questions",
            digest=facts["questions_digest"],
            source="corpus/questions.jsonl",
            context="evaluation",
            profile={"questions": facts["questions"]},
        )
        log.table("answers", [{**{k: _flat(row[k]) for k in _COLUMNS}, **row["metrics"]} for row in rows])
        log.figure("arms", _figure(facts["arms"]))
    return str(log.run_id)
