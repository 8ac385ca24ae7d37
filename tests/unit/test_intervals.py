"""The gate's intervals: against formulas derived another way, their laws, and how often they miss the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.bootstrap import largest_critical_value, paired_difference
from pipelines.core.intervals import critical_value, detectable, needed, score_interval, spread

Z = 1.959964
DIFFERENCES = st.lists(st.floats(-1, 1), min_size=1, max_size=60)


def tango(won: int, lost: int, n: int, mean: float) -> float:
    """Tango's statistic (1998) of `mean`: the restricted likelihood's q21 solves a quadratic equation."""
    b = -((won + lost) * (1 - mean) - 2 * (n - won) * mean)
    q = (-b + math.sqrt(b * b + 8 * n * lost * mean * (1 - mean))) / (4 * n)
    return ((won - lost) / n - mean) / math.sqrt((2 * q + mean - mean * mean) / n)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 400))
@settings(deadline=None)
def test_of_right_and_wrong_it_is_tangos_interval(won: int, lost: int, same: int) -> None:
    n = won + lost + same
    found = score_interval(np.r_[np.ones(won), -np.ones(lost), np.zeros(same)], z=Z)
    # By symmetry the upper end is the lower one of wins and losses exchanged.
    assert tango(won, lost, n, found.low) == pytest.approx(Z, abs=1e-4)
    assert tango(lost, won, n, -found.high) == pytest.approx(Z, abs=1e-4)


@given(st.floats(-0.99, 0.99), st.integers(1, 3000))
@settings(deadline=None)
def test_values_that_are_all_alike_leave_room_for_a_rare_one(value: float, n: int) -> None:
    # The likeliest distribution of a lower mean m puts (value - m) / (value + 1) on -1; its variance is
    # (value - m)(1 + m), so n (value - m) = z^2 (1 + m).
    found = score_interval([value] * n, z=Z)
    assert found.low == pytest.approx((n * value - Z * Z) / (n + Z * Z), abs=1e-6)
    assert found.high == pytest.approx((n * value + Z * Z) / (n + Z * Z), abs=1e-6)


@given(DIFFERENCES, st.floats(0.5, 4))
@settings(deadline=None)
def test_laws(values: list[float], z: float) -> None:
    found = score_interval(values, z=z)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.value or found.value == pytest.approx(-1)
    mirrored = score_interval([-v for v in reversed(values)], z=z)
    assert (mirrored.low, mirrored.high) == (pytest.approx(-found.high, abs=1e-6), pytest.approx(-found.low, abs=1e-6))
    wider = score_interval(values, z=z + 0.5)
    assert wider.low <= found.low + 1e-6 and wider.high >= found.high - 1e-6
    twice = score_interval(values * 2, z=z)
    assert twice.low >= found.low - 1e-6 and twice.high <= found.high + 1e-6


@given(DIFFERENCES, st.integers(0, 59), st.floats(0, 1))
@settings(deadline=None)
def test_a_question_that_gets_worse_never_raises_the_lower_end(values: list[float], at: int, by: float) -> None:
    worse = list(values)
    worse[at % len(values)] = max(-1.0, worse[at % len(values)] - by)
    assert score_interval(worse, z=Z).low <= score_interval(values, z=Z).low + 1e-6


def test_of_many_spread_out_values_it_is_students_interval() -> None:
    values = np.random.default_rng(3).beta(2, 2, 5000) - np.random.default_rng(4).beta(2, 3, 5000)
    found, error = score_interval(values, z=Z), Z * spread(values) / math.sqrt(5000)
    assert found.low == pytest.approx(values.mean() - error, abs=error / 50)
    assert found.high == pytest.approx(values.mean() + error, abs=error / 50)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")], [[1.0]], [0.0, 1.5], [-2.0]])
def test_no_interval_of_nothing_or_of_what_cannot_be(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"value"):
        score_interval(values, z=Z)
    with pytest.raises(ValueError, match="confidence is 1"):
        critical_value(1)


@pytest.mark.parametrize(("right", "n"), [(0.9, 50), (0.97, 100), (0.4, 50)])
def test_its_lower_end_exceeds_the_truth_as_seldom_as_stated_and_the_percentile_one_does_not(
    right: float, n: int
) -> None:
    # The candidate is alone wrong on 3 % more of the questions than it is alone right on; of 1,500 sets the lower end
    # may exceed the truth in 2.5 %, with three standard errors of such a count 3.7 %.
    rng = np.random.default_rng([7, n])
    lost, won = 0.03 + (1 - right) / 4, (1 - right) / 4
    drawn = rng.choice([-1.0, 0.0, 1.0], p=[lost, 1 - lost - won, won], size=(1500, n))
    assert np.mean([score_interval(row, z=Z).low > won - lost for row in drawn]) <= 0.037
    if right > 0.5:
        ours, theirs = np.maximum(drawn, 0), np.maximum(-drawn, 0)
        missed = [paired_difference(a, b, resamples=200).low > won - lost for a, b in zip(ours, theirs, strict=True)]
        assert np.mean(missed) > 0.045


@given(st.floats(0.01, 1), st.floats(0.001, 0.9), st.floats(1, 3))
def test_as_many_questions_as_are_needed_detect_the_difference_and_fewer_do_not(
    deviation: float, difference: float, z: float
) -> None:
    n = needed(deviation, difference, z=z)
    assert detectable(deviation, n, z=z) <= difference * (1 + 1e-9)
    assert n == 1 or detectable(deviation, n - 1, z=z) > difference * (1 - 1e-9)


@pytest.mark.parametrize("difference", [0.0, -0.1, 1e-300, float("-inf")])
def test_no_number_of_questions_shows_a_difference_of_nothing(difference: float) -> None:
    assert needed(0.3, difference, z=Z) == 0


def test_four_of_five_equal_candidates_are_shown_to_lose_less_than_the_margin_by_the_questions_needed() -> None:
    rng = np.random.default_rng(11)
    n = needed(0.4, 0.1, z=Z)
    # z + 0.842 = 2.80 standard errors: (2.80 * 0.4 / 0.1)^2 = 125.6.
    assert n == 126
    drawn = rng.choice([-1.0, 0.0, 1.0], p=[0.08, 0.84, 0.08], size=(800, n))
    # Three standard errors of 800 trials at 0.8 are 0.042.
    assert np.mean([score_interval(row, z=Z).low >= -0.1 for row in drawn]) == pytest.approx(0.8, abs=0.05)


def test_the_best_of_independent_arms_needs_the_quantile_of_a_maximum() -> None:
    draws = np.random.default_rng(5).standard_normal((4, 4000))
    found = largest_critical_value(draws, confidence=0.95, resamples=100_000, seed=7)
    # Of four independent normals the largest stays below c with probability Phi(c)^4 = 0.975: c = 2.494.
    assert found == pytest.approx(2.494, abs=0.02)
    assert largest_critical_value(draws[:1], confidence=0.95, resamples=100, seed=7) == critical_value(0.95)


@given(st.integers(1, 5), st.integers(2, 40), st.integers(0, 1000), st.floats(0.6, 0.99))
@settings(deadline=None, max_examples=50)
def test_it_lies_between_a_single_test_and_bonferroni(arms: int, n: int, seed: int, confidence: float) -> None:
    values = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], p=[0.05, 0.9, 0.05], size=(arms, n))
    found = largest_critical_value(values, confidence=confidence, resamples=200, seed=seed)
    assert critical_value(confidence) <= found <= critical_value(1 - (1 - confidence) / arms) + 1e-12
    alike = np.repeat(values[:1], arms, axis=0)
    again = largest_critical_value(alike, confidence=confidence, resamples=20_000, seed=seed)
    assert again == pytest.approx(critical_value(confidence), abs=0.15)
