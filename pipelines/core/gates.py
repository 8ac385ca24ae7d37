"""The gate's decisions: which arm would serve, and whether the candidate passes. Numbers in, `Check`s out; no I/O.

Metric names are `retrieval.NAME` or `answers.NAME`; the latter means the arm that would serve. A check that looked
at nothing fails: a metric that is missing, too few questions, a champion that was not asked the same questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.core.bootstrap import paired_difference
from pipelines.core.nouns import Check, Metric
from pipelines.core.prompts import ARMS

Scores = Mapping[str, float]
"""Question id -> value."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: coverage, resamples and seed of `core.bootstrap`."""

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 7


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at. `metrics` are the candidate's, by full name; `scores` and `champion` hold the same
    metrics question by question, for the candidate and for the champion on the same questions; `base` holds the
    primary metric's scores of the arm `base`. `released` says that there is a champion at all."""

    metrics: Mapping[str, Metric]
    scores: Mapping[str, Scores]
    champion: Mapping[str, Scores]
    base: Scores
    released: bool
    same: Sequence[str] = field(default_factory=tuple)
    """Metric families (`retrieval`) in which candidate and champion are the very same artifact."""


def unfit_arms(arms: Mapping[str, Mapping[str, Metric]], floors: Mapping[str, float]) -> dict[str, str]:
    """Arm -> why it may not serve: a floor on answers that it misses. `arms` holds metrics by short name."""
    out: dict[str, str] = {}
    for arm, metrics in arms.items():
        for name, floor in floors.items():
            family, _, metric = name.partition(".")
            found = metrics.get(metric)
            if family == "answers" and found is not None and found.value < floor:
                out.setdefault(arm, f"{name} {found.value:.2f} is below {floor:g}")
    return out


def choose_arm(
    means: Mapping[str, float], *, wanted: str = "auto", unfit: Mapping[str, str] | None = None
) -> tuple[str | None, str]:
    """(arm, reason): `wanted`, or with `auto` the arm with the best mean of those that meet the floors (floors are
    constraints, the primary metric is the objective), of all when none does; of equals the cheaper in the order of
    `ARMS`: neither retrieval nor adapter, an index only, an adapter (a training run), both.

    None when the wanted arm was not scored, or none was.
    """
    if wanted != "auto":
        if wanted in means:
            return wanted, f"promote.arm asks for {wanted}"
        return None, f"promote.arm asks for {wanted}, which was not scored; scored are {', '.join(means) or 'none'}"
    scored = [arm for arm in ARMS if arm in means]
    if not scored:
        return None, "no arm was scored"
    left_out = {arm: why for arm, why in (unfit or {}).items() if arm in means}
    fit = [arm for arm in scored if arm not in left_out]
    among = fit or scored
    best = max(among, key=lambda arm: (means[arm], -ARMS.index(arm)))
    ties = [arm for arm in among if arm != best and means[arm] == means[best]]
    tail = f", the cheaper of it and {', '.join(ties)}" if ties else ""
    if fit and left_out:
        tail += "; left out: " + ", ".join(f"{arm} ({left_out[arm]})" for arm in scored if arm in left_out)
    elif left_out:
        tail += "; none meets the floors"
    return best, f"best of {', '.join(among)}{tail}"


def floor_check(name: str, floor: float, metric: Metric | None, *, min_questions: int) -> Check:
    """The value must reach `floor` on at least `min_questions` questions."""
    if metric is None:
        return Check(f"floor {name}", None, floor, False, f"{name} was not measured")
    enough = metric.n >= min_questions
    passed = enough and metric.value >= floor
    reason = f"{name} is {metric.value:.3f}, at least {floor:g} is asked"
    if not enough:
        reason = f"{name} rests on {metric.n} questions, at least {min_questions} are asked"
    return Check(f"floor {name}", metric.value, floor, passed, reason, metric.low, metric.high, metric.n)


def regression_check(name: str, loss: float, evidence: Evidence, *, min_questions: int, bootstrap: Bootstrap) -> Check:
    """Non-inferiority to the champion on the same questions: the interval of the paired difference (candidate minus
    champion) must lie at or above `-loss`. A point estimate alone would let a lucky draw pass.

    Without a champion it passes and says so. Source: paired bootstrap, Efron and Tibshirani (1993); the margin is
    the non-inferiority margin of Piaggio et al., "Reporting of Noninferiority and Equivalence Trials" (2012).
    """
    title = f"no loss of {name}"
    if not evidence.released:
        return Check(title, None, -loss, True, "no champion: there is no release to lose against")
    if name.split(".", 1)[0] in evidence.same:
        n = len(evidence.scores.get(name, {}))
        return Check(title, 0.0, -loss, True, "candidate and champion are the same artifact here", 0.0, 0.0, n)
    ours, theirs = evidence.scores.get(name, {}), evidence.champion.get(name, {})
    both = sorted(ours.keys() & theirs.keys())
    if len(both) < min_questions:
        reason = f"{len(both)} questions have {name} of candidate and champion, at least {min_questions} are asked"
        return Check(title, None, -loss, False, reason, n=len(both))
    diff = _difference([ours[i] for i in both], [theirs[i] for i in both], bootstrap)
    passed = diff.low >= -loss
    reason = f"the difference to the champion may be as low as {diff.low:+.3f}, at most {loss:g} may be lost"
    return Check(title, diff.value, -loss, passed, reason, diff.low, diff.high, diff.n)


