"""The main job, end to end, in a real Airflow: land a revision, follow its four DAGs, release; then the next revision.

It drives Airflow as a person would (unpause, trigger, watch) and computes nothing itself. Every process that it
started is ended, however it ends.

    python -m infra.demo
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.airflow_api import AirflowApi
from infra.landing import land, landed, revisions
from infra.services import USER, Services, running
from pipelines import graph
from pipelines.actions.ask import ask_release
from pipelines.actions.views import candidate_report, comparison, release_list
from pipelines.backends.spark import check_java
from pipelines.errors import AssayError, BackendError
from pipelines.settings import Settings
from pipelines.show import show_answer, show_releases, show_verdict
from pipelines.show_arms import show_comparison

CORPUS = "handbook"
QUESTION = "What is our refund policy?"
SHOWN_REVISIONS = 2
DAGS = tuple(f"{CORPUS}_{kind}" for kind in graph.DAGS)
DONE = {"success", "failed", "skipped", "upstream_failed", "removed"}
ENDED = {"success", "failed"}
NOISE = ("Running command", "Output:", "Tmp dir", "Filling up", "Worker startup", "Command exited", "Done.", "{")
NOISE += ("::", "DAG bundles", "Pushing xcom", "Skipping task")
"""What Airflow itself says in a task's log."""
MARK = {"success": "[green]done[/]", "skipped": "[dim]nothing to do[/]", "running": "[yellow]running[/]"}
MARK |= {"failed": "[red]failed[/]", "upstream_failed": "[red]not reached[/]"}


class Follower:
    """Watches the runs that one trigger sets off and shows them: a live table, or a line per change without a TTY."""

    def __init__(self, api: AirflowApi, services: Services, console: Console) -> None:
        self.api, self.services, self.console = api, services, console
        # A run that a killed demo left unfinished goes on by itself: it is followed like a new one.
        self.before = {dag: {run["dag_run_id"] for run in api.runs(dag) if run["state"] in ENDED} for dag in DAGS}
        self.states: dict[tuple[str, str], str] = {}
        self.started = time.monotonic()

    def _new_runs(self, dag: str) -> list[dict[str, str]]:
        return [run for run in self.api.runs(dag) if run["dag_run_id"] not in self.before[dag]]

    def _last_line(self, dag: str, run: str, task: str) -> str:
        """The task's newest output line, from its log file; of one that ended, its summary."""
        folder = self.services.airflow_home / "logs" / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}"
        logs = sorted(folder.glob("attempt=*.log"))
        if not logs:
            return ""
        for line in reversed(logs[-1].read_text(errors="replace").splitlines()[-8:]):
            try:
                event = str(json.loads(line).get("event", ""))
                if event.startswith('{"stage"'):
                    return str(json.loads(event)["summary"])
            except ValueError:
                continue
            if event and not event.startswith(NOISE):
                return event
        return ""

    def _rows(self) -> tuple[list[tuple[str, str, str, str, str]], bool, str | None]:
        """(dag, stage, state, seconds, latest line) rows; whether all is over; the first failure."""
        rows, failed = [], None
        unchanged = False
        nodes = graph.load().values()
        followed = {dag: self._new_runs(dag) for dag in DAGS}
        for kind, dag in zip(graph.DAGS, DAGS, strict=True):
            run = followed[dag][0] if followed[dag] else None
            tasks = self.api.tasks(dag, run["dag_run_id"]) if run else {}
            for node in (node for node in nodes if node.dag == kind):
                task = tasks.get(node.name, {})
                state = task.get("state") or "waiting"
                line = ""
                if state in ("running", "success", "skipped") and run:
                    line = self._last_line(dag, run["dag_run_id"], node.name)
                if state == "failed" and run:
                    failed = f"{dag}.{node.name}: {self._last_line(dag, run['dag_run_id'], node.name)}"
                seconds = f"{task['duration']:.0f} s" if task.get("duration") else ""
                rows.append((dag, node.name, state, seconds, line))
                if node.name == "snapshot" and state == "skipped":
                    unchanged = True
        ended = all(run["state"] in ENDED for runs in followed.values() for run in runs)
        *before_release, release = (bool(followed[dag]) for dag in DAGS)
        over = ended and (release or (unchanged and before_release == [True, False, False]))
        return rows, over, failed

    def _table(self, rows: list[tuple[str, str, str, str, str]]) -> Table:
        done = sum(state in DONE for _, _, state, _, _ in rows)
        title = f"{done} of {len(rows)} stages, {time.monotonic() - self.started:.0f} s"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), expand=True)
        for column, width in {"DAG": 16, "stage": 15, "state": 13, "time": 5}.items():
            table.add_column(column, no_wrap=True, min_width=width)
        table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
        last = ""
        for dag, stage, state, seconds, line in rows:
            mark = Text.from_markup(MARK.get(state, f"[dim]{state}[/]"))
            table.add_row("" if dag == last else dag, stage, mark, seconds, Text(line, style="dim"))
            last = dag
        return table

    def _print_changes(self, rows: list[tuple[str, str, str, str, str]]) -> None:
        for number, (dag, stage, state, seconds, line) in enumerate(rows, 1):
            shown = f"{state} {line}" if state == "running" else state
            if state != "waiting" and self.states.get((dag, stage)) != shown:
                self.states[dag, stage] = shown
                clock = f"{time.monotonic() - self.started:4.0f} s"
                said = f"{clock}  {number:>2}/{len(rows)}  {dag}.{stage}  {state} {seconds} {line}".rstrip()
                self.console.print(Text(said), no_wrap=True, overflow="ellipsis")

    def follow(self, *, timeout: float = 1800) -> None:
        """Return when the release DAG's run is over, or the corpus turned out unchanged; BackendError on failure."""
        with Live(console=self.console, refresh_per_second=2, transient=True) as live:
            while True:
                rows, over, failed = self._rows()
                if self.console.is_terminal:
                    live.update(self._table(rows))
                else:
                    self._print_changes(rows)
                if failed:
                    raise BackendError(f"{failed} (logs: {self.services.airflow_home / 'logs'})")
                if over:
                    break
                if time.monotonic() - self.started > timeout:
                    raise BackendError(f"not finished after {timeout:.0f} s; the Airflow logs say why")
                time.sleep(3)
        self.console.export_text(clear=True)  # the picture of the demo begins with the newest revision's stages
        self.console.print(self._table(rows))


