"""The calls of Airflow's API, against a server that fails as Airflow does."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra import airflow_api
from infra.airflow_api import AirflowApi
from pipelines.errors import BackendError


@contextmanager
def airflow(*statuses: int) -> Iterator[tuple[AirflowApi, list[str]]]:
    """A logged-in client of a server that gives these statuses in turn, then 200; and the calls it was sent."""
    left, asked = list(statuses), []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            login = self.path == "/auth/token"
            if not login:
                asked.append(f"{self.command} {self.path}")
            status = 201 if login else left.pop(0) if left else 200
            body = json.dumps({"access_token": "t", "detail": f"said {status}"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = answer

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield AirflowApi(f"http://127.0.0.1:{server.server_port}", "u", "p"), asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api, "_PAUSE", 0.0)


def test_what_airflow_answers_500_for_a_locked_database_is_asked_again() -> None:
    with airflow(500, 500) as (api, asked):
        api.unpause("tiny_index")
    assert asked == ["PATCH /api/v2/dags/tiny_index"] * 3


def test_a_server_that_goes_on_failing_is_an_error_with_its_words() -> None:
    with airflow(*[500] * 9) as (api, asked), pytest.raises(BackendError, match=r"500 .*said 500"):
        api.unpause("tiny_index")
    assert len(asked) == airflow_api._ATTEMPTS


def test_a_refusal_is_not_repeated() -> None:
    with airflow(404) as (api, asked), pytest.raises(BackendError, match="PATCH /dags/none: 404"):
        api.unpause("none")
    assert len(asked) == 1
