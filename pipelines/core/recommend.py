"""Which arm the figures recommend, for each kind of question, by rules that a reader can follow. No I/O.

The rules ask for proof in both directions: an arm that asks for more is recommended when it is shown to be better than
every simpler one, a simpler arm when it is shown to lose less than the margin. What the questions cannot show is said
to be too thin, with the number of questions that would decide. Simple means early in `core.prompts.ARMS`, a fixed
order: measured costs differ from run to run, and what is released must not. They stand beside it, in the table.
Sources: non-inferiority and superiority by one interval, Schuirmann (1987) and Dunnett and Gent (1996); the intervals
are those of `core.intervals`, two-sided 95 % for all comparisons with the best arm together (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.core.intervals import critical_value, needed, score_interval, spread
from pipelines.core.nouns import Metric
from pipelines.core.prompts import ARMS

Row = Mapping[str, Any]
Scores = Mapping[str, float]
"""Question id -> value."""
LEAST = 20
"""Fewer questions recommend nothing, whatever their interval."""
CONFIDENCE = 0.95
MARGIN = 0.02
"""Loss that does not matter, where the params name none for a metric (`judge.max_regression`)."""
RULES = (
    "Questions are sorted into kinds: your own (`kind` of a gold question), else facts (it has an answer) and "
    "unanswerable (it has none); where replies have a form, every question also asks for form.",
    f"Fewer than {LEAST} questions of a kind are too thin.",
    "The simplest arm that is shown to lose less than the margin against the best one is recommended: the whole "
    "interval of its loss lies below the margin. Simplest first: {}.".format(", ".join(ARMS)),
    "If there is none, the best arm is recommended when it is shown to be better than every simpler one: the whole "
    "interval of each difference lies above zero.",
    "Otherwise the evidence is too thin to choose; the arms still in question and the number of questions that would "
    "decide are named.",
)
CHOSEN, THIN = "recommended", "too thin"


@dataclass(frozen=True)
class Choice:
    """What the figures say about one kind of question. `arm` is recommended; None with `verdict` too thin, and then
    `open` are the arms that may each be the right one. `margins` holds best minus arm, with its interval."""

    kind: str
    metric: str
    n: int
    means: Mapping[str, float]
    best: str
    arm: str | None
    verdict: str
    open: tuple[str, ...]
    margin: float
    margins: Mapping[str, Metric]
    needed: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def kinds(rows: Sequence[Row], *, primary: str, formed: bool) -> dict[str, tuple[str, frozenset[str]]]:
    """Kind -> (metric it is judged by, ids of its questions), from the rows of one or more arms. A question's own kind
    takes the place of `facts`; `formed`: replies have a schema to obey. Kinds without a question are left out."""
    found: dict[str, tuple[str, set[str]]] = {}
    for row in rows:
        own = row.get("kind") or "facts"
        if row["gold"]:
            found.setdefault(str(own), (primary, set()))[1].add(row["id"])
        elif "correct_refusal" in row["metrics"]:
            found.setdefault("unanswerable", ("correct_refusal", set()))[1].add(row["id"])
        if formed and "format_valid" in row["metrics"]:
            found.setdefault("form", ("format_valid", set()))[1].add(row["id"])
    last = ("unanswerable", "form")
    order = [*sorted(kind for kind in found if kind not in last), *(kind for kind in last if kind in found)]
    return {kind: (found[kind][0], frozenset(found[kind][1])) for kind in order}


def scores_of(rows: Sequence[Row], metric: str, ids: frozenset[str]) -> dict[str, Scores]:
    """Arm -> question -> value, of the arms of `ARMS` that have the metric for every question that some arm has it for;
    an arm that lacks some cannot be compared on the same questions."""
    by_arm: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["arm"] in ARMS and row["id"] in ids and metric in row["metrics"]:
            by_arm.setdefault(row["arm"], {})[row["id"]] = row["metrics"][metric]
    asked = frozenset().union(*by_arm.values()) if by_arm else frozenset()
    return {arm: by_arm[arm] for arm in ARMS if arm in by_arm and asked == by_arm[arm].keys()}


def _interval(values: Sequence[float], z: float) -> Metric:
    """Differences of scores lie between -1 and 1; a metric on another scale widens that to what was seen."""
    return score_interval(values, z=z, lowest=min(-1.0, *values), highest=max(1.0, *values))


def _open(leader: str, rivals: Mapping[str, Metric], n: int, needs: int) -> str:
    shown = ", ".join(f"{arm} ({d.value:+.3f} [{d.low:.3f}, {d.high:.3f}])" for arm, d in rivals.items())
    more = f"; about {needs:,} questions would decide, there are {n}" if needs > n else ""
    return f"{leader} leads, but is not shown to be better than the simpler {shown}{more}"


def choose(kind: str, metric: str, scores: Mapping[str, Scores], *, margin: float) -> Choice | None:
    """The recommendation for one kind of question; `scores` as `scores_of` gives them. None without two arms to choose
    between, or without a question."""
    arms = [arm for arm in ARMS if scores.get(arm)]
    if len(arms) < 2:
        return None
    ids = sorted(scores[arms[0]])
    n = len(ids)
    means = {arm: sum(scores[arm].values()) / n for arm in arms}
    best = max(arms, key=lambda arm: (means[arm], -ARMS.index(arm)))
    z = critical_value(1 - (1 - CONFIDENCE) / (len(arms) - 1))
    losses = {arm: [scores[best][i] - scores[arm][i] for i in ids] for arm in arms if arm != best}
    margins = {arm: _interval(values, z) for arm, values in losses.items()}
    simpler = [arm for arm in arms if ARMS.index(arm) < ARMS.index(best)]
    close = [arm for arm in simpler if margins[arm].high < margin]
    rivals = {arm: margins[arm] for arm in simpler if margins[arm].low <= 0}
    wanted = [needed(spread(losses[arm]), max(abs(d.value), margin), z=z) for arm, d in rivals.items()]
    needs = max(wanted, default=0)
    arm: str | None = best
    if n < LEAST:
        arm, needs = None, max(needs, LEAST)
        reason = f"only {n} questions, at least {LEAST} are needed"
    elif close:
        arm = close[0]
        lost = margins[arm]
        reason = (
            f"shown to lose less than {margin:g} against the best, {best}: {lost.value:.3f}, at most {lost.high:.3f}"
        )
    elif rivals:
        arm, reason = None, _open(best, rivals, n, needs)
    elif not simpler:
        reason = "the simplest arm is the best"
    else:
        least = min(simpler, key=lambda a: margins[a].low)
        reason = f"shown to be better than every simpler arm: than {least} by {margins[least].value:.3f}, at least "
        reason += f"{margins[least].low:.3f}"
    still = () if arm else tuple(a for a in arms if a == best or a in rivals or n < LEAST)
    verdict = CHOSEN if arm else THIN
    return Choice(kind, metric, n, means, best, arm, verdict, still, margin, margins, needs if not arm else 0, reason)


def recommend(
    rows: Sequence[Row], *, primary: str, formed: bool, margins: Mapping[str, float] | None = None
) -> list[Choice]:
    """A `Choice` per kind of question that at least two arms were asked. `margins`: metric -> loss that does not
    matter, `MARGIN` where it is not named."""
    out = []
    for kind, (metric, ids) in kinds(rows, primary=primary, formed=formed).items():
        margin = (margins or {}).get(metric, MARGIN)
        chosen = choose(kind, metric, scores_of(rows, metric, ids), margin=margin)
        if chosen is not None:
            out.append(chosen)
    return out


def for_all(choices: Sequence[Choice]) -> list[str]:
    """Arms that are not shown to be worse than the best for any kind of question of which there are enough, the
    simplest first; empty when there are none such, or no kind has enough."""
    enough = [choice for choice in choices if choice.n >= LEAST]
    return [
        arm
        for arm in ARMS
        if enough and all(arm == c.best or (arm in c.margins and c.margins[arm].low <= 0) for c in enough)
    ]


def overall(choices: Sequence[Choice]) -> str:
    """One sentence for all kinds together: the arm that is right for each kind, or that one cannot say; and which arm
    serves them all where they ask for different ones."""
    if not choices:
        return "no two arms were asked the same questions, so nothing can be recommended"
    named = {choice.arm for choice in choices}
    thin = [choice.kind for choice in choices if choice.arm is None]
    if named == {choices[0].arm} and not thin:
        return f"{choices[0].arm}, for every kind of question"
    parts = [f"{choice.arm} for {choice.kind}" for choice in choices if choice.arm]
    parts += [f"too thin to choose for {', '.join(thin)}"] if thin else []
    if len(choices) > 1 and (arms := for_all(choices)):
        parts.append(f"not shown to be worse than the best for any kind: {', '.join(arms)}")
    return "; ".join(parts)
