"""A home that is let go of, set aside whole, and put back at its own path, which stands in much of what it holds."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def set_aside(home: Path, name: str) -> Path:
    """A copy of the home beside it, under that name."""
    aside = home.with_name(name)
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(home, aside, symlinks=True)
    return aside


def let_go() -> None:
    """Close every folder that milvus-lite has open in this process, as the end of the process would."""
    if "milvus_lite.server_manager" in sys.modules:
        sys.modules["milvus_lite.server_manager"].server_manager_instance.release_all()


def put_back(home: Path, aside: Path) -> None:
    """The home as it was when it was set aside."""
    let_go()
    shutil.rmtree(home)
    shutil.copytree(aside, home, symlinks=True)
