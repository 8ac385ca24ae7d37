"""What the terminal shows: one rich table per command. It only lays out what `actions.views` and `actions.ask` return.

Every function takes the plain mapping that `--json` prints, and an optional console.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.core.names import PUBLIC

Json = Mapping[str, Any]
ANSWER_COLUMNS = {
    "execution_accuracy": "execution",
    "valid_sql": "valid SQL",
    "label_accuracy": "label",
    "exact_match": "exact match",
    "token_f1": "F1",
    "token_recall": "recall",
    "contains_answer": "contains",
    "rouge_l": "ROUGE-L",
    "format_valid": "format",
    "style": "style",
    "citation_precision": "cite precision",
    "citation_recall": "cite recall",
    "groundedness": "grounded",
    "hallucination": "made up",
    "refused": "refuses",
    "correct_refusal": "refuses right",
    "latency_p50": "p50 s",
    "latency_p99": "p99 s",
    "tokens_in": "tokens in",
    "tokens_out": "tokens out",
    "cost_per_1000": "cost of 1,000",
}
"""Metrics of an arm in the order shown, with short headings; `--json` has them all."""
POWER_NOTE = (
    "finds: the smallest true difference that this many questions find four times in five; "
    "in brackets: how many the check wants, where these are fewer"
)
COSTS = ("latency_p50", "latency_p99", "tokens_in", "tokens_out", "cost_per_1000")
"""The terminal shows no interval."""
_LESS = ("hallucination", *COSTS)
"""Less is better."""
_NEITHER = ("refused",)
"""Neither more nor less is better."""


def terminal() -> Console:
    """Standard output; 120 columns when it is not a terminal, so that tables in logs are not squeezed."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, markup=False, width=120)
    return console


def new_table(*columns: str, right: int = 0) -> Table:
    """Columns from number `right` on are right-aligned when it is positive."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if right and number >= right else "left", overflow="fold")
    return table


def number(value: float | None) -> str:
    """Three decimals below ten, one below a hundred, none above; counts as they are; a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:,.0f}"


def short(value: float) -> str:
    """Two decimals below ten, no leading zero, no decimals of a whole number: many stand side by side."""
    if abs(value) >= 10:
        return number(value)
    text = f"{value:.2f}".removesuffix(".00")
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def print_table(console: Console, title: str, table: Table) -> None:
    """The title on a line of its own: rich would wrap it to the table's width."""
    console.print(Text(title, style="bold"))
    console.print(table)


def _metric(metric: Json | None, *, best: bool = False) -> Text:
    """The value, its interval below it."""
    if metric is None:
        return Text("–", style="dim")
    text = Text(number(metric["value"]), style="bold green" if best else "")
    if metric.get("low") is not None:
        text.append(f"\n{short(metric['low'])}–{short(metric['high'])}", style="dim not bold")
    return text


def best_arm(arms: Json, metric: str) -> str | None:
    """The arm with the best value of a metric, or None when no arm has it, all are alike, or none is better."""
    values = {arm: found[metric]["value"] for arm, found in arms.items() if metric in found}
    if len(set(values.values())) < 2 or metric in _NEITHER:
        return None
    return (min if metric in _LESS else max)(values, key=lambda arm: values[arm])


def arm_columns(arms: Json, *, first: str = "") -> dict[str, str]:
    """metric -> heading of every metric that some arm has, in the order shown: `first`, then the known ones, then
    what else a task has, under its own name."""
    present = dict.fromkeys(metric for found in arms.values() for metric in found)
    order = [first, *ANSWER_COLUMNS, *present]
    return {metric: ANSWER_COLUMNS.get(metric, metric) for metric in order if metric in present}


def questions(check: Json) -> str:
    """The questions behind a check, and in brackets how many it wants where these are fewer. Checks of releases that
    are older than that figure do not have it."""
    n, enough = check["n"], check.get("needed", 0)
    return f"{n} ({enough:,})" if enough > n > 0 else str(n or "")


def _check_rows(checks: list[Json]) -> Table:
    table = new_table("", "check", "value", "bound", "interval", "n", "finds", "reason")
    for check in checks:
        mark = Text("✓", style="green") if check["passed"] else Text("✗", style="bold red")
        span = "" if check.get("low") is None else f"{number(check['low'])} to {number(check['high'])}"
        table.add_row(
            mark,
            check["name"],
            number(check["value"]),
            number(check["bound"]),
            span,
            questions(check),
            "" if check.get("detectable") is None else number(check["detectable"]),
            check["reason"],
        )
    return table


def show_verdict(verdict: Json, console: Console | None = None) -> None:
    """Passed or rejected, and every check with its reason."""
    console = console or terminal()
    word = Text("PASSED", style="bold green") if verdict["passed"] else Text("REJECTED", style="bold red")
    failed = sum(not check["passed"] for check in verdict["checks"])
    tail = "" if verdict["passed"] else f": {failed} of {len(verdict['checks'])} checks failed"
    console.print(Text.assemble("Verdict: ", word, tail))
    console.print(_check_rows(verdict["checks"]))
    if any(check.get("detectable") is not None for check in verdict["checks"]):
        console.print(Text(POWER_NOTE, style="dim"))


