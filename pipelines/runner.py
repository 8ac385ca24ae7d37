"""Run one node of the graph: through DVC when it is a stage, directly when it is an action.

`run_node` is what `assay stage`, `assay run` and an Airflow task call; `execute` is what DVC calls back
(`assay exec STAGE`) inside the workspace. A node that had nothing to do says so in its outcome.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from pipelines import graph, tuned
from pipelines import params as params_module
from pipelines.candidates import awaiting
from pipelines.core.manifest import released_already
from pipelines.errors import BadInput, NotFound
from pipelines.few_shot import shots_source
from pipelines.params import CorpusParams
from pipelines.released import newest_release
from pipelines.settings import Settings
from pipelines.wiring import Wiring
from pipelines.workspace import write_whole


@dataclass(frozen=True)
class Outcome:
    """What happened to one node. `changed` is False when there was nothing to do. `awaits`: of judge, the candidate
    that is to be released next, where there is one; a person may be asked about it."""

    node: str
    changed: bool
    summary: str
    awaits: str | None = None


def _sync(wiring: Wiring) -> None:
    """Write the graph, the corpus's params and the code digests into the workspace, each only when it differs."""
    root = wiring.workspace.root
    raw = params_module.read_raw(wiring.settings.params_file)
    block = tuned.with_pins(params_module.corpus_block(raw, wiring.corpus), wiring.params)
    write_whole(root / "dvc.yaml", graph.render(block))
    write_whole(root / "params.yaml", yaml.safe_dump(block, sort_keys=True, allow_unicode=True, width=120))
    write_whole(root / "code.yaml", graph.render_code())


def sync_champion(wiring: Wiring) -> None:
    """Put the release to beat beside the scores.

    When the newest release is what these receipts and params made, the file stays as it was: a candidate is not
    judged against itself, and nothing becomes stale by having been promoted.
    """
    workspace, log = wiring.workspace, wiring.releases
    latest = newest_release(log, wiring.corpus)
    if workspace.champion_file.is_file() and latest:
        index = workspace.receipt("index") if workspace.has("index") else {}
        train = workspace.receipt("train") if workspace.has("train") else {}
        retrieval = workspace.receipt("score_retrieval") if workspace.has("score_retrieval") else {}
        params = wiring.params.model_dump(mode="json")
        made_of = {"index": index, "train": train, "retrieval": retrieval, "params": params}
        if released_already(latest, **made_of, shown=shots_source(workspace, wiring.params.mix.labels)):
            return
    write_whole(workspace.champion_file, json.dumps(latest, indent=1, sort_keys=True) + "\n")


def run_node(
    settings: Settings, corpus: str, name: str, *, force: bool = False, answer: Mapping[str, str] | None = None
) -> Outcome:
    """Bring one node up to date. NotFound for an unknown node; a stage's own errors pass through. `answer` is for
    promote: what the release DAG's task `approve` was answered."""
    nodes = graph.load()
    if name not in nodes:
        raise NotFound(f"no stage {name!r}; stages are {', '.join(nodes)}")
    if answer and name != "promote":
        raise BadInput(f"only promote takes an approval, {name} does not")
    node = nodes[name]
    wiring = Wiring.of(settings, corpus)
    _sync(wiring)
    if any(dep == "champion.json" for dep in node.deps):
        sync_champion(wiring)
    if node.action:
        action = importlib.import_module(f"pipelines.actions.{name}")
        given = {"answer": answer} if answer else {}
        changed, summary = action.run(wiring.params, wiring.workspace, ports=wiring, **given)
        return Outcome(name, changed, summary)
    changed = wiring.versioner.reproduce(name, force=force)
    awaits = awaiting(wiring.workspace, wiring.releases) if name == "judge" else None
    return Outcome(name, changed, wiring.workspace.summary(name), awaits)


def execute(settings: Settings, corpus: str, name: str) -> str:
    """Do the work of a stage in this process and write its receipt; returns its summary.

    Params come from the workspace, not from the checkout: the workspace's revision says what to reproduce.
    """
    root = settings.workspace(corpus)
    block = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    wiring = Wiring(settings, corpus, CorpusParams.model_validate(block))
    stage = importlib.import_module(f"pipelines.stages.{name}")
    began = time.monotonic()
    report = stage.run(wiring.params, wiring.workspace, ports=wiring)
    spent = {"wall_seconds": round(time.monotonic() - began, 2), "cpu_seconds": round(_cpu_seconds(), 2)}
    wiring.workspace.write_receipt(name, report.facts, {**report.measured, **spent}, report.summary)
    return str(report.summary)


def _cpu_seconds() -> float:
    """Of this process and all that it started: those still running (Spark's JVM with its workers) and those gone."""
    import psutil

    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # ended meanwhile
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
