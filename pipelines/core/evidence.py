"""Gold evidence mapped to the chunks of a build, so that cutting documents anew never makes a label stale. No I/O.

A quote is looked for in the document's text as the build's own chunks give it back, white space aside. Chunks leave
out white space only, so a quote of the document is found however the document was cut, also across chunk borders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "missing"
"""Prefix of a stand-in id: evidence that the build does not hold. Nothing retrieves it, so it counts as not found."""


@dataclass(frozen=True)
class Piece:
    """A chunk of a document: `text == document[start:end]`, offsets in characters."""

    key: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Labels:
    """What is relevant to one question: chunk keys or document ids (`level`) with their grades, and the evidence
    that the build does not hold (`stale`, as document ids), which is graded too, under stand-in ids."""

    level: str
    grades: Mapping[str, int]
    stale: Sequence[str]


def rebuilt(pieces: Iterable[Piece]) -> str:
    """The document's text up to its last chunk; what no chunk holds (white space) is spaces."""
    out = ""
    for piece in sorted(pieces, key=lambda p: (p.start, p.end)):
        if piece.start > len(out):
            out += " " * (piece.start - len(out))
        if piece.end > len(out):
            out += piece.text[len(out) - piece.start :]
    return out


def find_quote(text: str, quote: str) -> list[tuple[int, int]]:
    """Spans (start, end) of every occurrence of `quote` in `text`, white space aside; none for a blank quote."""
    wanted = "".join(quote.split())
    if not wanted:
        return []
    places = [n for n, character in enumerate(text) if not character.isspace()]
    squeezed = "".join(text[n] for n in places)
    found, at = [], squeezed.find(wanted)
    while at >= 0:
        found.append((places[at], places[at + len(wanted) - 1] + 1))
        at = squeezed.find(wanted, at + 1)
    return found


def relevant(pieces: Sequence[Piece], quote: str) -> set[str]:
    """Keys of the chunks that hold the quote: those that overlap an occurrence by at least half of the quote or
    half of themselves, in characters, and always the one that overlaps it most. Empty when the quote is not there."""
    keys: set[str] = set()
    for start, end in find_quote(rebuilt(pieces), quote):
        overlaps = [(min(p.end, end) - max(p.start, start), p) for p in pieces]
        overlaps = [(shared, p) for shared, p in overlaps if shared > 0]
        # Of equal overlaps the earliest chunk, so that the choice does not depend on the order of `pieces`.
        best = max(overlaps, key=lambda pair: (pair[0], -pair[1].start))
        keys.add(best[1].key)
        keys.update(p.key for shared, p in overlaps if 2 * shared >= min(end - start, p.end - p.start))
    return keys


def labels(evidence: Sequence[Mapping[str, Any]], build: Mapping[str, Sequence[Piece]]) -> Labels:
    """Labels of one question from its evidence (`document`, optional `quote` and `relevance`, a whole number >= 1).

    `build` maps document id to its chunks. When every entry has a quote, chunks are labelled; else documents.
    """
    level = "chunk" if all(entry.get("quote", "").strip() for entry in evidence) else "document"
    grades: dict[str, int] = {}
    stale: list[str] = []
    for number, entry in enumerate(evidence):
        document, quote = entry["document"], entry.get("quote", "")
        pieces = build.get(document, ())
        keys = relevant(pieces, quote) if quote.strip() else {document} if pieces else set()
        if not keys:
            stale.append(document)
            keys = {f"{MISSING}:{number}:{document}"}
        elif level == "document":
            keys = {document}
        for key in keys:
            grades[key] = max(grades.get(key, 0), int(entry.get("relevance", 1)))
    return Labels(level, grades, stale)
