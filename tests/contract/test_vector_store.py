"""What any vector store must do, on a milvus-lite folder and on a Milvus server process alike."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.backends.milvus import MilvusStore
from pipelines.errors import BackendError, BadConfig, BadInput, IntegrityError, NotFound
from pipelines.schemas import VECTORS

pytestmark = pytest.mark.integration

NAME, OTHER = "b_tiny_0123456789abcdef", "b_tiny_fedcba9876543210"
WORDS = ("refund", "tent", "stove", "boots", "jacket", "mat")
UNIT = np.eye(8, dtype="<f4")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A milvus-lite server in a process group of its own, ended with the module."""
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    program = Path(sys.executable).with_name("milvus-lite")
    command = [str(program), "server", "--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the server did not open its port within a minute"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(params=["folder", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "new" / "tiny.db") if request.param == "folder" else request.getfixturevalue("server")


@pytest.fixture
def store(uri: str) -> Iterator[MilvusStore]:
    made = MilvusStore(uri, index_type="HNSW" if "://" in uri else "FLAT")
    for name in (NAME, OTHER):
        made.drop(name)
    yield made
    made.close()


def batch(*numbers: int, vectors: Any = None) -> pa.RecordBatch:
    """Rows whose vector is the n-th unit vector and whose text says the n-th word."""
    rows = [
        {
            "key": f"k{n}",
            "document": f"{WORDS[n]}.md",
            "title": f"About the {WORDS[n]}",
            "ordinal": 0,
            "start": n,
            "end": n + 9,
            "tokens": 4,
            "text": f"Our rule about the {WORDS[n]}, number {n}. It's 'quoted' and \"quoted\".",
            "text_digest": f"digest-{n}",
            "vector": (UNIT[n] if vectors is None else vectors).tolist(),
        }
        for n in numbers
    ]
    return pa.RecordBatch.from_pylist(rows, schema=VECTORS)


def test_rows_come_back_as_they_went_in_however_often_they_are_loaded(store: MilvusStore) -> None:
    assert store.load(NAME, [batch(0, 1), batch(2)], dim=8) == 3
    assert store.load(NAME, [batch(1, 2, 3)], dim=8) == 4
    assert store.load(NAME, [], dim=8) == 4
    expected = {(f"k{n}", f"digest-{n}", UNIT[n].tobytes()) for n in range(4)}
    found = list(store.rows(NAME))
    assert len(found) == 4
    assert set(found) == expected


def test_an_arbitrary_vector_keeps_its_bytes(store: MilvusStore) -> None:
    vector = np.random.default_rng(7).normal(size=8)
    vector = (vector / np.linalg.norm(vector)).astype("<f4")
    store.load(NAME, [batch(0, vectors=vector)], dim=8)
    assert next(iter(store.rows(NAME)))[2] == vector.tobytes()


def test_more_rows_than_a_page(store: MilvusStore) -> None:
    row = batch(0).to_pylist()[0]
    for start in range(0, 2500, 500):
        rows = [{**row, "key": f"k{n}"} for n in range(start, start + 500)]
        store.load(NAME, [pa.RecordBatch.from_pylist(rows, schema=VECTORS)], dim=8)
    keys = [key for key, _, _ in store.rows(NAME)]
    assert len(keys) == len(set(keys)) == 2500


def test_searches_by_meaning_by_word_and_by_both(store: MilvusStore) -> None:
    store.load(NAME, [batch(*range(6))], dim=8)
    (dense,) = store.search(NAME, ["x"], UNIT[1:2], k=3, mode="dense")
    assert (dense[0].chunk, dense[0].document, dense[0].title) == ("k1", "tent.md", "About the tent")
    assert (dense[0].start, dense[0].end) == (1, 10)
    assert dense[0].text.startswith("Our rule about the tent, number 1.")
    assert dense[0].score == pytest.approx(1.0)
    (words,) = store.search(NAME, ["which stove"], UNIT[1:2], k=3, mode="bm25")
    assert words[0].chunk == "k2"
    assert words[0].score > 0
    both = store.search(NAME, ["stove", "boots"], UNIT[[1, 3]], k=2, mode="hybrid")
    # First question: tent by meaning and stove by word, each first on one list. Second: boots first on both, so its
    # score is 1/61 + 1/61.
    assert {hit.chunk for hit in both[0]} == {"k1", "k2"}
    assert both[1][0].chunk == "k3"
    assert both[1][0].score == pytest.approx(2 / 61, rel=1e-5)
    assert all(hits == sorted(hits, key=lambda hit: -hit.score) for hits in [dense, words, *both])


def test_no_question_breaks_the_search(store: MilvusStore) -> None:
    store.load(NAME, [batch(0, 1)], dim=8)
    for question in ("", "   ", "?!", '" or 1 == 1', "text == 'x'", "x" * 3000, "\x00", "ü 🙂 日本"):
        for mode in ("dense", "bm25", "hybrid"):
            (hits,) = store.search(NAME, [question], UNIT[:1], k=2, mode=mode)
            assert {hit.chunk for hit in hits} <= {"k0", "k1"}
            assert mode != "dense" or hits[0].chunk == "k0"
    assert store.search(NAME, [], UNIT[:0], k=2, mode="hybrid") == []
    with pytest.raises(BadConfig, match="one of dense, bm25, hybrid"):
        store.search(NAME, ["x"], UNIT[:1], k=2, mode="magic")


def test_a_collection_is_found_again_by_a_new_client(store: MilvusStore, uri: str) -> None:
    store.load(NAME, [batch(0, 1)], dim=8)
    store.close()
    again = MilvusStore(uri, index_type="FLAT")
    try:
        assert again.search(NAME, ["x"], UNIT[:1], k=1, mode="dense")[0][0].chunk == "k0"
    finally:
        again.close()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_vector_is_refused(store: MilvusStore, bad: float) -> None:
    vector = UNIT[0].copy()
    vector[3] = bad
    with pytest.raises(IntegrityError, match="not 8 finite numbers"):
        store.load(NAME, [batch(0, vectors=vector)], dim=8)
    with pytest.raises(IntegrityError, match="not 8 finite numbers"):
        store.load(NAME, [batch(0, vectors=UNIT[0][:4])], dim=8)


def test_what_is_not_there_is_said(store: MilvusStore) -> None:
    with pytest.raises(NotFound, match=f"no collection {NAME}"):
        next(store.rows(NAME))
    with pytest.raises(NotFound, match=f"no collection {NAME}"):
        store.search(NAME, ["x"], UNIT[:1], k=1, mode="dense")
    with pytest.raises(NotFound, match=f"no collection {NAME}"):
        store.point("tiny", NAME)
    store.drop(NAME)


def test_an_alias_moves_and_is_never_dropped_in_place_of_its_target(store: MilvusStore) -> None:
    store.load(NAME, [batch(0)], dim=8)
    store.load(OTHER, [batch(1)], dim=8)
    for collection in (NAME, OTHER, OTHER):
        store.point("tiny", collection)
        assert store._client.describe_alias("tiny")["collection_name"] == collection
    for refused in ("tiny", "b_tiny", "../tiny"):
        with pytest.raises(BadInput, match="is no collection of a build"):
            store.drop(refused)
    with pytest.raises(BadInput, match="an alias is a corpus name"):
        store.point(NAME, OTHER)
    assert [key for key, _, _ in store.rows(OTHER)] == ["k1"]
    store.drop(OTHER)
    with pytest.raises(NotFound):
        next(store.rows(OTHER))
    assert [key for key, _, _ in store.rows(NAME)] == ["k0"]


def test_an_alias_that_looks_like_a_build_is_refused_too(store: MilvusStore) -> None:
    store.load(NAME, [batch(0)], dim=8)
    store._client.create_alias(NAME, OTHER)
    for doing in (store.drop, lambda name: next(store.rows(name)), lambda name: store.load(name, [], dim=8)):
        with pytest.raises(BadInput, match="is an alias"):
            doing(OTHER)
    store._client.drop_alias(OTHER)
    assert [key for key, _, _ in store.rows(NAME)] == ["k0"]


def test_a_folder_in_use_names_the_server(tmp_path: Path) -> None:
    path = tmp_path / "tiny.db"
    code = (
        "import sys\nfrom pipelines.backends.milvus import MilvusStore\n"
        "store = MilvusStore(sys.argv[1], index_type='FLAT')\nstore.drop(sys.argv[2])\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(BackendError, match=r"tiny.db is in use by another process.*make up"):
            MilvusStore(str(path), index_type="FLAT").drop(NAME)
        holder.kill()
    after = MilvusStore(str(path), index_type="FLAT")
    assert after.load(NAME, [batch(0)], dim=8) == 1
    after.close()


def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(BackendError, match=r"Milvus at http://127.0.0.1:\d+ cannot be opened"):
        MilvusStore(f"http://127.0.0.1:{free_port()}", index_type="FLAT").drop(NAME)
