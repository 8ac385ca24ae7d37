"""A standalone Spark cluster on 127.0.0.1, from the wheel's own Spark: a master and two workers of one core each.

It is what a cluster is, on one machine: separate processes, separate executors, code shipped as a wheel. Each process
leads a session of its own, the log of its last start under ASSAY_HOME/logs; run/spark.json says what runs. Assay uses
it when ASSAY_SPARK_MASTER names it. Executors see the environment that `up` was given (AWS_* for objects on S3).

    python -m infra.spark_cluster up | down
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.services import HOST, port, require_free, run_verb
from infra.sessions import end_sessions
from pipelines.backends.spark import check_java
from pipelines.errors import BackendError, MissingTool
from pipelines.settings import QUIET, Settings

WORKERS = 2
MEMORY = "1g"
"""What a worker offers to executors; each also runs Python workers of about 500 MB outside of it."""


@dataclass
class SparkCluster:
    """The processes of one start. `wrap` goes before each worker's command (a namespace, a limit)."""

    settings: Settings
    workers: int = WORKERS
    wrap: Sequence[str] = ()
    processes: dict[str, int] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.settings.home / "run" / "spark.json"

    @property
    def url(self) -> str:
        return f"spark://{HOST}:{port('spark')}"

    def _environment(self) -> dict[str, str]:
        """Loopback everywhere (the UIs follow SPARK_LOCAL_IP), small daemons, and no checkout on the path."""
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SPARK_HOME")}
        scratch = str(self.settings.cache / "spark-cluster")
        return {
            **env,
            **QUIET,
            "SPARK_LOCAL_IP": HOST,
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": "-Dspark.master.rest.enabled=false -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
            "SPARK_LOCAL_DIRS": scratch,
            "SPARK_WORKER_DIR": scratch,
        }

    def _spawn(self, name: str, arguments: Sequence[str], *, wrap: Sequence[str] = ()) -> None:
        import pyspark

        log = self.settings.home / "logs" / f"{name}.log"
        scratch = self.settings.cache / "spark-cluster"
        for folder in (log.parent, scratch):
            folder.mkdir(parents=True, exist_ok=True)
        spark_class = Path(pyspark.__file__).parent / "bin" / "spark-class"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*wrap, str(spark_class), *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=self._environment(),
                cwd=scratch,
            )
        self.processes[name] = process.pid

    def start(self) -> None:
        """Return when every worker has registered; on any failure, all are ended again."""
        check_java()
        require_free("spark")
        deploy = "org.apache.spark.deploy"
        try:
            ports = ["--port", str(port("spark")), "--webui-port", "0"]
            self._spawn("spark-master", [f"{deploy}.master.Master", "--host", HOST, *ports])
            self._wait(self._listens, "the master")
            for number in range(self.workers):
                offers = ["--host", HOST, "--cores", "1", "--memory", MEMORY, "--webui-port", "0"]
                self._spawn(f"spark-worker-{number}", [f"{deploy}.worker.Worker", *offers, self.url], wrap=self.wrap)
            self._wait(lambda: self._registered() >= self.workers, "the workers")
        except BaseException:
            self.stop()
            raise
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({"url": self.url, "processes": self.processes}))

    def _listens(self) -> bool:
        try:
            socket.create_connection((HOST, port("spark")), timeout=1).close()
        except OSError:
            return False
        return True

    def _registered(self) -> int:
        """Workers that say so in their log of this start: the master's own UI has a port that nobody knows."""
        logs = (self.settings.home / "logs" / f"{name}.log" for name in self.processes if "worker" in name)
        return sum("Successfully registered with master" in log.read_text(errors="replace") for log in logs)

    def _wait(self, ready: Callable[[], bool], what: str, *, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            for name, pid in self.processes.items():
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        raise BackendError(f"{name} ended at its start; see {self.settings.home / 'logs' / name}.log")
            if time.monotonic() > deadline:
                raise BackendError(f"no answer from {what} after {timeout:.0f} s; see {self.settings.home / 'logs'}")
            time.sleep(0.2)

    def executors(self) -> list[psutil.Process]:
        """The executors' JVMs that live now, below the workers."""
        found = []
        for name, pid in self.processes.items():
            with contextlib.suppress(psutil.Error):
                below = psutil.Process(pid).children(recursive=True) if "worker" in name else []
                found += [process for process in below if _runs(process, "CoarseGrainedExecutorBackend")]
        return found

    def stop(self) -> None:
        """End master, workers, executors and their Python workers; the file is removed last."""
        end_sessions(list(self.processes.values()))
        self.processes.clear()
        self.file.unlink(missing_ok=True)


def _runs(process: psutil.Process, main: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(main in word for word in process.cmdline())
    return False


@contextlib.contextmanager
def running(settings: Settings, *, workers: int = WORKERS, wrap: Sequence[str] = ()) -> Iterator[SparkCluster]:
    """A cluster for the length of a block."""
    cluster = SparkCluster(settings, workers, wrap)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def _left_running(cluster: SparkCluster) -> dict[str, int]:
    """The processes of `up` that still are Spark's; a number may have gone to another program since."""
    if not cluster.file.is_file():
        return {}
    known: dict[str, int] = json.loads(cluster.file.read_text())["processes"]
    return {
        name: pid
        for name, pid in known.items()
        if psutil.pid_exists(pid) and _runs(psutil.Process(pid), "org.apache.spark.deploy")
    }


def up(settings: Settings) -> None:
    """Leave a cluster running, and say how to use it."""
    cluster = SparkCluster(settings)
    if _left_running(cluster):
        raise MissingTool("the Spark cluster is running already; stop it with: python -m infra.spark_cluster down")
    cluster.start()
    print(f"export ASSAY_SPARK_MASTER={cluster.url}")
    print("Stop it with: python -m infra.spark_cluster down")


def down(settings: Settings) -> None:
    """Stop what `up` started."""
    cluster = SparkCluster(settings)
    cluster.processes = _left_running(cluster)
    running = bool(cluster.processes)
    cluster.stop()
    print("stopped" if running else "nothing is running")


if __name__ == "__main__":
    run_verb({"up": up, "down": down}, module="infra.spark_cluster")
