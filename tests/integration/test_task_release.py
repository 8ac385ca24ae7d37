"""The tasks label and sql end to end with the packaged model: asked, scored, judged, released, served.

A label release chooses among the labels it was judged with, though the examples they came from are gone by then."""

import os
import shutil
import sqlite3

import pytest

from pipelines.actions import ask, promote, views
from pipelines.runner import sync_champion
from pipelines.schemas import read_jsonl
from pipelines.stages import score_answers
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.integration
LABELS = ["refunds", "shipping costs", "warranty"]
QUESTIONS = [
    {"id": f"q{n}", "question": f"{n}. {text}", "answers": [LABELS[n % 3]], "evidence": [], "split": "test"}
    for n, text in enumerate(["How do I get my money back?", "What does delivery cost?", "My tent has a hole."])
]
EXAMPLES = [
    {"id": f"e{n}", "prompt": f"Message {n}", "completion": LABELS[n % 3], "evidence": [], "split": "train"}
    for n in range(6)
]
GOLD = [{**q, "answers": ["SELECT name FROM town ORDER BY name"]} for q in QUESTIONS]


def sections(primary, **generate):
    return {
        "generate": {"system": "Name the topic.", "refusal": "", "max_new_tokens": 6, **generate},
        "answer": {"arms": ["base", "rag"], "max_questions": 3, "batch": 3},
        "judge": {"primary": primary, "floors": {}, "max_regression": {}, "min_gain": -1.0, "min_questions": 3},
        "promote": {"arm": "rag"},
    }


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Score a corpus of the task that `generate` names; (wiring, report, rows)."""

    def run(primary, questions, **generate):
        settings = kit.home(tmp_path / "home", **sections(primary, **generate))
        for name in [name for name in os.environ if name.startswith(("ASSAY_", "MLFLOW_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("ASSAY_HOME", str(settings.home))
        monkeypatch.setenv("ASSAY_PARAMS", str(settings.params_file))
        wiring = Wiring.of(settings, kit.CORPUS)
        index = kit.build(wiring, kit.TEXTS, questions=questions, examples=EXAMPLES)
        sync_champion(wiring)
        kit.scored(wiring, index)
        report = score_answers.run(wiring.params, wiring.workspace, ports=wiring)
        wiring.workspace.write_receipt("score_answers", report.facts, report.measured, report.summary)
        wiring.store.close()
        return wiring, report, list(read_jsonl(wiring.workspace.scores("answers")))

    return run


def test_a_label_is_chosen_scored_and_served_from_the_labels_of_the_training_examples(scored):
    wiring, report, rows = scored("answers.label_accuracy", QUESTIONS, task="label")
    assert report.facts["labels"] == LABELS and len(rows) == 6
    assert {row["answer"] for row in rows} <= set(LABELS)
    right = [float(row["answer"] in row["gold"]) for row in rows if row["arm"] == "rag"]
    assert report.facts["arms"]["rag"]["label_accuracy"]["value"] == pytest.approx(sum(right) / 3, abs=1e-4)
    kit.judged(wiring)
    changed, said = promote.run(wiring.params, wiring.workspace, ports=wiring)
    assert changed and "arm rag" in said
    shutil.rmtree(wiring.workspace.versioned)  # nothing of it may be read to serve
    assert views.release_manifest(wiring.settings, kit.CORPUS, None)["prompt"]["labels"] == LABELS
    judged = {row["question"]: row["answer"] for row in rows if row["arm"] == "rag"}
    question = QUESTIONS[2]["question"]
    assert ask.ask_release(wiring.settings, kit.CORPUS, question)["answer"] == judged[question]


def test_queries_are_run_on_the_database_and_leave_it_as_it_was(scored, tmp_path):
    database = tmp_path / "towns.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE town (name TEXT)")
        connection.execute("INSERT INTO town VALUES ('Ayr')")
    connection.close()
    before = database.read_bytes()
    _, report, rows = scored("answers.execution_accuracy", GOLD, task="sql", database=str(database))
    assert report.facts["labels"] is None and list(report.facts["arms"]["base"]) == ["execution_accuracy", "valid_sql"]
    for row in rows:
        assert set(row["metrics"]) == {"execution_accuracy", "valid_sql"}
        assert row["metrics"]["execution_accuracy"] <= row["metrics"]["valid_sql"]
    assert database.read_bytes() == before
