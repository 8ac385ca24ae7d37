"""What any vector store must do, alike on a milvus-lite folder, on its server, and on a real Milvus server (2.3.5)."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from infra.local_milvus import free_port, lite_server, running
from infra.milvus_server import BUCKET
from pipelines.backends.milvus import MilvusStore
from pipelines.backends.objects import ObstoreObjects
from pipelines.builds import load_build
from pipelines.errors import BackendError, BadConfig, BadInput, IntegrityError, NotFound
from pipelines.schemas import VECTORS
from tests.build_kit import put_build
from tests.milvus_kit import real_server

pytestmark = pytest.mark.integration

NAME, OTHER = "b_tiny_0123456789abcdef", "b_tiny_fedcba9876543210"
WORDS = ("refund", "tent", "stove", "boots", "jacket", "mat")
UNIT = np.eye(8, dtype="<f4")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(lite_server(tmp_path_factory.mktemp("lite"))) as one:
        yield one.uri


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(real_server(tmp_path_factory.mktemp("milvus"))) as one:
        yield one.uri


@pytest.fixture(params=["folder", "server", "milvus"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "new" / "tiny.db"
    return str(folder) if request.param == "folder" else str(request.getfixturevalue(request.param))


@pytest.fixture
def needs_bm25(request: pytest.FixtureRequest) -> None:
    """Skips where the target has no BM25, which is asked of the target itself."""
    if not request.getfixturevalue("store")._full_text:
        pytest.skip("Milvus before 2.5 has no BM25")


@pytest.fixture
def store(uri: str) -> Iterator[MilvusStore]:
    made = MilvusStore(uri)
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
            "access": "public",
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


def test_more_rows_than_a_page(store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded as executors do it: the collection first, then parts by clients of their own, then once more to finish."""
    monkeypatch.setattr("pipelines.backends.milvus.store.PAGE", 1000)
    row = batch(0).to_pylist()[0]
    assert store.load(NAME, [], dim=8) == 0
    for start in (0, 1250, 1000):
        rows = [{**row, "key": f"k{n}"} for n in range(start, start + 1250)]
        client = pickle.loads(pickle.dumps(store)) if store.shared else store  # noqa: S301 -- our own bytes
        assert client.load(NAME, [pa.RecordBatch.from_pylist(rows, schema=VECTORS)], dim=8, finish=False) == 1250
    assert store.load(NAME, [], dim=8) == 2500
    keys = [key for key, _, _ in store.rows(NAME)]
    assert len(keys) == len(set(keys)) == 2500


