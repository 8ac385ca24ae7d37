"""The judge on receipts written by hand: what passes, what is rejected and why, and what a candidate is."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from pipelines import params as params_module
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.manifest import build, expired, expiry, held_back, released_already, renewable, restored
from pipelines.errors import IntegrityError
from pipelines.params import CorpusParams
from pipelines.released import longer_of
from pipelines.settings import checkout
from pipelines.stages.judge import decide
from pipelines.workspace import Workspace
from tests import release_kit as kit

INDEX = {
    "collection": "b_tiny_0123456789abcdef", "key": "builds/b_tiny_0123456789abcdef", "parts": ["part-00000.parquet"],
    "rows": 3, "tokens": 60, "digest": "d" * 64, "embedder": "minilm", "embedder_digest": "e" * 64, "dim": 384,
    "documents": 3, "corpus_digest": "c" * 64,
}  # fmt: skip
ADAPTER = {
    "digest": "a" * 64, "key": "adapters/" + "a" * 64, "base": "smollm2", "base_digest": "b" * 64,
    "training_digest": "t" * 64,
}  # fmt: skip


def params_of(**sections):
    raw = params_module.read_raw(checkout() / "params.yaml")
    raw["corpora"] = {"tiny": {"source": {"documents": "nowhere"}, **sections}}
    return CorpusParams.model_validate(params_module.corpus_block(raw, "tiny"))


@pytest.fixture
def wiring(tmp_path):
    return SimpleNamespace(workspace=Workspace(tmp_path, "tiny"), params=params_of())


def decided(wiring, *, champion=None, index=INDEX, **scores):
    if champion:
        kit.write_champion(wiring.workspace, champion)
    kit.scored(wiring, index, **scores)
    return decide(wiring.params, wiring.workspace)


def failed(facts):
    return {check["name"]: check["reason"] for check in facts["checks"] if not check["passed"]}


CREATED = "2026-01-02T03:04:05+00:00"


def manifest_of(wiring, facts, generation=1, expires=None):
    return build(
        corpus="tiny", created=CREATED, expires=expires, generation=generation, judged=facts, approval=None,
        revision={"tag": "r1", "commit": "0" * 40, "digest": "c" * 64}, params=wiring.params.model_dump(mode="json"),
        base={"name": "smollm2", "digest": "b" * 64}, code={"version": "0"}, window=256,
        evaluation={"runs": {}, "retrieval": {}, "answers": {}, "arms": {}, "questions": 30},
    )  # fmt: skip


def test_a_good_first_candidate_passes_with_the_best_arm(wiring):
    facts = decided(wiring)
    assert (facts["passed"], facts["arm"], facts["against"]) == (True, "rag", 0)
    assert facts["adapter"] is None
    assert failed(facts) == {}


def test_an_adapter_is_part_of_the_candidate_whatever_arm_serves(wiring):
    plain = decided(wiring)
    tuned = decided(wiring, adapter=ADAPTER)
    assert tuned["passed"]
    assert tuned["adapter"]["digest"] == "a" * 64
    assert tuned["candidate"] != plain["candidate"]


@pytest.mark.parametrize(
    ("scores", "name", "reason"),
    [
        ({"ndcg": 0.2}, "floor retrieval.ndcg@10", "retrieval.ndcg@10 is 0.200, at least 0.3 is asked"),
        ({"stale": ["q01"]}, "data labels", "1 gold quotes that the corpus no longer holds: q01"),
        ({"arms": {"base": 0.5, "rag": 0.5}}, "gain of answers.token_f1 over base", "the best arm is the base model"),
        ({"arms": {}}, "arm", "no arm was scored"),
        ({"adapter": {**ADAPTER, "training_digest": "x" * 64}}, "data training", "adapter and training set do not"),
    ],
)
def test_rejected_with_the_reason(wiring, scores, name, reason):
    facts = decided(wiring, **scores)
    assert not facts["passed"]
    assert failed(facts)[name].startswith(reason)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (kit.metric(0.005), None),
        (kit.metric(0.0051), "nDCG@10 is +0.0051 below fp32"),
        (kit.metric(0.0, 19), "the loss against fp32 rests on 19 questions"),
        (None, "the loss against fp32 was not measured"),
    ],
)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_reduced_precision_is_judged_against_fp32(wiring, loss, reason, precision):
    wiring.params = params_of(embed={"precision": precision})
    kit.scored(wiring, INDEX)
    if loss:
        found = {**wiring.workspace.receipt("score_retrieval"), "precision_loss": loss}
        wiring.workspace.write_receipt("score_retrieval", found, {}, "")
    facts = decide(wiring.params, wiring.workspace)
    assert facts["passed"] is (reason is None)
    assert failed(facts).get("retrieval.precision_loss", "").startswith(reason or "")
    assert any(check["name"] == "retrieval.precision_loss" for check in facts["checks"])


def test_fp32_has_no_precision_to_lose(wiring):
    assert not any(check["name"] == "retrieval.precision_loss" for check in decided(wiring)["checks"])


TUNED = {
    "embedder": {"embed": {"model": "tuned", "tuned": "f" * 64}},
    "reranker": {"retrieve": {"rerank": {"model": "tuned", "depth": 5, "tuned": "f" * 64}}},
}


def tuned_rows(wiring, kind, gains):
    """A pair for as many of the questions as there are gains; the base scores 0.5 on each."""
    rows = [{"id": q, "metrics": {"ndcg@10": 0.8}} for q in kit.QUESTIONS]
    for row, gain in zip(rows, gains, strict=False):
        row[f"tuned_{kind}"] = {"base": 0.5, "own": 0.5 + gain}
    wiring.workspace.scores("retrieval").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("gains", "reason"),
    [
        ([0.3] * 30, None),
        ([0.0] * 30, "nDCG@10 is +0.000 against {}, at worst -0.114; more than 0 is asked"),
        ([-0.2] * 30, "nDCG@10 is -0.200 against {}"),
        ([0.4, -0.4] * 15, "nDCG@10 is +0.000 against {}"),
        ([0.3] * 19, "19 questions compare it with {}, at least 20 are asked"),
        ([], "0 questions compare it with {}"),
    ],
)
@pytest.mark.parametrize(("kind", "against"), [("embedder", "its base"), ("reranker", "the search without it")])
def test_a_tuned_model_must_find_better(wiring, kind, against, gains, reason):
    wiring.params = params_of(**TUNED[kind])
    kit.scored(wiring, INDEX)
    tuned_rows(wiring, kind, gains)
    facts = decide(wiring.params, wiring.workspace)
    assert facts["passed"] is (reason is None)
    assert failed(facts).get(f"retrieval tuned {kind}", "").startswith((reason or "").format(against))
    (check,) = [c for c in facts["checks"] if c["name"].startswith("retrieval tuned")]
    assert check["n"] == len(gains)


def test_another_embedder_is_not_compared_with_a_base(wiring):
    kit.scored(wiring, INDEX)
    tuned_rows(wiring, "embedder", [-0.4] * 30)
    assert not any("tuned" in check["name"] for check in decide(wiring.params, wiring.workspace)["checks"])


@pytest.mark.parametrize(
    ("stage", "change", "name"),
    [
        ("chunk", {"rows": 4}, "data rows"),
        ("score_answers", {"prompt_digest": "other"}, "data prompt"),
        ("score_answers", {"questions": 19}, "data answer questions"),
        ("score_retrieval", {"questions": 0}, "data retrieval questions"),
    ],
)
def test_data_that_does_not_fit_together_is_rejected(wiring, stage, change, name):
    kit.scored(wiring, INDEX)
    wiring.workspace.write_receipt(stage, {**wiring.workspace.receipt(stage), **change}, {}, "")
    assert name in failed(decide(wiring.params, wiring.workspace))


def test_without_questions_nothing_is_passed_unjudged(wiring):
    kit.scored(wiring, INDEX)
    for stage in ("score_retrieval", "score_answers"):
        wiring.workspace.write_receipt(stage, {"skipped": "tiny has no questions"}, {}, "")
    facts = decide(wiring.params, wiring.workspace)
    assert not facts["passed"]
    assert facts["checks"][0]["reason"] == "no questions: tiny has no questions"


def test_a_champion_must_not_be_lost_against(wiring):
    wiring.params = params_of(judge={"max_regression": {"answers.token_f1": 0.16, "retrieval.ndcg@10": 0.13}})
    champion = manifest_of(wiring, decided(wiring))
    other = {**INDEX, "collection": "b_tiny_fedcba9876543210"}
    # The champion's replies score 0.3 and its retrieval 0.8 on each of 30 questions. With all differences at c the
    # interval begins at (30 c - 3.84) / 33.84: -0.149 for a loss of 0.04, -0.122 for one of 0.01.
    good = decided(wiring, champion=champion, index=other, arms={"base": 0.0, "rag": 0.26}, ndcg=0.79)
    assert (good["passed"], good["against"]) == (True, 1)
    # -0.167 for one of 0.06, -0.140 for one of 0.03.
    worse = decided(wiring, champion=champion, index=other, arms={"base": 0.0, "rag": 0.24}, ndcg=0.77)
    assert set(failed(worse)) == {"no loss of answers.token_f1", "no loss of retrieval.ndcg@10"}


def test_too_few_questions_to_decide_are_said_to_be_too_few(wiring):
    champion = manifest_of(wiring, decided(wiring))
    other = {**INDEX, "collection": "b_tiny_fedcba9876543210"}
    facts = decided(wiring, champion=champion, index=other, arms={"base": 0.0, "rag": 0.29}, ndcg=0.79)
    # The margins are 0.03 and 0.02: 3.84 (1 - margin) / margin questions, if nothing differed on any of them.
    assert (
        "too few questions to decide about a loss of 0.03: 30 now, about 125 needed"
        in failed(facts)["no loss of answers.token_f1"]
    )
    assert "30 now, about 189 needed" in failed(facts)["no loss of retrieval.ndcg@10"]
    found = {check["name"]: check for check in facts["checks"]}["no loss of answers.token_f1"]
    assert (found["n"], found["needed"]) == (30, 125)
    assert found["detectable"] == pytest.approx(3.8415 / 33.8415, abs=1e-4)


def test_what_did_not_change_on_any_question_passes_however_few_they_are(wiring):
    champion = manifest_of(wiring, decided(wiring))
    other = {**INDEX, "collection": "b_tiny_fedcba9876543210"}
    facts = decided(wiring, champion=champion, index=other, arms={"base": 0.0, "rag": 0.3})
    assert facts["passed"]
    (check,) = [c for c in facts["checks"] if c["name"] == "no loss of answers.token_f1"]
    assert check["reason"].startswith("no question lost anything")
    assert "too few questions to decide" in check["reason"]


def test_the_gain_is_corrected_for_the_arms_that_were_tried(wiring):
    asked = {check["name"]: check for check in decided(wiring)["checks"]}["gain of answers.token_f1 over base"]
    assert "best of" not in asked["reason"]
    several = decided(wiring, arms={"base": 0.0, "rag": 0.5, "tuned": 0.4, "both": 0.3})
    (check,) = [c for c in several["checks"] if c["name"].startswith("gain of")]
    assert check["reason"].startswith("rag (the best of 3 tried) gains +0.500 over base")


def test_the_same_index_searched_the_same_way_is_not_compared_with_itself(wiring):
    champion = manifest_of(wiring, decided(wiring))
    facts = decided(wiring, champion=champion, ndcg=0.5)
    assert "no loss of retrieval.ndcg@10" not in failed(facts)


def test_how_passages_are_searched_and_asked_is_part_of_the_candidate(wiring):
    seen = {decided(wiring)["candidate"]}
    for sections in ({"retrieve": {"k": 5}}, {"generate": {"system": "Be brief."}}, {"promote": {"arm": "base"}}):
        wiring.params = params_of(**sections)
        seen.add(decided(wiring)["candidate"])
    assert len(seen) == 4


TURNS = ({"role": "user", "content": "Question: a"}, {"role": "assistant", "content": "b"})
LONGER = LongPrompt("Be brief.", TURNS, "s" * 64)


def test_instructions_and_examples_are_part_of_the_candidate_where_they_are_served(wiring):
    prompted = decided(wiring, arms={"base": 0.1, "prompt": 0.5}, longer=LONGER)
    assert (prompted["arm"], prompted["passed"], prompted["long_prompt"]) == ("prompt", True, LONGER.to_json())
    other = LongPrompt("Be kind.", TURNS, LONGER.source)
    assert decided(wiring, arms={"base": 0.1, "prompt": 0.5}, longer=other)["candidate"] != prompted["candidate"]
    plain = decided(wiring, arms={"base": 0.1, "prompt": 0.2, "rag": 0.5}, longer=LONGER)
    assert (plain["arm"], plain["long_prompt"]) == ("rag", None)
    assert plain["candidate"] == decided(wiring, arms={"base": 0.1, "rag": 0.5})["candidate"]


def test_other_instructions_than_those_asked_with_are_no_prompt_to_serve(wiring):
    kit.scored(wiring, INDEX, arms={"base": 0.1, "prompt": 0.5}, longer=LONGER)
    wiring.params = params_of(generate={"prompt": {"instructions": "Be kind."}})
    assert "data prompt" in failed(decide(wiring.params, wiring.workspace))


def test_of_a_prompt_and_an_index_that_are_equally_good_the_prompt_serves(wiring):
    assert decided(wiring, arms={"base": 0.1, "prompt": 0.5, "rag": 0.5}, longer=LONGER)["arm"] == "prompt"


def test_a_release_of_the_arm_prompt_carries_its_text_and_is_another_when_its_source_changes(wiring):
    facts = decided(wiring, arms={"base": 0.1, "prompt": 0.5}, longer=LONGER)
    manifest = manifest_of(wiring, facts)
    assert manifest["prompt"] == {"digest": facts["prompt_digest"], "longer": LONGER.to_json()}
    assert longer_of(manifest) == LONGER
    given = {"index": INDEX, "train": {}, "retrieval": {}, "params": wiring.params.model_dump(mode="json")}
    assert released_already(manifest, **given, shown=LONGER.source)
    assert not released_already(manifest, **given, shown="other")
    rag = manifest_of(wiring, decided(wiring))
    assert longer_of(rag) is None and released_already(rag, **given, shown="other")
    manifest["prompt"]["longer"]["shots"][1]["content"] = "c"
    with pytest.raises(IntegrityError, match="tiny@1: instructions and examples are"):
        longer_of(manifest)


def test_base_may_be_asked_for(wiring):
    wiring.params = params_of(promote={"arm": "base"})
    assert decided(wiring)["passed"]


def test_the_same_receipts_give_the_same_verdict(wiring):
    assert decided(wiring) == decided(wiring)


def test_a_release_is_recognised_until_anything_that_makes_it_changes(wiring):
    manifest = manifest_of(wiring, decided(wiring, adapter=ADAPTER))
    params = wiring.params.model_dump(mode="json")
    given = {"index": INDEX, "train": ADAPTER, "retrieval": {"reranker": None}, "params": params}
    assert released_already(manifest, **given)
    for change in (
        {"index": {**INDEX, "collection": "b_tiny_fedcba9876543210"}},
        {"train": {**ADAPTER, "digest": "x"}},
        {"train": {"skipped": "no examples"}},
        {"retrieval": {"reranker": {"name": "ce", "digest": "f" * 64}}},
        {"params": {**params, "retrieve": {"mode": "dense", "k": 3}}},
        {"params": {**params, "promote": {"arm": "both"}}},
        {"params": {**params, "judge": {**params["judge"], "primary": "answers.exact_match"}}},
    ):
        assert not released_already(manifest, **{**given, **change})


def test_a_rollback_names_the_build_and_what_it_withdraws(wiring):
    first = {**manifest_of(wiring, decided(wiring)), "candidate": "a"}
    second, third = {**first, "generation": 2, "candidate": "b"}, {**first, "generation": 3, "candidate": "c"}
    back = restored(first, [second, third], generation=4, created="later")
    assert (back["generation"], back["previous"], back["restores"], back["withdrawn"]) == (4, 3, 1, ["b", "c"])
    assert (back["index"], back["created"]) == (first["index"], "later")
    # Returning to a rollback returns to the build's own generation.
    again = restored(back, [{**second, "generation": 5}], generation=6, created="later")
    assert (again["restores"], again["withdrawn"]) == (1, ["b"])


def test_a_release_expires_at_the_moment_that_it_names_and_never_without_one(wiring):
    week = manifest_of(wiring, decided(wiring), expires=expiry(CREATED, 7))
    assert week["expires"] == "2026-01-09T03:04:05+00:00"
    last, over = datetime(2026, 1, 9, 3, 4, 4, tzinfo=UTC), datetime(2026, 1, 9, 3, 4, 5, tzinfo=UTC)
    assert (expired(week, last), expired(week, over)) == (False, True)
    half = datetime(2026, 1, 5, 15, 4, 5, tzinfo=UTC)
    assert (renewable(week, half), renewable(week, last), renewable(week, over)) == (False, True, True)
    never = manifest_of(wiring, decided(wiring), expires=expiry(CREATED, None))
    old = {key: value for key, value in never.items() if key != "expires"}
    for manifest in (never, old):
        assert not expired(manifest, datetime(2126, 1, 1, tzinfo=UTC)) and not renewable(manifest, over)


def test_what_is_restored_is_valid_for_as_long_as_it_was(wiring):
    week = manifest_of(wiring, decided(wiring), expires=expiry(CREATED, 7))
    back = restored(week, [], generation=2, created="2026-03-01T00:00:00+00:00")
    assert (back["expires"], back["restores"], back["withdrawn"]) == ("2026-03-08T00:00:00+00:00", 1, [])
    assert restored({**week, "expires": None}, [], generation=2, created="later")["expires"] is None


def test_a_candidate_is_held_back_until_somebody_releases_it_again():
    first, second = {"generation": 1, "candidate": "a"}, {"generation": 2, "candidate": "b"}
    rollback = {"generation": 3, "candidate": "a", "withdrawn": ["b"]}
    again = {"generation": 4, "candidate": "b"}
    assert held_back("b", [rollback, second, first]) == 3
    assert held_back("a", [rollback, second, first]) is None
    assert held_back("c", [rollback, second, first]) is None
    assert held_back("b", [again, rollback, second, first]) is None
