"""Metrics of a reply, by hand and against the definition of SQuAD's script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import answers
from pipelines.core.answers import (
    METRICS,
    citation_precision,
    contains_answer,
    differences,
    exact_match,
    latency,
    plain_format,
    score,
    summarise,
    token_f1,
    token_recall,
)
from pipelines.core.prompts import Reply

BOOTSTRAP = {"confidence": 0.95, "resamples": 200, "seed": 7}


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


def test_plain_format():
    assert plain_format("w " * 60) and not plain_format("w " * 61) and not plain_format(" ")


def test_the_best_gold_counts():
    found = score(Reply("five years", ("a",), False), ["5 years", "five years"], ["a"], format_valid=True)
    assert found == {
        "exact_match": 1,
        "token_f1": 1,
        "token_recall": 1,
        "contains_answer": 1,
        "format_valid": 1,
        "citation_precision": 1,
        "refused": 0,
        "correct_refusal": 1,
    }


@pytest.mark.parametrize(("refused", "gold", "em", "right"), [(True, [], 1, 1), (False, [], 0, 0), (True, ["x"], 0, 0)])
def test_unanswerable_and_refused(refused, gold, em, right):
    # A refusal that happens to share words with the gold answer still scores 0, as in SQuAD 2.0.
    found = score(Reply("x I could not find this.", (), refused), gold, [], format_valid=False)
    assert (found["exact_match"], found["token_f1"], found["contains_answer"]) == (em, em, em)
    assert (found["refused"], found["correct_refusal"], found["format_valid"]) == (float(refused), right, 0)


@given(st.text(max_size=40), st.text(max_size=40))
def test_f1_is_symmetric_bounded_and_1_when_equal(a, b):
    assert token_f1(a, b) == pytest.approx(token_f1(b, a)) and 0 <= token_f1(a, b) <= 1
    assert token_f1(a, a) == 1 and exact_match(a, a) == 1
    assert exact_match(a, b) <= token_f1(a, b)


def _row(value):
    return dict.fromkeys(METRICS, value)


def test_summarise_and_differences():
    rows, base = [_row(1.0), _row(0.0)], [_row(0.0), _row(0.0)]
    means = summarise(rows, METRICS, **BOOTSTRAP)
    assert set(means) == set(METRICS)
    assert (means["token_f1"].value, means["token_f1"].n) == (0.5, 2)
    found = differences(rows, base, METRICS, **BOOTSTRAP)["token_f1"]
    assert found.value == 0.5 and 0 <= found.low <= found.value <= found.high <= 1
    with pytest.raises(ValueError):
        summarise([], METRICS, **BOOTSTRAP)


def test_latency_quantiles():
    # 0.00 .. 1.00 in steps of 0.01: the median is 0.5, the 99th percentile 0.99.
    found = latency([n / 100 for n in range(101)])
    assert found["latency_p50"]["value"] == pytest.approx(0.5) and found["latency_p50"]["n"] == 101
    assert found["latency_p99"]["value"] == pytest.approx(0.99)


def test_no_metric_is_forgotten():
    assert set(score(Reply("", (), True), [], [], format_valid=False)) == set(answers.METRICS)
