"""What DVC's remote lost is sent again from the cache; what an erasure took out of both is not missed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipelines import dvc_objects
from pipelines.backends.objects import ObstoreObjects
from pipelines.errors import IntegrityError


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def laid(objects: ObstoreObjects, files: dict[str, bytes]) -> str:
    """A folder of these files, as DVC 3 keeps it; the folder's md5."""
    for data in files.values():
        objects.put(dvc_objects.key_of(md5(data)), data)
    rows = [{"md5": md5(data), "relpath": path} for path, data in sorted(files.items())]
    listing = json.dumps(rows).encode()
    folder = md5(listing) + ".dir"
    objects.put(dvc_objects.key_of(folder), listing)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, ObstoreObjects, ObstoreObjects]:
    """A workspace of two revisions that share b.md, its cache and its remote, both whole."""
    root, remote = tmp_path / "workspace", ObstoreObjects(str(tmp_path / "remote"))
    for objects in (dvc_objects.cache_of(root), remote):
        laid(objects, {"a.md": b"old", "b.md": b"kept"})
        newest = laid(objects, {"a.md": b"new", "b.md": b"kept"})
    (root / "corpus.dvc").write_text(f"outs:\n- md5: {newest}\n  path: corpus\n")
    return root, dvc_objects.cache_of(root), remote


def key(data: bytes) -> str:
    return dvc_objects.key_of(md5(data))


def mended(root: Path) -> dict[str, int]:
    return dvc_objects.mend(root, str(root.parent / "remote"))


def test_a_whole_remote_is_only_read(place):
    root, _, remote = place
    before = remote.list("")
    assert mended(root) == {"read": 5, "sent": 0, "gone": 0}
    assert remote.list("") == before


def test_all_that_was_lost_comes_back(place, tmp_path):
    root, cache, remote = place
    remote.delete(remote.list(""))
    assert mended(root) == {"read": 5, "sent": 5, "gone": 0}
    assert {name: remote.get(name) for name in remote.list("")} == {name: cache.get(name) for name in cache.list("")}


def test_what_older_revisions_name_may_be_gone(place):
    root, cache, remote = place
    for objects in (cache, remote):
        objects.delete([key(b"old")])
    remote.put(key(b"kept"), b"kepT")
    assert mended(root) == {"read": 5, "sent": 1, "gone": 1}
    assert remote.get(key(b"kept")) == b"kept"


def test_of_the_newest_revision_nothing_may_and_the_rest_is_sent(place):
    root, cache, remote = place
    cache.put(key(b"new"), b"n")
    remote.delete([key(b"new"), key(b"kept")])
    with pytest.raises(IntegrityError, match=r"1 object\(s\) of the newest revision .* first a\.md; restore"):
        mended(root)
    assert remote.get(key(b"kept")) == b"kept"
