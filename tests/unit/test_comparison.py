"""Arms side by side: means over what has the metric, pairs that are pairs, the hypothesis, prices."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import comparison
from pipelines.core.bootstrap import quantile_interval
from pipelines.core.costs import Spent, of_reply
from pipelines.core.hypothesis import FAILED, HELD, THIN, verdict
from pipelines.params import Prices
from pipelines.ports import Completion
from pipelines.stages import score_answers

NAMES = ("right", "rare", "never")


def test_a_mean_is_over_the_questions_that_have_the_metric():
    rows = [{"right": 1.0, "rare": 1.0}, {"right": 0.0}, {"right": 0.0}, {"right": 1.0, "rare": 0.0}]
    found = comparison.summarise(rows, NAMES)
    assert list(found) == ["right", "rare"]
    assert (found["right"].value, found["right"].n, found["rare"].value, found["rare"].n) == (0.5, 4, 0.5, 2)
    with pytest.raises(ValueError, match="no mean"):
        comparison.summarise([], NAMES)


def test_a_difference_is_over_the_questions_that_have_it_in_both():
    ours = [{"right": 1.0, "rare": 1.0}, {"right": 1.0, "rare": 0.0}, {"right": 0.0}]
    theirs = [{"right": 0.0, "rare": 0.0}, {"right": 1.0}, {"right": 0.0, "rare": 1.0}]
    found = comparison.difference(ours, theirs, NAMES)
    assert (found["right"].value, found["right"].n) == (pytest.approx(1 / 3), 3)
    assert (found["rare"].value, found["rare"].low, found["rare"].high, found["rare"].n) == (1, 1, 1, 1)
    assert "never" not in found
    with pytest.raises(ValueError):
        comparison.difference(ours, theirs[:2], NAMES)


def test_latencies_and_their_differences():
    # 0.00 .. 1.00 in steps of 0.01: the median is 0.5, the 99th percentile 0.99; twice as long, twice both.
    rows = [{"seconds": n / 100} for n in range(101)]
    found = comparison.latencies(rows)
    assert found["latency_p50"].value == pytest.approx(0.5) and found["latency_p50"].n == 101
    assert found["latency_p99"].value == pytest.approx(0.99)
    assert found["latency_p50"].low < 0.5 < found["latency_p50"].high
    slower = comparison.latencies([{"seconds": row["seconds"] * 2} for row in rows], less=rows)
    assert slower["latency_p50"].value == pytest.approx(0.5) and slower["latency_p50"].low > 0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_a_quantile_lies_in_its_values_and_differs_from_itself_by_nothing(values, q):
    found = quantile_interval(values, q, resamples=100)
    assert min(values) <= found.low <= found.high <= max(values)
    assert found.value == pytest.approx(float(np.quantile(values, q)))
    same = quantile_interval(values, q, less=values, resamples=100)
    assert (same.value, same.low, same.high, same.n) == (0, 0, 0, len(values))


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    # 200 samples of 80 from a normal distribution: a 95 % interval misses the median 0 about 10 times; 24 or more
    # misses would have probability below 1e-4.
    rng = np.random.default_rng(3)
    drawn = (quantile_interval(rng.normal(size=80), 0.5, resamples=300) for _ in range(200))
    missed = sum(not found.low <= 0 <= found.high for found in drawn)
    assert missed < 24


@pytest.mark.parametrize(("values", "less"), [([], None), ([1.0], [1.0, 2.0])])
def test_no_values_and_no_pairs_have_no_quantile(values, less):
    with pytest.raises(ValueError, match="a quantile needs values"):
        quantile_interval(values, 0.5, less=less)


def diff(low, high, n=30):
    return {"value": (low + high) / 2, "low": low, "high": high, "n": n}


@pytest.mark.parametrize(
    ("rag", "tuned", "said"),
    [
        (diff(0.01, 0.1), diff(0.2, 0.3), HELD),
        (diff(-0.01, 0.1), diff(0.2, 0.3), THIN),
        (diff(-0.1, -0.01), diff(0.2, 0.3), FAILED),
        (diff(0.01, 0.1), diff(-0.3, -0.2), FAILED),
        (diff(0.0, 0.0), diff(0.2, 0.3), FAILED),  # the very same replies
        (diff(0.01, 0.1, n=19), diff(0.2, 0.3), THIN),
        (diff(-0.1, -0.01, n=19), diff(0.2, 0.3), THIN),
    ],
)
def test_the_hypothesis(rag, tuned, said):
    found = verdict({"both - rag": {"token_f1": rag}, "both - tuned": {"token_f1": tuned}}, "token_f1")
    assert (found["verdict"], found["metric"]) == (said, "token_f1")
    assert (found["both - rag"], found["both - tuned"]) == (rag, tuned)


def test_the_hypothesis_needs_all_three_arms():
    assert verdict({"both - rag": {"token_f1": diff(0.1, 0.2)}}, "token_f1") is None
    assert verdict({"both - rag": {"em": diff(0.1, 0.2)}, "both - tuned": {"em": diff(0.1, 0.2)}}, "token_f1") is None


def test_a_reply_costs_its_cpu_time_or_what_was_paid():
    here = {"paid": None, "currency": "USD"}
    assert of_reply(cpu_seconds=10.0, cpu_hour=0.36, **here) == pytest.approx(0.001)
    assert of_reply(cpu_seconds=None, cpu_hour=0.36, **here) is None
    assert of_reply(cpu_seconds=10.0, cpu_hour=None, **here) is None
    paid = Spent(500, 100, 0.0018, "USD")
    assert of_reply(cpu_seconds=None, cpu_hour=None, paid=paid, currency="USD") == 0.0018
    assert of_reply(cpu_seconds=None, cpu_hour=0.36, paid=paid, currency="EUR") is None
    assert of_reply(cpu_seconds=None, cpu_hour=0.36, paid=Spent(500, 100), currency="EUR") is None


def test_a_reply_is_priced_by_the_params():
    said = Completion("x", tokens_in=5, tokens_out=1, seconds=0.5, cpu_seconds=10.0)
    spent = score_answers._cost(said, SimpleNamespace(), Prices(cpu_hour=0.36, gpu_hour=9.0))
    assert spent == {"tokens_in": 5, "tokens_out": 1, "ms": 500.0, "cpu_seconds": 10.0, "cost": pytest.approx(0.001)}
