"""The object store on a folder: keys that cannot leave it, exclusive creation, and errors in one line."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

from pipelines.backends.objects import ObstoreObjects, valid_key
from pipelines.errors import BadConfig, BadInput


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
