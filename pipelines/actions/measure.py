"""`assay measure`: the long measurements behind the comparison table, each about the last candidate of a corpus.

They say something about a corpus rather than about a candidate's fitness, and train several times: so a person asks for
them, and no gate waits for them. What was measured stands in the workspace (`pipelines.measurements`) and in an MLflow
run, with what it is about; `assay compare` shows it, and says when it is of an earlier candidate. A killed measurement
runs again: trainings and replies that were made are not made twice.

Not every measurement says something of every corpus (`NotMeasurable`: a task has no facts to change, a hosted model no
adapter). Where all are asked for, such a one is named with its reason and the next is made; where it is asked for by
name, it fails. Whatever else goes wrong ends the command at once: what was measured until then is held.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.core.digests import digest_json
from pipelines.errors import BadInput, NotMeasurable
from pipelines.measurements import MEASUREMENTS, held, keep, made_of
from pipelines.ports import Ports
from pipelines.probes import Subject
from pipelines.settings import Settings

Json = Mapping[str, Any]


def _numbers(found: Any, prefix: str) -> Iterator[tuple[str, float]]:
    """Every number of a measurement by its dotted name; rows are a table."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if key not in ("rows", "made_of"):
                yield from _numbers(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield prefix, float(found)


def _record(ports: Ports, corpus: str, name: str, found: Json) -> str:
    """The MLflow run of a measurement; returns its id."""
    tags = {"assay.key": f"measure:{digest_json(found)}", "assay.stage": "measure", "assay.measurement": name}
    with ports.registry.run(corpus, f"measure {name}", tags=tags) as log:
        log.params({"measurement": name, **found["made_of"]})
        log.metrics(dict(_numbers(found, name)))
        if found.get("rows"):
            log.table(name, found["rows"])
        if name == "judge" and not log.settled:
            from pipelines.backends.mlflow_evaluation import assess

            assess(ports.settings.mlflow_uri, log.run_id, found["rows"])
    return str(log.run_id)


def _measure(subject: Subject, name: str) -> dict[str, Any]:
    begun, cpu = time.monotonic(), time.process_time()
    work: Callable[[Subject], dict[str, Any]] = importlib.import_module(f"pipelines.actions.measure_{name}").measure
    found = work(subject)
    spent = {"seconds": round(time.monotonic() - begun, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    return {**found, **spent, "made_of": _about(subject, name)}


def _about(subject: Subject, name: str) -> dict[str, Any]:
    about = made_of(subject.workspace)
    return about | {"judge": subject.params.compare.judge} if name == "judge" else about


def measure_corpus(settings: Settings, corpus: str, names: Sequence[str] = ()) -> Iterator[str]:
    """Measure `names`, one line each when it is done; by default all, `judge` only where `compare.judge` names one.
    What is held about the very same candidate is not measured again. BadInput for an unknown name; NotFound before the
    arms were scored; NotMeasurable for a measurement of `names` that does not apply to the corpus, or when none does.
    """
    from pipelines.wiring import Wiring

    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        raise BadInput(f"there is no measurement {unknown[0]!r}; there are: {', '.join(MEASUREMENTS)}")
    wiring = Wiring.of(settings, corpus)
    workspace = wiring.workspace
    subject = Subject(wiring.params, workspace, wiring)
    judge = wiring.params.compare.judge
    wanted = names or [name for name in MEASUREMENTS if name != "judge" or judge]
    inapplicable = 0
    for name in wanted:
        known, about = held(workspace).get(name), _about(subject, name)
        if known and known["made_of"] == about:
            yield f"{name}: held already, of this candidate"
            continue
        try:
            found = _measure(subject, name)
        except NotMeasurable as exc:
            if names:
                raise
            inapplicable += 1
            yield f"{name}: does not apply: {exc}"
            continue
        found["run_id"] = _record(wiring, corpus, name, found)
        keep(workspace, name, found)
        yield f"{name}: measured in {found['seconds']:.0f} s"
    if inapplicable == len(wanted):
        raise NotMeasurable(f"{corpus}: none of the measurements {', '.join(wanted)} applies to it")
