"""The parts of the benchmarks of embedding and indexing that decide what is counted: benchmarks/incremental.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import incremental


class Home:
    """Stands for the wiring of a home: remembers when its model was exported, which the first look at it does."""

    def __init__(self, home: Path, told: list[tuple[str, str]]) -> None:
        self.home, self.told = home, told
        self.workspace = SimpleNamespace(receipt=lambda name: {}, write_receipt=lambda *given: None)

    @property
    def embedder(self) -> Any:
        self.told.append(("export", self.home.name))
        return SimpleNamespace(digest="d" * 64)


def test_the_model_is_exported_before_a_build_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []

    def in_process(home: Path, embedder: str, *stages: str) -> dict[str, Any]:
        told.append(("build", home.name))
        facts = {"facts": {"rows": 7}, "measured": {"cut": 7, "embedded": 7}, "cpu": 1.0, "wall": 1.0}
        return dict.fromkeys(stages, facts)

    (tmp_path / "full").mkdir()
    monkeypatch.setattr(incremental, "ports_of", lambda home, *, embedder: Home(home, told))
    monkeypatch.setattr(incremental, "write_documents", lambda workspace, documents: 0)
    monkeypatch.setattr(incremental, "in_process", in_process)
    incremental.measure(tmp_path / "full", embedder="minilm", documents=3)
    builds = [n for n, (what, _) in enumerate(told) if what == "build"]
    assert len(builds) == 2 + len(incremental.SHARES)
    for at in builds:
        assert ("export", told[at][1]) in told[:at], told
