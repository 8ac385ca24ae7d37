"""An erasure where objects and DVC's remote are on S3 (moto's server): denied, purged, nothing left in the bucket."""

import gzip
import io
import json
import os

import pyarrow.parquet as pq
import pytest

from pipelines.actions import ask, erase, views
from pipelines.backends.objects import ObstoreObjects
from tests import erase_kit as kit
from tests import release_kit
from tests.s3_kit import BUCKET, SECRET, served

pytestmark = pytest.mark.integration
TINY, GONE = kit.TINY, kit.GONE


@pytest.fixture
def settings(tmp_path, monkeypatch):
    with served():
        found = kit.landed(tmp_path / "home")
        for name, value in release_kit.environment(found).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("ASSAY_OBJECTS_URI", f"s3://{BUCKET}/assay")
        yield found


def unpacked(data):
    if data[:4] == b"PAR1":
        return json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=str).encode()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def holding(objects):
    """Keys of the bucket that hold the text."""
    needle = kit.MARK.encode()
    return {key for key in objects.list("") if needle in unpacked(objects.get(key))}


def documents(settings, generation):
    service = ask.Service(settings, views.release_manifest(settings, TINY, generation))
    try:
        return {row["document"] for row in service.passages([kit.ASKED])[0]["passages"]}
    finally:
        service.ports.store.close()


def test_denied_at_once_and_in_the_end_in_no_object(settings):
    assert kit.run(settings)[0]
    objects = ObstoreObjects(os.environ["ASSAY_OBJECTS_URI"])
    before = {key.split("/")[0] for key in holding(objects)}
    assert before == {"builds", "chunks", "dvc"} and not (settings.home / "objects").exists()
    [*erase.erase(settings, TINY, [GONE])]
    assert documents(settings, 1) == set(kit.TEXTS) - {GONE}
    assert kit.run(settings)[0]
    lines = [*erase.erase(settings, TINY, [GONE])]
    assert lines[-1].startswith("tiny: erasure 1 is finished: "), lines
    assert holding(objects) == set() and kit.grep(settings.home) == {f"documents/{GONE}"}
    assert documents(settings, None) == set(kit.TEXTS) - {GONE}
    (entry,) = erase.listed(settings, TINY)
    assert entry["receipt"]["remains"] == [
        {"kind": "source", "place": f"documents/{GONE}", "why": entry["receipt"]["remains"][0]["why"]}
    ]
    assert SECRET not in json.dumps(entry)
