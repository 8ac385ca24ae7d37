"""The comparison table: what each arm is worth and what it costs, one row a question that people ask of RAG and
fine-tuning, every cell a figure of this corpus. Facts in, text cells out; no I/O, and no figure of its own.

What was not measured is shown as such, with the command that measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.core.bootstrap import mean_interval
from pipelines.core.costs import Running, break_even
from pipelines.core.prompts import ARMS, PROMPTED, RETRIEVING, TUNED

Json = Mapping[str, Any]
NOTHING = "–"
UNMEASURED = "not measured"


@dataclass(frozen=True)
class Line:
    """One row: `cells` hold a text for each arm; `note` says how to read it, or how to have it measured."""

    name: str
    title: str
    cells: Mapping[str, str]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Facts:
    """What the table is made of. `arms`: arm -> metric -> {value, low, high, n}; `rows` those of scores/answers.jsonl;
    `index` and `training`: what each is and what its last making took, `training` None without an adapter: CPU-seconds,
    and `paid`, what it cost beside them (None: not known); `models`: arm -> name of the model that was asked;
    `measured` the long measurements by name."""

    arms: Mapping[str, Mapping[str, Json]]
    rows: Sequence[Json]
    primary: str
    index: Json
    training: Json | None
    models: Mapping[str, str]
    cpu_hour: float | None
    currency: str
    traffic: Sequence[int]
    refreshes: float
    measured: Mapping[str, Json]


def figure(value: float | None, *, digits: int = 3) -> str:
    """Plain decimals below a thousand, thousands marked above, no leading zero of a share."""
    if value is None:
        return NOTHING
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.1f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("-").startswith("0.") else text


def spanned(metric: Json | None) -> str:
    """A mean with its interval."""
    if metric is None or metric.get("value") is None:
        return NOTHING
    if metric.get("low") is None:
        return figure(metric["value"])
    return f"{figure(metric['value'])} [{figure(metric['low'], digits=2)}, {figure(metric['high'], digits=2)}]"


def _each(arms: Iterable[str], cell: Callable[[str], str]) -> dict[str, str]:
    return {arm: cell(arm) for arm in arms}


def _knowledge(facts: Facts) -> Line:
    passages = f"{facts.index['rows']:,} passages of {facts.index['documents']:,} documents"
    chats = f"{facts.training['examples']:,} chats" if facts.training else ""

    def cell(arm: str) -> str:
        parts = [passages] if arm in RETRIEVING else []
        parts += [chats] if arm in TUNED and chats else []
        return " and ".join(parts) or ("its prompt" if arm == PROMPTED else "the model alone")

    return Line("knowledge", "Knowledge comes from", _each(facts.arms, cell), asked_of(facts.models))


def asked_of(models: Mapping[str, str]) -> str:
    """Which model the arms were asked of, in words."""
    names = dict.fromkeys(models.values())
    if len(names) == 1:
        return f"base model {next(iter(names))}"
    by = (f"{name} ({', '.join(arm for arm in models if models[arm] == name)})" for name in names)
    return f"base models {'; '.join(by)}"


def _hint(facts: Facts, name: str) -> str:
    found = facts.measured.get(name)
    if found is None:
        return f"to measure it: assay measure NAME {name}"
    return "" if found["current"] else f"of an earlier candidate; anew: assay measure NAME {name}"


def _freshness(facts: Facts) -> list[Line]:
    found = facts.measured.get("freshness")
    by = found["arms"] if found else {}

    def seconds(arm: str) -> str:
        if found is None:
            return UNMEASURED
        if arm not in by:
            return NOTHING
        return "never" if by[arm]["seconds"] is None else f"{by[arm]['seconds']:.0f} s ({by[arm]['by']})"

    note = _hint(facts, "freshness")
    if found:
        held = figure(found["retrieved"]["value"])
        note = f"{found['changed']} facts changed; passages hold the new value in {held}" + (
            f"; {note}" if note else ""
        )
    share = _each(facts.arms, lambda arm: spanned(by[arm]["share"]) if arm in by else NOTHING if found else UNMEASURED)
    return [
        Line("freshness", "Freshness: a changed document is known after", _each(facts.arms, seconds), note),
        Line("freshness_answered", "and the changed fact is then answered", share, "share of the changed facts"),
    ]


def build_seconds(facts: Facts, arm: str) -> float | None:
    """CPU-seconds of the last making of what the arm needs; None when that is not known."""
    parts = [facts.index["cpu_seconds"]] if arm in RETRIEVING else []
    parts += [facts.training["cpu_seconds"]] if arm in TUNED and facts.training else []
    return None if None in parts else float(sum(parts))


def build_paid(facts: Facts, arm: str) -> float | None:
    """What the last making of what the arm needs cost beside CPU time: a hosted embedder's bill, GPU-hours; None when
    that is not known."""
    parts = [facts.index["paid"]] if arm in RETRIEVING else []
    parts += [facts.training["paid"]] if arm in TUNED and facts.training else []
    return None if None in parts else float(sum(parts))


def running(facts: Facts) -> dict[str, Running]:
    """Arm -> what it costs, of the arms whose answers and whose making have a price."""
    if facts.cpu_hour is None:
        return {}
    out = {}
    for arm, metrics in facts.arms.items():
        seconds, paid = build_seconds(facts, arm), build_paid(facts, arm)
        if "cost_per_1000" in metrics and seconds is not None and paid is not None:
            out[arm] = Running(seconds / 3600 * facts.cpu_hour + paid, metrics["cost_per_1000"]["value"] / 1000)
    return out


def break_evens(facts: Facts) -> list[dict[str, Any]]:
    """{"cheaper_below", "cheaper_above", "answers"}: of every two arms whose order depends on the traffic."""
    cost, out = running(facts), []
    arms = list(cost)
    for number, first in enumerate(arms):
        for second in arms[number + 1 :]:
            at = break_even(cost[first], cost[second], refreshes=facts.refreshes)
            if at is not None:
                above, below = (first, second) if cost[first].answer < cost[second].answer else (second, first)
                out.append({"cheaper_below": below, "cheaper_above": above, "answers": at})
    return out


def _costs(facts: Facts) -> list[Line]:
    cost, embedded = running(facts), facts.index.get("embedded")
    note = f"CPU-seconds of the last time; of {facts.index['rows']:,} passages {embedded:,} were embedded"
    built = Line("build", "To build, CPU-seconds", _each(facts.arms, lambda a: figure(build_seconds(facts, a))), note)
    lines = [built]
    paid = _each(facts.arms, lambda arm: figure(build_paid(facts, arm)))
    if any(build_paid(facts, arm) != 0 for arm in facts.arms):
        lines.append(
            Line("build_paid", f"To build, paid besides, {facts.currency}", paid, "a hosted embedder, GPU-hours")
        )
    for answers in facts.traffic:

        def cell(arm: str, answers: int = answers) -> str:
            return figure(cost[arm].a_month(answers, refreshes=facts.refreshes)) if arm in cost else NOTHING

        title = f"A month of {answers:,} answers, {facts.currency}"
        lines.append(Line(f"month_{answers}", title, _each(facts.arms, cell)))
    if lines[1:]:
        even = [f"{e['cheaper_above']} below {e['cheaper_below']} from {e['answers']:,.0f}" for e in break_evens(facts)]
        said = f"{facts.refreshes:g} refreshes a month; break-even: {'; '.join(even) or 'none'}"
        lines[-1] = Line(lines[-1].name, lines[-1].title, lines[-1].cells, said)
    return lines


def _training(facts: Facts) -> Line:
    def cell(arm: str) -> str:
        if arm not in TUNED or not facts.training:
            return "none"
        seconds = facts.training["cpu_seconds"]
        return NOTHING if seconds is None else f"{figure(seconds)} CPU-s"

    return Line("training", "Training needed", _each(facts.arms, cell))


def subset(
    rows: Sequence[Json], metric: str, *, answerable: bool, worth: Callable[[float], float] = float
) -> dict[str, Json]:
    """Arm -> mean of what a metric is worth, over the questions that have an answer, or over those that have none."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if bool(row["gold"]) == answerable and metric in row["metrics"]:
            values.setdefault(row["arm"], []).append(worth(row["metrics"][metric]))
    return {arm: mean_interval(values[arm]).to_json() for arm in ARMS if arm in values}


