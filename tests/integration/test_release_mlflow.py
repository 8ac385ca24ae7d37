"""The MLflow backend on a real SQLite store: fresh database with several processes at once, and nothing made twice."""

import json
import os
import sqlite3

import pytest

from pipelines.backends.mlflow import MlflowRegistry
from pipelines.errors import BackendError, NotFound

pytestmark = pytest.mark.integration


@pytest.fixture
def registry(tmp_path):
    return MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}", artifacts=tmp_path / "mlflow" / "artifacts")


def written(registry, tmp_path, *, key="k1", digest="d1"):
    """One run with everything in it and one model version; (run id, version)."""
    folder = tmp_path / f"folder-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    (folder / "facts.json").write_text("{}")
    with registry.run("hb", "train", tags={"assay.key": key}) as log:
        log.params({"train": {"rank": 16}, "base": "smollm2", "long": "x" * 7000})
        log.metrics({"loss": 1.5}, step=1)
        log.metrics({"ndcg@10": 0.5, "nothing": float("nan")})
        log.dataset("hb documents", digest="e" * 64, source="s3://here", context="training", profile={"rows": 3})
        log.table("questions", [{"id": "q1", "f1": 0.5}, {"id": "q2"}])
        log.folder(folder, name="model")
    version = registry.register(
        "hb-index", run_id=log.run_id, path="model", description="# What it is", tags={"assay.digest": digest}
    )
    registry.alias("hb-index", "champion", version)
    return log.run_id, version


def test_what_is_written_is_what_a_reviewer_finds(registry, tmp_path):
    run_id, version = written(registry, tmp_path)
    client = registry._client
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.rank"] == "16"
    assert run.data.metrics == {"loss": 1.5, "ndcg_at_10": 0.5}
    (held,) = run.inputs.dataset_inputs
    assert (held.dataset.digest, json.loads(held.dataset.profile)["digest"]) == ("e" * 36, "e" * 64)
    assert held.tags[0].value == "training"
    assert "questions.json" in run.data.tags["mlflow.loggedArtifacts"]
    table = json.loads((tmp_path / "mlflow" / "artifacts" / "hb" / run_id / "artifacts" / "questions.json").read_text())
    assert table == {"columns": ["id", "f1"], "data": [["q1", 0.5], ["q2", None]]}
    made = client.get_model_version_by_alias("hb-index", "champion")
    assert (int(made.version), made.description, made.run_id) == (version, "# What it is", run_id)
    assert sqlite3.connect(tmp_path / "mlflow" / "mlflow.db").execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_same_key_and_digest_are_made_once(registry, tmp_path):
    assert written(registry, tmp_path) == written(registry, tmp_path)
    assert len(registry._client.search_model_versions("name = 'hb-index'")) == 1
    other_run, other_version = written(registry, tmp_path, key="k2", digest="d2")
    assert other_version == 2
    assert registry.version("hb-index", "d2") == 2
    assert registry.version("hb-index", "d3") is None
    assert registry._client.get_run(other_run).info.status == "FINISHED"


def test_a_failed_run_is_kept_as_failed_and_a_killed_one_is_closed(registry, tmp_path):
    with pytest.raises(ZeroDivisionError), registry.run("hb", "train", tags={"assay.key": "k1"}):
        _ = 1 / 0
    experiment = registry._experiment("hb")
    registry._client.create_run(experiment, tags={"assay.key": "k1"})
    written(registry, tmp_path)
    runs = registry._client.search_runs([experiment], "tags.`assay.key` = 'k1'")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED", "KILLED"]


def test_an_unknown_version_and_an_unusable_store_are_said_plainly(registry, tmp_path):
    written(registry, tmp_path)
    with pytest.raises(NotFound, match="MLflow has no version 9 of model 'hb-index'"):
        registry.alias("hb-index", "champion", 9)
    (tmp_path / "broken.db").write_text("this is no database, however long it may be" * 30)
    with pytest.raises(BackendError, match="MLflow: opening sqlite"):
        MlflowRegistry(f"sqlite:///{tmp_path / 'broken.db'}", artifacts=tmp_path).prepare()


def test_several_processes_on_a_fresh_database(registry, tmp_path):
    import mlflow  # noqa: F401  # imported before the fork, so that the children start at once and together

    children = []
    for number in range(4):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                written(registry, tmp_path, key=f"k{number % 2}", digest="same")
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0, 0]
    client = registry._client
    assert [experiment.name for experiment in client.search_experiments()].count("hb") == 1
    assert len(client.search_model_versions("name = 'hb-index'")) == 1
