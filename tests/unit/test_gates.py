"""The gate's decisions, on numbers whose result can be derived: with n differences that are all c, the low end of the
score interval is (n c - z^2) / (n + z^2), z^2 = 3.84 (the likeliest doubt: a rare question on which all is lost)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import gates
from pipelines.core.gates import Bootstrap, Evidence
from pipelines.core.nouns import Metric, Verdict

FAST = Bootstrap(resamples=200)
NAME = "answers.token_f1"


def ids(n):
    return [f"q{i:03}" for i in range(n)]


def evidence(ours=None, theirs=None, base=None, *, metrics=None, released=True, same=()):
    return Evidence(metrics or {}, {NAME: ours or {}}, {NAME: theirs or {}}, base or {}, released, same)


def constant(value, n=30):
    return dict.fromkeys(ids(n), value)


def test_auto_takes_the_best_arm():
    assert gates.choose_arm({"base": 0.1, "rag": 0.4, "tuned": 0.2, "both": 0.3})[0] == "rag"


def test_of_equal_arms_the_simpler_serves_and_the_reason_says_so():
    arm, reason = gates.choose_arm({"both": 0.4, "tuned": 0.4, "base": 0.1})
    assert arm == "tuned"
    assert reason == "best of base, tuned, both, the simpler of it and both"


def test_a_wanted_arm_is_taken_even_when_it_is_not_the_best_and_must_have_been_scored():
    assert gates.choose_arm({"base": 0.1, "rag": 0.4}, wanted="base")[0] == "base"
    assert gates.choose_arm({"base": 0.1}, wanted="both") == (
        None,
        "promote.arm asks for both, which was not scored; scored are base",
    )
    assert gates.choose_arm({}) == (None, "no arm was scored")


@pytest.mark.parametrize(
    ("metric", "passed", "reason"),
    [
        (Metric(0.30, 0.2, 0.4, 20), True, "answers.token_f1 is 0.300, at least 0.3 is asked"),
        (Metric(0.2999, 0.2, 0.4, 20), False, "answers.token_f1 is 0.300, at least 0.3 is asked"),
        (Metric(0.9, 0.8, 1.0, 19), False, "answers.token_f1 rests on 19 questions, at least 20 are asked"),
        (Metric(float("nan"), 0, 0, 20), False, "answers.token_f1 is nan, at least 0.3 is asked"),
        (None, False, "answers.token_f1 was not measured"),
    ],
)
def test_floor(metric, passed, reason):
    check = gates.floor_check(NAME, 0.3, metric, min_questions=20)
    assert (check.passed, check.reason) == (passed, reason)


def test_a_first_release_has_nothing_to_lose_against_and_says_so():
    check = gates.regression_check(NAME, 0.05, evidence(released=False), min_questions=20, bootstrap=FAST)
    assert check.passed
    assert "no champion" in check.reason


def low_end(c, n):
    return (n * c - 1.959964**2) / (n + 1.959964**2)


@pytest.mark.parametrize(
    ("loss", "n", "passed"), [(0.0, 80, True), (0.04, 600, True), (0.04, 300, False), (0.06, 600, False)]
)
def test_a_loss_may_be_as_large_as_the_margin(loss, n, passed):
    # Every question loses the same; the margin is 0.05. A loss of 0.04 needs n >= 3.84 (1 - 0.05) / 0.01 = 365.
    seen = evidence(constant(0.5 - loss, n), constant(0.5, n))
    check = gates.regression_check(NAME, 0.05, seen, min_questions=20, bootstrap=FAST)
    assert check.passed is passed
    assert check.value == pytest.approx(-loss)
    assert (check.low, check.n) == (pytest.approx(low_end(-loss, n), abs=1e-5), n)


def test_no_question_lost_is_enough_where_the_questions_are_too_few_and_the_check_says_so():
    # 30 zeros: the interval reaches 3.84 / 33.84 = 0.114; a margin of 0.05 wants 3.84 * 0.95 / 0.05 = 73 questions.
    seen = evidence(constant(0.5), constant(0.5))
    check = gates.regression_check(NAME, 0.05, seen, min_questions=20, bootstrap=FAST)
    assert check.passed
    assert (check.detectable, check.needed) == (pytest.approx(0.1135, abs=1e-4), 73)
    assert check.reason == (
        "no question lost anything, though the difference to the champion may be as low as -0.114, at most 0.05 may be "
        "lost; too few questions to decide about a loss of 0.05: 30 now, about 73 needed "
        "(30 questions find a difference of 0.114 four times in five)"
    )
    one = gates.regression_check(
        NAME, 0.05, evidence(constant(0.5) | {"q000": 0.4}, constant(0.5)), min_questions=20, bootstrap=FAST
    )
    assert not one.passed


def test_what_is_surely_better_or_worse_is_called_so():
    n = 400
    better = gates.regression_check(
        NAME, 0.05, evidence(constant(0.7, n), constant(0.5, n)), min_questions=20, bootstrap=FAST
    )
    assert better.passed and better.reason.startswith("better than the champion by +0.200, at worst by +0.189")
    worse = gates.regression_check(
        NAME, 0.05, evidence(constant(0.3, n), constant(0.5, n)), min_questions=20, bootstrap=FAST
    )
    assert not worse.passed
    assert "; worse than it by 0.200, at best by 0." in worse.reason
    assert "too few" not in worse.reason


def test_a_margin_of_nothing_cannot_be_shown_and_says_so():
    ours = {i: 0.5 + 0.1 * (-1) ** k for k, i in enumerate(ids(100))}
    check = gates.regression_check(NAME, 0.0, evidence(ours, constant(0.5, 100)), min_questions=20, bootstrap=FAST)
    assert not check.passed
    assert check.needed == 0
    assert "no number of questions shows that nothing at all was lost" in check.reason


def test_a_noisy_tie_on_few_questions_is_not_proof_of_no_loss():
    # Half the questions gain 1, half lose 1: mean 0, standard error 1/sqrt(20) = 0.22, far wider than 0.05. The
    # standard deviation is sqrt(20/19): (2.80 / 0.05)^2 * 20/19 questions show that an equal candidate loses less.
    ours = {i: float(k % 2) for k, i in enumerate(ids(20))}
    theirs = {i: float(1 - k % 2) for k, i in enumerate(ids(20))}
    check = gates.regression_check(NAME, 0.05, evidence(ours, theirs), min_questions=20, bootstrap=FAST)
    assert check.value == 0
    assert not check.passed
    assert check.needed == pytest.approx((2.8016 / 0.05) ** 2 * 20 / 19, abs=2)
    assert f"too few questions to decide about a loss of 0.05: 20 now, about {check.needed:,} needed" in check.reason


def test_the_same_artifact_cannot_lose_but_other_families_still_can():
    name = "retrieval.ndcg@10"
    seen = Evidence({}, {name: constant(0.5), NAME: {}}, {}, {}, True, ("retrieval",))
    assert gates.regression_check(name, 0.02, seen, min_questions=20, bootstrap=FAST).passed
    assert not gates.regression_check(NAME, 0.02, seen, min_questions=20, bootstrap=FAST).passed


@pytest.mark.parametrize("asked", [0, 19])
def test_a_champion_not_asked_the_same_questions_fails(asked):
    seen = evidence(constant(0.9), constant(0.1, asked))
    check = gates.regression_check(NAME, 0.05, seen, min_questions=20, bootstrap=FAST)
    assert not check.passed
    assert check.reason.startswith(f"{asked} questions have answers.token_f1 of candidate and champion")


def test_only_questions_of_both_are_paired():
    # 30 shared questions where ours is 0.1 better; the 50 that only the candidate answered do not count.
    ours = constant(0.0, 80) | constant(0.6, 30)
    check = gates.regression_check(NAME, 0.0, evidence(ours, constant(0.5)), min_questions=20, bootstrap=FAST)
    assert (check.n, check.value) == (30, pytest.approx(0.1))
    assert check.passed


@pytest.mark.parametrize(
    ("loss", "passed", "reason"),
    [
        (Metric(0.005, 0.0, 0.01, 20), True, "nDCG@10 is +0.0050 below fp32, at most 0.005 may be lost to precision"),
        (Metric(0.0051, 0.0, 0.01, 20), False, "nDCG@10 is +0.0051 below fp32, at most 0.005 may be lost"),
        (Metric(-0.01, -0.02, 0.0, 20), True, "nDCG@10 is -0.0100 below fp32"),
        (Metric(0.0, 0.0, 0.0, 19), False, "the loss against fp32 rests on 19 questions, at least 20 are asked"),
        (Metric(float("nan"), 0, 0, 20), False, "nDCG@10 is +nan below fp32"),
        (None, False, "the loss against fp32 was not measured"),
    ],
)
def test_precision_loss(loss, passed, reason):
    check = gates.precision_check(0.005, loss, min_questions=20)
    assert (check.name, check.passed) == ("retrieval.precision_loss", passed)
    assert check.reason.startswith(reason)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(0, 0.5), st.integers(1, 40))
def test_a_precision_passes_only_on_enough_questions_whose_mean_loss_is_within_the_bound(losses, limit, least):
    mean = sum(losses) / len(losses)
    check = gates.precision_check(limit, Metric(mean, mean, mean, len(losses)), min_questions=least)
    assert check.passed == (len(losses) >= least and mean <= limit)
    assert (check.bound, check.n) == (limit, len(losses))


@pytest.mark.parametrize(("arm_value", "gain", "passed"), [(0.4, 0.0, True), (0.2, 0.0, False), (0.4, 0.2, False)])
def test_gain_over_base(arm_value, gain, passed):
    # A gain of 0.2 on each of 30 questions: at worst (6 - 3.84) / 33.84 = 0.064.
    seen = evidence(constant(arm_value), base=constant(0.2))
    check = gates.gain_check(NAME, "rag", gain, seen, bootstrap=FAST)
    assert check.passed is passed
    assert check.value == pytest.approx(arm_value - 0.2)


def test_base_gains_nothing_over_itself_and_an_unmeasured_base_proves_nothing():
    assert not gates.gain_check(NAME, "base", 0.0, evidence(constant(1.0), base=constant(1.0)), bootstrap=FAST).passed
    assert not gates.gain_check(NAME, "rag", 0.0, evidence(constant(1.0)), bootstrap=FAST).passed


def test_data_checks_fail_when_nobody_looked():
    assert not gates.none_check("labels", None, what="stale labels").passed
    assert not gates.none_check("labels", ["q1"], what="stale labels").passed
    assert gates.none_check("labels", [], what="stale labels").passed
    assert not gates.match_check("rows", None, None, what="rows").passed
    assert not gates.match_check("rows", 3, 4, what="rows").passed
    assert gates.match_check("rows", 4, 4, what="rows").passed
    assert not gates.count_check("questions", 0, at_least=0).passed


def test_judge_makes_a_check_for_each_thing_asked():
    seen = evidence(constant(0.5), constant(0.5), constant(0.1), metrics={NAME: Metric(0.5, 0.5, 0.5, 30)})
    asked = {"floors": {NAME: 0.1}, "max_regression": {NAME: 0.05}, "primary": NAME, "min_questions": 20}
    checks = gates.judge("rag", seen, min_gain=0.0, bootstrap=FAST, **asked)
    assert [c.name for c in checks] == [f"floor {NAME}", f"no loss of {NAME}", f"gain of {NAME} over base"]
    assert Verdict("c", checks).passed
    assert len(gates.judge("base", seen, min_gain=None, bootstrap=FAST, **asked)) == 2
    assert not Verdict("c", []).passed


@given(st.lists(st.floats(0, 1), min_size=20, max_size=60), st.floats(0, 0.5))
@settings(deadline=None)
def test_losing_everywhere_by_more_than_the_margin_never_passes(values, margin):
    ours = dict(zip(ids(len(values)), values, strict=True))
    theirs = {i: v + margin + 0.01 for i, v in ours.items()}
    check = gates.regression_check(NAME, margin, evidence(ours, theirs), min_questions=20, bootstrap=FAST)
    assert not check.passed
    assert check.low <= check.value + 1e-9


def test_of_the_arms_the_best_that_meets_the_floors_serves():
    arms = {
        "base": {"format_valid": Metric(0.0, 0, 0, 9)},
        "rag": {"format_valid": Metric(0.1, 0, 0.3, 9)},
        "both": {"format_valid": Metric(0.9, 0.8, 1, 9)},
    }
    unfit = gates.unfit_arms(arms, {"answers.format_valid": 0.8, "retrieval.ndcg@10": 0.3})
    assert unfit == {"base": "answers.format_valid 0.00 is below 0.8", "rag": "answers.format_valid 0.10 is below 0.8"}
    means = {"base": 0.0, "rag": 0.5, "both": 0.4}
    assert gates.choose_arm(means)[0] == "rag"
    arm, why = gates.choose_arm(means, unfit=unfit)
    assert arm == "both" and why.startswith(
        "best of both; left out: base (answers.format_valid 0.00 is below 0.8), rag"
    )
    arm, why = gates.choose_arm({"base": 0.0, "rag": 0.5}, unfit=unfit)
    assert arm == "rag" and why == "best of base, rag; none meets the floors"
    assert gates.choose_arm(means, wanted="rag", unfit=unfit)[0] == "rag"


def test_the_best_of_several_arms_must_gain_more_than_one_that_was_asked_for():
    # 15 of 100 questions won and 5 lost: z = 10 / sqrt(20) = 2.24. Enough for one arm (1.96), not for the best of four
    # that are independent of each other (2.49).
    def arm(start):
        order = [ids(100)[(k + start) % 100] for k in range(100)]
        return dict.fromkeys(order[:15], 1.0) | dict.fromkeys(order[15:20], 0.0) | dict.fromkeys(order[20:], 0.5)

    base = constant(0.5, 100)
    moved = {i: v * 2 - 0.5 for i, v in arm(0).items()}
    one = gates.gain_check(NAME, "rag", 0.0, evidence(moved, base=base), bootstrap=FAST)
    assert one.passed
    tried = {name: {i: v * 2 - 0.5 for i, v in arm(25 * k).items()} for k, name in enumerate(("rag", "a", "b", "c"))}
    seen = Evidence({}, {NAME: moved}, {}, base, False, (), tried)
    best = gates.gain_check(NAME, "rag", 0.0, seen, bootstrap=FAST)
    assert not best.passed
    assert best.reason.startswith("rag (the best of 4 tried) gains +0.100 over base, at worst -0.0")
    assert "too few questions to decide about a gain of 0.100: 100 now, about " in best.reason
    alike = Evidence({}, {NAME: moved}, {}, base, False, (), dict.fromkeys(("rag", "a", "b", "c"), moved))
    assert gates.gain_check(NAME, "rag", 0.0, alike, bootstrap=FAST).passed, "the same arm four times is one arm"


def test_rivals_are_the_arms_that_the_primary_metric_chose_among():
    def scored(recall, valid):
        return {"token_recall": Metric(recall, 0, 1, 9), "format_valid": Metric(valid, 0, 1, 9)}

    arms = {"base": scored(0.1, 1), "rag": scored(0.5, 0), "tuned": scored(0.05, 1), "both": scored(0.4, 1)}
    floors = {"answers.format_valid": 0.8, "answers.token_recall": 0.1, "retrieval.ndcg@10": 0.3}
    primary = "answers.token_recall"
    # `rag` was out of the running for its form; `tuned` lost on the metric itself.
    assert gates.tried_arms(arms, floors, primary=primary, wanted="auto") == ["tuned", "both"]
    assert gates.tried_arms(arms, {}, primary=primary, wanted="auto") == ["rag", "tuned", "both"]
    assert gates.tried_arms(arms, floors, primary=primary, wanted="both") == []


def test_a_simpler_arm_that_the_comparison_recommends_serves_in_the_place_of_the_best():
    means = {"base": 0.1, "rag": 0.39, "both": 0.4}
    assert gates.choose_arm(means, recommended=("rag", "loses less than 0.02")) == ("rag", "loses less than 0.02")
    assert gates.choose_arm(means, recommended=("both", "better"))[1] == "best of base, rag, both"
    unfit = {"rag": "answers.format_valid 0.00 is below 0.8"}
    assert gates.choose_arm(means, unfit=unfit, recommended=("rag", "it loses little"))[0] == "both"
    assert gates.choose_arm(means, wanted="both", recommended=("rag", "it loses little"))[0] == "both"