def _quality(facts: Facts) -> list[Line]:
    """A row for each metric that some arm has."""

    def line(name: str, title: str, found: Mapping[str, Json], note: str = "") -> Line:
        return Line(name, title, _each(facts.arms, lambda arm: spanned(found.get(arm))), note)

    def metric(name: str) -> dict[str, Json]:
        return {arm: found[name] for arm, found in facts.arms.items() if name in found}

    made_up = {known: subset(facts.rows, "hallucination", answerable=known) for known in (True, False)}
    right = subset(facts.rows, "citation_precision", answerable=True, worth=lambda share: float(share > 0))
    lines = [
        line("traceability", "Traceability: cites a right document", right, "of the questions that have an answer"),
        line("hallucination", "Hallucination: made up, with an answer to be had", made_up[True], "less is better"),
        line("hallucination_unanswerable", "made up, with none to be had", made_up[False], "less is better"),
        line("facts", f"Domain fit, facts: {facts.primary}", metric(facts.primary)),
        line("form", "Domain fit, form: valid replies", metric("format_valid")),
        line("style", "Domain fit, house style", metric("style")),
    ]
    return [found for found in lines if any(cell != NOTHING for cell in found.cells.values())]


def _learning(facts: Facts) -> list[Line]:
    found = facts.measured.get("learning")
    rows = found["rows"] if found else []

    def cell(arm: str, of: str) -> str:
        points = [row for row in rows if row["of"] == of and row["arm"] == arm]
        return ", ".join(f"{row['share']:.0%} {figure(row['value'])}" for row in points) or NOTHING

    if found is None:
        cells = _each(facts.arms, lambda arm: UNMEASURED)
        return [Line("learning", "Data needed", cells, _hint(facts, "learning"))]
    note = f"{found['metric']}; {_hint(facts, 'learning')}".removesuffix("; ")
    titles = {"documents": "Data needed: share of the documents", "examples": "Data needed: share of the examples"}
    lines = [
        Line(f"learning_{of}", title, {arm: cell(arm, of) for arm in facts.arms}, note) for of, title in titles.items()
    ]
    return [line for line in lines if any(cell != NOTHING for cell in line.cells.values())]


