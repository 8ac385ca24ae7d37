"""The arm `prompt` end to end with the packaged model: asked, judged, released, served, asked again as the champion.

What is served must be what was judged, though examples and questions are gone by then."""

import json
import os
import shutil
from pathlib import Path

import pytest

from pipelines.actions import ask, promote, pull, verify, views
from pipelines.core.splits import TEST, TRAIN, split_of
from pipelines.runner import sync_champion
from pipelines.schemas import read_jsonl
from pipelines.stages import score_answers
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.integration
FACTS = [("refunds", "Refunds are paid within 30 days"), ("shipping", "shipping costs 4.90 euros")]
QUESTIONS = [
    {"id": f"q{n:02}", "question": f"{text} - is that so, number {n}?", "answers": [text], "evidence": []}
    for n in range(24)
    for _, text in [FACTS[n % 2]]
]
EXAMPLES = [
    {"id": f"e{n:02}", "prompt": f"Name the number {n}.", "completion": f"Number {n}.", "evidence": []}
    for n in range(12)
]
SECTIONS = {
    "generate": {"max_new_tokens": 6, "prompt": {"shots": 2}},
    "answer": {"arms": ["base", "prompt", "rag"], "max_questions": 3, "batch": 3},
    "judge": {"floors": {"answers.format_valid": 0.1}, "max_regression": {}, "min_gain": -1.0, "min_questions": 3},
    "promote": {"arm": "prompt"},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    found = kit.home(tmp_path_factory.mktemp("prompt"), **SECTIONS)
    before = dict(os.environ)
    os.environ.update(kit.environment(found))
    yield found
    os.environ.clear()
    os.environ.update(before)


def score(wiring):
    report = score_answers.run(wiring.params, wiring.workspace, ports=wiring)
    wiring.workspace.write_receipt("score_answers", report.facts, report.measured, report.summary)
    wiring.store.close()
    return report


@pytest.fixture(scope="module")
def scored(settings):
    wiring = Wiring.of(settings, kit.CORPUS)
    index = kit.build(wiring, kit.TEXTS, questions=QUESTIONS, examples=EXAMPLES)
    sync_champion(wiring)
    kit.scored(wiring, index)
    return wiring, score(wiring), list(read_jsonl(wiring.workspace.scores("answers")))


def test_the_arms_are_asked_the_same_and_the_prompt_holds_training_examples(scored):
    wiring, report, rows = scored
    split = wiring.params.split.model_dump()
    assert list(report.facts["arms"]) == ["base", "prompt", "rag"]
    assert report.facts["missing"] == {"tuned": "not among answer.arms", "both": "not among answer.arms"}
    asked = {arm: [row["id"] for row in rows if row["arm"] == arm] for arm in report.facts["arms"]}
    assert asked["base"] == asked["prompt"] == asked["rag"] and len(asked["base"]) == 3
    assert all(split_of(q, **split) == TEST for q in QUESTIONS if q["id"] in asked["base"])
    longer = report.facts["long_prompt"]
    learned = {f"Question: {e['prompt']}" for e in EXAMPLES if split_of(e, **split) == TRAIN}
    assert {turn["content"] for turn in longer["shots"][::2]} <= learned and len(longer["shots"]) == 4
    assert wiring.params.generate.refusal in longer["system"]


def test_every_metric_and_every_difference_has_an_interval_and_its_n(scored, settings):
    found = views.comparison(settings, kit.CORPUS)
    assert list(found["arms"]) == ["base", "prompt", "rag"]
    assert list(found["differences"]) == ["prompt - base", "rag - base", "rag - prompt"]
    for metrics in [*found["arms"].values(), *found["differences"].values()]:
        assert {"token_f1", "rouge_l", "hallucination", "latency_p50", "latency_p99", "cost_per_1000"} <= set(metrics)
        for name, metric in metrics.items():
            assert metric["low"] - 1e-9 <= metric["value"] <= metric["high"] + 1e-9, name
            assert 0 < metric["n"] <= 3
    assert found["differences"]["prompt - base"]["tokens_in"]["low"] > 0  # instructions and examples are read each time
    assert found["arms"]["rag"]["groundedness"]["value"] >= found["arms"]["base"]["groundedness"]["value"] == 0
    assert found["currency"] == "USD" and found["hypothesis"] is None
    rows = scored[2]
    cost = sum(row["cpu_seconds"] for row in rows if row["arm"] == "rag") / 3 / 3600 * 0.04 * 1000
    assert found["arms"]["rag"]["cost_per_1000"]["value"] == pytest.approx(cost)


def test_mlflow_has_a_row_per_question_and_arm_and_the_differences(scored, settings):
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_uri, registry_uri=settings.mlflow_uri)
    run_id = scored[1].measured["run_id"]
    tables = {
        name: json.loads(Path(client.download_artifacts(run_id, f"{name}.json")).read_text())
        for name in ("answers", "differences")
    }
    assert len(tables["answers"]["data"]) == 9
    assert {"question", "gold", "answer", "passages", "token_f1", "ms", "tokens_in"} <= set(
        tables["answers"]["columns"]
    )
    assert "rag - prompt.token_f1" in {row[0] for row in tables["differences"]["data"]}
    assert {"prompt.token_f1", "prompt.cost_per_1000"} <= set(client.get_run(run_id).data.metrics)


@pytest.fixture(scope="module")
def released(scored, settings):
    wiring = scored[0]
    kit.judged(wiring)
    assert promote.run(wiring.params, wiring.workspace, ports=wiring) == (True, "generation 1: arm prompt, revision r1")
    kept = wiring.workspace.versioned.with_name("kept")
    shutil.move(wiring.workspace.versioned, kept)  # nothing of it may be read to serve
    yield views.release_manifest(settings, kit.CORPUS, None)
    shutil.move(kept, wiring.workspace.versioned)


def test_what_is_served_is_what_was_judged(released, scored, settings):
    row = next(row for row in scored[2] if row["arm"] == "prompt")
    assert released["prompt"]["longer"] == scored[1].facts["long_prompt"]
    found = ask.ask_release(settings, kit.CORPUS, row["question"])
    assert (found["arm"], found["answer"]) == ("prompt", row["answer"])


def test_verify_and_pull_know_the_prompt(released, settings, tmp_path):
    lines = list(verify.verify_release(settings, kit.CORPUS))
    assert any(line.startswith("prompt: 2 examples ") for line in lines)
    pull.pull_release(settings, kit.CORPUS, to=tmp_path / "out")
    envelope = (tmp_path / "out" / "release.json").read_bytes()
    assert Wiring.of(settings, kit.CORPUS).releases.envelope(kit.CORPUS, 1) == envelope


def test_the_champion_is_asked_with_its_own_prompt(released, scored, settings):
    wiring = Wiring.of(settings, kit.CORPUS)
    shutil.copytree(wiring.workspace.versioned.with_name("kept"), wiring.workspace.versioned)
    wiring.workspace.champion_file.write_text(json.dumps(released))
    report = score(wiring)
    rows = list(read_jsonl(wiring.workspace.scores("answers")))
    replies = {arm: [row["reply"] for row in rows if row["arm"] == arm] for arm in ("prompt", "champion")}
    assert report.measured["generated"] == 0
    assert replies["champion"] == replies["prompt"] == [row["reply"] for row in scored[2] if row["arm"] == "prompt"]
    shutil.rmtree(wiring.workspace.versioned)
