"""Bit rot of what DVC keeps of a revision: an object of the workspace's cache, an object of the remote.

Whoever fetches the revision anew gets exactly its files, or an error; and snapshots go on, each revision once.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import dvc_objects
from pipelines.corpus_files import tree_digest
from tests.fault_table import flip, truncate
from tests.faults.test_corpus_kill import content, git, versioner

pytestmark = pytest.mark.faults
DAMAGES: dict[str, Callable[[Path], None]] = {"bit flip": flip, "truncation": truncate, "removal": Path.unlink}


def object_of(root: Path, file: Path) -> Path:
    """The DVC object that holds the bytes of `file`."""
    (found,) = [path for path in root.rglob("*") if path.is_file() and path.read_bytes() == file.read_bytes()]
    found.chmod(0o644)
    return found


def fetched(home: Path, into: Path) -> str:
    """The digest of the newest revision's files in a fresh clone, from the remote; whatever DVC raises."""
    from dvc.repo import Repo

    shutil.rmtree(into, ignore_errors=True)
    into.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", str(home / "workspaces" / "demo"), str(into)], check=True)
    with Repo(str(into)) as repo:
        repo.pull(targets=[str(into / "corpus.dvc")])
    return tree_digest(into / "corpus")


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A home with revision r1, its content, and that of a next revision which shares most of it."""
    old, new = content(tmp_path / "old", a="one"), content(tmp_path / "new", a="one", b="two")
    for folder in (old, new):
        (folder / "source").mkdir(exist_ok=True)
        (folder / "source" / "a.md").write_text("one, as it was landed\n")
    versioner(tmp_path / "home").snapshot("demo", content=old)
    return tmp_path / "home", old, new


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_cache_object_revisions_go_on(homes: Any, damage: str, tmp_path: Path, faults: Any) -> None:
    home, old, new = homes
    with faults(f"{damage}: DVC cache object"):
        cache = home / "workspaces" / "demo" / ".dvc" / "cache"
        DAMAGES[damage](object_of(cache, old / "source" / "a.md"))
        assert versioner(home).snapshot("demo", content=old).revision == "r1"
        found = versioner(home).snapshot("demo", content=new)
        assert found.revision == "r2" and versioner(home).snapshot("demo", content=new) == found
        assert fetched(home, home / "workspaces" / "copy") == tree_digest(new)
        assert git(home, "tag").split() == ["r1", "r2"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_remote_object_is_an_error_and_not_other_content(homes: Any, damage: str, faults: Any) -> None:
    from dvc.exceptions import DvcException

    home, old, _ = homes
    with faults(f"{damage}: DVC remote object"):
        file = object_of(home / "remotes" / "demo", old / "source" / "a.md")
        DAMAGES[damage](file)
        with pytest.raises(DvcException):
            fetched(home, home / "workspaces" / "copy")
        assert not (home / "workspaces" / "copy" / "corpus" / "source" / "a.md").is_file()
        remote, root = str(home / "remotes" / "demo"), home / "workspaces" / "demo"
        assert dvc_objects.mend(root, remote) | {"read": 0} == {"read": 0, "sent": 1, "gone": 0}
        assert fetched(home, home / "workspaces" / "another") == tree_digest(old)
        assert dvc_objects.mend(root, remote)["sent"] == 0
