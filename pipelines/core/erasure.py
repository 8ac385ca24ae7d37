"""What an erasure looks for, what becomes of what it finds, and what it says in the end: decisions, no I/O.

A document is looked for by pieces of its text that no living document holds, as the bytes that a file may hold them
in. What is found lies at a place of some kind; the kind, and whether something still needs that place, decide.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEAST, LONGEST, MOST = 40, 90, 64
"""Characters of a piece, and most pieces of one text: a piece is short enough to lie within one chunk."""
SHORT = 20
"""Least characters of a piece where a text has no longer line."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+")

REMOVE, REWRITE, REMAINS = "remove", "rewrite", "remains"


def _cut(sentence: str, least: int) -> Iterator[str]:
    """A sentence in pieces of `least` to LONGEST characters, at spaces where there are any; a short rest is left."""
    start = 0
    while len(sentence) - start >= least:
        end = sentence.find(" ", start + least)
        end = len(sentence) if end < 0 else end
        end = min(end, start + LONGEST)
        yield sentence[start:end].strip()
        start = end


def pieces(text: str) -> list[str]:
    """Pieces of a text's lines and sentences that it can be recognised by, spread over all of it."""
    for least in (LEAST, SHORT):
        sentences = (part for line in text.splitlines() for part in _SENTENCE.split(line.strip()))
        found = list(dict.fromkeys(p for s in sentences for p in _cut(s, least) if len(p) >= least))
        if found:
            return [found[n * len(found) // MOST] for n in range(MOST)] if len(found) > MOST else found
    return []


def distinctive(found: Iterable[str], living: Iterable[str]) -> list[str]:
    """The pieces that occur in no living text."""
    left = list(dict.fromkeys(found))
    for text in living:
        left = [piece for piece in left if piece not in text]
    return left


def forms(piece: str) -> set[bytes]:
    """The bytes of a piece as it stands, in JSON (once and twice quoted), and in HTML."""
    quoted = {json.dumps(piece, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
    twice = {json.dumps(text, ensure_ascii=True)[1:-1] for text in quoted}
    texts = {piece, html.escape(piece), html.escape(piece, quote=False)} | quoted | twice
    return {text.encode("utf-8", "surrogatepass") for text in texts}


@dataclass(frozen=True)
class Place:
    """Where something of a document was found. `unit` is what is removed as one: a folder, or the file itself."""

    kind: str
    unit: str
    path: str


@dataclass(frozen=True)
class Needs:
    """What still needs a unit: of builds, chunk sets and adapters the folders that the newest release and the newest
    run name; of DVC and git the objects of the newest revision."""

    champion: Collection[str] = ()
    run: Collection[str] = ()
    revision: Collection[str] = ()


@dataclass(frozen=True)
class Decision:
    place: Place
    action: str
    why: str


NEXT_RUN = "of the newest run; the next one (assay run NAME) makes it anew without the document"
CHAMPION = "the newest release answers from it, without the document; it goes once a newer generation is released"
REVISION = "of the newest revision; it goes after the next one (assay run NAME)"
SIGNED = "a signed release of the log shows examples that repeat the text; the log is not rewritten"
UNKNOWN = "Assay did not write it there; look at it yourself"
_WHOLE = ("builds", "chunks", "adapters", "milvus")
_FILES = {"answers", "cache", "reports", "artifacts"}
_WHY = {
    "embeddings": (REWRITE, "vectors of its texts; those of living documents stay"),
    "mlflow-db": (REWRITE, "what MLflow's database repeats of it is overwritten"),
    "workspace": (REMAINS, NEXT_RUN),
    "releases": (REMAINS, SIGNED),
}


def decide(place: Place, needs: Needs) -> Decision:
    """What becomes of a place. What is needed stays until it is not; caches go at once; what is not Assay's stays."""
    if place.kind in _WHOLE:
        name = place.unit
        if name in needs.champion:
            return Decision(place, REMAINS, CHAMPION)
        if name in needs.run:
            return Decision(place, REMAINS, NEXT_RUN)
        return Decision(place, REMOVE, "nothing that serves needs it")
    if place.kind in ("dvc-cache", "dvc-remote", "git"):
        if place.unit in needs.revision:
            return Decision(place, REMAINS, REVISION)
        return Decision(place, REMOVE, "of older revisions, which cannot be reproduced without it")
    if place.kind in _FILES:
        return Decision(place, REMOVE, "made again where it is needed")
    return Decision(place, *_WHY.get(place.kind, (REMAINS, UNKNOWN)))


def plan(places: Iterable[Place], needs: Needs) -> list[Decision]:
    """One decision a unit, in the order of kind and unit."""
    by_unit: dict[tuple[str, str], Place] = {}
    for place in places:
        by_unit.setdefault((place.kind, place.unit), place)
    return [decide(by_unit[key], needs) for key in sorted(by_unit)]


def rows(decisions: Iterable[Decision], action: str | None = None) -> list[dict[str, str]]:
    """What a receipt says of decisions: {"kind", "place", "why"}."""
    chosen = (d for d in decisions if action is None or d.action == action)
    return [{"kind": d.place.kind, "place": d.place.unit, "why": d.why} for d in chosen]


def merged(earlier: Sequence[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of earlier passes and of this one, each place once."""
    out = {(row["kind"], row["place"]): row for row in [*earlier, *new]}
    return [out[key] for key in sorted(out)]


def finished(remains: Iterable[Mapping[str, Any]]) -> bool:
    """Whether nothing remains but what is not Assay's to delete."""
    return all(row["kind"] in ("source", "releases", "not-scanned", "weights") for row in remains)
