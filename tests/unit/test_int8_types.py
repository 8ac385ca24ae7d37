"""What int8 leaves in floating point is computed in one type, which the digest names: never silently in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.backends import openvino
from pipelines.errors import BadConfig
from pipelines.settings import checkout

MINILM = checkout() / "models/embedders/minilm.yaml"


def on(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that multiplies bf16, or on one that does not."""
    able = ["FP32", "INT8", *(["BF16"] if cpu == "bf16" else [])]
    monkeypatch.setattr("openvino.Core", lambda: type("Core", (), {"get_property": lambda self, *_: able})())


def loaded(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """(digest of the export, type that is recorded in it)."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(openvino.exports, "make", lambda *_, facts, **__: made.update(facts))
    monkeypatch.setattr(openvino, "reopen", lambda folder, *_: Path(folder).name)
    digest = openvino.load_embedder(MINILM, cache=tmp_path, precision=precision)
    assert made["digest"] == digest
    return str(digest), made["computed_in"]


def test_the_digest_of_int8_names_the_type_of_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on("bf16", monkeypatch)
    fast, exact = loaded("int8", tmp_path, monkeypatch), loaded("fp32", tmp_path, monkeypatch)
    on("f32", monkeypatch)
    slow = loaded("int8", tmp_path, monkeypatch)
    assert (fast[1], slow[1], fast[0] == slow[0]) == ("bf16", "f32", False)
    assert exact == loaded("fp32", tmp_path, monkeypatch)  # the same on every CPU


def test_an_export_is_computed_in_its_own_type_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Spark executor or a service opens what another machine made."""
    on("bf16", monkeypatch)
    assert openvino.computed_in("int8", "f32") == "f32"
    assert [openvino.computed_in("int8", recorded) for recorded in ("bf16", None)] == ["bf16", "bf16"]
    on("f32", monkeypatch)
    assert [openvino.computed_in("int8", recorded) for recorded in ("f32", None)] == ["f32", "f32"]
    with pytest.raises(BadConfig, match="computes in bf16 what is not quantised, but this CPU does not multiply bf16"):
        openvino.computed_in("int8", "bf16")
