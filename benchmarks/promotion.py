"""How long a promotion and a rollback take, from the command to its readers: p50 and p99 of cold processes.

A small corpus with a real build, in a folder or (with ASSAY_OBJECTS_URI and AWS_* set) on S3. By turns, `assay promote`
publishes one of two judged candidates and `assay rollback` returns to the other. A reader that resolves through the
release log, as every service does, looks for the new generation all the while: "to readers" is from the start of the
process until it has the verified manifest, "to the end" until the projections (MLflow, Milvus alias) are moved too. The
log grows as it does in a life: two generations a round.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from pipelines.errors import BadInput
from pipelines.ports import ReleaseLog
from pipelines.settings import Settings
from pipelines.wiring import Wiring
from tests import release_kit as kit

LOOK = 0.005
"""Seconds between two looks of the reader."""


def published(settings: Settings, log: ReleaseLog, words: Sequence[str]) -> tuple[float, float]:
    """(seconds until a reader has the next generation, until `assay WORDS` has ended). BadInput when it fails."""
    known = log.generations(kit.CORPUS)
    wanted, seen = (known[-1] if known else 0) + 1, 0.0
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("assay")), *words]
    environment = kit.environment(settings)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None:
        if not seen and wanted in log.generations(kit.CORPUS):
            log.read(kit.CORPUS, wanted)
            seen = time.perf_counter() - began
        time.sleep(LOOK)
    ended = time.perf_counter() - began
    said = process.communicate()[0].strip().splitlines()
    if process.returncode or not seen:
        raise BadInput(f"assay {' '.join(words)} exited {process.returncode}: {(said or ['nothing said'])[-1]}")
    return seen, ended


def measured(settings: Settings, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of every promotion and of every rollback."""
    log = Wiring.of(settings, kit.CORPUS).releases
    taken: dict[str, list[tuple[float, float]]] = {"promote": [], "rollback": []}
    kit.candidate(settings, kit.TEXTS)
    published(settings, log, ["promote", kit.CORPUS])
    for round_ in range(rounds):
        kit.candidate(settings, {**kit.NEWER, "round": f"This is the text of round {round_ + 1} of this measurement."})
        taken["promote"].append(published(settings, log, ["promote", kit.CORPUS]))
        taken["rollback"].append(published(settings, log, ["rollback", kit.CORPUS]))
        print(f"{round_ + 1} of {rounds}", file=sys.stderr, end="\r", flush=True)
    return taken


def rows_of(taken: Mapping[str, Sequence[tuple[float, float]]]) -> list[dict[str, Any]]:
    return [
        {
            "command": f"assay {name}",
            "until": until,
            "n": len(runs),
            "p50 s": float(np.quantile([run[at] for run in runs], 0.5)),
            "p99 s": float(np.quantile([run[at] for run in runs], 0.99)),
            "most s": max(run[at] for run in runs),
        }
        for name, runs in taken.items()
        for at, until in enumerate(("readers have it", "the process ends"))
    ]


def main() -> None:
    asked = harness.arguments(
        __doc__, rounds={"type": int, "default": 100, "help": "promotions, and rollbacks (default: 100)"}
    )
    with tempfile.TemporaryDirectory(prefix="assay-promotion-") as folder:
        settings = kit.home(Path(folder))
        rows = rows_of(measured(settings, 3 if asked.quick else asked.rounds))
    worst = {f"{row['command']}, {row['until']}: p99 in s": row["p99 s"] for row in rows}
    harness.show("From the command to readers", rows, ratios=worst, json_file=asked.json)


if __name__ == "__main__":
    harness.run_plainly(main)
