"""What releases and workspaces need of the object store, and what may go. It decides; it reads and removes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

Json = Mapping[str, Any]
DEPTH = {"adapters": 2, "builds": 2, "chunks": 4}
"""Kinds of folders that are collected, and how many segments their names have."""
TOMBSTONE = "tombstone.json"


def kept(log: Sequence[Json], *, keep: int) -> list[Json]:
    """Of a release log, oldest first, the releases that can be returned to: all that serve one of the newest `keep`
    candidates. The newest release is always among them."""
    newest = list(dict.fromkeys(manifest["candidate"] for manifest in reversed(log)))[: max(1, keep)]
    return [manifest for manifest in log if manifest["candidate"] in newest]


def folder_of(key: str) -> str | None:
    """The collected folder that an object lies in; None for an object of another kind."""
    parts = key.split("/")
    depth = DEPTH.get(parts[0], 0)
    return "/".join(parts[:depth]) if depth and len(parts) > depth else None


def needed(documents: Iterable[Any]) -> set[str]:
    """The folders that manifests and receipts name: their texts at any depth that begin with a kind of `DEPTH`."""
    out: set[str] = set()
    for document in documents:
        if isinstance(document, Mapping):
            out |= needed(document.values())
        elif isinstance(document, list):
            out |= needed(document)
        elif isinstance(document, str) and (folder := folder_of(f"{document}/")) is not None:
            out.add(folder)
    return out


def ours(folder: str, corpora: Collection[str]) -> bool:
    """Whether a folder is one of these corpora's; adapters are named by their content alone, and anybody's."""
    kind, name, *_ = folder.split("/")
    if kind == "builds":  # b_CORPUS_DIGEST: core.names.collection_name
        name = name.rpartition("_")[0].removeprefix("b_")
    return kind == "adapters" or name in corpora


def expired(tombstone: Json, *, now: datetime, grace: timedelta) -> bool:
    """Whether a folder was marked so long ago that whoever was about to use it has said so by now."""
    return now - datetime.fromisoformat(tombstone["since"]) >= grace
