"""Start and stop the real services on 127.0.0.1, without Docker: Airflow, Milvus (lite server) and MLflow.

Each runs in a session of its own with its log under ASSAY_HOME/logs. `run/services.json` says what runs; Assay's
commands find Milvus through it. Stopping ends every process of those sessions and their children, and checks. Starting
again where some died starts those alone, after what they left running has ended.

    python -m infra.services up | down
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil

from infra.sessions import end_sessions, gone
from pipelines.errors import AssayError, BackendError, MissingTool
from pipelines.settings import Settings, checkout
from pipelines.workspace import write_whole

HOST = "127.0.0.1"
PORTS = {"airflow": 8080, "mlflow": 5000, "milvus": 19530, "spark": 7077}
USER = "admin"


def port(service: str) -> int:
    """The service's port: ASSAY_<SERVICE>_PORT or the default."""
    return int(os.environ.get(f"ASSAY_{service.upper()}_PORT") or PORTS[service])


def _service(process: str) -> str:
    """`airflow` of `airflow-scheduler`: the service that a process is of."""
    return process.split("-")[0]


def require_free(service: str) -> None:
    """MissingTool (exit 2) when something else listens on the service's port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port(service)))
        except OSError as exc:
            variable = f"ASSAY_{service.upper()}_PORT"
            raise MissingTool(
                f"port {port(service)} for {service} is in use; stop what uses it or set {variable} to a free port"
            ) from exc


@dataclass
class Services:
    """The processes of one start, by name, and how to end them."""

    settings: Settings
    names: tuple[str, ...]
    processes: dict[str, int] = field(default_factory=dict)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def file(self) -> Path:
        return self.settings.home / "run" / "services.json"

    @property
    def airflow_home(self) -> Path:
        return self.settings.home / "airflow"

    @property
    def airflow_url(self) -> str:
        return f"http://{HOST}:{port('airflow')}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{port('mlflow')}"

    @property
    def password(self) -> str:
        """Airflow's login, made once, readable by the owner only."""
        return str(json.loads(self._once("passwords.json", json.dumps({USER: secrets.token_urlsafe(12)})))[USER])

    def secret(self, name: str) -> str:
        """A random secret, made once."""
        return self._once(f"{name}.secret", secrets.token_urlsafe(32))

    def _once(self, name: str, text: str) -> str:
        """What Airflow's folder keeps in this file of mode 0600: `text`, the first time."""
        file = self.airflow_home / name
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(text)
        return file.read_text()

    def environment(self) -> dict[str, str]:
        """What every service and every task sees."""
        assert self.password
        bin_folder = str(Path(sys.executable).parent)
        env = {
            **os.environ,
            "PATH": bin_folder + os.pathsep + os.environ.get("PATH", ""),
            "PYTHONPATH": str(checkout()),
            "PYTHONUNBUFFERED": "1",
            "AIRFLOW_HOME": str(self.airflow_home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(checkout() / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": os.environ.get("AIRFLOW__CORE__PARALLELISM", "4"),
            # A scheduler that died took its tasks along: after a minute, not five, they have another attempt.
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.airflow_home / "passwords.json"),
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__API__SECRET_KEY": self.secret("session"),
            "AIRFLOW__API_AUTH__JWT_SECRET": self.secret("jwt"),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        if "milvus" in self.names:
            env["ASSAY_MILVUS_URI"] = f"http://{HOST}:{port('milvus')}"
        return env

    def commands(self) -> dict[str, list[str]]:
        """What runs, by the name of its log; Airflow's components one by one, since `standalone` would serve logs on
        all interfaces (ports 8793 and 8794)."""
        tools, mlflow = Path(sys.executable).parent, self.settings.home / "mlflow"
        airflow = str(tools / "airflow")
        found = {
            "milvus": [
                *(str(tools / "milvus-lite"), "server", "--data-dir", str(self.settings.milvus_lite)),
                *("--host", HOST, "--port", str(port("milvus"))),
            ],
            "airflow-api": [airflow, "api-server", "--host", HOST, "--port", str(port("airflow"))],
            "airflow-scheduler": [airflow, "scheduler", "--skip-serve-logs"],
            "airflow-dag-processor": [airflow, "dag-processor"],
            "airflow-triggerer": [airflow, "triggerer", "--skip-serve-logs"],
            "mlflow": [
                *(str(tools / "mlflow"), "server", "--host", HOST, "--port", str(port("mlflow")), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{mlflow / 'mlflow.db'}"),
                *("--default-artifact-root", str(mlflow / "artifacts")),
            ],
        }
        return {name: command for name, command in found.items() if _service(name) in self.names}

    def spawn(self, name: str, command: list[str]) -> None:
        """Start one process in its own session, its output in logs/NAME.log."""
        log = self.settings.home / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=self.environment(),
                cwd=checkout(),
            )
        self.processes[name] = process.pid

    def start(self, *, again: bool = False) -> None:
        """Start all named services and return when each answers; `again`: those of them that died since the last start.
        On any failure, what was started here is ended again."""
        before = self._recorded()
        kept = {name: pid for name, pid in before.items() if self._lives(pid)}
        missing = {name: command for name, command in self.commands().items() if name not in kept}
        if not missing or (kept and not again):
            raise MissingTool("Assay's services are running already; stop them with: make down")
        new = [name for name in self.names if not any(_service(other) == name for other in kept)]
        for name in new:
            require_free(name)
        # The workers of a scheduler that is gone do not heed SIGTERM.
        end_sessions([pid for pid in before.values() if gone(pid)], patience=2)
        self.began = datetime.now(UTC)
        try:
            for name in self.names:
                if name in new:
                    self._prepare(name)
                for process, command in missing.items():
                    if _service(process) == name:
                        self.spawn(process, command)
            self._wait()
        except BaseException:
            end_sessions(list(self.processes.values()))
            raise
        self.processes = {name: {**kept, **self.processes}[name] for name in self.commands()}
        uris = {"airflow": self.airflow_url, "mlflow": self.mlflow_url, "milvus": f"http://{HOST}:{port('milvus')}"}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        known = {
            "pid": next(iter(self.processes.values())),
            "processes": self.processes,
            "uris": {name: uri for name, uri in uris.items() if name in self.names},
        }
        write_whole(self.file, json.dumps(known))

    def _recorded(self) -> dict[str, int]:
        """Process ids of the last start that was not stopped, by name."""
        try:
            return dict(json.loads(self.file.read_text())["processes"])
        except (OSError, ValueError, KeyError):
            return {}

    def _lives(self, pid: int) -> bool:
        """Whether the process is the one that was recorded, which lived by then: a stranger that has its number by now
        is younger than the record."""
        try:
            return not gone(pid) and psutil.Process(pid).create_time() <= self.file.stat().st_mtime
        except (psutil.Error, OSError):
            return False

    def _prepare(self, name: str) -> None:
        """What must be there before the service starts."""
        if name == "milvus":
            self.settings.milvus_lite.parent.mkdir(parents=True, exist_ok=True)
        elif name == "airflow":
            command = [str(Path(sys.executable).parent / "airflow"), "db", "migrate"]
            migrated = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
            if migrated.returncode != 0:
                raise BackendError(f"airflow db migrate failed: {migrated.stderr.strip()[-300:]}")
        elif name == "mlflow" and not (self.settings.home / "mlflow" / "mlflow.db").is_file():
            # Made whole first: tasks may open it while the server would still be migrating it.
            from pipelines.backends.mlflow import MlflowRegistry

            folder = self.settings.home / "mlflow"
            MlflowRegistry(f"sqlite:///{folder / 'mlflow.db'}", artifacts=folder / "artifacts").prepare()

    def _wait(self, *, timeout: float = 180) -> None:
        deadline = time.monotonic() + timeout
        waiting = set(self.names)
        while waiting:
            for name in sorted(waiting):
                if self._answers(name):
                    waiting.discard(name)
            for name, pid in self.processes.items():
                # A child that ended stays a zombie until it is reaped here.
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        raise BackendError(f"{name} ended at its start; see {self.settings.home / 'logs' / name}.log")
            if waiting and time.monotonic() > deadline:
                raise BackendError(f"no answer from {', '.join(sorted(waiting))} after {timeout:.0f} s; see logs/")
            time.sleep(0.5)

    def _answers(self, name: str) -> bool:
        try:
            if name == "milvus":
                socket.create_connection((HOST, port(name)), timeout=1).close()
                return True
            if name == "mlflow":
                return httpx.get(f"{self.mlflow_url}/health", timeout=2).status_code == 200
            health = httpx.get(f"{self.airflow_url}/api/v2/monitor/health", timeout=5).json()
        except (OSError, httpx.HTTPError, ValueError):
            return False
        parts = ("scheduler", "dag_processor", "triggerer")
        beats = [(health.get(part) or {}).get(f"latest_{part}_heartbeat") for part in parts]
        # Airflow calls a part healthy for half a minute after its death: it must have been heard since this start.
        return all(beat and datetime.fromisoformat(beat) > self.began for beat in beats)

    def stop(self) -> None:
        """End every process and its children: SIGTERM, then SIGKILL after 10 s; the file is removed last."""
        end_sessions(list(self.processes.values()))
        self.processes.clear()
        self.file.unlink(missing_ok=True)


@contextlib.contextmanager
def running(settings: Settings, *names: str) -> Iterator[Services]:
    """The named services for the length of a block; ended however the block ends, SIGTERM included."""
    services = Services(settings, names)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        services.start()
        try:
            yield services
        finally:
            services.stop()
    finally:
        signal.signal(signal.SIGTERM, before)


def up(settings: Settings) -> None:
    """Leave Airflow, MLflow and Milvus running, and say where; of those that run already, start what died."""
    from infra.airflow_api import AirflowApi

    services = Services(settings, ("milvus", "airflow", "mlflow"))
    services.start(again=True)
    api = AirflowApi(services.airflow_url, USER, services.password)
    for dag in api.wait_for_dags({"upkeep"}):
        api.unpause(dag)
    print(f"Airflow  {services.airflow_url}   login {USER} / {services.password}")
    print(f"MLflow   {services.mlflow_url}")
    print(f"Milvus   http://{HOST}:{port('milvus')}")
    print("Stop them with: make down")


def down(settings: Settings) -> None:
    """Stop what `up` started."""
    file = settings.home / "run" / "services.json"
    if not file.is_file():
        print("nothing is running")
        return
    end_sessions(list(json.loads(file.read_text())["processes"].values()))
    file.unlink()
    print("stopped")


def run_verb(verbs: Mapping[str, Callable[[Settings], None]], *, module: str) -> None:
    """Do the verb of the command line; an error is one line and its exit code."""
    verb = sys.argv[1] if len(sys.argv) == 2 else ""
    try:
        if verb not in verbs:
            raise MissingTool(f"{verb!r} is not a verb of {module}; one of {', '.join(verbs)}")
        verbs[verb](Settings.from_env())
    except AssayError as exc:
        print(f"assay: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    run_verb({"up": up, "down": down}, module="infra.services")
