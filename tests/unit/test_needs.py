"""What patterns need is a necessary condition: what is looked for only there is all that is found."""

import re
import sys

from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import orders
from pipelines.core.needs import WORD, beginnings, folded, needed

PATTERNS = [
    r"\b(?:ignor(?:e|es)|forget)\b \w+",
    r"ab?c",
    r"[xy]{2,}z",
    r"(?:the |an? )*key",
    r"\A\W*stop|[.!]\W*stop",
    r"\bé\w|\b\(a",
    r"(?:ab|cd)?(?=e)ef|g(?!h)",
    r"(?<=a)b+?c|\d{3}-k",
    r"(a)\1|(?i:q)u",
    r"",
]
LETTERS = "aAbcdefghikKqstuvxyz09 .!-(\n_\u0130\u0131\u017f\u212aéЯ"
SIGNS = sorted({word for _, sign in orders._COMPILED.values() for word in re.findall(r"\w+", sign.pattern)})


def plainly(text):
    found = (
        (match, *of)
        for name, of in orders._COMPILED.items()
        for match in of[1].finditer(text)
        for of in [(of[0], name)]
    )
    return sorted((match.start(), weight, name) for match, weight, name in found)


@given(st.sampled_from(PATTERNS), st.booleans(), st.text(LETTERS, max_size=30))
def test_a_match_holds_and_begins_with_what_is_needed(pattern, caseless, text):
    compiled = re.compile(pattern, re.IGNORECASE if caseless else 0)
    strings = {folded(string) for string in needed(compiled)}
    heads = {head.removeprefix(WORD) for head in beginnings(compiled, most=4)}
    for match in compiled.finditer(text):
        assert not strings or any(string in folded(match.group()) for string in strings)
        assert match.start() == 0 or folded(match.group()).startswith(tuple(heads))


def test_only_four_letters_beyond_ascii_match_a_letter_of_it():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for letter in re.findall("[a-z]", every, re.IGNORECASE):
        assert re.fullmatch(folded(letter), letter, re.IGNORECASE)
    assert len(folded(every)) == len(every) and folded(every).isascii()


PIECES = st.one_of(
    st.sampled_from(SIGNS),
    st.sampled_from(
        [" ", "\n", ". ", ": ", ", ", "<|", "|>", "![](https://x{", "[inst]", "## ", "é", "\u0130", "忽略", "指示"]
    ),
    st.text(max_size=3),
)


@given(st.lists(PIECES, max_size=40), st.sampled_from([" ", "", "\n"]))
def test_signs_are_found_where_they_are_searched_for_everywhere(pieces, between):
    text = between.join(pieces)
    found = sorted(orders._OTHERS.places(text) + orders._TALKS.places(text))
    assert found == plainly(text) and orders.orders(text) == orders._judged(found)
