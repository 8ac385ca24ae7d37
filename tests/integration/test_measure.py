"""The long measurements, for real: a small corpus with a small adapter, its copy indexed by `assay stage`, canaries
planted, a run of MLflow each; and the comparison that shows them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.actions import compare, measure_freshness, measure_learning, views
from pipelines.actions.measure import measure_corpus
from pipelines.core import canaries
from pipelines.errors import BadInput
from pipelines.measurements import held
from pipelines.runner import sync_champion
from pipelines.stages import mix, score_answers, train
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.cli_kit import assay
from tests.stage_kit import stages_here

pytestmark = pytest.mark.integration
QUESTIONS = [
    {
        "id": "q0", "question": "Within how many days are refunds paid?", "answers": ["30 days"], "split": "test",
        "evidence": [{"document": "refunds", "quote": "Refunds are paid within 30 days of delivery."}],
    },
    {
        "id": "q1", "question": "What does standard shipping cost?", "answers": ["4.90 euros"], "split": "test",
        "evidence": [{"document": "shipping", "quote": "Standard shipping costs 4.90 euros"}],
    },
]  # fmt: skip
EXAMPLES = [
    {
        "id": f"e{n:02}",
        "prompt": f"Name the number {n}.",
        "completion": f"Number {n}.",
        "evidence": [],
        "split": "train",
    }
    for n in range(16)
]
SECTIONS: dict[str, Any] = {
    "generate": {"max_new_tokens": 8},
    "retrieve": {"mode": "dense", "k": 1},
    "train": {"steps": 2, "batch": 2, "rank": 2},
    "compare": {"judge": "smollm2"},
    "answer": {"arms": ["base", "rag", "tuned", "both"], "max_questions": 4, "batch": 4},
    "judge": {
        "primary": "answers.token_recall",
        "floors": {},
        "max_regression": {},
        "min_gain": -1.0,
        "min_questions": 1,
    },
}


@pytest.fixture(scope="module")
def wiring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wiring]:
    """Indexed, trained and asked, each by its stage."""
    settings = kit.home(tmp_path_factory.mktemp("measure"), **SECTIONS)
    before = dict(os.environ)
    os.environ.update(kit.environment(settings))
    wiring = Wiring.of(settings, kit.CORPUS)
    index = kit.build(wiring, kit.TEXTS, questions=QUESTIONS, examples=EXAMPLES)
    sync_champion(wiring)
    kit.scored(wiring, index)
    for stage in (mix, train, score_answers):
        report = stage.run(wiring.params, wiring.workspace, ports=wiring)
        wiring.workspace.write_receipt(report.stage, report.facts, report.measured, report.summary)
    wiring.store.close()
    yield wiring
    os.environ.clear()
    os.environ.update(before)


def assay_stage(command: Sequence[str], *, env: Mapping[str, str], **how: Any) -> Any:
    """The copy's `assay stage`: of `fetch` as the process that it is, of the others in this one."""
    if command[-1] == "fetch":
        return subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    with stages_here():
        return assay(*command[command.index("stage") :], environment=env)


@pytest.fixture(scope="module")
def measured(wiring: Wiring) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr(measure_freshness, "subprocess", SimpleNamespace(run=assay_stage))
        fewer.setattr(canaries, "EACH", 1)
        fewer.setattr(measure_learning, "SHARES", (0.5, 1.0))
        said = list(measure_corpus(wiring.settings, kit.CORPUS))
    assert [line.split(":")[0] for line in said] == ["freshness", "learning", "extraction", "judge"]
    return held(wiring.workspace)


def test_changed_facts_reach_the_index_and_the_weights_in_measured_seconds(measured: dict[str, Any]) -> None:
    found = measured["freshness"]
    assert (found["changed"], found["current"]) == (2, True)
    assert found["retrieved"]["value"] == 1.0  # the copy's index holds both new values
    assert set(found["stages"]) == {"fetch", "check", "snapshot", "chunk", "embed", "index"}
    arms = found["arms"]
    assert arms["base"] == {"by": "nothing", "seconds": None, "share": {"value": 0, "low": 0, "high": 0, "n": 2}}
    assert arms["rag"]["seconds"] == arms["both"]["seconds"] == pytest.approx(sum(found["stages"].values()), abs=0.1)
    assert arms["tuned"]["by"] == "training"
    assert arms["tuned"]["seconds"] > 0


