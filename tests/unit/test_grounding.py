"""Statements and their support by words, and how well the rule does on replies written by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.grounding import SUPPORTED, content, groundedness, statements, supported
from tests.adapter_kit import handbook

TENT = "The Tarn tent has a warranty of 5 years. Boots have one of a single year."


def test_content_is_long_words_and_numbers_else_what_there_is():
    assert content("The 5 tents, and a stove of 12kg!") == {"5", "tents", "stove", "12kg"}
    assert content("Yes, it is.") == {"yes", "it", "is"}
    assert content("...") == frozenset()


def test_statements_are_sentences():
    assert statements("It costs 4.90 euros. Does it? Yes!  ") == ["It costs 4.90 euros.", "Does it?", "Yes!"]
    assert statements(" ... ") == []
    assert statements("一番。二番。") == ["一番。", "二番。"]


def test_support_is_half_of_the_content():
    # warranty, tarn, 7, years: two of four stand in the passage (tarn and warranty, and years: three).
    assert supported("A warranty of 7 years on the Tarn", [TENT])
    assert not supported("Seven seasons with free lifetime repair", [TENT])
    assert not supported("5 years", []) and not supported("...", [TENT])
    # Two passages together: `boots` from one, `stove` from the other.
    assert supported("stove boots", ["A stove.", "Two boots."])


def test_groundedness_is_a_share_of_statements():
    assert groundedness("The warranty is 5 years. It was designed in Oslo by Frida.", [TENT]) == 0.5
    assert groundedness("5 years", []) == 0
    assert groundedness(" . ", [TENT]) is None


@given(st.text(max_size=80), st.lists(st.text(max_size=40), max_size=3))
def test_groundedness_is_a_share_that_more_passages_never_lower(answer, passages):
    found = groundedness(answer, passages)
    if found is not None:
        assert 0 <= found <= groundedness(answer, [*passages, "more"]) <= 1
        assert groundedness(answer, [answer]) == 1


def test_it_tells_the_handbooks_own_replies_from_other_documents():
    """The figures in the module's docstring: each statement of the hand-written replies, held against the quotes that
    it was written from, and against the quote of another document that supports it best."""
    replies = [(json.loads(e["completion"])["answer"], e["evidence"]) for e in handbook("examples") if e["evidence"]]
    quotes = [(entry["document"], entry["quote"]) for _, evidence in replies for entry in evidence]
    own, best = [], []
    for answer, evidence in replies:
        documents = {entry["document"] for entry in evidence}
        others = [quote for document, quote in quotes if document not in documents]
        for said in statements(answer):
            own.append(supported(said, [entry["quote"] for entry in evidence]))
            best.append(any(supported(said, [quote]) for quote in others))
    assert SUPPORTED == 0.5 and len(own) > 250
    assert sum(own) / len(own) == pytest.approx(0.86, abs=0.01)
    assert sum(best) / len(best) == pytest.approx(0.08, abs=0.01)
