"""The comparison as one self-contained HTML page, from `views.comparison`: recommendation, table, arms, plots, and the
replies question by question.

Plots are drawn by matplotlib as SVG that stands in the page itself; the layout is models/cards/compare.html.j2. It
decides nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.core.hypothesis import PAIRS
from pipelines.report import templates
from pipelines.show import arm_columns, best_arm

Json = Mapping[str, Any]
QUESTIONS = 200
"""Most questions whose replies stand in the page; all of them are in MLflow."""
_GREY = "#7b8794"
_COLOURS = {"base": "#8a94a3", "prompt": "#b58a2c", "rag": "#2f6fb2", "tuned": "#b3322c", "both": "#1d7f4f"}


def _svg(drawn: Any) -> str:
    """The figure as an <svg> element without a background, so that it stands on light and on dark pages."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "assay"}):
        drawn.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = drawn.subplots()
    axes.set_title(title, fontsize=10, color=_GREY, loc="left")
    axes.set_xlabel(x, color=_GREY, fontsize=9)
    axes.set_ylabel(y, color=_GREY, fontsize=9)
    axes.tick_params(colors=_GREY, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_color(_GREY)
        spine.set_visible(side in ("left", "bottom"))
    axes.grid(alpha=0.2)
    return drawn, axes


def _legend(axes: Any) -> None:
    axes.legend(fontsize=8, frameon=False, labelcolor=_GREY)


def _kinds(kinds: Sequence[Json]) -> str:
    """Mean of every arm for each kind of question; what is recommended has a dark edge."""
    drawn, axes = _axes("Quality by kind of question", "", "mean")
    arms = list(dict.fromkeys(arm for kind in kinds for arm in kind["means"]))
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        at = [row + number * width for row, kind in enumerate(kinds) if arm in kind["means"]]
        heights = [kind["means"][arm] for kind in kinds if arm in kind["means"]]
        edges = [_GREY if kind["arm"] == arm else "none" for kind in kinds if arm in kind["means"]]
        axes.bar(at, heights, width * 0.9, color=_COLOURS[arm], label=arm, edgecolor=edges, linewidth=2)
    axes.set_xticks([row + width * (len(arms) - 1) / 2 for row in range(len(kinds))])
    axes.set_xticklabels([f"{kind['kind']}\n{kind['metric']}" for kind in kinds])
    axes.set_ylim(0, 1)
    _legend(axes)
    return _svg(drawn)


def _cost(costs: Mapping[str, Json], traffic: Sequence[int], refreshes: float, currency: str) -> str:
    """A month's cost against its answers, both logarithmic."""
    drawn, axes = _axes("Cost of a month", "answers a month", currency)
    low, high = math.log10(min(traffic)), math.log10(max(traffic))
    at = [10 ** (low + (high - low) * step / 60) for step in range(61)]
    for arm, cost in costs.items():
        spent = [cost["build"] * refreshes + cost["answer"] * answers for answers in at]
        axes.loglog(at, [max(value, 1e-9) for value in spent], color=_COLOURS[arm], label=arm)
    _legend(axes)
    return _svg(drawn)


def _learning(found: Json) -> str:
    """The primary metric against the share of the documents and of the examples, with intervals."""
    drawn, axes = _axes("Data needed", "share", str(found["metric"]))
    for of, arm in (("documents", "rag"), ("examples", "tuned")):
        points = [row for row in found["rows"] if row["of"] == of and row["value"] is not None]
        if points:
            share, values = [p["share"] for p in points], [p["value"] for p in points]
            axes.plot(share, values, "o-", color=_COLOURS[arm], label=f"{arm}, share of the {of}")
            lows, highs = [p["low"] for p in points], [p["high"] for p in points]
            axes.fill_between(share, lows, highs, color=_COLOURS[arm], alpha=0.15, linewidth=0)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _svg(drawn)


def _exposure(found: Json) -> str:
    """Mean exposure of the canaries by how often they were planted, against the base model."""
    drawn, axes = _axes("Canaries in the weights", "times planted", "exposure, bits")
    for arm in ("base", "tuned"):
        by = dict(sorted(found["arms"][arm]["by_repeats"].items(), key=lambda item: int(item[0])))
        axes.plot(
            [int(repeats) for repeats in by],
            [of["exposure"] for of in by.values()],
            "o-",
            color=_COLOURS[arm],
            label=arm,
        )
    axes.axhline(math.log2(found["candidates"]), color=_GREY, linestyle=":", label="ranked first")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _svg(drawn)


def plots(result: Json) -> list[str]:
    """SVG elements of what there is to draw."""
    measured = result["measured"]
    months = [line for line in result["table"] if line["name"].startswith("month_")]
    out = [_kinds(result["kinds"])] if result["kinds"] else []
    if result["costs"] and len(months) > 1:
        traffic = [int(line["name"].removeprefix("month_")) for line in months]
        out.append(_cost(result["costs"], traffic, result["refreshes"], result["currency"] or ""))
    out += [_learning(measured["learning"])] if measured.get("learning", {}).get("rows") else []
    return out + ([_exposure(measured["extraction"])] if "extraction" in measured else [])


def by_question(rows: Iterable[Json], arms: Iterable[str], primary: str) -> list[dict[str, Any]]:
    """{"question", "gold", "kind", "replies": {arm: its row, with `score`, the primary metric}} in the rows' order of
    questions, arms in theirs; of questions above `QUESTIONS` nothing."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["id"] in found or len(found) < QUESTIONS:
            about = {name: row[name] for name in ("question", "gold", "kind")}
            entry = found.setdefault(row["id"], {**about, "replies": {}})
            entry["replies"][row["arm"]] = {**row, "score": row["metrics"].get(primary)}
    for entry in found.values():
        entry["replies"] = {arm: entry["replies"][arm] for arm in arms if arm in entry["replies"]}
    return list(found.values())


def render(result: Json, rows: Iterable[Json] = ()) -> str:
    """The page. `result` as `views.comparison` makes it, with at least one arm; `rows` those of scores/answers.jsonl,
    which are shown question by question."""
    arms, primary = result["arms"], result["primary"].partition(".")[2]
    headings = arm_columns(arms, first=primary)
    page: str = (
        templates()
        .get_template("compare.html.j2")
        .render(
            r=result,
            arms=arms,
            headings=headings,
            best={name: best_arm(arms, name) for name in headings},
            primary=primary,
            pairs=PAIRS,
            plots=plots(result),
            questions=by_question(rows, arms, primary),
            most=QUESTIONS,
        )
    )
    return page
