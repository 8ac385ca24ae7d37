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

def answer(option):
    while True:
        time.sleep(0.5)
        with create_session() as session:
            waiting = session.query(TaskInstance).filter_by(task_id="approve", state="awaiting_input").first()
            if waiting is None:
                continue
            detail = session.query(HITLDetail).filter_by(ti_id=waiting.id).one()
            asked.append([detail.subject, detail.body])
            payload = UpdateHITLDetailPayload(chosen_options=[option], params_input={})
            update_hitl_detail(dag.dag_id, waiting.run_id, "approve", payload, ADA, session)
            return

for line in sys.stdin:
    asked.clear()
    threading.Thread(target=answer, args=(line.strip(),), daemon=True).start()
    run = dag.test(mark_success_pattern="score_answers")
    states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
    print("RESULT " + json.dumps({"state": str(run.state), "tasks": states, "asked": asked}), flush=True)
"""
"""For each line, what a person will answer: a run of the DAG."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(settings, a process of RUN's): a corpus, and an Airflow whose database is migrated."""
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
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([sys.executable, "-c", RUN], env=env, cwd=checkout(), **pipes) as airflow:
        yield settings, airflow
        airflow.stdin.close()
    os.environ.clear()
    os.environ.update(before)


def run_dag(airflow, option):
    """A run of the DAG, in which a person who is asked answers so."""
    airflow.stdin.write(f"{option}\n")
    airflow.stdin.flush()
    said = []
    for line in airflow.stdout:
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
        said.append(line)
    raise AssertionError("".join(said)[-4000:])


def generations(settings):
    return [row["generation"] for row in views.release_list(settings, TINY)["releases"]]


def test_a_no_skips_promote_and_nothing_is_published(place):
    settings, airflow = place
    facts = kit.candidate(settings)
    result = run_dag(airflow, "Reject")
    wanted = {"score_answers": "success", "judge": "success", "approve": "success", "promote": "skipped"}
    assert (result["tasks"], result["state"]) == (wanted, "success")
    ((subject, body),) = result["asked"]
    assert subject == f"Release the new candidate of {TINY}?"
    assert body.startswith(f"Candidate {facts['candidate']}: passed, arm rag")
    assert generations(settings) == []


def test_a_yes_publishes_with_who_and_when_and_afterwards_nobody_is_asked(place):
    settings, airflow = place
    result = run_dag(airflow, "Approve")
    assert set(result["tasks"].values()) == {"success"} and len(result["asked"]) == 1
    approval = views.release_manifest(settings, TINY, None)["approval"]
    assert approval["by"] == "Ada" and approval["how"].startswith(f"Airflow: {TINY}_release run ")
    assert approval["at"].endswith("+00:00")
    again = run_dag(airflow, "Approve")
    assert again["asked"] == [] and again["tasks"]["promote"] == "skipped"  # unchanged
    assert generations(settings) == [1]
