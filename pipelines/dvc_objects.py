"""The data objects of a workspace's DVC: its cache and its remote as object stores, and which of them the newest
revision needs. DVC itself is not imported; nothing is decided here.

Both lie as `files/md5/XX/REST` (DVC 3); a folder is an object `....dir`, a JSON list of its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from pipelines.backends.objects import ObstoreObjects
from pipelines.errors import IntegrityError

FILES = "files/md5"
AT_ONCE = 8
"""Objects that are read side by side: a bucket answers slowly, but many."""


def cache_of(root: Path) -> ObstoreObjects:
    return ObstoreObjects(str(root / ".dvc" / "cache"))


def key_of(md5: str) -> str:
    return f"{FILES}/{md5[:2]}/{md5[2:]}"


def md5_of(key: str) -> str:
    return "".join(key.split("/")[-2:])


def listing(objects: ObstoreObjects, md5: str) -> dict[str, str]:
    """Relative path -> md5 of the files of a folder object; empty when it is not there."""
    try:
        rows = json.loads(objects.get(key_of(md5)))
    except (KeyError, ValueError):
        return {}
    return {row["relpath"]: row["md5"] for row in rows}


def folders(objects: ObstoreObjects) -> Iterator[dict[str, str]]:
    """The listing of every folder object."""
    for key in objects.list(FILES):
        if key.endswith(".dir"):
            yield listing(objects, md5_of(key))


def _outs(root: Path) -> Iterator[str]:
    for file, stages in (("corpus.dvc", False), ("dvc.lock", True)):
        path = root / file
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        for stage in (found or {}).get("stages", {}).values() if stages else [found or {}]:
            yield from (out["md5"] for out in stage.get("outs", ()) if "md5" in out)


def newest(root: Path) -> set[str]:
    """md5 of the objects that the workspace's files as they are now name: folders and what they list."""
    cache = cache_of(root)
    named = set(_outs(root))
    return named | {md5 for folder in named if folder.endswith(".dir") for md5 in listing(cache, folder).values()}


def _intact(objects: ObstoreObjects, md5: str) -> bytes | None:
    """The object; None when it is not there, or is not what its name says."""
    try:
        data = objects.get(key_of(md5))
    except KeyError:
        return None
    return data if hashlib.md5(data, usedforsecurity=False).hexdigest() == md5.partition(".")[0] else None


def mend(root: Path, remote: str) -> dict[str, int]:
    """Read back all objects of all revisions from the remote; send again, from the cache, what it lost or damaged.

    `dvc push` cannot: it takes a folder's object in the remote as proof that the remote has the folder's files.
    Returns the numbers of objects: `read`, `sent`, and `gone`, which older revisions name and neither side has any
    more (an erasure leaves such). IntegrityError, after everything else was sent, when the newest revision is among
    these.
    """
    cache, there = cache_of(root), ObstoreObjects(remote)
    listed = {md5_of(key) for key in cache.list(FILES) if key.endswith(".dir")}
    files = {md5: path for folder in listed for path, md5 in listing(cache, folder).items()}
    needed = newest(root)
    # A folder's object comes after its files: to DVC it says that they are there.
    named = sorted(needed | listed | files.keys(), key=lambda md5: (md5.endswith(".dir"), md5))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        whole = threads.map(lambda md5: _intact(there, md5) is not None, named)
        lost = [md5 for md5, found in zip(named, whole, strict=True) if not found]
    gone = []
    for md5, data in zip(lost, map(partial(_intact, cache), lost), strict=True):
        if data is None:
            gone.append(md5)
        else:
            there.put(key_of(md5), data)
    if unmade := [md5 for md5 in gone if md5 in needed]:
        raise IntegrityError(
            f"{len(unmade)} object(s) of the newest revision are intact neither in {remote} nor in the workspace's "
            f"cache, first {files.get(unmade[0], unmade[0])}; restore the remote, or land and fetch the documents again"
        )
    return {"read": len(named), "sent": len(lost) - len(gone), "gone": len(gone)}
