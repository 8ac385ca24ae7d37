"""Percentile bootstrap of a mean, a quantile and a paired difference, and the multiplier bootstrap of the largest of
several differences, in numpy. It does not decide anything: gates do, by `core.intervals`.

Source of the first two: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: resample the
items with replacement, take the mean of each resample, and read the interval off the quantiles of those means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.core.intervals import critical_value
from pipelines.core.nouns import Metric

_BLOCK = 4_000_000
"""Most indices drawn at once (32 MB)."""


def _means(values: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Means of `resamples` resamples, float64 (resamples,). The draw depends on n, resamples and seed only."""
    n, rng = len(values), np.random.default_rng(seed)
    out = np.empty(resamples)
    step = max(1, _BLOCK // n)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        out[start:stop] = values[rng.integers(0, n, size=(stop - start, n))].mean(axis=1)
    return out


def mean_interval(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 7
) -> Metric:
    """The mean of `values` (one per question) with its two-sided percentile interval of coverage `confidence`.

    Same values in the same order, same seed: same result. ValueError on no values (a mean of nothing is no
    metric), on NaN or infinity, and on a confidence outside (0, 1).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError("a mean needs at least one value, in one dimension")
    if not np.isfinite(array).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(array))[0])} is not a finite number")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it lies between 0 and 1, e.g. 0.95")
    means = _means(array, resamples=resamples, seed=seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Metric(float(array.mean()), float(low), float(high), len(array))


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 7,
) -> Metric:
    """mean(a - b) with its percentile interval; `a[i]` and `b[i]` are two systems' values on the same question.

    Resampling the differences keeps the pairing, so what makes a question hard for both cancels out.
    ValueError when the lengths differ, and as in `mean_interval`.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"pairs are needed: {left.size} values against {right.size}")
    return mean_interval(left - right, confidence=confidence, resamples=resamples, seed=seed)


def quantile_interval(
    values: Sequence[float] | np.ndarray,
    q: float,
    *,
    less: Sequence[float] | np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 7,
) -> Metric:
    """The quantile `q` of `values` (by linear interpolation) with its percentile interval; with `less`, the difference
    of both quantiles, resampled in pairs. An extreme quantile of few values is not wider than the values themselves:
    read it as at least that uncertain. ValueError as in `paired_difference`."""
    left = np.asarray(values, dtype=np.float64)
    right = np.zeros_like(left) if less is None else np.asarray(less, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or not len(left):
        raise ValueError(f"a quantile needs values, in pairs: {left.size} against {right.size}")
    n, rng = len(left), np.random.default_rng(seed)
    drawn, step = np.empty(resamples), max(1, _BLOCK // n)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        rows = rng.integers(0, n, size=(stop - start, n))
        drawn[start:stop] = np.quantile(left[rows], q, axis=1) - np.quantile(right[rows], q, axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Metric(float(np.quantile(left, q) - np.quantile(right, q)), float(low), float(high), n)


def largest_critical_value(differences: np.ndarray, *, confidence: float, resamples: int, seed: int) -> float:
    """Standard errors by which the largest of k mean differences stays below its truth with probability
    (1 + confidence) / 2, when the best of k is picked and then tested. `differences` is (k, n): k systems' paired
    differences on the same questions.

    Multiplier bootstrap of the maximum (Chernozhukov, Chetverikov and Kato, 2013; single-step max-t: Hothorn, Bretz
    and Westfall, "Simultaneous Inference in General Parametric Models", 2008). Given the data its studentised means are
    normal with the differences' correlation, so they are drawn from that directly. What the draw says is kept between
    a single test and Bonferroni's bound, which hold whatever it says. A difference that is constant adds no noise.
    """
    k = len(differences)
    single = critical_value(confidence)
    varying = differences[differences.std(axis=1) > 0]
    if k < 2 or len(varying) < 2:
        return single
    draws = np.random.default_rng(seed).multivariate_normal(
        np.zeros(len(varying)), np.corrcoef(varying), size=resamples, method="eigh"
    )
    drawn = float(np.quantile(draws.max(axis=1), (1 + confidence) / 2))
    return min(max(drawn, single), critical_value(1 - (1 - confidence) / k))
