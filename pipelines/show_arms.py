"""What `assay compare` shows in the terminal: the arms, their differences, the comparison table, the recommendation.

Like `pipelines.show`, it only lays out what `actions.views.comparison` returns.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from pipelines.core.hypothesis import PAIRS
from pipelines.core.shadow import changed
from pipelines.show import (
    ANSWER_COLUMNS,
    COSTS,
    Json,
    arm_columns,
    best_arm,
    new_table,
    number,
    print_table,
    short,
    terminal,
)

_DIFFERENCES = ("format_valid", "execution_accuracy", "citation_precision", "hallucination")
"""Shown beside the primary metric in the table of differences; the first three that there are."""


def _beside(metric: Json | None, *, best: bool, interval: bool) -> Text:
    """The value, its interval beside it: no zero before a decimal point, for five arms stand in a row."""
    if metric is None:
        return Text("–", style="dim")
    text = Text(number(metric["value"]), style="bold green" if best else "")
    if interval and metric["low"] is not None:
        text = Text(number(metric["value"]).removeprefix("0"), style=text.style)
        text.append(f" {short(metric['low'])}–{short(metric['high'])}", style="dim not bold")
    return text


def show_comparison(result: Json, console: Console | None = None, *, brief: bool = False) -> None:
    """A row per metric, a column per arm; the best value in bold, its interval beside it. Below it the differences
    of every two arms, whether both together beat either alone, and what the figures recommend. At most 100 columns
    wide; the comparison table, left out where `brief`, is wider."""
    console = console or terminal()
    if result.get("skipped"):
        console.print(Text(f"{result['corpus']}: no arms to compare: {result['skipped']}"))
        return
    arms, primary = result["arms"], result["primary"].partition(".")[2]
    table = new_table("", *(f"{arm} ●" if arm == result.get("arm") else arm for arm in arms), "n", right=1)
    for name, heading in arm_columns(arms, first=primary).items():
        best, seen = best_arm(arms, name), [found[name]["n"] for found in arms.values() if name in found]
        spans = name not in COSTS
        cells = [_beside(found.get(name), best=best == arm, interval=spans) for arm, found in arms.items()]
        counted = str(max(seen)) if min(seen) == max(seen) else f"{min(seen)}–{max(seen)}"
        table.add_row(Text(heading, style="bold" if name == primary else ""), *cells, Text(counted, style="dim"))
    print_table(console, f"{result['corpus']}: arms on the same {result['questions']} questions (95 % interval)", table)
    notes = [f"● would serve: best on {result['primary']}"] if result.get("arm") else []
    notes += [f"cost in {result['currency']}, generation alone"] if result.get("currency") else []
    if notes:
        console.print(Text("   ".join(notes), style="dim"))
    _differences(result, primary, console)
    if not brief:
        _tradeoffs(result, console)
    _recommended(result, console)


def _tradeoffs(result: Json, console: Console) -> None:
    """The comparison table, and below it how to read its rows."""
    arms, lines = list(result["arms"]), result.get("table") or ()
    table = new_table("", *(f"{arm} ●" if arm == result.get("arm") else arm for arm in arms))
    notes: list[str] = []
    for line in lines:
        if line["note"] and line["note"] not in notes:
            notes.append(line["note"])
        mark = f" [{notes.index(line['note']) + 1}]" if line["note"] else ""
        table.add_row(Text(line["title"]).append(mark, style="dim"), *(line["cells"][arm] for arm in arms))
    if lines:
        print_table(console, "RAG, fine-tuning, or both? Side by side", table)
        for number_, note in enumerate(notes, 1):
            console.print(Text(f"[{number_}] {note}", style="dim"))


def _recommended(result: Json, console: Console) -> None:
    """What the figures recommend for each kind of question, and why."""
    if not result.get("kinds"):
        return
    table = new_table("questions", "judged by", "n", "recommended", "because")
    for kind in result["kinds"]:
        arm = Text(kind["arm"], style="bold green") if kind["arm"] else Text(kind["verdict"], style="bold yellow")
        table.add_row(kind["kind"], kind["metric"], str(kind["n"]), arm, kind["reason"])
    print_table(console, "Recommended by the figures (rules: docs/compare.md)", table)
    console.print(Text(f"→ {result['recommendation']}", style="bold"))


def _signed(metric: Json | None) -> Text:
    """A difference with its interval, in bold when that excludes zero."""
    if metric is None:
        return Text("–", style="dim")
    decided = metric["low"] > 0 or metric["high"] < 0
    low, high = (f"{'+' if metric[end] > 0 else ''}{short(metric[end])}" for end in ("low", "high"))
    value = f"{metric['value']:+.3f}".replace("0.", ".", 1)
    return Text(f"{value} [{low}, {high}]", style="bold" if decided else "")


def _differences(result: Json, primary: str, console: Console) -> None:
    found = result.get("differences") or {}
    present = {name for metrics in found.values() for name in metrics}
    shown = [name for name in dict.fromkeys((primary, *_DIFFERENCES)) if name in present][:4]
    if shown:
        table = new_table("", *(ANSWER_COLUMNS.get(name, name) for name in shown), right=1)
        for pair, metrics in found.items():
            table.add_row(pair, *(_signed(metrics.get(name)) for name in shown))
        print_table(console, "Paired differences on the same questions (95 % interval; bold: zero lies outside)", table)
    claim = result.get("hypothesis")
    if claim:
        said = {"held": "bold green", "did not hold": "bold red"}.get(claim["verdict"], "bold yellow")
        parts = "   ".join(f"{pair} {_signed(claim[pair])}" for pair in PAIRS)
        claimed = f"“{claim['statement'].capitalize()}” on {claim['metric']}: "
        console.print(Text.assemble(claimed, (claim["verdict"], said), (f"\n  {parts}", "dim")))
    if result.get("distilled"):
        console.print(Text(result["distilled"]["sentence"]))


def show_shadow(result: Json, console: Console | None = None, *, most: int = 8) -> None:
    """How much changes between champion and candidate, and the first `most` questions whose answers (or, where none
    were asked for, passages) change."""
    console = console or terminal()
    arms = result["arms"]
    table = new_table("1 where nothing changes", "mean", "interval", "n", right=1)
    for name, metric in result["metrics"].items():
        span = f"{number(metric['low'])} to {number(metric['high'])}"
        table.add_row(name.replace("_", " "), number(metric["value"]), span, str(metric["n"]))
    title = f"{result['corpus']}: candidate {result['candidate'][:12]} ({arms['candidate']}) beside generation "
    print_table(console, f"{title}{result['generation']} ({arms['champion']})", table)
    console.print(Text(f"{result['changed']} of {result['questions']} questions would be answered otherwise"))
    shown = [row for row in result["rows"] if changed(row)][:most]
    if shown:
        answers = "candidate" in shown[0]
        head = ("question", "champion", "candidate") if answers else ("question", "passages gone", "passages new")
        rows = new_table(*head)
        for row in shown:
            cells = (row["champion"], row["candidate"]) if answers else map(", ".join, _documents(row))
            rows.add_row(row["question"], *cells)
        console.print(rows)
    console.print(Text(f"All rows: --json, or the MLflow run shadow {result['run_id'][:12]}", style="dim"))


def _documents(row: Json) -> tuple[list[str], list[str]]:
    return row["passages_gone"], row["passages_new"]
