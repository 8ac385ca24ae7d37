"""Servers of Milvus for the length of a block, on 127.0.0.1: milvus-lite's, and a real one (standalone, 2.3.5)."""

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

from pipelines.errors import BackendError
from pipelines.settings import checkout

_PATIENCE = 120.0


@dataclass(frozen=True)
class Server:
    """Where it answers, and the process that was started."""

    uri: str
    pid: int


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def lite_server(data: Path) -> Iterator[Server]:
    """milvus-lite's server on this data folder."""
    data.mkdir(parents=True, exist_ok=True)
    port, program = free_port(), str(Path(sys.executable).with_name("milvus-lite"))
    line = [program, "server", "--data-dir", str(data), "--host", "127.0.0.1", "--port", str(port)]
    with _served(line, port, log=data.with_suffix(".log")) as server:
        yield server


@contextmanager
def real_server(data: Path) -> Iterator[Server]:
    """A Milvus server on this data folder; it needs namespaces and its package (infra/milvus_server.py)."""
    port = free_port()
    line = [sys.executable, "-m", "infra.milvus_server", "--data", str(data), "--port", str(port)]
    with _served(line, port, log=data.with_suffix(".log")) as server:
        yield server


@contextmanager
def _served(command: list[str], port: int, *, log: Path) -> Iterator[Server]:
    """This command's server, killed with the block. BackendError with the end of its log when it does not open."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, cwd=checkout())
    try:
        deadline = time.monotonic() + _PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise BackendError(f"{command[0]} did not open port {port}: {log.read_text()[-300:]}")
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
