"""The gate's decisions: which arm would serve, and whether the candidate passes. Numbers in, `Check`s out; no I/O.

Metric names are `retrieval.NAME` or `answers.NAME`; the latter means the arm that would serve. A check that looked
at nothing fails: a metric that is missing, too few questions, a champion that was not asked the same questions. How
often each check errs, and at which number of questions it can decide, is measured in docs/gate.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.core.bootstrap import largest_critical_value
from pipelines.core.intervals import critical_value, detectable, needed, score_interval, spread
from pipelines.core.nouns import Check, Metric
from pipelines.core.prompts import ARMS

Scores = Mapping[str, float]
"""Question id -> value."""


@dataclass(frozen=True)
class Bootstrap:
    """Coverage of the gate's two-sided intervals, of which a check reads one end; draws and seed of the bootstrap that
    corrects for having chosen the best of several arms."""

    confidence: float = 0.95
    resamples: int = 20000
    seed: int = 7


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at. `metrics` are the candidate's, by full name; `scores` and `champion` hold the same
    metrics question by question, for the candidate and for the champion on the same questions; `base` holds the
    primary metric's scores of the arm `base`, `tried` of the arms that the served one was the best of. `released` says
    that there is a champion at all."""

    metrics: Mapping[str, Metric]
    scores: Mapping[str, Scores]
    champion: Mapping[str, Scores]
    base: Scores
    released: bool
    same: Sequence[str] = field(default_factory=tuple)
    """Metric families (`retrieval`) in which candidate and champion are the very same artifact."""
    tried: Mapping[str, Scores] = field(default_factory=dict)


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
    means: Mapping[str, float],
    *,
    wanted: str = "auto",
    unfit: Mapping[str, str] | None = None,
    recommended: tuple[str, str] | None = None,
) -> tuple[str | None, str]:
    """(arm, reason): `wanted`, or with `auto` the arm with the best mean of those that meet the floors (floors are
    constraints, the primary metric is the objective), of all when none does; of equals the simpler in the order of
    `ARMS`: neither retrieval nor adapter, a longer prompt, an index, an adapter (a training run), both. A simpler arm
    that the comparison recommends in the best one's place (`core.recommend`), as (arm, reason), serves.

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
    tail = f", the simpler of it and {', '.join(ties)}" if ties else ""
    if fit and left_out:
        tail += "; left out: " + ", ".join(f"{arm} ({left_out[arm]})" for arm in scored if arm in left_out)
    elif left_out:
        tail += "; none meets the floors"
    if recommended is not None and recommended[0] in among and recommended[0] != best:
        return recommended[0], f"{recommended[1]}{tail}"
    return best, f"best of {', '.join(among)}{tail}"


def tried_arms(
    arms: Mapping[str, Mapping[str, Metric]], floors: Mapping[str, float], *, primary: str, wanted: str
) -> list[str]:
    """The arms other than `base` that the served one was the best of: by their luck the gain over base is too high.

    None when an arm was asked for. One that a floor on another metric left out was no rival; one that a floor on
    `primary` left out lost on the very metric that chooses, and counts.
    """
    if wanted != "auto":
        return []
    out = unfit_arms(arms, {name: floor for name, floor in floors.items() if name != primary})
    return [arm for arm in ARMS if arm in arms and arm != "base" and arm not in out]


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

    On few questions that is out of reach however good the candidate is. So one that lost on no question passes too,
    and the check says that the questions were too few to decide. Without a champion it passes and says so. Source:
    the margin is the non-inferiority margin of Piaggio et al., "Reporting of Noninferiority and Equivalence Trials"
    (2012), the interval that of `core.intervals`.
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
    values, z = _differences(ours, theirs, both), critical_value(bootstrap.confidence)
    diff, enough = _interval(values, z), needed(spread(values), loss, z=z)
    shown, unharmed = diff.low >= -loss, bool(values.min() >= 0)
    reason = f"the difference to the champion may be as low as {diff.low:+.3f}, at most {loss:g} may be lost"
    if unharmed and not shown:
        reason = f"no question lost anything, though {reason}"
    if diff.low > 0:
        reason = f"better than the champion by {diff.value:+.3f}, at worst by {diff.low:+.3f}"
    elif diff.high < 0:
        reason += f"; worse than it by {-diff.value:.3f}, at best by {-diff.high:.3f}"
    if not shown and diff.high >= -loss:
        reason += _too_few(diff.n, enough, what=f"a loss of {loss:g}")
    return _powered(Check(title, diff.value, -loss, shown or unharmed, reason), diff, spread(values), z, enough)


def gain_check(name: str, arm: str, gain: float, evidence: Evidence, *, bootstrap: Bootstrap) -> Check:
    """The arm that serves must beat `base` on the primary metric: the interval of the paired difference must lie
    above `gain`. It is widened for the number of arms that were tried, so that the best of several noisy ones does
    not pass by luck."""
    title = f"gain of {name} over base"
    if arm == "base":
        return Check(title, 0.0, gain, False, "the best arm is the base model itself: nothing was gained")
    ours, theirs = evidence.scores.get(name, {}), evidence.base
    rivals = [scores for rival, scores in evidence.tried.items() if rival != arm]
    both = sorted(set.intersection(*(set(scores) for scores in (ours, theirs, *rivals))))
    if not both:
        return Check(title, None, gain, False, f"{name} of base was not measured on the same questions")
    values = np.array([_differences(scores, theirs, both) for scores in (ours, *rivals)])
    z = largest_critical_value(
        values, confidence=bootstrap.confidence, resamples=bootstrap.resamples, seed=bootstrap.seed
    )
    diff = _interval(values[0], z)
    enough = needed(spread(values[0]), diff.value - gain, z=z)
    of = f" (the best of {len(values)} tried)" if rivals else ""
    reason = f"{arm}{of} gains {diff.value:+.3f} over base, at worst {diff.low:+.3f}; more than {gain:g} is asked"
    passed = diff.low > gain
    if not passed and enough > diff.n:
        reason += _too_few(diff.n, enough, what=f"a gain of {diff.value:.3f}")
    return _powered(Check(title, diff.value, gain, passed, reason), diff, spread(values[0]), z, enough)


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


AGAINST = {"embedder": "its base", "reranker": "the search without it"}
"""What a tuned model must find better than."""


def tuned_check(kind: str, ours: Scores, base: Scores, *, min_questions: int, bootstrap: Bootstrap) -> Check:
    """A tuned embedder must find better than the model that it was tuned from, a tuned reranker than the search without
    it: the interval of the paired difference in nDCG@10 on questions that training never saw must lie above 0. Too few
    questions fail, and so does a difference that nobody measured: without a gain the base is the better choice."""
    title = f"retrieval tuned {kind}"
    both = sorted(ours.keys() & base.keys())
    if len(both) < max(1, min_questions):
        reason = f"{len(both)} questions compare it with {AGAINST[kind]}, at least {min_questions} are asked"
        return Check(title, None, 0.0, False, reason, n=len(both))
    values, z = _differences(ours, base, both), critical_value(bootstrap.confidence)
    diff = _interval(values, z)
    enough = needed(spread(values), diff.value, z=z)
    reason = f"nDCG@10 is {diff.value:+.3f} against {AGAINST[kind]}, at worst {diff.low:+.3f}; more than 0 is asked"
    passed = diff.low > 0
    if not passed and enough > diff.n:
        reason += _too_few(diff.n, enough, what=f"a gain of {diff.value:.3f}")
    return _powered(Check(title, diff.value, 0.0, passed, reason), diff, spread(values), z, enough)


def _differences(ours: Scores, theirs: Scores, questions: Sequence[str]) -> np.ndarray:
    return np.array([ours[question] - theirs[question] for question in questions], dtype=np.float64)


def _interval(values: np.ndarray, z: float) -> Metric:
    """Differences of scores lie between -1 and 1; a metric on another scale widens that to what was seen."""
    return score_interval(values, z=z, lowest=min(-1.0, values.min()), highest=max(1.0, values.max()))


def _too_few(n: int, enough: int, *, what: str) -> str:
    """What to say of a question set that cannot decide; nothing when it is large enough."""
    if not enough:
        return "; no number of questions shows that nothing at all was lost: the margin must be above 0"
    return f"; too few questions to decide about {what}: {n} now, about {enough:,} needed" if enough > n else ""


def _powered(check: Check, diff: Metric, deviation: float, z: float, enough: int) -> Check:
    """The check with its interval, its n and what that n could have shown."""
    found = detectable(deviation, diff.n, z=z)
    reason = f"{check.reason} ({diff.n} questions find a difference of {found:.3f} four times in five)"
    return replace(check, reason=reason, low=diff.low, high=diff.high, n=diff.n, detectable=found, needed=enough)


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
