"""Near-duplicates: exact where a pair is proposed, first come first kept, each part by itself."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.backends.near_duplicates import near_duplicates

LONG = " ".join(f"w{n}" for n in range(30))


def test_one_word_at_the_end_of_thirty_is_alike():
    # Runs of three: 28 and 29 of them, 28 in common: 28/29 = 0.966.
    assert near_duplicates([[LONG], [LONG + " more"], ["something else entirely"]], threshold=0.96) == [None, 0, None]
    assert near_duplicates([[LONG], [LONG + " more"]], threshold=0.97) == [None, None]


def test_all_parts_must_be_alike():
    # Another question with the same long answer, and the same question with another answer, are not the same example.
    items = [["how big is texas", LONG], ["how big is utah today", LONG], ["how big is texas", "no idea"]]
    assert near_duplicates(items, threshold=0.8) == [None, None, None]
    assert near_duplicates([*items, items[1]], threshold=0.8) == [None, None, None, 1]


def test_what_is_not_kept_hides_nothing():
    # Each is like the one before it (28/30), the third not like the first (27/31).
    chain = [" ".join(f"w{n}" for n in range(start, start + 31)) for start in (0, 1, 2)]
    assert near_duplicates([[text] for text in chain], threshold=0.9) == [None, 0, None]


def test_empty_and_short_parts():
    assert near_duplicates([], threshold=0.8) == []
    assert near_duplicates([["", "a"], ["", "a"], ["", "b"]], threshold=0.8) == [None, 0, None]


@given(
    st.lists(st.tuples(st.text("ab ", max_size=12), st.text("ab ", max_size=12)), max_size=25),
    st.sampled_from([0.5, 0.8, 1.0]),
)
def test_kept_items_are_apart_and_others_like_a_kept_one(items, threshold):
    def jaccard(a: str, b: str) -> float:
        runs = [{tuple(w[i : i + 3]) for i in range(max(1, len(w) - 2))} for w in (a.split(), b.split())]
        return len(runs[0] & runs[1]) / len(runs[0] | runs[1])

    found = near_duplicates(items, threshold=threshold)
    for place, first in enumerate(found):
        alike = [
            n
            for n in range(place)
            if found[n] is None and all(map(lambda a, b: jaccard(a, b) >= threshold, items[n], items[place]))
        ]
        assert first == (alike[0] if alike else None)
