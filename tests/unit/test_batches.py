from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.batches import same_length

LENGTHS = st.lists(st.integers(0, 300), max_size=60)


def test_batches_by_hand():
    """At most 10 tokens: the three texts of 4 make batches of two and one, a text of 12 is alone."""
    assert list(same_length([4, 12, 4, 3, 4], tokens=10)) == [[3], [0, 2], [4], [1]]


@given(LENGTHS, st.integers(1, 500))
def test_every_text_is_in_one_batch_of_its_length_within_the_budget(lengths, tokens):
    batches = list(same_length(lengths, tokens=tokens))
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        (length,) = {lengths[position] for position in batch}
        assert len(batch) == 1 or len(batch) * length <= tokens
