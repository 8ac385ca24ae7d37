"""A full disk under every step of a release's life, then space again: the same state as where there always was some.

The whole home lies on a small tmpfs, which a file fills but for a few kilobytes while the step runs. What it says
then is its own affair; what it leaves is not: a reader sees whole generations, and the step run again ends as ever.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import release_kit as kit
from tests.kill_kit import Zygote
from tests.life_kit import land

pytestmark = pytest.mark.faults
LIFE = ("fetch", "check", "snapshot", "index", "judge", "promote")
FREE = (0, 16, 200)
"""Kilobytes that are left to a step: at its first write, in the middle, near its end."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB; skipped where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path, *, free: int) -> Path:
    """Take all of the disk but `free` kilobytes."""
    import shutil

    filler = disk / "filler"
    with filler.open("wb") as out:
        for size in (1 << 20, 1 << 12):
            while shutil.disk_usage(disk).free >= free * 1024 + size:
                out.write(b"\0" * size)
                out.flush()
    return filler


def test_what_a_full_disk_interrupted_ends_as_ever_when_there_is_space(
    zygote: Zygote, disk: Path, tmp_path: Path, faults: Any
) -> None:
    calm, home = kit.bare_home(tmp_path / "calm"), kit.bare_home(disk / "home")
    for texts in (kit.TEXTS, kit.NEWER):
        for settings in (calm, home):
            land(settings.home, texts)
        for step in LIFE:
            zygote.undisturbed(calm, step)
            for free in FREE:
                filler = fill(disk, free=free)
                zygote.tell(home, step)
                filler.unlink()
                with faults(f"disk full in {step}"):
                    if list((disk / "home" / "objects" / "releases").glob("*/0*.json")):
                        seen = zygote.undisturbed(home, "read").said["texts"]
                        assert seen in (sorted(kit.TEXTS.values()), sorted(texts.values()))
            zygote.undisturbed(home, step)
    with faults("a home after all full disks, against an undisturbed one"):
        assert zygote.undisturbed(home, "state").said == zygote.undisturbed(calm, "state").said
