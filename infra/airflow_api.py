"""The few calls of Airflow's REST API (v2) that the demo and the services make. Reads and triggers; no decisions."""

from __future__ import annotations

import time
from typing import Any

import httpx

from pipelines.errors import BackendError

_ATTEMPTS, _PAUSE = 5, 2.0
"""Of a call, and seconds between them."""


class AirflowApi:
    """A logged-in client. Errors of the API become BackendError with the answer's text."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)
        token = self._client.post("/auth/token", json={"username": user, "password": password})
        if token.status_code != 201:
            raise BackendError(f"Airflow refused the login: {token.status_code} {token.text[:200]}")
        self._client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """What Airflow answers. The calls here are safe to repeat, and two failures pass by: a busy two-core machine
        may let one time out, and on SQLite one may be answered 500 because its entry in the audit log waited for the
        lock of another request, which waited for the server's event loop, where the entry is written."""
        for attempt in range(_ATTEMPTS):
            last = attempt == _ATTEMPTS - 1
            try:
                answer = self._client.request(method, f"/api/v2{path}", **kwargs)
            except httpx.TransportError as exc:
                if last:
                    raise BackendError(f"Airflow does not answer {path}: {exc}") from exc
            else:
                if last or answer.status_code < 500:
                    break
            time.sleep(_PAUSE)
        if answer.status_code >= 400:
            raise BackendError(f"Airflow {method} {path}: {answer.status_code} {answer.text[:300]}")
        value: dict[str, Any] = answer.json()
        return value

    def wait_for_dags(self, wanted: set[str], *, timeout: float = 120) -> list[str]:
        """Ids of all DAGs, once those wanted are there; import errors are reported instead of waited out."""
        deadline = time.monotonic() + timeout
        while True:
            ids = [dag["dag_id"] for dag in self._call("GET", "/dags", params={"limit": 500})["dags"]]
            if wanted <= set(ids):
                return ids
            errors = self._call("GET", "/importErrors")["import_errors"]
            if errors:
                raise BackendError(f"DAG import error in {errors[0]['filename']}: {errors[0]['stack_trace'][-300:]}")
            if time.monotonic() > deadline:
                raise BackendError(f"Airflow shows no DAG {', '.join(sorted(wanted - set(ids)))} after {timeout:.0f} s")
            time.sleep(1)

    def unpause(self, dag: str) -> None:
        self._call("PATCH", f"/dags/{dag}", json={"is_paused": False})

    def trigger(self, dag: str) -> str:
        """Start a run now; returns its id."""
        run = self._call("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None, "conf": {}})
        return str(run["dag_run_id"])

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Newest first."""
        query = {"order_by": "-id", "limit": 20}
        runs: list[dict[str, Any]] = self._call("GET", f"/dags/{dag}/dagRuns", params=query)["dag_runs"]
        return runs

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """Task instances of a run by task id."""
        found = self._call("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}
