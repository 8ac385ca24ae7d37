"""A training in processes of its own, one a GPU: torchrun starts them, transformers' Trainer joins their gradients.

`launch` writes the job beside its checkpoints, relays what the first process reports, and reads what came out. Run as
a module this is one of the processes; each ends when the one that launched them is gone, so that a killed stage leaves
none behind. On a CPU two processes only share its cores: there it serves the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import errors
from pipelines.backends.lora.trainer import OnLog, Settings
from pipelines.backends.lora.training import Job, Trained, run
from pipelines.errors import AssayError, BackendError

_SAID = "\x1elora "  # begins a line that reports; torch may print others
_EVERY = 0.5  # seconds between two looks at the launcher


def _environment(device: str) -> dict[str, str]:
    """This process's, with the one GPU that `cuda:N` names as the only one seen."""
    out = dict(os.environ)
    if number := device.partition(":")[2]:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        out["CUDA_VISIBLE_DEVICES"] = visible[int(number)] if visible else number
    return out


def _write(job: Job, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(job), default=str), encoding="utf-8")


def _read(file: Path) -> Job:
    raw = json.loads(file.read_text(encoding="utf-8"))
    places = {name: Path(raw[name]) for name in ("base", "destination", "checkpoints")}
    return Job(**{**raw, **places, "settings": Settings(**raw["settings"])})


def launch(job: Job, on_log: OnLog) -> Trained:
    """Train by `recipe["devices"]` processes. The named error that stopped the first
    of them, or BackendError when one fails otherwise."""
    file, result = job.checkpoints / "job.json", job.checkpoints / "result.json"
    result.unlink(missing_ok=True)
    _write(job, file)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, f"--nproc-per-node={job.recipe['devices']}", "-m", __name__, str(file), str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment(job.device)) as started:
        try:
            for line in started.stdout or ():
                if line.startswith(_SAID):
                    on_log(*json.loads(line.removeprefix(_SAID)))
        except BaseException:
            started.terminate()
            raise
    found: Mapping[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    if "error" in found:
        raise getattr(errors, found["error"], BackendError)(found["message"])
    if started.returncode or not found:
        raise BackendError(f"a process of the training ended with {started.returncode}; its last words are above")
    return Trained(**{**found, "folder": job.destination})


def _end_with(pid: int) -> None:
    import psutil

    try:
        launcher = psutil.Process(pid)
        while launcher.is_running() and launcher.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_EVERY)
    except psutil.NoSuchProcess:
        pass
    os._exit(1)


def _say(step: int, values: Mapping[str, float]) -> None:
    sys.stdout.write(f"{_SAID}{json.dumps([step, dict(values)])}\n")
    sys.stdout.flush()


def main(file: Path, launcher: int) -> None:
    """One of the processes: what comes of the first is written down for the launcher, whose process id is given."""
    threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
    job = _read(file)
    try:
        found: dict[str, Any] = asdict(run(job, _say))
    except AssayError as exc:
        found = {"error": type(exc).__name__, "message": str(exc)}
    if os.environ["RANK"] == "0":
        (job.checkpoints / "result.json").write_text(json.dumps(found, default=str), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
