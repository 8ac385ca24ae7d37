"""The two ends of a stage that runs as a process of its own under DVC: `assay stage` outside, `assay exec` inside.

The outer end names itself in ASSAY_OUTER. The inner end leaves its error in a file, so that the outer one raises the
very same, and ends when the outer one is gone, so that a killed run leaves nothing behind that still writes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import errors
from pipelines.locks import exclusive
from pipelines.workspace import write_whole

OUTER = "ASSAY_OUTER"
"""Environment: process id of the outer end; unset when DVC was started by hand."""

_PATIENCE = 120.0
_EVERY = 0.5


def _error_file(root: Path, stage: str) -> Path:
    return root / "measured" / f"{stage}.error.json"


def _gone(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _end_with(pid: int) -> None:
    while not _gone(pid):
        time.sleep(_EVERY)
    os._exit(errors.AssayError.exit_code)


@contextmanager
def inner(root: Path, stage: str) -> Iterator[None]:
    """Around the work of `assay exec`: alone in this stage, and no longer alive than the outer process.

    Raises SystemExit with the error's exit code after handing an AssayError over; without an outer process the error
    passes through. BackendError when the same stage of this workspace still runs after two minutes.
    """
    outer = int(os.environ.get(OUTER) or 0)
    if outer:
        threading.Thread(target=_end_with, args=(outer,), daemon=True).start()
    try:
        busy = f"stage {stage} of {root.name}"
        with exclusive(root / "measured" / f"{stage}.lock", patience=_PATIENCE, what=busy):
            yield
    except errors.AssayError as exc:
        if not outer:
            raise
        said = {"error": type(exc).__name__, "message": str(exc)}
        write_whole(_error_file(root, stage), json.dumps(said) + "\n")
        raise SystemExit(exc.exit_code) from exc


def forget(root: Path, stage: str) -> None:
    """Before a run: an older error is not this run's."""
    _error_file(root, stage).unlink(missing_ok=True)


def handed_over(root: Path, stage: str) -> errors.AssayError | None:
    """The error that the inner end left, as what it was; None when it left none."""
    try:
        said = json.loads(_error_file(root, stage).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = getattr(errors, str(said["error"]), errors.AssayError)
    return kind(said["message"]) if issubclass(kind, errors.AssayError) else errors.AssayError(said["message"])
