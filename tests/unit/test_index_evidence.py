"""Evidence: quotes found whatever the white space and the cut, and relevance by overlap, derived by hand."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.evidence import Piece, find_quote, labels, rebuilt, relevant

WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=1, max_size=30)


def pieces_of(text: str, *spans: tuple[int, int]) -> list[Piece]:
    return [Piece(f"{start}-{end}", start, end, text[start:end]) for start, end in spans]


def test_a_document_is_rebuilt_from_overlapping_chunks_in_any_order() -> None:
    text = "one two\n\n three"
    assert rebuilt(pieces_of(text, (10, 15), (0, 5), (4, 7))) == "one two   three"
    assert rebuilt([]) == ""


def test_a_quote_is_found_white_space_aside_and_every_time() -> None:
    # "a b" without its space is "ab": at 0..3 and, across the line break, at 4..7.
    assert find_quote("a b a\nb", "a  b") == [(0, 3), (4, 7)]
    assert find_quote("aaa", "aa") == [(0, 2), (1, 3)]
    assert find_quote("a b", "c") == []
    assert find_quote("a b", " \n") == []


def test_relevance_by_half_of_the_quote_or_of_the_chunk() -> None:
    text = "0123456789" * 3
    quote = text[8:16]  # wanted 89012345, and so also at 18..26
    # First occurrence 8..16: 0-10 shares 2 of 8 (below 4 and below its half, 5), 10-20 shares 6.
    # Second, 18..26: 10-20 shares 2, 20-30 shares 6.
    assert relevant(pieces_of(text, (0, 10), (10, 20), (20, 30)), quote) == {"10-20", "20-30"}
    # A chunk that lies within the quote counts by half of itself: 9-11 shares 2 of its 2.
    letters = "abcdefghijklmnop"
    assert relevant(pieces_of(letters, (0, 9), (9, 11), (11, 16)), "bcdefghijklmno") == {"0-9", "9-11", "11-16"}


def test_a_quote_in_pieces_smaller_than_half_keeps_its_best() -> None:
    # The quote's 30 characters lie in three chunks, 10 in each: below half of the quote, 15, in all of them.
    text = "".join(chr(0x4E00 + n) for n in range(90))
    spans = pieces_of(text, (0, 40), (40, 50), (50, 90))
    assert relevant(spans, text[30:60]) == {"40-50", "0-40"}  # 40-50 by half of itself, 0-40 as the best of equals


def test_missing_and_document_level_evidence() -> None:
    build = {"a": pieces_of("alpha beta", (0, 5), (6, 10)), "b": pieces_of("gamma", (0, 5))}
    found = labels([{"document": "a", "quote": "beta"}, {"document": "a", "quote": "delta"}], build)
    assert (found.level, found.grades, found.stale) == ("chunk", {"6-10": 1, "missing:1:a": 1}, ["a"])
    found = labels([{"document": "a", "relevance": 3}, {"document": "c"}], build)
    assert (found.level, found.grades, found.stale) == ("document", {"a": 3, "missing:1:c": 1}, ["c"])
    found = labels([{"document": "a", "quote": "beta"}, {"document": "b", "relevance": 2}], build)
    assert (found.level, found.grades) == ("document", {"a": 1, "b": 2})


@st.composite
def cuts(draw: st.DrawFn) -> tuple[str, str, list[Piece]]:
    """A text, a quote of it with other white space, and a cut with overlaps that leaves out white space only."""
    text = draw(st.sampled_from([" ", "\n\n", "  "])).join(draw(WORDS))
    places = [n for n, character in enumerate(text) if not character.isspace()]
    if not places:
        text, places = "a", [0]
    first, last = sorted(draw(st.tuples(*[st.sampled_from(places)] * 2)))
    quote = draw(st.sampled_from(["{}", " {}\n", "\t{}"])).format("\n ".join(text[first : last + 1].split(" ")))
    borders = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=8))})
    spans = []
    for start, end in itertools.pairwise(borders):
        start = max(0, start - draw(st.integers(0, 4)))
        piece = text[start:end]
        if piece.strip():
            trimmed = start + len(piece) - len(piece.lstrip())
            spans.append((trimmed, trimmed + len(piece.strip())))
    return text, quote, draw(st.permutations(pieces_of(text, *spans)))


@given(cuts())
@settings(max_examples=300, deadline=None)
def test_cutting_anew_never_loses_a_label(case: tuple[str, str, list[Piece]]) -> None:
    _, quote, pieces = case
    keys = relevant(pieces, quote)
    assert keys
    assert keys <= {piece.key for piece in pieces}
    found = labels([{"document": "d", "quote": quote}], {"d": pieces})
    assert not found.stale
    assert set(found.grades) == keys
    assert relevant(sorted(pieces, key=lambda p: p.start), quote) == keys