def pending(current: str | None, shown: list[str], *, unfinished: bool) -> list[str]:
    """Revisions to go through: those that have yet to land; before them the one that has landed (`current`), when
    `unfinished` says that its runs have not ended, or when there is nothing else."""
    later = [name for name in shown if current is None or name > current]
    return [current, *later] if current and (unfinished or not later) else later


def _unfinished(api: AirflowApi) -> bool:
    return any(run["state"] not in ENDED for dag in DAGS for run in api.runs(dag))


def _ask(settings: Settings, console: Console) -> None:
    show_answer(QUESTION, ask_release(settings, CORPUS, QUESTION, generation=None), console=console)


def demo(settings: Settings) -> None:
    """Run it all; AssayError on the first thing that does not work."""
    console = Console(record=True, width=None if sys.stdout.isatty() else 120)
    check_java()
    target = settings.home / "landing" / CORPUS
    began = time.monotonic()
    known = len(release_list(settings, CORPUS)["releases"]) if landed(target) else 0
    with running(settings, "milvus", "airflow") as services:
        console.print(f"Airflow {services.airflow_url}  login {USER} / {services.password}", highlight=False)
        api = AirflowApi(services.airflow_url, USER, services.password)
        api.wait_for_dags(set(DAGS))
        for dag in DAGS:
            api.unpause(dag)
        fresh = bool(landed(target)) and (_unfinished(api) or not known)
        for revision in pending(landed(target), revisions()[:SHOWN_REVISIONS], unfinished=fresh):
            if landed(target) != revision:
                land(target, revision)
                fresh = True
            day = datetime.strptime(revision, "%Y-%m-%d").strftime("%d %B %Y")
            console.rule(f"the documents of {day} have landed")
            follower = Follower(api, services, console)
            api.trigger(f"{CORPUS}_corpus")
            follower.follow()
            if fresh and release_list(settings, CORPUS)["releases"]:
                _ask(settings, console)
        console.rule("what there is now")
        show_comparison(comparison(settings, CORPUS), console=console, brief=True)
        listed = release_list(settings, CORPUS)
        show_releases(listed, console=console)
        if not listed["releases"]:
            raise BackendError("nothing was released; the verdict in the report says why")
        if not fresh and len(listed["releases"]) == known:
            console.print("Nothing has changed: 0 texts embedded, 0 adapters trained, 0 releases published.")
        elif len(listed["releases"]) == known:
            show_verdict(candidate_report(settings, CORPUS)["verdict"], console=console)
        _ask(settings, console)
    reports, here = settings.reports / CORPUS, Path.cwd()
    shown = reports.relative_to(here) if reports.is_relative_to(here) else reports
    console.print(f"Reports  {shown}", highlight=False, soft_wrap=True)
    console.print(f"All stopped after {time.monotonic() - began:.0f} s. Look around with: make up")
    console.save_svg(str(settings.reports / CORPUS / "demo.svg"), title="make demo")


def main() -> None:
    try:
        demo(Settings.from_env())
    except AssayError as exc:
        print(f"assay: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        print("assay: interrupted; everything it started was stopped", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
