"""How often the gate errs: the real checks of `core.gates` on simulated questions whose true difference is known.

Two systems answer the same questions. Whether a question is hard is common to both, the rest is noise of each: a
normal copula, whose correlation is set so that the scores correlate as the demo's candidate and champion did (0.6 to
0.8). The scores keep a measured shape (shares of 0 and of 1, and what lies between); a true difference moves that share
of the questions from 0 to 1, or back, so the difference of the means is exactly it. Rows:

- A/A: equally good, promoted as better than base: one arm asked for, or the best of several (the winner's curse).
- A candidate that is truly worse by 3 points passes "no loss"; how often one that is equally good, or better by
  5 points, passes; beside it what the percentile bootstrap that the gate used before would have passed.

`python -m benchmarks.gate [--trials N] [--plot FILE.svg] [--json FILE] [--quick]`
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta, norm

from benchmarks import harness
from pipelines.core import gates
from pipelines.core.bootstrap import paired_difference

SIZES = (50, 100, 200, 300, 500, 1000)
AT = 300
"""Questions at which the targets are stated."""
NAME = "answers.metric"
GATE = gates.Bootstrap()
SEED = 20261124
KEYS = [f"q{number}" for number in range(max(SIZES))]


@dataclass(frozen=True)
class Shape:
    """Scores of a system: shares of exactly 0 and exactly 1, Beta(a, b) between them. `latent` is the copula's
    correlation. `margin` is the default of judge.max_regression for such a metric."""

    name: str
    zeros: float
    ones: float
    between: tuple[float, float] = (1, 1)
    latent: float = 0.8
    margin: float = 0.03

    def scores(self, latent: np.ndarray, difference: float) -> np.ndarray:
        """Scores of standard normal values; their mean is this shape's plus `difference`, exactly."""
        zeros, ones = self.zeros - difference, self.ones + difference
        share = norm.cdf(latent)
        inside = np.clip((share - zeros) / max(1 - zeros - ones, 1e-12), 0, 1)
        grid = np.linspace(0, 1, 1001)
        middle = np.interp(inside, grid, beta.ppf(grid, *self.between))
        return np.where(share < zeros, 0.0, np.where(share >= 1 - ones, 1.0, middle))

    def systems(self, rng: np.random.Generator, size: tuple[int, int], differences: Sequence[float]) -> np.ndarray:
        """Scores (systems, trials, n) of systems on the same questions, each with its true difference."""
        common = rng.standard_normal(size)
        own = rng.standard_normal((len(differences), *size))
        latent = math.sqrt(self.latent) * common + math.sqrt(1 - self.latent) * own
        return np.stack([self.scores(row, d) for row, d in zip(latent, differences, strict=True)])


@dataclass(frozen=True)
class Rare(Shape):
    """Both systems reply alike but on few questions, which is how a candidate breaks: the candidate is wrong where the
    champion was right on just the share of questions that is lost, or the other way about. Without a difference each is
    alone right on one question of a hundred."""

    def systems(self, rng: np.random.Generator, size: tuple[int, int], differences: Sequence[float]) -> np.ndarray:
        right = rng.random(size) < self.ones
        out = []
        for difference in differences:
            lost = max(-difference, 0.01 if difference == 0 else 0)
            won = max(difference, 0.01 if difference == 0 else 0)
            draw = rng.random(size)
            out.append(np.where(right, draw >= lost / self.ones, draw < won / (1 - self.ones)).astype(float))
        return np.stack(out)


SHAPES = (
    Shape("right or wrong, 40 % right", 0.6, 0.4),
    Shape("right or wrong, 90 % right", 0.1, 0.9),
    Shape("token F1, as on XQuAD", 0.72, 0.06, (3, 1.9)),
    Shape("nDCG@10, as on the handbook", 0.19, 0.355, (3, 2.8), margin=0.02),
    Rare("alike but on rare questions", 0.2, 0.8),
)


def by_question(scores: np.ndarray) -> dict[str, float]:
    """A row of scores as the gate takes them."""
    return dict(zip(KEYS, scores.tolist(), strict=False))


def evidence(ours: np.ndarray, *, champion: np.ndarray | None = None, base: np.ndarray | None = None) -> gates.Evidence:
    return gates.Evidence(
        {},
        {NAME: by_question(ours)},
        {NAME: by_question(champion)} if champion is not None else {},
        by_question(base) if base is not None else {},
        champion is not None,
    )


