"""The data objects of a workspace's DVC: its cache and its remote as object stores, and which of them the newest
revision needs. DVC itself is not imported; nothing is decided here.

Both lie as `files/md5/XX/REST` (DVC 3); a folder is an object `....dir`, a JSON list of its files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines.backends.objects import ObstoreObjects

FILES = "files/md5"


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
