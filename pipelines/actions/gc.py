"""Remove builds, adapters and chunk sets that no retained release and no workspace needs: marked first, removed later.

Retained are the releases of the newest `promote.keep` candidates of each corpus, and what its workspace's receipts
name. What a collection finds unneeded gets a tombstone; what still is unneeded `grace` hours later is removed, from
Milvus by its collection's own name and from the object store. Corpora without a workspace here, and the caches of
vectors and replies, are not touched. Erasures that are not finished are gone on with. It may be killed anywhere, and
be run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pipelines import params as params_module
from pipelines import tombstones
from pipelines.actions.erase import resume
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.releaselog import SignedReleaseLog
from pipelines.core import retention
from pipelines.errors import BadInput
from pipelines.ports import ObjectStore
from pipelines.settings import Settings
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace

GRACE = 24.0
"""Hours between mark and removal, by default: longer than any run takes from finding a build to naming it."""


def _named(settings: Settings, corpus: str, log: SignedReleaseLog, *, keep: int | None) -> Iterator[Any]:
    """The manifests and receipts that keep something of a corpus; every release where `keep` is None."""
    manifests = [log.read(corpus, generation) for generation in log.generations(corpus)]
    yield from manifests if keep is None else retention.kept(manifests, keep=keep)
    root = Workspace(settings.workspace(corpus), corpus).root
    for file in (*sorted((root / "receipts").glob("*.json")), root / "champion.json"):
        if file.is_file():
            yield json.loads(file.read_text(encoding="utf-8"))


def _needed(settings: Settings, objects: ObjectStore, corpora: dict[str, int]) -> set[str]:
    """The folders that must stay. `corpora` -> promote.keep; of corpora that only others know every release stays."""
    log = SignedReleaseLog(objects, key_file=settings.signing_key, seen=settings.seen)
    released = {key.split("/")[1] for key in objects.list("releases")}
    return {
        folder
        for corpus in released | corpora.keys()
        for folder in retention.needed(_named(settings, corpus, log, keep=corpora.get(corpus)))
    }


def _drop(settings: Settings, folder: str, *, corpus: str) -> None:
    """The Milvus collection of a build, by its own name."""
    if folder.startswith("builds/"):
        store = Wiring.of(settings, corpus).store
        try:
            store.drop(folder.split("/")[1])
        finally:
            store.close()  # type: ignore[attr-defined]


def collect(settings: Settings, *, grace: float = GRACE) -> Iterator[str]:
    """A line per folder that was marked, removed, or kept after all; then one with the counts. BadInput on a negative
    grace; IntegrityError on a release that cannot be verified, and then nothing is removed."""
    if not 0 <= grace <= 24 * 365:
        raise BadInput(f"--grace {grace} is not hours from 0 to a year, e.g. 24")
    objects, now = ObstoreObjects(settings.objects_uri), datetime.now(UTC)
    known = params_module.read_raw(settings.params_file)["corpora"]
    corpora = {
        name: params_module.load_corpus(settings.params_file, name).promote.keep
        for name in sorted(known)
        if settings.workspace(name).is_dir()
    }
    there = {retention.folder_of(key) for kind in retention.DEPTH for key in objects.list(kind)}
    mine = sorted(folder for folder in there if corpora and folder and retention.ours(folder, corpora))
    with tombstones.sweeping(settings):
        needed, counts = _needed(settings, objects, corpora), {"kept": 0, "marked": 0, "removed": 0}
        for folder in mine:
            tombstone = tombstones.found(objects, folder)
            if folder in needed:
                counts["kept"] += 1
                if tombstone is not None:
                    tombstones.lift(objects, folder)
                    yield f"{folder}: kept after all"
                continue
            if tombstone is None:
                tombstones.mark(objects, folder, now=now)
                tombstone = {"since": now.isoformat(timespec="seconds")}
            if not retention.expired(tombstone, now=now, grace=timedelta(hours=grace)):
                counts["marked"] += 1
                yield f"{folder}: unneeded since {tombstone['since']}"
                continue
            if folder in _needed(settings, objects, corpora):  # named since this collection began
                continue
            drop = partial(_drop, settings, folder, corpus=next(iter(corpora)))
            tombstones.remove(objects, folder, drop=drop)
            counts["removed"] += 1
            yield f"{folder}: removed"
    for name in corpora:
        yield from resume(settings, name)
    yield ", ".join(f"{count} {what}" for what, count in counts.items())
