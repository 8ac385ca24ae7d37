"""The Milvus targets that tests run against: a milvus-lite server and a real Milvus server, each killable."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.milvus_server import fetched, require_namespaces
from pipelines.backends.milvus.store import KEEPALIVE
from pipelines.errors import AssayError
from pipelines.settings import checkout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server process in a session of its own; `kill` is SIGKILL, after which `start` finds its data again."""

    command: list[str]
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True, cwd=checkout()
            )
        deadline = time.monotonic() + 90
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not answer within 90 s"
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
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Relay:
    """A TCP relay before a server: once `after` bytes have gone to it, `then` is called while all traffic waits.

    So a load is disturbed at one place in its bytes, however fast or busy the machine is.
    """

    def __init__(self, to: int, after: int, then: Callable[[], None]) -> None:
        self.to, self.left, self.then = to, after, then
        self.fired = threading.Event()
        self.one = threading.Lock()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.to))
            except OSError:  # the server is down: so is this address
                client.close()
                continue
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65536):
                if counted:
                    self._count(len(data))
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _count(self, size: int) -> None:
        with self.one:
            self.left -= size
            if self.left < 0 and not self.fired.is_set():
                self.then()
                self.fired.set()

    def close(self) -> None:
        self.listening.close()


@contextmanager
def relayed(server: Server, after: int, then: Callable[[], None]) -> Iterator[Relay]:
    relay = Relay(server.port, after, then)
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


def lite_server(folder: Path) -> Server:
    port = free_port()
    program = str(Path(sys.executable).with_name("milvus-lite"))
    where = ["--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
    return Server([program, "server", *where], folder, port)


def real_server(folder: Path, *, s3: int | None = None) -> Server:
    """Milvus 2.3.5, its data in a folder, or in an S3 server that it brings on port `s3`; the test is skipped, with the
    reason, where it cannot be fetched or has no namespace to live in."""
    try:
        require_namespaces()
        fetched()
    except AssayError as exc:
        pytest.skip(str(exc))
    port = free_port()
    where = ["--data", str(folder / "data"), "--port", str(port), *(["--s3", str(s3)] if s3 is not None else [])]
    return Server([sys.executable, "-m", "infra.milvus_server", *where], folder, port)
