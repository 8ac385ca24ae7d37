"""The release DAG with `promote.approval: airflow`, run by Airflow itself (`dag.test()` on a database of its own).

judge and promote are the real stages in processes of their own, a person's answer goes through the function behind
Airflow's REST API. Not here: the HTTP server, the UI, a scheduler; and score_answers is marked done, its receipt made
by hand."""

import json
import os
import subprocess
import sys

import pytest

from pipelines.actions import views
from pipelines.settings import checkout
from tests import release_kit as kit

pytest.importorskip("airflow.sdk")
pytestmark = pytest.mark.integration
TINY = kit.CORPUS
RUN = """
import json, sys, threading, time
from types import SimpleNamespace
from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from dags.release import tiny_release as dag

asked = []
ADA = SimpleNamespace(get_id=lambda: "7", get_name=lambda: "Ada")

def answer():
    while True:
        time.sleep(0.5)
        with create_session() as session:
            waiting = session.query(TaskInstance).filter_by(task_id="approve", state="awaiting_input").first()
            if waiting is None:
                continue
            detail = session.query(HITLDetail).filter_by(ti_id=waiting.id).one()
            asked.append([detail.subject, detail.body])
            payload = UpdateHITLDetailPayload(chosen_options=[sys.argv[1]], params_input={})
            update_hitl_detail(dag.dag_id, waiting.run_id, "approve", payload, ADA, session)
            return

threading.Thread(target=answer, daemon=True).start()
run = dag.test(mark_success_pattern="score_answers")
states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
print("RESULT " + json.dumps({"state": str(run.state), "tasks": states, "asked": asked}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(settings, environment): a judged corpus, and an Airflow whose database is migrated."""
    root = tmp_path_factory.mktemp("dag")
    settings = kit.home(root / "home", promote={"approval": "airflow"})
    env = kit.environment(settings)
    env = {key: value for key, value in env.items() if not key.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(root / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(checkout() / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(checkout()),
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    before = dict(os.environ)
    os.environ.update(kit.environment(settings))
    yield settings, env
    os.environ.clear()
    os.environ.update(before)


def run_dag(env, option):
    done = subprocess.run(
        [sys.executable, "-c", RUN, option], env=env, cwd=checkout(), capture_output=True, text=True, timeout=600
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert said, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads(said[0].removeprefix("RESULT "))


def generations(settings):
    return [row["generation"] for row in views.release_list(settings, TINY)["releases"]]


def test_a_no_skips_promote_and_nothing_is_published(place):
    settings, env = place
    facts = kit.candidate(settings)
    result = run_dag(env, "Reject")
    wanted = {"score_answers": "success", "judge": "success", "approve": "success", "promote": "skipped"}
    assert (result["tasks"], result["state"]) == (wanted, "success")
    ((subject, body),) = result["asked"]
    assert subject == f"Release the new candidate of {TINY}?"
    assert body.startswith(f"Candidate {facts['candidate']}: passed, arm rag")
    assert generations(settings) == []


def test_a_yes_publishes_with_who_and_when_and_afterwards_nobody_is_asked(place):
    settings, env = place
    result = run_dag(env, "Approve")
    assert set(result["tasks"].values()) == {"success"} and len(result["asked"]) == 1
    approval = views.release_manifest(settings, TINY, None)["approval"]
    assert approval["by"] == "Ada" and approval["how"].startswith(f"Airflow: {TINY}_release run ")
    assert approval["at"].endswith("+00:00")
    again = run_dag(env, "Approve")
    assert again["asked"] == [] and again["tasks"]["promote"] == "skipped"  # unchanged
    assert generations(settings) == [1]
