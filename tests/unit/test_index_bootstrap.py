"""Bootstrap intervals against values that can be derived by hand, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.bootstrap import mean_interval, paired_difference

UNIT = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def test_constant_values_have_a_point_interval() -> None:
    assert mean_interval([0.5] * 10).to_json() == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 10}


def test_interval_of_a_coin_agrees_with_the_normal_approximation() -> None:
    # 200 ones and 200 zeros: mean 0.5, standard error sqrt(0.25 / 400) = 0.025, so 95 % is 0.5 +- 1.96 * 0.025.
    metric = mean_interval([0.0, 1.0] * 200, resamples=4000)
    assert metric.value == 0.5
    assert math.isclose(metric.low, 0.451, abs_tol=0.004)
    assert math.isclose(metric.high, 0.549, abs_tol=0.004)


def test_pairing_cancels_what_is_hard_for_both() -> None:
    # b is a less 0.1 on every question: the difference is exactly 0.1 whatever is drawn.
    a = np.linspace(0.2, 0.9, 50)
    metric = paired_difference(a, a - 0.1)
    assert math.isclose(metric.low, 0.1, abs_tol=1e-12)
    assert math.isclose(metric.high, 0.1, abs_tol=1e-12)


def test_blocks_do_not_change_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mean_interval(np.arange(10.0))
    monkeypatch.setattr("pipelines.core.bootstrap._BLOCK", 35)
    assert mean_interval(np.arange(10.0)) == whole


@given(UNIT)
@settings(max_examples=50, deadline=None)
def test_interval_brackets_and_repeats(values: list[float]) -> None:
    metric = mean_interval(values, resamples=200)
    assert min(values) - 1e-12 <= metric.low <= metric.high <= max(values) + 1e-12
    assert metric == mean_interval(values, resamples=200)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")], [[1.0]]])
def test_no_mean_of_nothing(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"value"):
        mean_interval(values)


def test_unpaired_values_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values against 1"):
        paired_difference([1.0, 2.0], [1.0])
