"""Promote, killed by SIGKILL before and after every step that touches the world, then run again.

The victims are real processes, forked from one driver that has imported the vendors already (MLflow alone takes 7
CPU-seconds): each starts from where the one before was killed, and kills itself at its step.
"""

import subprocess
import sys
import textwrap

import pytest

from pipelines.actions import views
from pipelines.backends.mlflow import MlflowRegistry
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.faults
TINY = kit.CORPUS

DRIVER = textwrap.dedent(
    """
    import os, signal, sys
    import mlflow.pyfunc, pymilvus, milvus_lite
    from pipelines.actions import promote, reconcile
    from pipelines.backends import mlflow as registry
    from pipelines.backends.releaselog import SignedReleaseLog
    from pipelines.backends.milvus import MilvusStore
    from pipelines.backends.dvc import DvcVersioner
    from pipelines.backends.objects import ObstoreObjects
    from pipelines.settings import Settings
    from pipelines.wiring import Wiring

    STEPS = {
        "create": (ObstoreObjects, "create"),
        "point": (MilvusStore, "point"),
        "folder": (registry.MlflowRun, "folder"),
        "table": (registry.MlflowRun, "table"),
        "register": (registry.MlflowRegistry, "register"),
        "alias": (registry.MlflowRegistry, "alias"),
        "record": (DvcVersioner, "record"),
        "marker": (promote, "write_whole"),
        "report": (promote, "write_report"),
    }

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def break_at(when, step):
        owner, name = STEPS[step]
        real = getattr(owner, name)

        def after(*args, **kwargs):
            real(*args, **kwargs)
            die()

        setattr(owner, name, die if when == "before" else after)

    def run():
        wiring = Wiring.of(Settings.from_env(), "tiny")
        print(promote.run(wiring.params, wiring.workspace, ports=wiring)[1], flush=True)
        wiring.store.close()

    for point in sys.argv[1:]:
        if (pid := os.fork()) == 0:
            if point != "never":
                break_at(*point.split(":"))
            try:
                run()
            finally:
                sys.stdout.flush()
                os._exit(0)
        status = os.waitpid(pid, 0)[1]
        print(f"{point} {'killed' if os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9 else 'ended'}", flush=True)
    """
)
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


def drive(settings, *points):
    environment = kit.environment(settings)
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *points],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines(), err


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
def test_killed_at_every_step_and_run_again_there_is_one_release(settings):
    judged = kit.candidate(settings)
    lines, err = finished(drive(settings, *KILLS, "never", "never"))
    assert [line for line in lines if line.endswith("killed")] == [f"{point} killed" for point in KILLS], err
    assert lines[-4:] == ["unchanged at generation 1", "never ended", "unchanged at generation 1", "never ended"]
    one_of_everything(settings)
    assert views.release_manifest(settings, TINY, 1)["candidate"] == judged["candidate"]
    assert views.release_manifest(settings, TINY, 1)["verdict"]["passed"]


@pytest.mark.fault("two promotions at once")
def test_of_two_promotions_at_once_one_publishes(settings):
    kit.candidate(settings)
    # A milvus-lite folder serves one process: one of the two may end there with an error, after the log was written.
    racers = [drive(settings, "never") for _ in range(2)]
    said = [finished(racer) for racer in racers]
    summaries = sorted(lines[0] for lines, _ in said if not lines[0].startswith("never"))
    assert summaries, said
    assert [row["generation"] for row in views.release_list(settings, TINY)["releases"]] == [1]
    assert finished(drive(settings, "never"))[0][0] == "unchanged at generation 1"
    one_of_everything(settings)
