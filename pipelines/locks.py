"""One file lock between processes of this machine: `flock`, which the kernel lets go when its holder dies.

It does not lock across machines, and it does not say who holds it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import BackendError


@contextmanager
def exclusive(file: Path, *, patience: float, what: str) -> Iterator[int]:
    """Hold `file` exclusively; yields its descriptor, so that a child given it keeps the lock while it lives.

    Waits at most `patience` seconds; then BackendError that says `what` is busy.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BackendError(f"{what} was busy for {patience:.0f} seconds; try again") from None
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)
