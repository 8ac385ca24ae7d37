"""What tests add to infra/local_milvus.py: a skip where a real server cannot run, and a relay before a server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from infra import local_milvus
from infra.local_milvus import Server
from pipelines.errors import AssayError


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


def real_server(folder: Path, *, s3: int | None = None) -> Server:
    """Milvus 2.3.5; the test is skipped, with the reason, where it cannot be fetched or has no namespace to live in."""
    try:
        return local_milvus.real_server(folder, s3=s3)
    except AssayError as exc:
        pytest.skip(str(exc))
