"""Metrics of a reply, by hand and against the definition of SQuAD's script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import answers
from pipelines.core.answers import (
    METRICS,
    citation_precision,
    citation_recall,
    contains_answer,
    exact_match,
    plain_format,
    token_f1,
    token_recall,
)
from pipelines.core.prompts import Passage, Reply


def alike(answer, gold):
    """Stands for ROUGE-L, whose library is tested where it is used."""
    return 0.25


def score(reply, gold, documents, *, passages=(), format_valid=True, style=None):
    form = {"format_valid": format_valid, "style": style}
    return answers.score(reply, gold, documents, passages=passages, rouge_l=alike, **form)


def test_exact_match():
    assert exact_match("The 30 days.", "30 days") == 1
    assert exact_match("30 days or so", "30 days") == 0


def test_token_f1_by_hand():
    # said: within 30 days of delivery (5), wanted: 30 days (2), shared 2: P 2/5, R 2/2, F1 = 2*0.4*1/1.4 = 4/7.
    assert token_f1("Within 30 days of delivery.", "30 days") == pytest.approx(4 / 7)
    # Bags: said "a" is an article; said b b (2), wanted b (1), shared 1: P 1/2, R 1, F1 = 2/3.
    assert token_f1("a b b", "b") == pytest.approx(2 / 3)
    assert token_f1("the", "an") == 1 and token_f1("the", "dog") == 0 and token_f1("cat", "dog") == 0


def test_token_recall_by_hand():
    # wanted: 30 days (2); said holds both, whatever else it says, then one of them, then none.
    assert token_recall("Returns: within 30 days of delivery, unused.", "30 days") == 1
    assert token_recall("Within 60 days.", "30 days") == 0.5
    assert token_recall("Yes.", "30 days") == 0
    assert token_recall("b", "b b") == 0.5  # a bag: one b of two
    assert token_recall("", "the") == 1 and token_recall("dog", "the") == 0


@given(st.text(), st.text())
def test_token_recall_is_a_share_and_not_below_contains(said, gold):
    assert 0 <= token_recall(said, gold) <= 1
    if contains_answer(said, gold):
        assert token_recall(said, gold) == 1


def test_contains_is_by_whole_tokens():
    assert contains_answer("It is 30 days from delivery.", "30 days") == 1
    assert contains_answer("It is 130 days.", "30 days") == 0
    assert contains_answer("anything", "the") == 0  # nothing is left of the gold answer


def test_citation_precision():
    assert citation_precision(["a", "b"], ["a", "c"]) == 0.5
    assert citation_precision([], ["a"]) == 0 and citation_precision([], []) == 1
    assert citation_precision(["a"], []) == 0


def test_citation_recall():
    assert citation_recall(["a", "b"], ["a", "c"]) == 0.5
    assert citation_recall([], ["a"]) == 0 and citation_recall(["a"], []) is None


def test_plain_format():
    assert plain_format("w " * 60) and not plain_format("w " * 61) and not plain_format(" ")


def test_the_best_gold_counts():
    passages = [Passage("a", "The tent has a warranty of five years."), Passage("b", "Boots.")]
    found = score(Reply("five years", ("a",), False), ["5 years", "five years"], ["a", "c"], passages=passages)
    assert found == {
        "exact_match": 1,
        "token_f1": 1,
        "token_recall": 1,
        "contains_answer": 1,
        "rouge_l": 0.25,
        "format_valid": 1,
        "citation_precision": 1,
        "citation_recall": 0.5,
        "groundedness": 1,
        "hallucination": 0,
        "refused": 0,
        "correct_refusal": 1,
    }


@pytest.mark.parametrize(("refused", "gold", "em", "right"), [(True, [], 1, 1), (False, [], 0, 0), (True, ["x"], 0, 0)])
def test_unanswerable_and_refused(refused, gold, em, right):
    # A refusal that happens to share words with the gold answer still scores 0, as in SQuAD 2.0.
    found = score(Reply("x I could not find this.", (), refused), gold, [], format_valid=False)
    assert (found["exact_match"], found["token_f1"], found["contains_answer"]) == (em, em, em)
    assert (found["refused"], found["correct_refusal"], found["format_valid"]) == (float(refused), right, 0)


SAYS_SEVEN = [Passage("a", "Gift cards are valid for seven years."), Passage("b", "Boots have a warranty of one year.")]


@pytest.mark.parametrize(
    ("answer", "cited", "gold", "passages", "grounded", "made_up"),
    [
        ("valid for seven years", ("a",), ["seven years"], SAYS_SEVEN, 1, 0),  # right, and cited
        ("valid for seven years", ("b",), ["seven years"], SAYS_SEVEN, 0, 0),  # right, but cites what does not say it
        ("valid for seven years", (), ["three years"], SAYS_SEVEN, 0, 0),  # wrong: it misread a passage
        ("until Christmas 1987", ("a",), ["seven years"], SAYS_SEVEN, 0, 1),  # wrong, and nowhere to be read
        ("until Christmas 1987", ("a",), ["seven years"], [], 0, 1),  # the same without passages
        ("seven years", (), ["seven years"], [], 0, 0),  # right from memory
        ("seven years", ("a",), [], SAYS_SEVEN, 1, 1),  # an answer where there is none
    ],
)
def test_a_hallucination_is_wrong_and_unsupported_or_answers_what_has_no_answer(
    answer, cited, gold, passages, grounded, made_up
):
    found = score(Reply(answer, cited, False), gold, ["a"] if gold else [], passages=passages)
    assert (found["groundedness"], found["hallucination"]) == (grounded, made_up)


def test_a_refusal_states_nothing_and_makes_nothing_up():
    found = score(Reply("I could not find this.", (), True), ["x"], ["a"], passages=SAYS_SEVEN)
    assert "groundedness" not in found
    assert (found["hallucination"], found["refused"]) == (0, 1)


@given(st.text(max_size=40), st.text(max_size=40))
def test_f1_is_symmetric_bounded_and_1_when_equal(a, b):
    assert token_f1(a, b) == pytest.approx(token_f1(b, a)) and 0 <= token_f1(a, b) <= 1
    assert token_f1(a, a) == 1 and exact_match(a, a) == 1
    assert exact_match(a, b) <= token_f1(a, b)


def test_no_metric_is_forgotten():
    # `style` is of structured replies, citation recall of questions with evidence, groundedness of statements.
    found = score(Reply("five years", (), False), ["x"], ["a"], style=0.5)
    assert tuple(found) == METRICS
    assert all(0 <= value <= 1 for value in found.values())
    assert set(METRICS) - set(score(Reply("", (), True), [], [])) == {"style", "citation_recall", "groundedness"}