def _privacy(facts: Facts) -> Line:
    found = facts.measured.get("extraction")
    title = "Privacy: canaries had back from the weights"
    if found is None:
        return Line("privacy", title, _each(facts.arms, lambda arm: UNMEASURED), _hint(facts, "extraction"))

    def had(asked: str) -> str:
        of = found["arms"][asked]
        return f"{of['recovered']} of {of['canaries']}, {of['exposure']['value']:.1f} bits"

    base = facts.training["base"] if facts.training else None

    def cell(arm: str) -> str:
        if arm in TUNED:
            return had("tuned")
        return had("base") if base in (None, facts.models.get(arm)) else NOTHING

    cells = _each(facts.arms, cell)
    by = found["arms"]["tuned"]["by_repeats"]
    planted = ", ".join(
        f"{n} times {of['recovered']} of {of['canaries']}"
        for n, of in sorted(by.items(), key=lambda item: int(item[0]))
    )
    note = f"planted {planted}; chance is 1.4 bits; an index holds its text by design"
    if NOTHING in cells.values():
        note = f"{base} without an adapter: {had('base')}; {note}"
    hint = _hint(facts, "extraction")
    return Line("privacy", title, cells, f"{note}; {hint}" if hint else note)


def _judged(facts: Facts) -> list[Line]:
    """What a language model found right, where one was asked."""
    found = facts.measured.get("judge")
    if found is None:
        return []
    kappa = "" if found["kappa"] is None else f", Cohen's kappa {found['kappa']:.2f}"
    agreed = found["agreement"]
    note = f"judge {found['judge']} agrees with the gold answers in {figure(agreed['value'])} of {agreed['n']}{kappa}"
    hint = _hint(facts, "judge")
    cells = _each(facts.arms, lambda arm: spanned(found["arms"].get(arm)))
    return [Line("judge", "Found right by a language model", cells, f"{note}; {hint}" if hint else note)]


def table(facts: Facts) -> list[Line]:
    """All rows, in the order in which people ask."""
    return [
        _knowledge(facts),
        *_freshness(facts),
        _training(facts),
        *_costs(facts),
        *_quality(facts),
        *_judged(facts),
        *_learning(facts),
        _privacy(facts),
    ]
