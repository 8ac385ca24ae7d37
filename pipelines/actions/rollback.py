"""Return to an older release by publishing a new generation that names its build. Nothing is rebuilt or deleted.

Publishing comes first and imports nothing heavy; the projections follow. The candidates that were rolled back are
held back: the graph does not release them again, `assay promote` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines import released
from pipelines.actions.reconcile import project
from pipelines.core.manifest import renewable, restored
from pipelines.errors import BadInput, NotFound
from pipelines.settings import Settings
from pipelines.tombstones import claim, require_kept
from pipelines.wiring import Wiring


def _default_target(log: dict[int, dict[str, object]]) -> int:
    """The newest generation that serves something else than the one that serves now; NotFound when none does."""
    newest = max(log)
    for generation in sorted(log, reverse=True):
        if log[generation]["candidate"] != log[newest]["candidate"]:
            return generation
    raise NotFound("there is no earlier release to return to")


def _require_kept(wiring: Wiring, manifest: Mapping[str, Any]) -> None:
    """NotFound when `assay gc` removed what the release binds; where it is about to, it will not."""
    for bound in (manifest["index"], manifest["adapter"]):
        if bound:
            claim(wiring.objects, bound["key"], settings=wiring.settings)
    require_kept(wiring.objects, manifest, adapter=True)


def rollback_release(settings: Settings, corpus: str, to: int | None = None) -> str:
    """Publish generation N+1 that serves what generation `to` served (default: the release before); one line.

    NotFound for an unknown generation or when there is nothing earlier; BadInput when it is what serves already;
    PromotionConflict when another publication came first. What it restores is valid anew, for as long as it was, so
    `to` may name what serves already, once half of its validity is over.
    """
    wiring = Wiring.of(settings, corpus)
    releases = wiring.releases
    releases.read(corpus)
    known = releases.generations(corpus)
    if to is not None and to not in known:
        raise NotFound(f"{corpus} has no generation {to}; there are: {', '.join(map(str, known))}")
    log = {generation: releases.read(corpus, generation) for generation in known}
    newest = known[-1]
    target = _default_target(log) if to is None else to
    same = log[target]["candidate"] == log[newest]["candidate"]
    if same and not renewable(log[newest], released.now()):
        raise BadInput(f"{corpus} generation {target} is what generation {newest} serves already")
    _require_kept(wiring, log[target])
    newer = [log[generation] for generation in known if generation > target]
    made = restored(log[target], newer, generation=newest + 1, created=released.now().isoformat())
    releases.append(corpus, made, generation=newest + 1)
    project(wiring, made, releases.envelope(corpus, newest + 1))
    return f"{corpus}: generation {newest + 1} serves what generation {made['restores']} served, arm {made['arm']}"
