"""Which of the services' processes are started: all, or those that died; never beside ones that run. Processes are
`sleep`, readiness is not asked."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from infra import services as module
from infra.local_milvus import free_port
from infra.services import Services
from infra.sessions import end_sessions
from pipelines.errors import BackendError, MissingTool
from pipelines.settings import Settings

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
NAMES = ("milvus", "airflow")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))
    for name in NAMES:
        monkeypatch.setenv(f"ASSAY_{name.upper()}_PORT", str(free_port()))
    monkeypatch.setattr(Services, "_wait", lambda self: None)
    monkeypatch.setattr(Services, "_prepare", lambda self, name: None)
    parts = ("milvus", "airflow-scheduler", "airflow-api")
    monkeypatch.setattr(Services, "commands", lambda self: dict.fromkeys(parts, SLEEP))
    yield Settings(tmp_path, tmp_path / "params.yaml", "local[1]")
    recorded = tmp_path / "run" / "services.json"
    if recorded.is_file():
        end_sessions(list(json.loads(recorded.read_text())["processes"].values()))


def recorded(settings):
    return json.loads((settings.home / "run" / "services.json").read_text())["processes"]


def killed(pid):
    psutil.Process(pid).kill()
    os.waitpid(pid, 0)


def test_what_died_is_started_again_and_the_rest_is_left_alone(settings):
    Services(settings, NAMES).start()
    first = recorded(settings)
    killed(first["airflow-scheduler"])
    Services(settings, NAMES).start(again=True)
    second = recorded(settings)
    assert {name for name in first if first[name] != second[name]} == {"airflow-scheduler"}
    assert all(psutil.pid_exists(pid) for pid in second.values())


def test_what_the_dead_left_running_is_ended_first(settings, monkeypatch):
    leave = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    monkeypatch.setattr(Services, "commands", lambda self: {"milvus": [sys.executable, "-c", leave]})
    Services(settings, ("milvus",)).start()
    leader = psutil.Process(recorded(settings)["milvus"])
    deadline = time.monotonic() + 30
    while not leader.children() and time.monotonic() < deadline:
        time.sleep(0.05)
    (left,) = leader.children()
    killed(leader.pid)
    Services(settings, ("milvus",)).start(again=True)
    assert not left.is_running()


def test_beside_services_that_run_nothing_is_started(settings):
    Services(settings, NAMES).start()
    first = recorded(settings)
    for again in (True, False):
        with pytest.raises(MissingTool, match="running already"):
            Services(settings, NAMES).start(again=again)
    killed(first["airflow-scheduler"])
    with pytest.raises(MissingTool, match="running already"), module.running(settings, *NAMES):
        pass
    assert recorded(settings) == first


def test_a_number_that_is_a_strangers_by_now_is_neither_kept_nor_ended(settings):
    stranger = subprocess.Popen(SLEEP, start_new_session=True)
    (settings.home / "run").mkdir()
    file = settings.home / "run" / "services.json"
    file.write_text(json.dumps({"processes": {"milvus": stranger.pid}}))
    os.utime(file, (time.time() - 60, time.time() - 60))
    Services(settings, NAMES).start()
    assert recorded(settings)["milvus"] != stranger.pid and stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_start_that_fails_ends_what_it_started_and_nothing_else(settings, monkeypatch):
    Services(settings, NAMES).start()
    first = recorded(settings)
    killed(first["airflow-scheduler"])
    started = []

    def fail(self):
        started.extend(self.processes.values())
        raise BackendError("no answer")

    monkeypatch.setattr(Services, "_wait", fail)
    with pytest.raises(BackendError):
        Services(settings, NAMES).start(again=True)
    assert len(started) == 1 and not psutil.pid_exists(started[0])
    assert recorded(settings) == first and psutil.pid_exists(first["milvus"])
