"""The object store on S3 (moto's server on 127.0.0.1): the same behaviour as on a folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipelines.backends.objects import ObstoreObjects
from tests.s3_kit import BUCKET, served

pytestmark = pytest.mark.integration


@pytest.fixture
def objects() -> Iterator[ObstoreObjects]:
    with served():
        yield ObstoreObjects(f"s3://{BUCKET}/pre/fix")


def test_s3_behaves_like_a_folder(objects: ObstoreObjects) -> None:
    objects.put("builds/b_x/part-1", b"1" * 6_000_000)
    objects.put("builds/b_x/part-1", b"2")
    objects.put("builds/b_xy/part-1", b"3")
    assert objects.get("builds/b_x/part-1") == b"2"
    assert objects.list("builds/b_x") == ["builds/b_x/part-1"]
    assert objects.list("") == ["builds/b_x/part-1", "builds/b_xy/part-1"]
    assert objects.uri("builds/b_x/part-1") == "s3://assay/pre/fix/builds/b_x/part-1"
    with pytest.raises(KeyError):
        objects.get("builds/none")


def test_a_reader_fetches_the_end_and_the_ranges_that_are_read() -> None:
    with served() as requests:
        objects = ObstoreObjects(f"s3://{BUCKET}/ranges")
        data = bytes(range(256)) * 8_000
        objects.put("big", data)
        objects.put("small", b"small")
        requests.taken()
        file = objects.reader("big")
        assert (file.seek(0, 2), file.seek(1_000), file.read(3_000)) == (len(data), 1_000, data[1_000:4_000])
        assert requests.taken() == {"GET": 2}
        assert objects.reader("small").read() == b"small"
        assert requests.taken() == {"GET": 1}
        with pytest.raises(KeyError):
            objects.reader("none")


def test_of_many_creators_one_wins(objects: ObstoreObjects) -> None:
    won: list[int] = []

    def race(number: int) -> None:
        if objects.create("releases/1.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("releases/1.json") == str(won[0]).encode()
