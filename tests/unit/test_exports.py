"""Exports whose process is ended from outside, with a real process that kills itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import exports
from pipelines.errors import BackendError

EXPORTER = """
import os, pathlib, signal, sys
deaths, count, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
count.write_text(count.read_text() + "x" if count.exists() else "x")
(folder / "model.bin").write_text("half")
if len(count.read_text()) <= deaths:
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "model.bin").write_text("whole")
"""


@pytest.fixture
def exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "exporter_of_test.py").write_text(EXPORTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "out" / "digest"


def make(destination: Path, deaths: int) -> None:
    arguments = [str(deaths), str(destination.parent.parent / "count")]
    exports.make(destination, "exporter_of_test", arguments, files=["model.bin"], facts={}, what="embedder e")


def test_an_export_whose_process_was_killed_runs_once_more(exporter: Path) -> None:
    make(exporter, deaths=1)
    exports.opened(exporter)
    assert (exporter / "model.bin").read_text() == "whole"


def test_an_export_killed_twice_names_the_signal_and_leaves_nothing(exporter: Path) -> None:
    with pytest.raises(BackendError, match="embedder e: export failed: its process was ended twice by SIGKILL"):
        make(exporter, deaths=2)
    assert list(exporter.parent.iterdir()) == []
