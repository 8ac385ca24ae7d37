"""A folder for what one job needs while it runs, below the cache. What killed jobs left goes when the next one begins.

Its owner holds a lock on the folder, which the kernel lets go when that dies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.locks import exclusive


def _taken(folder: Path) -> int | None:
    """A descriptor that holds the folder; None when another process holds it, or when it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def temporary_folder(below: Path, name: str) -> Iterator[Path]:
    """`below/NAME-...`, empty, removed at the end of the block; those of dead processes are removed first."""
    with exclusive(below / "locks" / f"scratch-{name}", patience=600, what=f"the folder {below}"):
        for left in below.glob(f"{name}-*"):
            if (descriptor := _taken(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(descriptor)
        folder = Path(tempfile.mkdtemp(dir=below, prefix=f"{name}-"))
        held = _taken(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            with suppress(OSError):
                os.close(held)
