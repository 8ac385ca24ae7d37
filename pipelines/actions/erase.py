"""Erase documents: never served again from the first step on, then removed from everything that Assay wrote.

First a signed entry goes into the deny list of the corpus, which every search and every fetch honours: that is the
commit point, and final. Then the purge: what holds a text of the document is found by a scan, decided on, removed, and
scanned for again. What still serves without it (the newest release's build) stays until a newer generation is released.
Each pass signs the receipt anew; running it again, or `assay gc`, goes on where the last pass ended. See
docs/erasure.md.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import params as params_module
from pipelines import released
from pipelines.actions import erase_find as find
from pipelines.actions import erase_texts as known_texts
from pipelines.actions.erase_purge import Purge
from pipelines.actions.erase_texts import Known
from pipelines.core import erasure
from pipelines.core.erasure import REMAINS, Decision, Place
from pipelines.erasures import ErasureLog, log_of
from pipelines.errors import BadInput, NotFound
from pipelines.git_history import History
from pipelines.locks import exclusive
from pipelines.settings import Settings
from pipelines.traces import Wanted
from pipelines.wiring import Wiring
from pipelines.workspace import write_whole

Json = Mapping[str, Any]
POLICIES = ("retire", "keep")


@dataclass(frozen=True)
class Search:
    """What is looked for, and who else is there."""

    wiring: Wiring
    log: ErasureLog
    corpora: tuple[str, ...]
    known: Known
    wanted: Wanted

    @classmethod
    def of(cls, wiring: Wiring, log: ErasureLog, documents: Collection[str], earlier: Known) -> Search:
        known_corpora = params_module.read_raw(wiring.settings.params_file)["corpora"]
        corpora = tuple(name for name in sorted(known_corpora) if wiring.settings.workspace(name).is_dir())
        every = earlier | known_texts.collected(wiring, documents)
        apart = known_texts.alone(wiring, log, every, corpora)
        wanted = Wanted.of(documents, apart.pieces, every.files)
        every = every | Known({}, training=known_texts.trained_on(wiring, wanted))
        return cls(
            wiring, log, corpora, Known(every.digests, apart.texts, every.pieces, every.files, every.training), wanted
        )

    def decisions(self, policy: str) -> tuple[list[Decision], list[str]]:
        """(what becomes of everything that is found, the adapters that were trained on it)."""
        needs = find.needs(self.wiring, self.corpora)
        places = list(find.places(self.wiring, self.wanted, self.known.texts))
        trained = known_texts.adapters_of(self.wiring, self.known.training)
        places += [Place("adapters", f"adapters/{digest}", digest) for digest in trained]
        return [_by_policy(d, policy) for d in erasure.plan(places, needs)], trained


def _by_policy(decision: Decision, policy: str) -> Decision:
    if decision.place.kind == "adapters" and policy == "keep":
        return Decision(Place("weights", decision.place.unit, decision.place.path), REMAINS, "kept by --adapters keep")
    return decision


def erase(
    settings: Settings, corpus: str, documents: Sequence[str], *, reason: str = "", adapters: str = "retire"
) -> Iterator[str]:
    """Erase documents by their ids, or go on with it; a line per step. NotFound, before anything is done, for one that
    neither the corpus nor a build or revision of it has; BadInput for another policy."""
    wiring, log = _opened(settings, corpus, adapters)
    with exclusive(settings.home / "run" / f"erase-{corpus}.lock", patience=600, what=f"the erasure from {corpus}"):
        fresh = [d for d in dict.fromkeys(documents) if d not in log.erased(corpus)]
        numbers = {e["number"] for e in log.entries(corpus) for row in e["documents"] if row["id"] in documents}
        if fresh:
            numbers.add(_begin(wiring, log, fresh, reason=reason, policy=adapters))
            yield f"{corpus}: {', '.join(fresh)} erased: served no more, by any generation"
        for number in sorted(numbers):
            yield from _go_on(wiring, log, number)


def resume(settings: Settings, corpus: str) -> Iterator[str]:
    """Go on with every erasure of a corpus that is not finished."""
    wiring, log = _opened(settings, corpus, "retire")
    if not log.entries(corpus):
        return
    with exclusive(settings.home / "run" / f"erase-{corpus}.lock", patience=600, what=f"the erasure from {corpus}"):
        for entry in log.entries(corpus):
            receipt = log.receipt(corpus, entry["number"])
            if receipt is None or receipt["state"] != "finished":
                yield from _go_on(wiring, log, entry["number"])


def preview(settings: Settings, corpus: str, documents: Sequence[str], *, adapters: str = "retire") -> list[str]:
    """What erasing would find, and what would become of it, a line each; nothing is changed. NotFound."""
    wiring, log = _opened(settings, corpus, adapters)
    search = Search.of(wiring, log, documents, Known({}))
    _require_known(corpus, documents, search.known, log)
    return [f"{d.place.kind} {d.place.unit}: {d.action} ({d.why})" for d in search.decisions(adapters)[0]]


def listed(settings: Settings, corpus: str) -> list[dict[str, Any]]:
    """Every erasure of a corpus with its receipt (null before the first pass is over), signatures verified."""
    _, log = _opened(settings, corpus, "retire")
    return [{**entry, "receipt": log.receipt(corpus, entry["number"])} for entry in log.entries(corpus)]


def _opened(settings: Settings, corpus: str, policy: str) -> tuple[Wiring, ErasureLog]:
    if policy not in POLICIES:
        raise BadInput(f"--adapters is {policy!r}; one of {', '.join(POLICIES)}")
    known = params_module.read_raw(settings.params_file)["corpora"]
    if corpus not in known:
        raise NotFound(f"no corpus {corpus!r}; there are: {', '.join(sorted(known)) or 'none'}")
    wiring = Wiring.of(settings, corpus)
    return wiring, log_of(wiring)


def _require_known(corpus: str, documents: Sequence[str], known: Known, log: ErasureLog) -> None:
    gone = log.erased(corpus)
    for document in documents:
        if document not in known.digests and document not in gone:
            raise NotFound(
                f"{corpus} has no document {document!r}, neither now nor in a build or revision that is still here; "
                "an id is a path below the landed folder, e.g. policies/refunds.md, or PATH#ID for a line of JSON lines"
            )


def _begin(wiring: Wiring, log: ErasureLog, documents: Sequence[str], *, reason: str, policy: str) -> int:
    """Remember what to look for, then publish the entry: from then on the documents are served no more."""
    search = Search.of(wiring, log, documents, Known({}))
    _require_known(wiring.corpus, documents, search.known, log)
    known_texts.remember(known_texts.working_file(wiring.settings, wiring.corpus, documents), search.known)
    return log.append(
        wiring.corpus,
        {
            "schema": 1,
            "created": released.now().isoformat(),
            "by": getpass.getuser(),
            "reason": reason,
            "adapters": policy,
            "documents": [{"id": d, "digests": search.known.digests[d]} for d in documents],
            "texts": search.known.texts,
        },
    )


def _go_on(wiring: Wiring, log: ErasureLog, number: int) -> Iterator[str]:
    """One pass: find, remove, scan again, sign the receipt."""
    entry = log.entries(wiring.corpus)[number - 1]
    documents = [row["id"] for row in entry["documents"]]
    file = known_texts.working_file(wiring.settings, wiring.corpus, documents)
    before = log.receipt(wiring.corpus, number)
    if before is not None and before["state"] == "finished":
        file.unlink(missing_ok=True)
    earlier = known_texts.remembered(file) | Known({}, texts=entry["texts"])
    search = Search.of(wiring, log, documents, earlier)
    known_texts.remember(file, search.known)
    if (wiring.workspace.root / ".git").is_dir():
        history = History(wiring.workspace.root)
        with history.git.locked():
            history.sweep()
    found, trained = search.decisions(entry["adapters"])
    begun = _begun(entry, before, found, trained)
    log.write_receipt(wiring.corpus, number, begun)  # a purge that is killed has said what it was about to remove
    done = Purge(wiring, search.wanted, search.known.texts).carry_out(found)
    _beat_the_newest(wiring)
    receipt = _receipt(search, begun, done)
    log.write_receipt(wiring.corpus, number, receipt)
    if receipt["state"] == "finished":
        file.unlink(missing_ok=True)
    yield from _said(wiring.corpus, number, receipt)


def _beat_the_newest(wiring: Wiring) -> None:
    """Put the newest release beside the scores where the one to beat has lost its build: it cannot be asked again."""
    to_beat = wiring.workspace.champion()
    if to_beat and f"{to_beat['index']['key']}/embed.json" not in wiring.objects.list(to_beat["index"]["key"]):
        newest = wiring.releases.read(wiring.corpus)
        write_whole(wiring.workspace.champion_file, json.dumps(newest, indent=1, sort_keys=True) + "\n")


def _begun(entry: Json, before: Json | None, found: Sequence[Decision], trained: Sequence[str]) -> dict[str, Any]:
    """The receipt as it stands before a pass removes anything: all that was ever found, and nothing as gone yet."""
    before = before or {}
    rows = erasure.merged(before.get("found", ()), erasure.rows(found))
    return {
        "schema": 1,
        "state": "open",
        "documents": entry["documents"],
        "policy": entry["adapters"],
        "found": rows,
        "removed": list(before.get("removed", ())),
        "remains": [{**row, "why": "a pass is under way, or was killed"} for row in erasure.rows(found)],
        "adapters": sorted({*before.get("adapters", ()), *trained}),
        "generations": list(before.get("generations", ())),
        "scan": dict(before.get("scan", {})),
        "passes": list(before.get("passes", ())),
    }


def _receipt(search: Search, begun: dict[str, Any], done: Sequence[Decision]) -> dict[str, Any]:
    """What a scan after the pass still finds; of all that was ever found the rest is gone."""
    failed = {(d.place.kind, d.place.unit): d.why for d in done if d.action == REMAINS}
    left = search.decisions(begun["policy"])[0]
    remains = [{**row, "why": failed.get((row["kind"], row["place"]), row["why"])} for row in erasure.rows(left)]
    there = {(row["kind"], row["place"]) for row in remains}
    removed = [row for row in begun["found"] if (row["kind"], row["place"]) not in there]
    remains += _not_scanned(search.wiring.settings)
    return {
        **begun,
        "state": "finished" if erasure.finished(remains) else "open",
        "removed": removed,
        "remains": remains,
        "generations": _no_longer_kept(search, removed),
        "scan": {"pieces": len(search.wanted.needles), "texts": len(search.known.texts), "hits": len(left)},
        "passes": [*begun["passes"], {"at": released.now().isoformat(), "remain": len(remains)}],
    }


def _not_scanned(settings: Settings) -> list[dict[str, str]]:
    """Places that others keep for us, which no scan of ours reaches."""
    out = []
    if "://" in settings.milvus_uri and not settings.milvus_lite.is_dir():
        why = "collections are dropped; when their bytes leave the server's own storage is its garbage collection's"
        out.append({"kind": "not-scanned", "place": "Milvus", "why": why})
    if not settings.mlflow_uri.startswith("sqlite:///") and not (settings.home / find.DATABASE).is_file():
        why = "its runs, traces and artifacts are on a server; delete there what names the documents"
        out.append({"kind": "not-scanned", "place": "MLflow", "why": why})
    return out


def _no_longer_kept(search: Search, removed: Sequence[Json]) -> list[int]:
    """Generations whose build or adapter was removed: they cannot be returned to."""
    gone, releases, corpus = {row["place"] for row in removed}, search.wiring.releases, search.wiring.corpus
    manifests = (releases.read(corpus, generation) for generation in releases.generations(corpus))
    return [m["generation"] for m in manifests if {m["index"]["key"], (m["adapter"] or {}).get("key")} & gone]


def _said(corpus: str, number: int, receipt: Json) -> Iterator[str]:
    yield from (f"removed: {row['kind']} {row['place']}" for row in receipt["removed"])
    yield from (f"remains: {row['kind']} {row['place']}: {row['why']}" for row in receipt["remains"])
    yield from (f"trained on it: adapter {digest[:12]}" for digest in receipt["adapters"])
    counts = f"{len(receipt['removed'])} removed, {len(receipt['remains'])} remain"
    yield f"{corpus}: erasure {number} is {receipt['state']}: {counts}; see: assay erasures {corpus}"