def gain_check(name: str, arm: str, gain: float, evidence: Evidence, *, bootstrap: Bootstrap) -> Check:
    """The arm that serves must beat `base` on the primary metric: the interval of the paired difference must lie
    above `gain`, so that the best of four noisy arms does not pass by luck."""
    title = f"gain of {name} over base"
    if arm == "base":
        return Check(title, 0.0, gain, False, "the best arm is the base model itself: nothing was gained")
    ours, theirs = evidence.scores.get(name, {}), evidence.base
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return Check(title, None, gain, False, f"{name} of base was not measured on the same questions")
    diff = _difference([ours[i] for i in both], [theirs[i] for i in both], bootstrap)
    reason = f"{arm} gains {diff.value:+.3f} over base, at worst {diff.low:+.3f}; more than {gain:g} is asked"
    return Check(title, diff.value, gain, diff.low > gain, reason, diff.low, diff.high, diff.n)


def precision_check(limit: float, loss: Metric | None, *, min_questions: int) -> Check:
    """What a reduced precision costs: the mean nDCG@10 lost against fp32 on the same questions and pool is at most
    `limit`. It bounds the mean, since both engines rank the same texts with nearly the same vectors; too few
    questions fail, and so does a loss that nobody measured."""
    title = "retrieval.precision_loss"
    if loss is None:
        return Check(title, None, limit, False, "the loss against fp32 was not measured")
    if loss.n < min_questions:
        reason = f"the loss against fp32 rests on {loss.n} questions, at least {min_questions} are asked"
        return Check(title, loss.value, limit, False, reason, loss.low, loss.high, loss.n)
    reason = f"nDCG@10 is {loss.value:+.4f} below fp32, at most {limit:g} may be lost to precision"
    return Check(title, loss.value, limit, loss.value <= limit, reason, loss.low, loss.high, loss.n)


def _difference(ours: Sequence[float], theirs: Sequence[float], bootstrap: Bootstrap) -> Metric:
    return paired_difference(
        ours, theirs, confidence=bootstrap.confidence, resamples=bootstrap.resamples, seed=bootstrap.seed
    )


def count_check(name: str, value: int, *, at_least: int) -> Check:
    """At least `at_least` questions must have been judged."""
    reason = f"{value} questions were judged, at least {at_least} are asked" if value else "no questions were judged"
    return Check(name, value, at_least, value >= max(1, at_least), reason, n=value)


def none_check(name: str, items: Sequence[str] | None, *, what: str) -> Check:
    """There must be none of `items`; None means that nobody looked, and fails."""
    if items is None:
        return Check(name, None, 0, False, f"nobody looked for {what}")
    shown = f": {', '.join(items[:5])}{' …' if len(items) > 5 else ''}" if items else ""
    return Check(name, len(items), 0, not items, f"{len(items)} {what}{shown}")


def match_check(name: str, found: object, expected: object, *, what: str) -> Check:
    """Two digests or counts must be the same, and there."""
    passed = found is not None and found == expected
    verb = "agree" if passed else "do not agree"
    shown = "" if passed else f": {str(found)[:16]} against {str(expected)[:16]}"
    return Check(name, None, None, passed, f"{what} {verb}{shown}")


def judge(
    arm: str | None,
    evidence: Evidence,
    *,
    floors: Mapping[str, float],
    max_regression: Mapping[str, float],
    primary: str,
    min_gain: float | None,
    min_questions: int,
    bootstrap: Bootstrap,
) -> list[Check]:
    """Floors, no regression, gain over base (left out when `min_gain` is None: base was asked for)."""
    checks = [floor_check(n, f, evidence.metrics.get(n), min_questions=min_questions) for n, f in floors.items()]
    checks += [
        regression_check(n, loss, evidence, min_questions=min_questions, bootstrap=bootstrap)
        for n, loss in max_regression.items()
    ]
    if min_gain is not None and arm is not None:
        checks.append(gain_check(primary, arm, min_gain, evidence, bootstrap=bootstrap))
    return checks
