"""Promote, killed by SIGKILL before and after every step that touches the world, then run again: each of the victims
starts from where the one before was killed, and kills itself at its step."""

import subprocess

import pytest

from pipelines.actions import views
from pipelines.backends.mlflow import MlflowRegistry
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.faults
TINY = kit.CORPUS

BROKEN = """
import os, signal
from pipelines.actions import promote
from pipelines.backends.dvc import DvcVersioner
from pipelines.backends.milvus import MilvusStore
from pipelines.backends.mlflow import MlflowRegistry, MlflowRun
from pipelines.backends.objects import ObstoreObjects
from tests import life_kit

STEPS = {{
    "create": (ObstoreObjects, "create"),
    "point": (MilvusStore, "point"),
    "folder": (MlflowRun, "folder"),
    "table": (MlflowRun, "table"),
    "register": (MlflowRegistry, "register"),
    "alias": (MlflowRegistry, "alias"),
    "record": (DvcVersioner, "record"),
    "marker": (promote, "write_whole"),
    "report": (promote, "write_report"),
}}

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

when, _, step = "{point}".partition(":")
owner, name = STEPS[step]
real = getattr(owner, name)
setattr(owner, name, die if when == "before" else lambda *args, **kwargs: (real(*args, **kwargs), die()))
said = life_kit.promote()
"""
KILLS = [
    "before:create", "after:create", "before:point", "after:point", "before:folder", "after:folder", "before:table",
    "before:register", "after:register", "before:alias", "after:alias", "before:record", "after:record",
    "before:marker", "before:report",
]  # fmt: skip


@pytest.fixture
def settings(tmp_path, monkeypatch):
    found = kit.home(tmp_path / "home")
    for name, value in kit.environment(found).items():
        monkeypatch.setenv(name, value)
    return found


def one_of_everything(settings):
    """Exactly one generation, one model version, one finished release run; every projection says so."""
    assert [row["generation"] for row in views.release_list(settings, TINY)["releases"]] == [1]
    client = MlflowRegistry(settings.mlflow_uri, artifacts=settings.home / "mlflow" / "artifacts")._client
    versions = client.search_model_versions(f"name = '{TINY}'")
    assert [int(version.version) for version in versions] == [1]
    experiment = client.get_experiment_by_name(TINY).experiment_id
    runs = client.search_runs([experiment], "tags.`assay.generation` = '1'")
    assert sorted(run.info.status for run in runs).count("FINISHED") == 1
    assert not [run for run in runs if run.info.status == "RUNNING"]
    (done,) = [run for run in runs if run.info.status == "FINISHED"]
    assert versions[0].run_id == done.info.run_id
    assert client.get_model_version_by_alias(TINY, "champion").version == versions[0].version
    wiring = Wiring.of(settings, TINY)
    collection = wiring.store._client.describe_alias(TINY)["collection_name"]
    wiring.store.close()
    assert collection == wiring.releases.read(TINY)["index"]["collection"]
    tags = subprocess.run(["git", "tag"], cwd=settings.workspace(TINY), capture_output=True, text=True, check=True)
    assert "g1" in tags.stdout.split()


@pytest.mark.fault("kill -9 at a step of promote", times=len(KILLS))
def test_killed_at_every_step_and_run_again_there_is_one_release(settings, zygote):
    judged = kit.candidate(settings)
    for point in KILLS:
        zygote.ends_itself(settings, BROKEN.format(point=point))
    for _ in range(2):
        assert zygote.undisturbed(settings, "promote").said == "unchanged at generation 1"
    one_of_everything(settings)
    assert views.release_manifest(settings, TINY, 1)["candidate"] == judged["candidate"]
    assert views.release_manifest(settings, TINY, 1)["verdict"]["passed"]


@pytest.mark.fault("two promotions at once")
def test_of_two_promotions_at_once_one_publishes(settings, zygote):
    kit.candidate(settings)
    # A milvus-lite folder serves one process: one of the two may end there with an error, after the log was written.
    racers = [zygote.start(settings, "promote") for _ in range(2)]
    ended = [zygote.finish(racer) for racer in racers]
    assert not all(one.error for one in ended), ended
    assert [row["generation"] for row in views.release_list(settings, TINY)["releases"]] == [1]
    assert zygote.undisturbed(settings, "promote").said == "unchanged at generation 1"
    one_of_everything(settings)
