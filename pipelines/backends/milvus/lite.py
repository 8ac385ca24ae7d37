"""The folder of a milvus-lite, looked at from outside: who holds it, and what is removed of it that it cannot read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def locked(folder: Path) -> bool:
    """True when another process holds the milvus-lite folder."""
    import fcntl

    try:
        with (folder / "LOCK").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def forget(folder: Path, collection: str) -> None:
    """Remove what is left of a collection, and the file of aliases where it is damaged: it would keep every collection
    from being opened. Both are projections. `collection` is a valid name of a build's."""
    shutil.rmtree(folder / "collections" / collection, ignore_errors=True)
    aliases = folder / "aliases.json"
    try:
        json.loads(aliases.read_bytes())
    except FileNotFoundError:
        pass
    except ValueError:
        aliases.unlink()
