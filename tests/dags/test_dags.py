"""The rendered DAGs say what dvc.yaml says, and their files stay wiring."""

import ast
import importlib

import pytest
import yaml

from pipelines import graph
from pipelines.settings import checkout

pytest.importorskip("airflow.sdk")
HOW = ("none", "mlflow", "airflow")
FILES = ("corpus", "index", "adapter", "release", "upkeep")


@pytest.fixture(scope="module")
def dags():
    from airflow.sdk import DAG

    found = {}
    for file in FILES:
        module = importlib.import_module(f"dags.{file}")
        found |= {name: value for name, value in vars(module).items() if isinstance(value, DAG)}
    return found


def test_four_dags_a_corpus_and_upkeep(dags):
    assert set(dags) == {f"handbook_{kind}" for kind in graph.DAGS} | {"upkeep"}


def test_upkeep_tries_again_until_its_next_run_while_a_service_is_down(dags):
    (task,) = dags["upkeep"].tasks
    assert task.retry_delay.total_seconds() <= 20
    assert task.retries * task.retry_delay.total_seconds() >= 300


@pytest.mark.parametrize("kind", graph.DAGS)
def test_tasks_and_edges_are_those_of_the_graph(dags, kind):
    dag = dags[f"handbook_{kind}"]
    nodes = {name: node for name, node in graph.load().items() if node.dag == kind}
    assert set(dag.task_dict) == set(nodes)
    for name, node in nodes.items():
        assert dag.task_dict[name].upstream_task_ids == {other for other in node.upstream if other in nodes}
        assert dag.task_dict[name].retries == 2
        assert dag.task_dict[name].doc_md == node.description
    assert set(dag.tags) == {"assay", "handbook", kind}
    assert "force" in dag.params


def test_a_person_is_asked_between_judge_and_promote_where_params_say_so(tmp_path, monkeypatch, dags):
    from airflow.sdk.exceptions import AirflowFailException

    from dags._render import AskOperator, render

    raw = yaml.safe_load((checkout() / "params.yaml").read_text())
    raw["corpora"] |= {f"asked_{how}": {"source": {"documents": "x"}, "promote": {"approval": how}} for how in HOW}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.setenv("ASSAY_PARAMS", str(tmp_path / "params.yaml"))
    rendered = render("release")
    asking = {name for name, dag in rendered.items() if "approve" in dag.task_dict}
    assert asking == {"asked_airflow_release"}
    dag = rendered["asked_airflow_release"]
    ask, promote = dag.task_dict["approve"], dag.task_dict["promote"]
    assert isinstance(ask, AskOperator) and "candidate" in ask.template_fields and ask.defaults is None
    assert (ask.upstream_task_ids, promote.upstream_task_ids) == ({"judge"}, {"judge", "approve"})
    assert "approval" in promote.template_fields and "xcom_pull(task_ids='approve')" in promote.approval
    assert (ask.retries, promote.retries) == (2, 2)
    with pytest.raises(AirflowFailException, match="Nobody answered within 7 days"):  # which no retry follows
        ask.execute_complete({}, {"error": "timed out", "error_type": "timeout"})
    assert dags["handbook_release"].task_dict["promote"].approval == ""
    assert "approve" not in render("index")["asked_airflow_index"].task_dict


def test_assets_join_the_dags(dags):
    made = {a.name: dag for dag in dags.values() for task in dag.tasks for a in task.outlets}
    assert {name: dag.dag_id for name, dag in made.items()} == {f"handbook_{k}": f"handbook_{k}" for k in graph.DAGS}
    awaited = {
        kind: {a.name for a in dags[f"handbook_{kind}"].timetable.asset_condition.objects}
        for kind in ("index", "adapter", "release")
    }
    assert awaited == {
        "index": {"handbook_corpus"},
        "adapter": {"handbook_corpus"},
        "release": {"handbook_index", "handbook_adapter"},
    }


def test_only_an_unchanged_corpus_or_release_is_skipped(dags):
    skipping = {t.task_id for dag in dags.values() for t in dag.tasks if getattr(t, "skip_unchanged", False)}
    assert skipping == {"snapshot", "promote"}


def test_dag_files_are_wiring():
    for file in FILES:
        tree = ast.parse((checkout() / "dags" / f"{file}.py").read_text())
        assert not any(isinstance(node, ast.For | ast.While | ast.Try) for node in ast.walk(tree))
