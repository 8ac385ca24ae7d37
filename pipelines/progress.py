"""`assay run`: every node of the graph in order, in the foreground, with its progress on the terminal.

It shows what `runner.run_node` reports and adds no step of its own; on a terminal the running stage has a spinner
and a bar, elsewhere (a log) there is one line per stage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipelines import graph
from pipelines.errors import NotFound
from pipelines.runner import Outcome, run_node
from pipelines.settings import Settings
from pipelines.show import show_releases, show_verdict, terminal
from pipelines.show_arms import show_comparison


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        progress.add_task("", total=total)
        yield progress


def _line(outcome: Outcome, seconds: float) -> Text:
    mark = Text("✓ ", style="green") if outcome.changed else Text("· ", style="dim")
    what = outcome.summary or ("done" if outcome.changed else "nothing to do")
    note = "" if outcome.changed or what.startswith(("unchanged", "rejected", "held back")) else "unchanged: "
    return Text.assemble(mark, f"{outcome.node:<16}", (f"{seconds:6.1f} s  ", "dim"), note, what)


def _show_results(settings: Settings, corpus: str, console: Console) -> None:
    """The arms, the verdict, the releases: each when there is one."""
    from pipelines.actions.views import candidate_report, comparison, release_list

    try:
        report = candidate_report(settings, corpus)
        show_comparison(comparison(settings, corpus), console, brief=True)
        show_verdict(report["verdict"], console)
        if report.get("html"):
            console.print(Text(f"Full report: {report['html']}", style="dim"))
        show_releases(release_list(settings, corpus), console)
    except NotFound as exc:
        console.print(Text(str(exc), style="dim"))


def run_graph(settings: Settings, corpus: str, *, force: bool = False) -> list[Outcome]:
    """Run all nodes of dvc.yaml for `corpus`; stale ones only, unless `force`. The first error ends the run."""
    console = terminal()
    nodes = graph.load()
    outcomes = []
    started = time.monotonic()
    with _bar(console, len(nodes)) as progress:
        task = progress.task_ids[0]
        for number, (name, node) in enumerate(nodes.items(), 1):
            progress.update(task, description=f"{name}: {node.description}")
            if not console.is_terminal:
                console.print(Text(f"{number:>2}/{len(nodes)} {name}: {node.description}", style="dim"))
            begun = time.monotonic()
            outcomes.append(run_node(settings, corpus, name, force=force))
            progress.advance(task)
            console.print(_line(outcomes[-1], time.monotonic() - begun))
    changed = sum(outcome.changed for outcome in outcomes)
    seconds = time.monotonic() - started
    what = "nothing changed" if not changed else f"{changed} of {len(outcomes)} stages ran"
    console.print(Text(f"{corpus}: {what}, {seconds:.0f} s", style="bold"))
    _show_results(settings, corpus, console)
    return outcomes
