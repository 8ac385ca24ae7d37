"""Start and stop the real services on 127.0.0.1, without Docker: Airflow, Milvus (lite server) and MLflow.

Each runs in a session of its own with its log under ASSAY_HOME/logs. `run/services.json` says what runs; Assay's
commands find Milvus through it. Stopping ends every process of those sessions and their children, and checks.

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
from pathlib import Path

import httpx
import psutil

from pipelines.errors import AssayError, BackendError, MissingTool
from pipelines.settings import Settings, checkout

HOST = "127.0.0.1"
PORTS = {"airflow": 8080, "mlflow": 5000, "milvus": 19530, "spark": 7077}
USER = "admin"


def port(service: str) -> int:
    """The service's port: ASSAY_<SERVICE>_PORT or the default."""
    return int(os.environ.get(f"ASSAY_{service.upper()}_PORT") or PORTS[service])


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

    def start(self) -> None:
        """Start all named services and return when each answers; on any failure, all are ended again."""
        running = self.settings.services
        if running:
            raise MissingTool("Assay's services are running already; stop them with: make down")
        for name in self.names:
            require_free(name)
        tools = Path(sys.executable).parent
        try:
            if "milvus" in self.names:
                data = self.settings.milvus_lite
                data.parent.mkdir(parents=True, exist_ok=True)
                self.spawn(
                    "milvus",
                    [
                        str(tools / "milvus-lite"),
                        "server",
                        *("--data-dir", str(data)),
                        *("--host", HOST, "--port", str(port("milvus"))),
                    ],
                )
            if "airflow" in self.names:
                self._start_airflow(str(tools / "airflow"))
            if "mlflow" in self.names:
                self._start_mlflow(str(tools / "mlflow"))
            self._wait()
        except BaseException:
            self.stop()
            raise
        uris = {"airflow": self.airflow_url, "mlflow": self.mlflow_url, "milvus": f"http://{HOST}:{port('milvus')}"}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        known = {
            "pid": next(iter(self.processes.values())),
            "processes": self.processes,
            "uris": {name: uri for name, uri in uris.items() if name in self.names},
        }
        self.file.write_text(json.dumps(known))

    def _start_airflow(self, airflow: str) -> None:
        migrated = subprocess.run([airflow, "db", "migrate"], env=self.environment(), capture_output=True, text=True)
        if migrated.returncode != 0:
            raise BackendError(f"airflow db migrate failed: {migrated.stderr.strip()[-300:]}")
        # The components one by one: `standalone` would serve logs on all interfaces (ports 8793 and 8794).
        self.spawn("airflow-api", [airflow, "api-server", "--host", HOST, "--port", str(port("airflow"))])
        self.spawn("airflow-scheduler", [airflow, "scheduler", "--skip-serve-logs"])
        self.spawn("airflow-dag-processor", [airflow, "dag-processor"])
        self.spawn("airflow-triggerer", [airflow, "triggerer", "--skip-serve-logs"])

    def _start_mlflow(self, mlflow: str) -> None:
        database = self.settings.home / "mlflow" / "mlflow.db"
        artifacts = str(self.settings.home / "mlflow" / "artifacts")
        if not database.is_file():
            # Made whole first: tasks may open it while the server would still be migrating it.
            from pipelines.backends.mlflow import MlflowRegistry

            MlflowRegistry(self.settings.mlflow_uri, artifacts=Path(artifacts)).prepare()
        store = f"sqlite:///{database}"
        self.spawn(
            "mlflow",
            [
                *(mlflow, "server", "--host", HOST, "--port", str(port("mlflow")), "--workers", "1"),
                *("--backend-store-uri", store, "--default-artifact-root", artifacts),
            ],
        )

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
        parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
        return all((health.get(part) or {}).get("status") == "healthy" for part in parts)

    def stop(self) -> None:
        """End every process and its children: SIGTERM, then SIGKILL after 10 s; the file is removed last."""
        end_sessions(list(self.processes.values()))
        self.processes.clear()
        self.file.unlink(missing_ok=True)


def _members(pids: list[int]) -> list[psutil.Process]:
    """The processes, all their descendants, and all members of their sessions."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            for process in [parent, *parent.children(recursive=True)]:
                found[process.pid] = process
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) in pids:
                for member in [process, *process.children(recursive=True)]:
                    found[member.pid] = member
    return list(found.values())


def end_sessions(pids: list[int]) -> None:
    """End the sessions led by `pids`. BackendError names what would not die."""
    members = _members(pids)
    for sign, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.send_signal(sign)
        _, members = psutil.wait_procs(members, timeout=seconds)
        members = list({process.pid: process for process in [*members, *_members(pids)]}.values())
    alive = [str(p.pid) for p in members if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    if alive:
        raise BackendError(f"processes {', '.join(alive)} did not end")


@contextlib.contextmanager
def running(settings: Settings, *names: str) -> Iterator[Services]:
    """The named services for the length of a block; ended however the block ends, SIGTERM included."""
    services = Services(settings, names)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        services.start()
        yield services
    finally:
        services.stop()
        signal.signal(signal.SIGTERM, before)


def up(settings: Settings) -> None:
    """Leave Airflow, MLflow and Milvus running, and say where."""
    from infra.airflow_api import AirflowApi

    services = Services(settings, ("milvus", "airflow", "mlflow"))
    services.start()
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
