"""The decisions of embed and index without Spark and Milvus: names, sizes, vectors refused, half loads mended."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.backends import spark
from pipelines.backends.milvus import MilvusStore
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.openvino import load_embedder
from pipelines.builds import load_build
from pipelines.embeddings import tasks
from pipelines.errors import BackendError, BadConfig, BadInput, IntegrityError, MissingTool, NotFound
from pipelines.schemas import VECTORS
from pipelines.stages.embed import build_digest, check_vectors, whole_build
from tests.build_kit import put_build


def test_a_build_is_named_after_everything_that_makes_it() -> None:
    chunks = {"corpus_digest": "c", "params_digest": "p", "digest": "d"}
    base = build_digest(chunks, embedder="e", index={"type": "FLAT"})
    others = [build_digest({**chunks, key: "x"}, embedder="e", index={"type": "FLAT"}) for key in chunks]
    others += [build_digest(chunks, embedder="x", index={"type": "FLAT"})]
    others += [build_digest(chunks, embedder="e", index={"type": "HNSW"})]
    assert len({base, *others}) == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1.01])
def test_vectors_that_are_not_unit_vectors_are_refused(bad: float) -> None:
    vectors = np.eye(3, dtype=np.float32)
    check_vectors(vectors, ["a", "b", "c"])
    vectors[1, 1] = bad
    with pytest.raises(IntegrityError, match="the vector of text b has length"):
        check_vectors(vectors, ["a", "b", "c"])


@given(st.integers(1, 5_000_000), st.integers(1, 64))
def test_tasks_are_of_bounded_size(texts: int, partitions: int) -> None:
    count = tasks(texts, partitions=partitions)
    assert 1 <= count <= texts
    assert texts / count <= 4_096
    assert count >= min(texts, partitions)


def test_tasks_by_hand() -> None:
    assert tasks(16, partitions=2) == 2  # one per partition
    assert tasks(3_400, partitions=2) == 14  # 256 a task: 13.3
    assert tasks(1_000_000, partitions=2) == 245  # 4,096 a task: 244.1


class MemoryStore:
    """A store of rows by key; `stubborn` rows survive a drop, as a broken engine's would."""

    def __init__(self, rows: dict[str, tuple[str, bytes]] | None = None, *, stubborn: bool = False) -> None:
        self.held, self.stubborn, self.calls, self.shared = rows, stubborn, [], False

    def load(
        self, collection: str, rows: Iterable[Any], *, dim: int, index_type: str = "FLAT", finish: bool = True
    ) -> int:
        self.calls.append("load" if finish else "part")
        self.held = self.held or {}
        for batch in rows:
            for row in batch.to_pylist():
                self.held[row["key"]] = (row["text_digest"], np.array(row["vector"], dtype="<f4").tobytes())
        return len(self.held)

    def rows(self, collection: str) -> Iterator[tuple[str, str, bytes]]:
        if self.held is None:
            raise NotFound(collection)
        yield from ((key, *rest) for key, rest in self.held.items())

    def drop(self, collection: str) -> None:
        self.calls.append("drop")
        self.held = self.held if self.stubborn else None


@pytest.fixture
def build(tmp_path: Path) -> tuple[ObstoreObjects, dict[str, Any]]:
    """Three rows in two parts: vectors are the unit vectors of three dimensions."""
    objects, parts = ObstoreObjects(str(tmp_path)), []
    for numbers in [(0, 1), (2,)]:
        rows = []
        for n in numbers:
            shown = {"document": "d", "title": "", "ordinal": n, "start": n, "end": n + 1, "tokens": 1, "text": "x"}
            vector = np.eye(3, dtype="<f4")[n].tolist()
            rows.append({"key": f"k{n}", "text_digest": f"t{n}", "vector": vector, "access": "public", **shown})
        parts.append(pa.RecordBatch.from_pylist(rows, schema=VECTORS))
    return objects, put_build(objects, parts, collection="b", dim=3)


def test_a_collection_is_loaded_once_and_then_only_looked_at(build: Any) -> None:
    objects, facts = build
    store = MemoryStore()
    assert load_build(store, objects, facts) == 1  # type: ignore[arg-type]
    assert load_build(store, objects, facts) == 0  # type: ignore[arg-type]
    assert store.calls == ["load"]


def test_a_half_load_is_completed_and_a_stale_one_dropped(build: Any) -> None:
    objects, facts = build
    half = MemoryStore({"k0": ("t0", np.eye(3, dtype="<f4")[0].tobytes())})
    assert load_build(half, objects, facts) == 1  # type: ignore[arg-type]
    stale = MemoryStore({"other": ("t", b"")})
    assert load_build(stale, objects, facts) == 2  # type: ignore[arg-type]
    assert stale.calls == ["load", "drop", "load"]
    assert sorted(stale.held or ()) == ["k0", "k1", "k2"]


