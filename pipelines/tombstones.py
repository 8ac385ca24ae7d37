"""Marks on folders of the object store that nothing needs: set a while before a folder goes, lifted when it is needed.

A folder is removed by its markers first, then what else holds it, its other objects, its tombstone last: whatever is
killed in between, what is left is no whole build, and the next collection finishes it. Whoever takes up something that
lies there already calls `claim`, so that what is about to be used is not removed meanwhile. The lock holds between
processes of one machine; between machines the grace of a collection does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from pipelines.core.retention import TOMBSTONE
from pipelines.erasures import removed_by
from pipelines.errors import NotFound
from pipelines.locks import exclusive
from pipelines.ports import ObjectStore
from pipelines.settings import Settings

MARKERS = ("seal.json", "embed.json", "sealed.json")
"""What makes a folder whole, in the order in which it is taken away."""


def found(objects: ObjectStore, folder: str) -> dict[str, Any] | None:
    """The tombstone of a folder, None without one."""
    try:
        tombstone: dict[str, Any] = json.loads(objects.get(f"{folder}/{TOMBSTONE}"))
    except KeyError:
        return None
    return tombstone


def mark(objects: ObjectStore, folder: str, *, now: datetime) -> None:
    """Set a tombstone; one that is there stays."""
    objects.create(f"{folder}/{TOMBSTONE}", json.dumps({"since": now.isoformat(timespec="seconds")}).encode())


def lift(objects: ObjectStore, folder: str) -> None:
    objects.delete([f"{folder}/{TOMBSTONE}"])


def sweeping(settings: Settings) -> AbstractContextManager[Any]:
    """The right to remove marked folders, or to lift a tombstone."""
    return exclusive(settings.home / "run" / "gc.lock", patience=600, what="the removal of old builds")


def claim(objects: ObjectStore, folder: str, *, settings: Settings) -> None:
    """Before a folder that lies there is taken up again: lift its tombstone. Removals that were begun are over then."""
    if found(objects, folder) is not None:
        with sweeping(settings):
            lift(objects, folder)


def remove(objects: ObjectStore, folder: str, *, drop: Callable[[], None]) -> None:
    """Every object of a marked folder, markers first and tombstone last; `drop` lets go of what else holds it."""
    last = f"{folder}/{TOMBSTONE}"
    objects.delete([f"{folder}/{name}" for name in MARKERS])
    drop()
    objects.delete([key for key in objects.list(folder) if key != last])
    objects.delete([last])


def require_kept(objects: ObjectStore, manifest: Mapping[str, Any], *, adapter: bool = False) -> None:
    """NotFound when the build of a release was removed, or its removal has begun: whatever a search of it found then is
    not to be trusted. With `adapter` the adapter is looked for too."""
    index, weights = manifest["index"], manifest["adapter"] if adapter else None
    keys = [f"{index['key']}/embed.json", *([f"{weights['key']}/sealed.json"] if weights else [])]
    for key in keys:
        try:
            objects.get(key)
        except KeyError as exc:
            name, gone = f"{manifest['corpus']}@{manifest['generation']}", key.rpartition("/")[0]
            erasure = removed_by(objects, manifest["corpus"], gone)
            why = "promote.keep" if erasure is None else f"it held what erasure {erasure} removed"
            raise NotFound(f"{name} is no longer kept: {gone} was removed ({why})") from exc
