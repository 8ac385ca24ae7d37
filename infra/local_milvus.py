"""Milvus servers for the length of a test or a benchmark, on 127.0.0.1: milvus-lite's, and a real one (2.3.5)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.milvus_server import fetched, require_namespaces
from pipelines.backends.milvus.store import KEEPALIVE
from pipelines.errors import BackendError
from pipelines.settings import checkout

_PATIENCE = 120.0
"""Seconds until it must answer."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server process in a session of its own; `kill` is SIGKILL, after which `start` finds its data again."""

    command: list[str]
    folder: Path
    """Of its data and its log; `start` makes it."""
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id; BackendError before `start`."""
        if self.process is None:
            raise BackendError(f"{self.command[0]}: not started")
        return self.process.pid

    def start(self) -> None:
        """Return when a client is answered. BackendError with the end of its log when it ends first or takes too
        long; `kill` ends what is left of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True, cwd=checkout()
            )
        deadline = time.monotonic() + _PATIENCE
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                end = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise BackendError(f"{self.command[0]} does not answer on port {self.port}: {end}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """A client gets an answer: a real server opens its port long before."""
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
        client = None
        try:
            client = MilvusClient(self.uri, timeout=5, grpc_options=KEEPALIVE)  # pymilvus shares it with later clients
            client.list_collections()
        except MilvusException:
            return False
        finally:
            if client is not None:
                client.close()
        return True

    def kill(self) -> None:
        """Nothing happens when it has ended; BackendError before `start`."""
        pid = self.pid
        if self.process is not None and self.process.poll() is None:
            os.killpg(pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, started, and killed with the block."""
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()


def lite_server(folder: Path) -> Server:
    """milvus-lite's own server."""
    port = free_port()
    program = str(Path(sys.executable).with_name("milvus-lite"))
    where = ["--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
    return Server([program, "server", *where], folder, port)


def real_server(folder: Path, *, s3: int | None = None) -> Server:
    """Milvus 2.3.5, its data in the folder, or in an S3 server that it brings on port `s3`.

    MissingTool or BackendError with the reason where it has no namespace to live in or cannot be fetched.
    """
    require_namespaces()
    fetched()
    port = free_port()
    where = ["--data", str(folder / "data"), "--port", str(port), *(["--s3", str(s3)] if s3 is not None else [])]
    return Server([sys.executable, "-m", "infra.milvus_server", *where], folder, port)
