"""A home that is set aside whole and put back at its own path, which stands in much of what it holds."""

from __future__ import annotations

import shutil
from pathlib import Path


def set_aside(home: Path, name: str) -> Path:
    """A copy of the home beside it, under that name."""
    aside = home.with_name(name)
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(home, aside, symlinks=True)
    return aside


def put_back(home: Path, aside: Path) -> None:
    """The home as it was when it was set aside. This process's milvus-lite lets go of its files first."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_all()
    shutil.rmtree(home)
    shutil.copytree(aside, home, symlinks=True)