def test_a_shared_store_is_loaded_part_by_part_and_a_small_build_is_not_spread(build: Any) -> None:
    objects, facts = build
    store, spread = MemoryStore(), []

    def inline(parts: Sequence[str], load: Callable[[str], int]) -> int:
        spread.extend(parts)
        return sum(load(part) for part in reversed(parts))

    assert load_build(store, objects, facts, spread=inline) == 1  # type: ignore[arg-type]
    assert (store.calls, spread) == (["load"], [])  # a folder serves one process
    store = MemoryStore()
    store.shared = True
    assert load_build(store, objects, facts, spread=inline) == 1  # type: ignore[arg-type]
    assert store.calls == ["load", "part", "part", "load"]
    assert spread == ["part-0", "part-1"]
    small = {**facts, "parts": ["part-0"], "rows": 2}
    with pytest.raises(IntegrityError, match="b holds 2 rows"):  # of another digest, for facts are of both parts
        load_build(MemoryStore(), objects, small, spread=inline)  # type: ignore[arg-type]
    assert spread == ["part-0", "part-1"]


def test_a_store_that_keeps_differing_is_an_integrity_error(build: Any) -> None:
    objects, facts = build
    with pytest.raises(IntegrityError, match="b holds 4 rows of digest"):
        load_build(MemoryStore({"other": ("t", b"")}, stubborn=True), objects, facts)  # type: ignore[arg-type]


def test_a_build_is_whole_with_its_marker_and_all_parts(build: Any) -> None:
    objects, facts = build
    assert whole_build(objects, "builds/b") is None
    objects.put("builds/b/embed.json", json.dumps(facts).encode())
    assert whole_build(objects, "builds/b") == facts
    objects.put("builds/b/embed.json", json.dumps({**facts, "parts": [*facts["parts"], "part-2"]}).encode())
    assert whole_build(objects, "builds/b") is None
    with pytest.raises(NotFound, match="part-2 is not in the object store"):
        load_build(MemoryStore(), objects, {**facts, "parts": ["part-2"]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("path: nowhere", MissingTool, "no modules.json in nowhere"),
        ("package: no_such_package", MissingTool, "package no-such-package is not installed"),
        ("package: a\npath: b", BadConfig, "one of package, path, hub or endpoint"),
        ("package: a\npooling: mean", BadConfig, "one of package, path, hub or endpoint"),
        ("- a", BadConfig, "one of package, path, hub or endpoint"),
        (":\n -", BadConfig, "is not readable YAML"),
    ],
)
def test_definitions_are_parsed_strictly(tmp_path: Path, text: str, kind: type[Exception], message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(kind, match=message):
        load_embedder(file, cache=tmp_path)
    with pytest.raises(BadConfig, match=r"there is no models/embedders/other.yaml; known: mine"):
        load_embedder(tmp_path / "other.yaml", cache=tmp_path)


def test_java_is_asked_for_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MissingTool, match="openjdk-17-jre-headless"):
        spark.check_java()
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text(f"#!{sys.executable}\nimport sys\nprint('openjdk version \"11.0.2\"', file=sys.stderr)\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingTool, match=r"is version 11. Spark needs Java 17"):
        spark.check_java()


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("Traceback\npipelines.errors.IntegrityError: vector 3\n at x", IntegrityError, "vector 3"),
        ("Traceback\npipelines.errors.BadInput: no space left in /x\n", BadInput, "no space left in /x"),
        ("java.io.IOException: No space left on device", BadInput, "no space left in /scratch"),
    ],
)
def test_what_failed_in_a_worker_is_raised_as_what_it_was(said: str, kind: type[Exception], message: str) -> None:
    error = spark._translated(RuntimeError(said), Path("/scratch"))
    assert type(error) is kind
    assert str(error).startswith(message)


def test_spark_failures_are_backend_errors_and_bugs_stay_bugs() -> None:
    theirs = type("Theirs", (Exception,), {"__module__": "pyspark.errors"})("Job aborted\n because")
    assert isinstance(spark._translated(theirs, Path("/s")), BackendError)
    ours = TypeError("a bug")
    assert spark._translated(ours, Path("/s")) is ours


def test_names_never_reach_milvus_unchecked(tmp_path: Path) -> None:
    store = MilvusStore(str(tmp_path / "x.db"))
    for name in ("tiny", "b_tiny", "b_tiny_0123456789abcdeG", "../x", 'b_t_0123456789abcdef" or 1'):
        with pytest.raises(BadInput, match="is no collection of a build"):
            next(store.rows(name), None)
    with pytest.raises(BadConfig, match=r"a path ending in \.db or http"):
        MilvusStore(str(tmp_path / "folder"))