def test_quality_is_measured_on_nested_shares(measured: dict[str, Any], wiring: Wiring) -> None:
    rows = measured["learning"]["rows"]
    whole = {row["of"]: row for row in rows if row["share"] == 1}
    assert (whole["documents"]["items"], whole["examples"]["items"]) == (len(kit.TEXTS), len(EXAMPLES))
    arms = wiring.workspace.receipt("score_answers")["arms"]
    assert whole["documents"]["value"] == pytest.approx(arms["rag"]["token_recall"]["value"], abs=1e-6)
    assert whole["examples"]["value"] == pytest.approx(arms["tuned"]["token_recall"]["value"], abs=1e-6)
    items = [row["items"] for row in rows if row["of"] == "examples"]
    assert items == sorted(items)
    assert items[0] < len(EXAMPLES)


def test_canaries_are_ranked_and_the_base_never_saw_them(measured: dict[str, Any]) -> None:
    found = measured["extraction"]
    assert (found["arms"]["base"]["recovered"], found["arms"]["base"]["canaries"]) == (0, 3)
    assert {row["arm"] for row in found["rows"]} == {"base", "tuned"}
    assert all(0 <= row["exposure"] <= 6 for row in found["rows"])


def test_a_language_model_grades_and_its_agreement_is_told(measured: dict[str, Any], wiring: Wiring) -> None:
    found = measured["judge"]
    rows = found["rows"]
    assert (found["judge"], found["unreadable"], len(rows)) == ("smollm2", 0, 4 * len(QUESTIONS))
    agreed = sum(row["found_right"] == row["right"] for row in rows) / len(rows)
    assert found["agreement"]["value"] == pytest.approx(agreed)
    import mlflow

    mlflow.set_tracking_uri(wiring.settings.mlflow_uri)
    traces = mlflow.search_traces(
        run_id=found["run_id"], locations=[mlflow.get_run(found["run_id"]).info.experiment_id]
    )
    assert len(traces) == len(rows)


def test_what_is_held_of_this_candidate_is_not_measured_again(measured: dict[str, Any], wiring: Wiring) -> None:
    assert list(measure_corpus(wiring.settings, kit.CORPUS, ["learning"])) == [
        "learning: held already, of this candidate"
    ]
    with pytest.raises(BadInput, match="no measurement 'speed'; there are: freshness, learning, extraction, judge"):
        list(measure_corpus(wiring.settings, kit.CORPUS, ["speed"]))


def test_the_comparison_shows_them_on_its_page_and_in_mlflow(measured: dict[str, Any], wiring: Wiring) -> None:
    import mlflow

    result = views.comparison(wiring.settings, kit.CORPUS)
    assert list(result["arms"]) == ["base", "rag", "tuned", "both"]
    cells = {line["name"]: line["cells"] for line in result["table"]}
    assert cells["freshness"]["base"] == "never"
    assert cells["privacy"]["base"].startswith("0 of 3")
    page = compare.page_of(wiring.settings, result)
    for _ in range(2):  # logged once
        compare.log_once(wiring.settings, result, page)
    assert json.dumps(result)
    client = mlflow.MlflowClient(wiring.settings.mlflow_uri)
    experiment = client.get_experiment_by_name(kit.CORPUS)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    named = [run.info.run_name for run in runs]
    assert named.count("compare") == 1
    assert {"measure freshness", "measure learning", "measure extraction"} <= set(named)
    (run,) = (run for run in runs if run.info.run_name == "compare")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"compare", "comparison.json"}
    extraction = next(run for run in runs if run.info.run_name == "measure extraction")
    assert extraction.data.metrics["extraction.arms.base.canaries"] == 3


def test_another_candidate_makes_them_earlier_ones(measured: dict[str, Any], wiring: Wiring) -> None:
    receipt = wiring.workspace.receipt("index")
    try:
        wiring.workspace.write_receipt("index", {**receipt, "collection": "b_tiny_other"}, {}, "")
        assert not any(found["current"] for found in held(wiring.workspace).values())
    finally:
        wiring.workspace.write_receipt("index", receipt, {}, "")
