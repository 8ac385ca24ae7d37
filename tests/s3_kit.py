"""moto's S3 server on 127.0.0.1 with one bucket, the environment that leads to it, and a count of its requests."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any
from unittest import mock

BUCKET = "assay"
SECRET = "not-to-be-found-anywhere"


class Requests(logging.Handler):
    """By kind: GET, PUT, HEAD, POST, DELETE, and LIST (a GET of the bucket)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage().partition('"')[2].split()
        if len(words) > 1:
            self.seen["LIST" if "list-type=" in words[1] else words[0].lstrip("\x1b[0123456789;m")] += 1

    def taken(self) -> Counter[str]:
        """What came since the last call."""
        seen, self.seen = self.seen, Counter()
        return seen


def _one_by_one(app: Any) -> Any:
    """S3 takes a conditional put in one step. moto looks first and writes then, so that of two racers both may win."""
    lock = Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        with lock if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
            return app(environ, start_response)

    return answer


@contextmanager
def served() -> Iterator[Requests]:
    """The server, and AWS_* in this process's environment (which children inherit) for the length of the block."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    server._server.app = _one_by_one(server._server.app)  # type: ignore[union-attr]
    host, port = server.get_host_and_port()
    address, log, requests = f"http://{host}:{port}", logging.getLogger("werkzeug"), Requests()
    level, spread = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(requests)
    aws = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET}
    try:
        with mock.patch.dict(os.environ, {**aws, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}):
            # moto keeps its state a process: without this, a second file of tests sees the objects of the first.
            reset = urllib.request.Request(f"{address}/moto-api/reset", method="POST")  # noqa: S310 -- our own server
            urllib.request.urlopen(reset).close()  # noqa: S310
            bucket = urllib.request.Request(f"{address}/{BUCKET}", method="PUT")  # noqa: S310
            urllib.request.urlopen(bucket).close()  # noqa: S310
            yield requests
    finally:
        log.removeHandler(requests)
        log.setLevel(level)
        log.propagate = spread
        server.stop()
