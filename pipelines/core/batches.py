"""How texts are put together for one pass of a model. It tokenises nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def same_length(lengths: Sequence[int], *, tokens: int) -> Iterator[list[int]]:
    """Positions of `lengths` in batches: texts of one length only, shortest first, at most `tokens` tokens a batch (or
    one text). Nothing is padded, so what is computed of a text does not depend on its company."""
    by_length: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        by_length.setdefault(length, []).append(position)
    for length, positions in sorted(by_length.items()):
        step = max(1, tokens // max(1, length))
        for start in range(0, len(positions), step):
            yield positions[start : start + step]
