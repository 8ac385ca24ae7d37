"""Lines that a page of a PDF wrapped are joined; what has lines of its own keeps them."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.backends.converter import unwrapped

WRAPPED = (
    "The deposit for a tent is 80 euros. It is reserved on the card at collection and let go within 3\n"
    "business days of the return. Cash is not accepted for it. A gift card does not work either, as a sum\n"
    "cannot be reserved on one."
)


def test_a_wrapped_paragraph_is_one_line_and_keeps_its_words():
    assert unwrapped(f"3. Deposit\n\n{WRAPPED}\n\n4. Late") == f"3. Deposit\n\n{' '.join(WRAPPED.split())}\n\n4. Late"


def test_a_line_that_had_room_for_the_next_word_ends_there():
    text = "A first paragraph of this page that runs on over a line and\nstops here.\nAnother one starts on its own."
    assert unwrapped(text).split("\n") == [
        text.replace("and\n", "and ").split("\n")[0],
        "Another one starts on its own.",
    ]


def test_lists_tables_and_short_lines_stay():
    items = "Bring these things with you when you come to the shop, and ask:\n- a card of your own\n2. a coin\n(b) tea"
    table = "| a row that is longer than anything else in this block of text | 1 |\n| two | 2 |"
    address = "Tarnwick Outdoor\n4 Millrace Lane\nKettlewick"
    for text in (items, table, address):
        assert unwrapped(text) == text


def test_a_heading_after_a_full_line_stays_and_a_hyphen_joins():
    text = "The jacket is washed at thirty degrees and then dried lying flat in the shade.\nAir travel"
    assert unwrapped(text) == text
    hyphen = "The jacket is washed at thirty degrees and then goes to the re-\nwaterproofing bench of the workshop."
    assert "the re-waterproofing bench" in unwrapped(hyphen)


@given(st.lists(st.text(alphabet="ab .-|\n", max_size=60), max_size=12).map("\n".join))
def test_nothing_but_white_space_changes_and_it_is_done_once(text):
    once = unwrapped(text)
    assert "".join(once.split()) == "".join(text.split())
    assert once.count("\n") <= text.count("\n")
