"""Texts that are nearly the same, found with datasketch's MinHash and LSH. It says which; it drops nothing.

Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better" (NearDup): a text is the set of its runs of
words, and two are alike when the Jaccard index of their sets reaches a threshold. MinHash (Broder 1997) only proposes
pairs; the index itself is then computed, so nothing is called alike by an estimate. An item has several parts (a
prompt, a completion), and items are alike when each of their parts is: a prompt asked of another state is another
prompt, however long the query that both have in common. The sets' union reaches the threshold whenever every part
does, so looking for pairs in the union misses none.
"""

from __future__ import annotations

from collections.abc import Sequence

_RUN = 3  # words of a run: prompts are short
_PERMUTATIONS = 128
_MISSED = 1e-4  # most that the probability of not proposing a pair at the threshold may be


def _runs(part: str, number: int) -> frozenset[tuple[int | str, ...]]:
    """The runs of one normalised part, told apart from those of other parts; a shorter part is one run."""
    words = part.split()
    return frozenset((number, *words[at : at + _RUN]) for at in range(max(1, len(words) - _RUN + 1)))


def _alike(one: Sequence[frozenset], other: Sequence[frozenset], threshold: float) -> bool:
    return all(len(a & b) >= threshold * len(a | b) for a, b in zip(one, other, strict=True))


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows of one): as many rows as leave that probability, (1 - threshold**rows)**bands, within bounds."""
    cuts = [(_PERMUTATIONS // rows, rows) for rows in range(1, _PERMUTATIONS // 2 + 1)]
    well = [(bands, rows) for bands, rows in cuts if (1 - threshold**rows) ** bands <= _MISSED]
    return well[-1] if well else cuts[0]


def near_duplicates(items: Sequence[Sequence[str]], *, threshold: float) -> list[int | None]:
    """For each item (its parts, words separated by spaces) the position of the first earlier item that stays and is
    alike, or None: then the item itself stays. `threshold` is a Jaccard index above 0.

    The same items in the same order give the same result: the permutations are seeded.
    """
    from datasketch import MinHash, MinHashLSH

    parts = [[_runs(part, number) for number, part in enumerate(item)] for item in items]
    hashed = MinHash.generator(
        (
            ["\t".join(map(str, run)).encode("utf-8", "surrogatepass") for part in item for run in part]
            for item in parts
        ),
        num_perm=_PERMUTATIONS,
    )
    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
    out: list[int | None] = []
    for place, sketch in enumerate(hashed):
        proposed = sorted(index.query(sketch))
        first = next((other for other in proposed if _alike(parts[place], parts[other], threshold)), None)
        if first is None:
            index.insert(place, sketch)
        out.append(first)
    return out