def show_report(result: Json, console: Console | None = None) -> None:
    """The last candidate: what it is, its retrieval metrics, its verdict."""
    console = console or terminal()
    candidate = result["candidate"]
    console.print(Text(f"{result['corpus']}: candidate {candidate['digest'][:12]}, arm {candidate['arm']}", "bold"))
    if result["retrieval"]:
        table = new_table("retrieval", "value", "interval", "n", right=1)
        for name, metric in result["retrieval"].items():
            span = f"{number(metric['low'])} to {number(metric['high'])}"
            table.add_row(name, number(metric["value"]), span, str(metric["n"]))
        console.print(table)
    show_verdict(result["verdict"], console)
    if result.get("html"):
        console.print(Text(f"Full report: {result['html']}", style="dim"))


def show_releases(result: Json, console: Console | None = None) -> None:
    """The release log, newest first."""
    console = console or terminal()
    if not result["releases"]:
        console.print(Text(f"{result['corpus']}: nothing has been released yet"))
        return
    primary = result["releases"][0]["primary"]
    table = new_table("generation", "released (UTC)", "until", "revision", "arm", "index", "adapter", primary)
    for row in result["releases"]:
        style = "bold green" if row["champion"] else ""
        note = f" = {row['restores']}" if row.get("restores") else ""
        cells = [
            row["created"][:19].replace("T", " "),
            (row.get("expires") or "–")[:16].replace("T", " "),
            row["revision"],
            row["arm"],
            row["collection"],
            (row["adapter"] or "–")[:12],
        ]
        table.add_row(Text(f"{row['generation']}{note}", style=style), *cells, _metric(row["metric"]))
    print_table(console, f"{result['corpus']}: releases", table)


def show_erasures(corpus: str, found: Sequence[Json], console: Console | None = None) -> None:
    """Erasures with what was removed and what remains, and why."""
    console = console or terminal()
    if not found:
        console.print(Text(f"{corpus}: nothing has been erased"))
        return
    table = new_table("erasure", "since (UTC)", "documents", "state", "removed", "remains")
    for row in found:
        receipt = row["receipt"] or {"state": "begun", "removed": [], "remains": []}
        remains = "\n".join(f"{one['kind']} {one['place']}: {one['why']}" for one in receipt["remains"])
        names = "\n".join(document["id"] for document in row["documents"])
        since, gone = row["created"][:19].replace("T", " "), str(len(receipt["removed"]))
        table.add_row(str(row["number"]), since, Text(names), receipt["state"], gone, Text(remains or "nothing"))
    print_table(console, f"{corpus}: erasures", table)


def show_manifest(manifest: Json, console: Console | None = None) -> None:
    """A release's manifest as indented JSON, as signed; `expires` says until when it is served."""
    import json

    console = console or terminal()
    console.print(json.dumps(manifest, indent=2, ensure_ascii=False), soft_wrap=True)


def show_answer(question: str, answer: Json, console: Console | None = None) -> None:
    """The answer, its citations with passage and revision, and the release behind it."""
    console = console or terminal()
    release = answer["release"]
    console.print(Text(question, style="bold"))
    console.print(Text(f"  {answer['answer']}", style="green"))
    _passages(answer["citations"], console)
    console.print(Text(f"  {release['corpus']}, generation {release['generation']}, arm {answer['arm']}", style="dim"))


def show_passages(question: str, found: Json, console: Console | None = None) -> None:
    """The passages of a question, best first, with their scores, and the release behind them."""
    console = console or terminal()
    release = found["release"]
    console.print(Text(question, style="bold"))
    if not found["passages"]:
        console.print(Text("  no passage was found", style="yellow"))
    _passages(found["passages"], console, scored=True)
    console.print(Text(f"  {release['corpus']}, generation {release['generation']}", style="dim"))


def _passages(passages: Sequence[Json], console: Console, *, scored: bool = False) -> None:
    """Each with its place, its access label where that is not public, and the beginning of its text."""
    for number_, cited in enumerate(passages, 1):
        where = f"{cited['document']} (revision {cited['revision']}, characters {cited['start']}–{cited['end']})"
        score = (f"  {number(cited['score'])}", "green") if scored else ""
        label = cited.get("access", PUBLIC)
        access = "" if label == PUBLIC else (f"  access {label}", "yellow")
        title = (cited["title"], "italic")
        console.print(Text.assemble(f"  [{number_}] ", title, "  ", (where, "dim"), access, score))
        passage = " ".join(cited["text"].split())
        console.print(Text(f"      {passage[:220]}{'…' if len(passage) > 220 else ''}", style="dim"))


def show_status(result: Json, console: Console | None = None) -> None:
    """A row per corpus."""
    console = console or terminal()
    table = new_table("corpus", "revision", "documents", "candidate", "verdict", "release")
    for row in result["corpora"]:
        verdict = Text("–", style="dim")
        if row["verdict"] is not None:
            verdict = Text("passed", style="green") if row["verdict"] else Text("rejected", style="red")
        generation = row["generation"]
        release = f"generation {generation}, arm {row['arm']}" if generation else "none"
        documents = "–" if row["documents"] is None else str(row["documents"])
        table.add_row(
            row["corpus"], row["revision"] or "–", documents, (row["candidate"] or "–")[:12], verdict, release
        )
    print_table(console, f"Assay at {result['home']}", table)
    for row in result["corpora"]:
        if row.get("problem"):
            console.print(Text(f"  {row['corpus']}: {row['problem']}", style="yellow"))
    if result["services"]:
        console.print(Text("running: " + ", ".join(f"{k} {v}" for k, v in result["services"].items()), style="dim"))