def test_only_a_milvus_server_takes_several_writers(
    store: MilvusStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A build of two parts; milvus-lite's upserts take no lock."""
    objects, spread = ObstoreObjects(str(tmp_path / "objects")), []
    facts = put_build(objects, [batch(0, 1), batch(2)], collection=NAME, dim=8)

    def inline(parts: Sequence[str], load: Callable[[str], int]) -> int:
        spread.extend(parts)
        return sum(map(load, parts))

    several = request.node.callspec.params["uri"] == "milvus"
    assert store.shared == several
    assert load_build(store, objects, facts, spread=inline) == 1
    assert spread == (facts["parts"] if several else [])


def test_searches_by_meaning(store: MilvusStore) -> None:
    store.load(NAME, [batch(*range(6))], dim=8, index_type="HNSW")
    (dense,) = store.search(NAME, ["x"], UNIT[1:2], k=3, mode="dense")
    assert (dense[0].chunk, dense[0].document, dense[0].title) == ("k1", "tent.md", "About the tent")
    assert (dense[0].start, dense[0].end) == (1, 10)
    assert dense[0].text.startswith("Our rule about the tent, number 1.")
    assert dense[0].score == pytest.approx(1.0)
    assert dense == sorted(dense, key=lambda hit: -hit.score)
    assert len(dense) == 3


def test_erased_documents_are_never_found_and_as_many_others_are(store: MilvusStore, uri: str) -> None:
    gone: set[str] = set()
    asked = []
    store._erased = lambda collection: asked.append(collection) or gone
    store.load(NAME, [batch(*range(6))], dim=8)
    modes = ("dense", "bm25", "hybrid") if store._full_text else ("dense",)

    def found(mode: str, **filters: Any) -> list[str]:
        (hits,) = store.search(NAME, ["the rule about the tent"], UNIT[1:2], k=3, mode=mode, **filters)
        return [hit.document for hit in hits]

    assert all(found(mode)[0] == "tent.md" for mode in modes) and set(asked) == {NAME}
    gone |= {"tent.md", 'not "there"', "not\nsayable"}  # an open store, the very next search
    for mode in modes:
        assert "tent.md" not in found(mode) and len(found(mode)) == 3
        assert found(mode, filters={"document": ["tent.md", "mat.md"]}) == ["mat.md"]
        assert found(mode, filters={"document": "tent.md"}) == []


def test_searches_by_word_and_by_both(store: MilvusStore, needs_bm25: None) -> None:
    store.load(NAME, [batch(*range(6))], dim=8)
    (words,) = store.search(NAME, ["which stove"], UNIT[1:2], k=3, mode="bm25")
    assert words[0].chunk == "k2"
    assert words[0].score > 0
    both = store.search(NAME, ["stove", "boots"], UNIT[[1, 3]], k=2, mode="hybrid")
    # First question: tent by meaning and stove by word, each first on one list. Second: boots first on both, so its
    # score is 1/61 + 1/61.
    assert {hit.chunk for hit in both[0]} == {"k1", "k2"}
    assert both[1][0].chunk == "k3"
    assert both[1][0].score == pytest.approx(2 / 61, rel=1e-5)
    assert all(hits == sorted(hits, key=lambda hit: -hit.score) for hits in [words, *both])


def test_a_server_without_bm25_says_so(store: MilvusStore) -> None:
    if store._full_text:
        pytest.skip("this target has BM25")
    store.load(NAME, [batch(0)], dim=8)
    for mode in ("bm25", "hybrid"):
        with pytest.raises(BadConfig, match=rf"retrieve.mode is {mode}, but {NAME} has no BM25: .* older than 2.5"):
            store.search(NAME, ["tent"], UNIT[:1], k=1, mode=mode)


def named(n: int, document: str) -> dict[str, Any]:
    return {**batch(0).to_pylist()[0], "key": f"k{n}", "document": document, "title": f"T{n % 2}"}


def test_filters_keep_the_passages_of_what_they_name(store: MilvusStore) -> None:
    """Also names that would say something else if they were written into the expression as they are."""
    names = ["a.md", 'b" or 1 == 1', "c\\", 'd\\" or document != "', "it's", "{e}", "%", "ü 🙂 日本", "document"]
    rows = [named(n, name) for n, name in enumerate(names)]
    store.load(NAME, [pa.RecordBatch.from_pylist(rows, schema=VECTORS)], dim=8)

    def found(mode: str = "dense", **filters: Any) -> set[str]:
        (hits,) = store.search(NAME, ["tent"], UNIT[:1], k=20, mode=mode, filters=filters)
        return {hit.document for hit in hits}

    assert found() == set(names)
    for name in names:
        assert found(document=name) == {name}
    assert found(document=["a.md", "c\\", "nowhere"]) == {"a.md", "c\\"}
    assert found(document=['x" or 1 == 1 or document == "']) == set()
    assert found(title="T1") == set(names[1::2])
    assert found(title="T1", document=names[:2]) == {names[1]}
    if store._full_text:
        assert found("bm25", document=names[1]) == set()  # no row says tent: they are all about the refund
        assert found("hybrid", document=names[1]) == {names[1]}
    for wrong in ({"text": "x"}, {"document": []}, {"document": "a\nb"}, {"document": "x" * 5000}, {"key": "k0"}):
        with pytest.raises(BadInput, match="filter"):
            found(**wrong)


def with_labels(*labels: str) -> pa.RecordBatch:
    """A row for each label, all alike in vector and text."""
    rows = [{**batch(0).to_pylist()[0], "key": f"k{n}", "access": label} for n, label in enumerate(labels)]
    return pa.RecordBatch.from_pylist(rows, schema=VECTORS)


def test_a_reader_finds_nothing_outside_of_its_labels(store: MilvusStore) -> None:
    """In every mode, alone and with filters; a label that is a part of another opens nothing."""
    given = ("public", "hr", "hr-eu", "board", "h", "public")
    store.load(NAME, [with_labels(*given)], dim=8)
    modes = ("dense", "bm25", "hybrid") if store._full_text else ("dense",)

    def found(mode: str = "dense", **how: Any) -> list[str]:
        (hits,) = store.search(NAME, ["refund"], UNIT[:1], k=10, mode=mode, **how)
        assert all(given[int(hit.chunk[1:])] == hit.access for hit in hits)
        return sorted(hit.access for hit in hits)

    for mode in modes:
        assert found(mode) == found(mode, labels=()) == ["public", "public"]
        assert found(mode, labels=["hr"]) == ["hr", "public", "public"]
        assert found(mode, labels=["board", "hr-eu", "nobody"]) == ["board", "hr-eu", "public", "public"]
        assert found(mode, labels=None) == ["board", "h", "hr", "hr-eu", "public", "public"]
        assert found(mode, labels=["hr"], filters={"document": "refund.md"}) == ["hr", "public", "public"]
        assert found(mode, labels=["hr"], filters={"document": 'x" or access == "board'}) == []
        for wrong in (["HR"], ['hr"] or access != ["'], [""], [None], "hr", ["hr\0"]):
            with pytest.raises(BadInput, match="access label"):
                found(mode, labels=wrong)


def test_labels_are_read_back_with_the_rows_and_are_compared(store: MilvusStore) -> None:
    store.load(NAME, [with_labels("public", "hr")], dim=8)
    assert {(key, text) for key, text, _ in store.rows(NAME)} == {("k0", "digest-0"), ("k1", "digest-0@hr")}
    store.load(NAME, [with_labels("hr", "public")], dim=8)  # loaded over
    assert {(key, text) for key, text, _ in store.rows(NAME)} == {("k0", "digest-0@hr"), ("k1", "digest-0")}
    with pytest.raises(IntegrityError, match="a row with access label None, it was not loaded; a label is"):
        store.load(NAME, [with_labels(None)], dim=8)  # type: ignore[arg-type]
    older = with_labels("public").drop_columns(["access"])
    store.load(NAME, [older], dim=8)  # Parquet of before there were labels is public
    assert {text for key, text, _ in store.rows(NAME) if key == "k0"} == {"digest-0"}


def test_a_collection_of_before_there_were_labels_holds_what_is_public_alone(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.backends.milvus import rows

    with monkeypatch.context() as before:
        before.delitem(rows._TEXTS, "access")
        store.load(NAME, [], dim=8)
    assert store.load(NAME, [with_labels("public", "public")], dim=8) == 2
    for labels in ((), ["hr"], None):
        (hits,) = store.search(NAME, ["refund"], UNIT[:1], k=5, mode="dense", labels=labels)
        assert [hit.access for hit in hits] == ["public", "public"]
    with pytest.raises(BadInput, match="access label 'HR' is not valid"):
        store.search(NAME, ["refund"], UNIT[:1], k=5, mode="dense", labels=["HR"])
    assert {text for _, text, _ in store.rows(NAME)} == {"digest-0"}
    with pytest.raises(IntegrityError, match="rows that are not public, but the collection was made before there were"):
        store.load(NAME, [with_labels("public", "hr")], dim=8)


def test_what_milvus_should_not_have_found_is_not_handed_on(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.backends.milvus import filters

    store.load(NAME, [with_labels("public", "hr")], dim=8)
    monkeypatch.setattr(filters, "expression", lambda filters, *, labels: "")  # as an engine that forgets its filter
    with pytest.raises(IntegrityError, match="outside of the reader's labels"):
        store.search(NAME, ["refund"], UNIT[:1], k=5, mode="dense", labels=["board"])


def test_no_question_breaks_the_search(store: MilvusStore) -> None:
    store.load(NAME, [batch(0, 1)], dim=8)
    modes = ("dense", "bm25", "hybrid") if store._full_text else ("dense",)
    for question in ("", "   ", "?!", '" or 1 == 1', "text == 'x'", "x" * 3000, "\x00", "ü 🙂 日本"):
        for mode in modes:
            (hits,) = store.search(NAME, [question], UNIT[:1], k=2, mode=mode)
            assert {hit.chunk for hit in hits} <= {"k0", "k1"}
            assert mode != "dense" or hits[0].chunk == "k0"
    assert store.search(NAME, [], UNIT[:0], k=2, mode=modes[-1]) == []
    with pytest.raises(BadConfig, match="one of dense, bm25, hybrid"):
        store.search(NAME, ["x"], UNIT[:1], k=2, mode="magic")


def test_a_collection_is_found_again_by_a_new_client(store: MilvusStore, uri: str) -> None:
    store.load(NAME, [batch(0, 1)], dim=8)
    store.close()
    again = MilvusStore(uri)
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


def test_a_server_imports_files_from_its_own_storage(milvus: str, tmp_path: Path) -> None:
    store = MilvusStore(milvus, imports=ObstoreObjects(str(tmp_path)))
    store.drop(NAME)
    assert not store.shared
    assert store.load(NAME, [batch(0, 1), batch(2)], dim=8) == 3
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["import-00000.parquet"]
    assert set(store.rows(NAME)) == {(f"k{n}", f"digest-{n}", UNIT[n].tobytes()) for n in range(3)}
    (hits,) = store.search(NAME, ["x"], UNIT[1:2], k=1, mode="dense")
    assert (hits[0].chunk, hits[0].start, hits[0].end) == ("k1", 1, 10)
    store._client.upsert = None  # type: ignore[assignment]
    assert store.load(NAME, [batch(1, 2, 3)], dim=8) == 3  # what is there is replaced, and imported again
    assert {key for key, _, _ in store.rows(NAME)} == {"k1", "k2", "k3"}
    store.drop(NAME)
    store.close()


def test_an_import_leaves_room_in_the_servers_queue(
    milvus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.backends.milvus.bulk.ROWS", 1)
    monkeypatch.setattr("pipelines.backends.milvus.bulk._QUEUED", 1)
    store = MilvusStore(milvus, imports=ObstoreObjects(str(tmp_path)))
    store.drop(NAME)
    handler, before = store._client._get_connection(), list[list[str]]()
    insert = handler.do_bulk_insert

    def inserted(collection: str, *args: Any) -> int:
        before.append([task.state_name for task in handler.list_bulk_insert_tasks(0, collection)])
        return int(insert(collection, *args))

    monkeypatch.setattr(handler, "do_bulk_insert", inserted)
    assert store.load(NAME, [batch(0), batch(1), batch(2)], dim=8) == 3
    assert before == [[], ["Completed"], ["Completed"] * 2]
    assert {key for key, _, _ in store.rows(NAME)} == {"k0", "k1", "k2"}
    store.drop(NAME)
    store.close()


def test_an_import_says_what_it_needs(milvus: str, server: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(ObstoreObjects, "uri", lambda self, key: f"s3://bucket/prefix/{key}")
    elsewhere = MilvusStore(milvus, imports=ObstoreObjects(str(tmp_path)))
    elsewhere.drop(NAME)
    with pytest.raises(BadConfig, match=rf"does not find prefix/{NAME}/import-00000.parquet; ASSAY_MILVUS_BULK must"):
        elsewhere.load(NAME, [batch(0)], dim=8)
    elsewhere.drop(NAME)
    lite = MilvusStore(server, imports=ObstoreObjects(str(tmp_path)))
    lite.drop(NAME)
    with pytest.raises(BadConfig, match=r"ASSAY_MILVUS_BULK needs a Milvus server of 2.3 or newer; .* is milvus_lite"):
        lite.load(NAME, [batch(0)], dim=8)
    assert not lite._client.has_collection(NAME)
    with pytest.raises(BadConfig, match=r"ASSAY_MILVUS_BULK is for a Milvus server; ASSAY_MILVUS_URI is .*tiny.db"):
        MilvusStore(str(tmp_path / "tiny.db"), imports=ObstoreObjects(str(tmp_path)))


def test_a_folder_in_use_names_the_server(tmp_path: Path) -> None:
    path = tmp_path / "tiny.db"
    code = (
        "import sys\nfrom pipelines.backends.milvus import MilvusStore\n"
        "store = MilvusStore(sys.argv[1])\nstore.drop(sys.argv[2])\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(BackendError, match=r"tiny.db is in use by another process.*make up"):
            MilvusStore(str(path)).drop(NAME)
        holder.kill()
    after = MilvusStore(str(path))
    assert after.load(NAME, [batch(0)], dim=8) == 1
    after.close()


def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(BackendError, match=r"Milvus at http://127.0.0.1:\d+ cannot be opened"):
        MilvusStore(f"http://127.0.0.1:{free_port()}").drop(NAME)


def test_a_server_imports_files_from_its_own_bucket(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = free_port()
    aws = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "REGION": "us-east-1"}
    for name, value in {**aws, "ENDPOINT_URL": f"http://127.0.0.1:{s3}"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with running(real_server(tmp_path_factory.mktemp("bucket"), s3=s3)) as one:
        bucket = ObstoreObjects(f"s3://{BUCKET}/imports")
        store = MilvusStore(one.uri, imports=bucket)
        assert store.load(NAME, [batch(0, 1), batch(2)], dim=8) == 3
        assert bucket.list("") == [f"{NAME}/import-00000.parquet"]
        assert ObstoreObjects(f"s3://{BUCKET}").list("files/insert_log/")  # its own data is there too
        assert set(store.rows(NAME)) == {(f"k{n}", f"digest-{n}", UNIT[n].tobytes()) for n in range(3)}
        monkeypatch.setattr(ObstoreObjects, "uri", lambda self, key: f"s3://{BUCKET}/elsewhere/{key}")
        with pytest.raises(
            BadConfig, match=rf"does not find elsewhere/{OTHER}/import-00000.parquet; ASSAY_MILVUS_BULK"
        ):
            store.load(OTHER, [batch(0)], dim=8)
        store.close()


def test_an_import_that_did_not_end_begins_again_from_nothing(
    milvus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, failed, and killed with its task queued at the server or begun: the rows are then there once, by import.
    (A begun task whose collection is dropped holds up all later ones: at 2.3.5 three of three times.) Last in this
    file, as the test before it: they wait long, and a client of milvus-lite's server that idles is turned away ("too
    many pings")."""
    store = MilvusStore(milvus, imports=ObstoreObjects(str(tmp_path)))
    store._client.upsert = None  # type: ignore[assignment]
    store.drop(NAME)
    with monkeypatch.context() as wrong:
        wrong.setattr(ObstoreObjects, "uri", lambda self, key: f"s3://bucket/prefix/{key}")
        for _ in range(2):  # the second run is told so as well
            with pytest.raises(BadConfig, match="ASSAY_MILVUS_BULK must"):
                store.load(NAME, [batch(0, 1)], dim=8)
            assert not store._client.has_collection(NAME)
    with pytest.raises(IntegrityError, match="not 8 finite numbers"):
        store.load(NAME, [batch(0), batch(1, vectors=UNIT[0][:4])], dim=8)
    assert not store._client.has_collection(NAME)

    monkeypatch.setattr("pipelines.backends.milvus.bulk._PATIENCE", 120.0)  # a task held up is held for 20 minutes
    tasks: list[int] = []
    for killed_at in ("Pending", "Started", "Started", "Started"):
        with monkeypatch.context() as killed:

            def gone(handler: Any, path: str, task: int, at: str = killed_at) -> None:
                tasks.append(task)
                deadline = time.monotonic() + 60
                while (state := handler.get_bulk_insert_state(task).state_name) not in (at, "Persisted", "Completed"):
                    assert time.monotonic() < deadline, f"the task of the killed run holds up the next, at {state}"
                    time.sleep(0.01)
                raise KeyboardInterrupt  # no clearing up, as after SIGKILL

            killed.setattr("pipelines.backends.milvus.bulk._wait", gone)
            with pytest.raises(KeyboardInterrupt):
                store.load(NAME, [batch(0, 1)], dim=8)
        assert store._client.has_collection(NAME)
    assert store.load(NAME, [batch(0, 1)], dim=8) == 2
    ends = [store._client._get_connection().get_bulk_insert_state(task).state_name for task in tasks]
    assert len(ends) == 4
    assert set(ends) <= {"Completed", "Failed", "Failed and cleaned"}, "a task of a killed run did not end"
    store._client.flush(NAME)
    assert sorted(key for key, _, _ in store.rows(NAME)) == ["k0", "k1"]
    store.drop(NAME)
    store.close()