def not_worse(ours: np.ndarray, theirs: np.ndarray, margin: float) -> bool:
    """Does the candidate pass "no loss" against the champion?"""
    seen = evidence(ours, champion=theirs)
    return gates.regression_check(NAME, margin, seen, min_questions=20, bootstrap=GATE).passed


def better(ours: np.ndarray, base: np.ndarray) -> bool:
    """Does an arm that was asked for pass "gain over base"?"""
    return gates.gain_check(NAME, "rag", 0.0, evidence(ours, base=base), bootstrap=GATE).passed


def best_is_better(base: np.ndarray, arms: np.ndarray, *, corrected: bool) -> bool:
    """Does the best of `arms` (arms, n) pass "gain over base", with and without the correction for having chosen it?
    When `base` has the largest mean it serves, and nothing is promoted."""
    best = int(arms.mean(axis=1).argmax())
    if arms[best].mean() <= base.mean():
        return False
    names = [f"arm {number}" for number in range(len(arms))]
    tried = {name: by_question(row) for name, row in zip(names, arms, strict=True)} if corrected else {}
    seen = gates.Evidence({}, {NAME: by_question(arms[best])}, {}, by_question(base), False, (), tried)
    return gates.gain_check(NAME, names[best], 0.0, seen, bootstrap=GATE).passed


def percentile_not_worse(ours: np.ndarray, theirs: np.ndarray, margin: float) -> bool:
    """What the gate asked before: the low end of a percentile bootstrap interval."""
    return paired_difference(ours, theirs).low >= -margin


def wilson(passed: int, trials: int) -> tuple[float, float]:
    """95 % interval of a rate. Source: Wilson (1927)."""
    z, rate = 1.959964, passed / trials
    middle, half = rate + z * z / (2 * trials), z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials**2))
    return max(0.0, (middle - half) / (1 + z * z / trials)), min(1.0, (middle + half) / (1 + z * z / trials))


Decide = Callable[[np.ndarray], bool]
"""One trial's scores (systems, n) -> does the candidate pass?"""


def row(question: str, shape: Shape, differences: Sequence[float], decide: Decide, **options: Any) -> dict[str, Any]:
    """Pass rate at every size, with the Wilson interval at `AT` and whether the target is met there. `options`: trials,
    sizes, target (at most or at least, by its sign)."""
    trials, target = options["trials"], options.get("target")
    out: dict[str, Any] = {"question": question, "scores": shape.name, "true difference": f"{differences[0]:+.2f}"}
    rates = {}
    for n in SIZES:
        if n not in options.get("sizes", SIZES):
            out[f"n {n}"] = "–"
            continue
        rng = np.random.default_rng([SEED, n])
        drawn = shape.systems(rng, (trials, n), differences)
        rates[n] = sum(decide(drawn[:, trial]) for trial in range(trials))
        out[f"n {n}"] = f"{rates[n] / trials:.3f}"
    low, high = wilson(rates[AT], trials)
    out[f"95 % at {AT}"] = f"{low:.3f} to {high:.3f}"
    out["target"] = "–" if target is None else f"{'at most' if target < 0 else 'at least'} {abs(target):.2f}"
    rate = rates[AT] / trials
    out["met"] = "–" if target is None else "yes" if (rate <= -target if target < 0 else rate >= target) else "no"
    print(f"{question}, {shape.name}: {rate:.3f} at {AT}", file=sys.stderr)
    return out


