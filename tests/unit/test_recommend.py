"""What the figures recommend: numbers derived by hand, and properties that hold whatever the scores are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import recommend
from pipelines.core.prompts import ARMS
from pipelines.core.recommend import CHOSEN, THIN, choose


def scores(**arms: list[float]) -> dict[str, dict[str, float]]:
    return {arm: {f"q{n}": value for n, value in enumerate(values)} for arm, values in arms.items()}


def row(name: str, arm: str, *, gold: bool = True, kind: str | None = None, **metrics: float) -> dict[str, object]:
    return {"id": name, "arm": arm, "gold": ["x"] if gold else [], "kind": kind, "metrics": metrics}


def test_an_arm_that_asks_for_more_is_recommended_only_when_it_is_shown_to_be_better():
    # 40 questions, rag right on all, base on none: the difference is 1 on every one.
    chosen = choose("facts", "f1", scores(base=[0.0] * 40, rag=[1.0] * 40), margin=0.02)
    assert chosen is not None
    assert (chosen.arm, chosen.verdict, chosen.open) == ("rag", CHOSEN, ())
    # Right on 3 of 40: a difference of 0.075, whose interval holds zero.
    chosen = choose("facts", "f1", scores(base=[0.0] * 40, rag=[1.0] * 3 + [0.0] * 37), margin=0.02)
    assert chosen is not None
    assert (chosen.arm, chosen.verdict, chosen.open) == (None, THIN, ("base", "rag"))
    assert chosen.needed > 40


def test_the_simplest_arm_that_loses_less_than_the_margin_is_recommended():
    # 2,000 questions on which base, rag and both differ on one: a loss of 0.0005, at most 0.004 by its interval.
    same = [1.0, 0.0] * 1000
    chosen = choose("facts", "f1", scores(base=same, rag=[*same[:-1], 1.0], both=same), margin=0.02)
    assert chosen is not None
    assert (chosen.best, chosen.arm) == ("rag", "base")
    assert "less than 0.02" in chosen.reason


def test_few_questions_recommend_nothing_however_clear_they_look():
    chosen = choose("facts", "f1", scores(base=[0.0] * 19, rag=[1.0] * 19), margin=0.02)
    assert chosen is not None
    assert (chosen.arm, chosen.needed) == (None, 20)
    assert chosen.reason == "only 19 questions, at least 20 are needed"


def test_one_arm_alone_is_no_choice():
    assert choose("facts", "f1", scores(base=[0.0] * 40), margin=0.02) is None


def test_kinds_are_facts_and_unanswerable_and_form_and_a_question_may_name_its_own():
    rows = [
        row("a", "base", f1=1.0, format_valid=1.0, correct_refusal=1.0),
        row("b", "base", gold=False, f1=1.0, format_valid=0.0, correct_refusal=0.0),
        row("c", "base", kind="prices", f1=1.0, format_valid=1.0, correct_refusal=1.0),
    ]
    assert recommend.kinds(rows, primary="f1", formed=True) == {
        "facts": ("f1", {"a"}),
        "prices": ("f1", {"c"}),
        "unanswerable": ("correct_refusal", {"b"}),
        "form": ("format_valid", {"a", "b", "c"}),
    }
    assert "form" not in recommend.kinds(rows, primary="f1", formed=False)


def test_an_arm_that_was_not_asked_every_question_is_not_compared():
    rows = [row(f"q{n}", arm, f1=1.0) for arm in ("base", "rag") for n in range(3)] + [row("q0", "both", f1=1.0)]
    found = recommend.scores_of(rows, "f1", frozenset({"q0", "q1", "q2"}))
    assert list(found) == ["base", "rag"]


def test_the_champions_replies_are_no_arm():
    rows = [row(f"q{n}", arm, f1=1.0) for arm in ("base", "champion") for n in range(3)]
    assert list(recommend.scores_of(rows, "f1", frozenset({"q0", "q1", "q2"}))) == ["base"]


def test_one_sentence_names_each_kind_and_the_arm_for_all():
    facts = choose("facts", "f1", scores(base=[0.0] * 40, rag=[1.0] * 40, both=[1.0] * 40), margin=0.02)
    form = choose("form", "format_valid", scores(base=[0.0] * 40, rag=[0.0] * 40, both=[1.0] * 40), margin=0.02)
    assert facts is not None
    assert form is not None
    assert recommend.overall([facts, form]) == (
        "rag for facts; both for form; not shown to be worse than the best for any kind: both"
    )
    assert recommend.overall([form]) == "both, for every kind of question"
    assert "nothing can be recommended" in recommend.overall([])


values = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=25, max_size=25)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(ARMS), values, min_size=2), st.sampled_from([0.02, 0.1, 0.5]))
def test_what_is_recommended_follows_from_the_intervals(arms: dict[str, list[float]], margin: float):
    chosen = choose("facts", "f1", scores(**arms), margin=margin)
    assert chosen is not None
    assert chosen.means[chosen.best] == max(chosen.means.values())
    if chosen.arm is None:
        assert chosen.best in chosen.open
        assert len(chosen.open) > 1
    elif chosen.arm != chosen.best:
        assert chosen.margins[chosen.arm].high < margin
        assert ARMS.index(chosen.arm) < ARMS.index(chosen.best)
    else:
        assert all(d.low > 0 for arm, d in chosen.margins.items() if ARMS.index(arm) < ARMS.index(chosen.best))
