"""The gate's intervals of a mean of bounded differences, what they could detect, and how many questions they need.

Why not the percentile bootstrap: of scores that are mostly 0 and 1, two good systems differ on few questions, and a
loss that no question happened to show is in no resample. At 100 questions it let a loss of the whole margin pass in
11 % of the trials where 2.5 % are stated (docs/gate.md). The score method asks instead how surprising the questions
would be if the true mean were at the margin, and lets the unseen take any value that is possible.

It decides nothing: gates do. Source of the interval: Tango, "Equivalence test and confidence interval for the
difference in proportions for the paired-sample design" (1998), which it equals where every difference is -1, 0 or 1.
For graded differences the restricted likelihood is the empirical one (Owen, "Empirical Likelihood", 2001, chapter 2)
with the ends of the range added to its support (Honda and Takemura, 2010): the same formula, more categories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from pipelines.core.nouns import Metric

POWER = 0.8
"""The probability with which `detectable` and `needed` want a difference to be found."""
_STEPS = 60
_CLOSE = 1e-9


def critical_value(confidence: float) -> float:
    """Standard errors between the mean and each end of a two-sided interval of coverage `confidence`."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it lies between 0 and 1, e.g. 0.95")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _tilted_variance(above: np.ndarray, shares: np.ndarray, room: float, *, tilt: float) -> tuple[float, float]:
    """(variance, tilt) of the likeliest distribution whose mean is what `above` (values, less that mean) counts from.

    `shares` are the values' shares of the sample. The sample mean is above 0 and the lowest possible value is -`room`:
    the likeliest distribution weighs each value by 1 / (1 + t value), found by Newton's rule from a guess of t, and
    gives the lowest value what is then missing.
    """
    most = 1 / room
    weights = 1 + most * above
    if weights.min() > 0 and (missing := 1 - float(shares @ (1 / weights))) >= 0:
        return float(shares @ (above * above / weights)) + missing * room * room, most
    low, high = 0.0, most
    tilt = min(tilt, 0.9 * most)
    for _ in range(_STEPS):
        weighed = above / (1 + tilt * above)
        slope = float(shares @ weighed)
        low, high = (tilt, high) if slope > 0 else (low, tilt)
        following = tilt + slope / float(shares @ (weighed * weighed))
        if not low < following < high:
            following = (low + high) / 2
        done, tilt = abs(following - tilt) <= 1e-7 * most, following
        if done:
            break
    return float(shares @ (above * above / (1 + tilt * above))), tilt


def _lower_end(values: np.ndarray, counts: np.ndarray, z: float, lowest: float) -> float:
    """The smallest mean that the sample does not contradict at `z` standard errors: the root, between the lowest
    possible value and the sample mean, of their distance less z standard errors. By secants that keep the root between
    two ends (the Illinois rule), from Student's interval as a first guess."""
    n = int(counts.sum())
    shares = counts / n
    mean = float(shares @ values)
    if mean - lowest < _CLOSE:
        return lowest
    variance, tilt = float(shares @ (values - mean) ** 2), 0.0
    low, high, at_low, at_high = lowest, mean, mean - lowest, -z * math.sqrt(variance / n) - _CLOSE
    mu, side = mean - max(z * math.sqrt(variance / n), 0.5 * z * z / (n + z * z)), 0
    for _ in range(_STEPS):
        if not low < mu < high:
            mu = (low + high) / 2
        variance, tilt = _tilted_variance(values - mu, shares, mu - lowest, tilt=tilt)
        found = mean - mu - z * math.sqrt(variance / n)
        if found > 0:
            low, at_low, at_high, side = mu, found, at_high / (2 if side > 0 else 1), 1
        else:
            high, at_high, at_low, side = mu, found, at_low / (2 if side < 0 else 1), -1
        if abs(found) < _CLOSE:
            break
        mu = (low * at_high - high * at_low) / (at_high - at_low)
    return mu


def score_interval(values: Sequence[float] | np.ndarray, *, z: float, lowest: float = -1, highest: float = 1) -> Metric:
    """The mean of `values` (one difference per question, of scores between 0 and 1) with the ends of its score
    interval at `z` standard errors.

    All values alike do not make it a point: with n zeros it reaches z^2 / (n + z^2) to either side, the share of
    questions that may differ unseen. ValueError on no values, on NaN or infinity, and on a value outside the range.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError("an interval needs at least one value, in one dimension")
    if not np.isfinite(array).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(array))[0])} is not a finite number")
    if array.min() < lowest or array.max() > highest:
        raise ValueError(f"values lie between {array.min():g} and {array.max():g}, not {lowest:g} and {highest:g}")
    mean = float(array.mean())
    unique, counts = np.unique(array, return_counts=True)
    low, high = _lower_end(unique, counts, z, lowest), -_lower_end(-unique, counts, z, -highest)
    return Metric(mean, min(low, mean), max(high, mean), len(array))


def spread(values: Sequence[float] | np.ndarray) -> float:
    """Standard deviation of the values (n - 1 in the denominator); 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def detectable(deviation: float, n: int, *, z: float) -> float:
    """The smallest true difference that n questions whose paired differences have this standard deviation find with
    probability `POWER`: (z + 0.84) deviation / sqrt(n), and never less than the share z^2 / (n + z^2) of questions
    that may differ unseen. Source: Cohen, "Statistical Power Analysis" (1988), chapter 2."""
    return max((z + NormalDist().inv_cdf(POWER)) * deviation / math.sqrt(n), z * z / (n + z * z))


def needed(deviation: float, difference: float, *, z: float) -> int:
    """Questions from which on a true difference of this size is found with probability `POWER`; also those by which a
    candidate as good as the champion is shown to lose less than a margin of this size. 0 when no number does."""
    if difference < 1e-6:
        return 0
    by_spread = ((z + NormalDist().inv_cdf(POWER)) * deviation / difference) ** 2
    unseen = z * z * (1 - difference) / difference
    return max(1, math.ceil(max(by_spread, unseen) - 1e-9))