def rows(trials: int) -> list[dict[str, Any]]:
    """The table."""
    out = []
    for s in SHAPES:
        out.append(row("better than base", s, (0, 0), lambda x: better(x[0], x[1]), trials=trials, target=-0.05))
    few: dict[str, Any] = {"trials": trials, "sizes": (50, AT, 1000)}
    for s in (SHAPES[0], SHAPES[2]):
        for count in (4, 5):
            for corrected in (True, False):
                title = f"best of {count} arms better than base" + ("" if corrected else ", uncorrected")
                target = {"target": -0.05} if corrected else {}
                out.append(
                    row(
                        title, s, (0,) * count, lambda x, c=corrected: best_is_better(x[0], x[1:], corrected=c),
                        **few, **target,
                    )
                )  # fmt: skip
    for s in SHAPES:
        title = f"no loss, margin {s.margin:g}"
        ask: Decide = lambda x, s=s: not_worse(x[0], x[1], s.margin)  # noqa: E731 (one line per question asked)
        out.append(row(title, s, (-0.03, 0), ask, trials=trials, target=-0.05))
        out.append(row(title, s, (0.0, 0), ask, trials=trials))
        out.append(row(title, s, (0.05, 0), ask, trials=trials, target=0.8))
    for s in (SHAPES[0], SHAPES[2]):
        for margin in (0.03, 0.02):
            ask = lambda x, m=margin: not_worse(x[:4][x[:4].mean(axis=1).argmax()], x[4], m)  # noqa: E731
            title = f"best of 4 arms: no loss, margin {margin:g}"
            out.append(row(title, s, (-0.03,) * 4 + (0.0,), ask, **few))
    for s in SHAPES[:4]:
        out.append(row("better than base", s, (0.05, 0), lambda x: better(x[0], x[1]), trials=trials))
    for s in (SHAPES[0], SHAPES[1]):
        wide: Decide = lambda x: not_worse(x[0], x[1], 0.05)  # noqa: E731
        out.append(row("no loss, margin 0.05", s, (-0.03, 0), wide, trials=trials))
    for s in (SHAPES[1], SHAPES[4]):
        before: Decide = lambda x, s=s: percentile_not_worse(x[0], x[1], s.margin)  # noqa: E731
        title = f"percentile bootstrap, margin {s.margin:g}"
        out.append(row(title, s, (-0.03, 0), before, trials=trials, sizes=(50, 100, AT)))
    return out


def figures(shapes: Sequence[Shape] = SHAPES, n: int = 200_000) -> dict[str, float]:
    """Correlation of two equally good systems' scores and standard deviation of their difference, by shape."""
    out = {}
    for s in shapes:
        (ours,), (theirs,) = s.systems(np.random.default_rng(SEED), (1, n), (0, 0))
        out[f"correlation, {s.name}"] = float(np.corrcoef(ours, theirs)[0, 1])
        out[f"deviation of the difference, {s.name}"] = float((ours - theirs).std())
    return out


def plot(file: Path, trials: int) -> None:
    """Pass rate of both checks against the true difference, a line per number of questions, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "gate", "font.size": 9})
    shape, sizes = SHAPES[0], (50, 100, 300, 1000)
    differences = np.round(np.arange(-0.10, 0.151, 0.01), 2)
    checks: list[tuple[str, Decide]] = [
        (f"no loss of more than {shape.margin:g}", lambda x: not_worse(x[0], x[1], shape.margin)),
        ("gain over base", lambda x: better(x[0], x[1])),
    ]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, (title, decide) in zip(axes, checks, strict=True):
        for n in sizes:
            rng = np.random.default_rng([SEED, n])
            rates = []
            for difference in differences:
                drawn = shape.systems(rng, (trials, n), (float(difference), 0))
                rates.append(sum(decide(drawn[:, trial]) for trial in range(trials)) / trials)
            axis.plot(differences, rates, label=f"n = {n}", linewidth=1.4)
        axis.axvline(-shape.margin if decide is checks[0][1] else 0, color="grey", linewidth=0.8, linestyle=":")
        axis.axhline(0.05, color="grey", linewidth=0.8, linestyle=":")
        axis.axhline(0.8, color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="true difference of the means")
    axes[0].set_ylabel("share of candidates that pass")
    axes[0].legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Print the table, and the plot if asked."""
    options = harness.arguments(
        __doc__,
        trials={"type": int, "default": 1000, "help": "simulated candidates per row and number of questions"},
        plot={"type": Path, "help": "write the pass rate against the true difference to this SVG file"},
    )
    trials = 100 if options.quick else options.trials
    if options.trials < 1:
        print(f"--trials is {options.trials}; it is a whole number above 0, e.g. 1000", file=sys.stderr)
        sys.exit(2)
    with harness.metered() as cost:
        table = rows(trials)
        if options.plot:
            plot(options.plot, max(50, trials // 4))
    title = f"share of {trials} simulated candidates that pass, confidence {GATE.confidence:g}"
    harness.show(title, table, ratios={**figures(), "CPU-seconds": cost.cpu}, json_file=options.json)


if __name__ == "__main__":
    harness.run_plainly(main)
