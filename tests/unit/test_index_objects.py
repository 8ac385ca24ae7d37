"""The object store on a folder: keys that cannot leave it, exclusive creation, and errors in one line."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.backends.objects import TAIL, ObstoreObjects, valid_key
from pipelines.chunk_sets import parquet, read_part
from pipelines.errors import BadConfig, BadInput, IntegrityError
from pipelines.schemas import EMBEDDINGS


@pytest.fixture
def objects(tmp_path: Path) -> ObstoreObjects:
    return ObstoreObjects(str(tmp_path / "objects"))


def test_bytes_come_back_and_keys_are_listed_by_whole_segments(objects: ObstoreObjects) -> None:
    for key in ("builds/b_x/part-1", "builds/b_x/seal.json", "builds/b_xy/part-1", "ü/a b.txt"):
        objects.put(key, key.encode())
    assert objects.get("ü/a b.txt") == "ü/a b.txt".encode()
    assert objects.list("builds/b_x") == ["builds/b_x/part-1", "builds/b_x/seal.json"]
    assert objects.list("builds/") == ["builds/b_x/part-1", "builds/b_x/seal.json", "builds/b_xy/part-1"]
    assert len(objects.list("")) == 4
    assert objects.list("nothing") == []
    with pytest.raises(KeyError):
        objects.get("builds/none")


def test_a_put_replaces_and_a_create_does_not(objects: ObstoreObjects) -> None:
    objects.put("a", b"1")
    objects.put("a", b"2")
    assert objects.get("a") == b"2"
    assert not objects.create("a", b"3")
    assert objects.get("a") == b"2"


def test_of_many_creators_one_wins(objects: ObstoreObjects) -> None:
    won: list[int] = []
    barrier = threading.Barrier(16)

    def race(number: int) -> None:
        barrier.wait()
        if objects.create("releases/1.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("releases/1.json") == str(won[0]).encode()


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "a/../../b", "..", ".", "a//b", "a/", "a\\b", "a\nb", "a#1", "a\x00"]
)
def test_keys_that_could_leave_the_store_are_refused(objects: ObstoreObjects, key: str) -> None:
    with pytest.raises(BadInput, match="a key is POSIX path segments"):
        objects.put(key, b"x")


def test_ordinary_keys_pass() -> None:
    assert valid_key("chunks/support_en/0f/part-00000.parquet") == "chunks/support_en/0f/part-00000.parquet"
    assert valid_key("a..b/...c") == "a..b/...c"


def test_it_travels_to_workers_as_its_address(objects: ObstoreObjects) -> None:
    objects.put("a", b"1")
    assert pickle.loads(pickle.dumps(objects)).get("a") == b"1"  # noqa: S301 -- our own bytes of a line ago


def test_other_addresses_are_refused() -> None:
    with pytest.raises(BadConfig, match="s3://bucket/prefix"):
        ObstoreObjects("gs://bucket")


def test_deleted_objects_are_gone_with_the_folders_that_they_emptied(objects: ObstoreObjects, tmp_path: Path) -> None:
    for key in ("a/b/1", "a/b/2", "c"):
        objects.put(key, b"x")
    objects.delete(["a/b/1", "a/b/2", "a/b/2", "never"])
    assert objects.list("") == ["c"] and not (tmp_path / "objects" / "a").exists()
    with pytest.raises(BadInput):
        objects.delete(["c", "../c"])
    assert objects.list("") == []


def test_a_reader_fetches_what_is_read_and_no_more(objects: ObstoreObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    data, fetched = bytes(range(256)) * 4_000, []
    objects.put("a", data)
    ranges = ObstoreObjects._range
    monkeypatch.setattr(ObstoreObjects, "_range", lambda *what: fetched.append(what[2:]) or ranges(*what))
    file = objects.reader("a")
    assert file.seek(-TAIL, 2) == len(data) - TAIL
    assert (file.read(10), file.read()) == (data[-TAIL:][:10], data[-TAIL + 10 :])
    assert (file.read(), file.read(5), fetched) == (b"", b"", [])
    file.seek(1_000)
    assert (file.read(3), file.tell(), fetched) == (data[1_000:1_003], 1_003, [(1_000, 3)])
    file.seek(-TAIL - 1, 2)
    assert file.read(2) == data[-TAIL - 1 :][:2]
    objects.put("a", b"short")
    assert objects.reader("a").read() == b"short"
    objects.put("a", b"")
    assert objects.reader("a").read() == b""
    with pytest.raises(KeyError):
        objects.reader("none")
    with pytest.raises(BadInput):
        objects.reader("../a")


@pytest.mark.parametrize(("columns", "few"), [(("text_digest",), True), (("text_digest", "vector"), False)])
def test_of_a_part_only_the_columns_asked_for_are_fetched(
    objects: ObstoreObjects, monkeypatch: pytest.MonkeyPatch, columns: tuple[str, ...], few: bool
) -> None:
    """4,096 vectors of 384 dimensions: 6.3 MB. The end, and one range; page checksums are verified as ever."""
    drawn = np.random.default_rng(7)
    digests = [drawn.bytes(32).hex() for _ in range(4_096)]
    vectors = list(drawn.normal(size=(4_096, 384)).astype("f4"))
    columns_of = {"text_digest": digests, "tokens": [7] * 4_096, "vector": vectors}
    whole = parquet(pa.Table.from_pydict(columns_of, schema=EMBEDDINGS))
    objects.put("embeddings/e/part-1", whole)
    fetched: list[int] = []
    ranges = ObstoreObjects._range
    monkeypatch.setattr(ObstoreObjects, "_range", lambda *what: fetched.append(what[3]) or ranges(*what))
    monkeypatch.setattr(ObstoreObjects, "get", None)
    table = read_part(objects, "embeddings/e/part-1", columns)
    assert table["text_digest"].to_pylist() == digests
    assert table.column_names == list(columns)
    assert (len(fetched), sum(fetched) < 0.06 * len(whole)) == (1, few)
    objects.put("embeddings/e/part-1", whole[:5_000] + bytes(40) + whole[5_040:])  # in a page
    with pytest.raises(IntegrityError, match="part-1 is damaged"):
        read_part(objects, "embeddings/e/part-1", columns)
