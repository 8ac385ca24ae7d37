"""Which index a build's vectors get when params say `auto`: by what measured best. No I/O.

It depends on the number of rows alone, so that a corpus gives the same build wherever it is made.
"""

from __future__ import annotations

HNSW_FROM = 3_000
"""Rows from which a search by graph costs half of one that looks at every vector, and finds the same: measured in
docs/decisions/0006-index-choice.md."""


def choose_index(asked: str, *, rows: int) -> tuple[str, str]:
    """(FLAT or HNSW, the reason in words) for a build of so many rows; `asked` is index.type."""
    if asked != "auto":
        return asked, "index.type asks for it"
    if rows < HNSW_FROM:
        return "FLAT", f"below {HNSW_FROM:,} rows exact search costs little (docs/decisions/0006-index-choice.md)"
    return "HNSW", f"from {HNSW_FROM:,} rows on a search costs half or less (docs/decisions/0006-index-choice.md)"
