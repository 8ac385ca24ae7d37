"""The parts of the benchmarks of embedding, indexing and retrieval that decide what is counted and compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import engine, incremental, queries, retrieval
from pipelines.params import read_raw
from pipelines.settings import checkout
from tests.index_kit import params_of


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


def test_a_speed_is_held_against_the_peaks_that_this_core_has() -> None:
    found = engine.shares(50.0, {"fp32": (100.0, "torch"), "int8": (400.0, "torch")})
    assert found == {"of fp32 peak": 0.5, "of bf16 peak": "-", "of int8 peak": 0.125}


def test_the_engine_is_measured_with_the_shipped_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: dict[str, Any] = {}

    def asked(description: str, **given: Any) -> None:
        flags.update(given)
        raise SystemExit

    monkeypatch.setattr(engine.harness, "arguments", asked)
    with pytest.raises(SystemExit):
        engine.main()
    shipped = read_raw(checkout() / "params.yaml")["defaults"]["embed"]["batch_tokens"]
    assert flags["batch_tokens"]["default"] == [shipped]


@pytest.mark.parametrize(("lost", "verdict"), [(0.004, "passed"), (0.006, "refused: nDCG@10 is +0.0060 below fp32")])
def test_a_precision_has_the_verdict_of_the_gate(
    lost: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    loss = {"value": lost, "low": lost - 0.001, "high": lost + 0.001, "n": 200}
    receipt = {"metrics": {"ndcg@10": {"value": 0.9}}, "precision_loss": loss}

    def prepare(home: Path, sets: Any, **sections: Any) -> None:
        made.append(params_of(**sections))

    def index(settings: Any, name: str) -> Any:
        return SimpleNamespace(params=made[-1], workspace=SimpleNamespace(receipt=lambda stage: receipt))

    monkeypatch.setattr(engine, "prepare", prepare)
    monkeypatch.setattr(engine, "index", index)
    monkeypatch.setattr(engine, "run_node", lambda *given: SimpleNamespace(summary=""))
    exact, int8 = engine.gated(tmp_path, ["xquad_en"], ["fp32", "int8"])
    assert [params.embed.precision for params in made] == ["fp32", "int8"]
    assert (exact["gate"], exact["lost"]) == ("-", "-")
    assert int8["gate"].startswith(verdict)
    assert (int8["lost"], int8["low"], int8["high"], int8["questions"]) == (lost, loss["low"], loss["high"], 200)


def test_the_published_figure_stands_beside_the_row_over_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SimpleNamespace(close=lambda: None)
    sets = {"xquad_en": ["p0", "p149", "p150"], "cranfield": ["1", "2"]}

    def index(settings: Any, name: str) -> Any:
        return SimpleNamespace(corpus=name, store=store)

    def questions_of(wiring: Any, *, trained: bool, limit: int | None) -> list[str]:
        held = sets[wiring.corpus]
        return held[:2] if trained else held[2:]

    def measured(wiring: Any, name: str, find: Any, questions: Any) -> dict[str, Any]:
        return {"set": wiring.corpus, "found by": name, "questions": len(questions)}

    monkeypatch.setattr(retrieval, "index", index)
    monkeypatch.setattr(retrieval, "questions_of", questions_of)
    monkeypatch.setattr(retrieval, "measured", measured)
    monkeypatch.setattr(retrieval, "ways", lambda wiring, reranker: {"dense": None})
    rows = retrieval.run(SimpleNamespace(), list(sets), limit=None, rerank=False)  # type: ignore[arg-type]
    compared = [row for row in rows if (row["set"], row["found by"]) in retrieval.PUBLISHED]
    assert compared == [{"set": "xquad_en", "found by": retrieval.ALL, "questions": 3}]


@pytest.mark.parametrize(("rows", "asked"), [(9_999, {"lite"}), (10_000, {"lite", "other"})])
def test_small_sizes_are_asked_of_milvus_lite_alone(
    rows: int, asked: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "in_process", lambda *given: {("lite", "FLAT"): (None, ())})
    monkeypatch.setattr(queries, "others", lambda *given: {("other", "FLAT"): (None, ())})
    corpus = SimpleNamespace(texts=[""] * rows)
    given: Any = (corpus, None, None, tmp_path)
    assert {engine for engine, _ in queries.opened(*given, all_from=queries.ALL_ENGINES_FROM)} == asked
    assert min(queries.SIZES) < queries.ALL_ENGINES_FROM


def test_hnsw_is_held_against_flat_in_time_and_cpu() -> None:
    row = {"chunks": 1_000, "engine": queries.LITE, "what": "search + fetch", "threads": 1}
    flat = {**row, "index": "FLAT", "p50 ms": 4.0, "CPU ms": 5.0}
    hnsw = {**row, "index": "HNSW", "p50 ms": 8.0, "CPU ms": 2.5}
    assert [*queries.ratios([flat, hnsw, {**hnsw, "threads": 8, "p50 ms": 1.0}]).values()] == [2.0, 0.5]
