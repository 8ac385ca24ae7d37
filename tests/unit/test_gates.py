"""The gate's decisions, on numbers whose result is seen by eye: constant differences have an interval of width 0."""

import pytest
from hypothesis import given
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


def test_of_equal_arms_the_cheaper_serves_and_the_reason_says_so():
    arm, reason = gates.choose_arm({"both": 0.4, "tuned": 0.4, "base": 0.1})
    assert arm == "tuned"
    assert reason == "best of base, tuned, both, the cheaper of it and both"


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


@pytest.mark.parametrize(("loss", "passed"), [(0.0, True), (0.04, True), (0.06, False)])
def test_a_loss_may_be_as_large_as_the_margin(loss, passed):
    # Every question loses the same, so the interval of the difference is [-loss, -loss]; the margin is 0.05.
    seen = evidence(constant(0.5 - loss), constant(0.5))
    check = gates.regression_check(NAME, 0.05, seen, min_questions=20, bootstrap=FAST)
    assert check.passed is passed
    assert check.value == pytest.approx(-loss)
    assert (check.low, check.high, check.n) == (pytest.approx(-loss), pytest.approx(-loss), 30)


def test_a_noisy_tie_on_few_questions_is_not_proof_of_no_loss():
    # Half the questions gain 1, half lose 1: mean 0, standard error 1/sqrt(20) = 0.22, far wider than 0.05.
    ours = {i: float(k % 2) for k, i in enumerate(ids(20))}
    theirs = {i: float(1 - k % 2) for k, i in enumerate(ids(20))}
    check = gates.regression_check(NAME, 0.05, evidence(ours, theirs), min_questions=20, bootstrap=FAST)
    assert check.value == 0
    assert not check.passed


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


@pytest.mark.parametrize(("arm_value", "gain", "passed"), [(0.3, 0.0, True), (0.2, 0.0, False), (0.3, 0.2, False)])
def test_gain_over_base(arm_value, gain, passed):
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
