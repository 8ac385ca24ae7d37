"""SQL that a model wrote, run against a SQLite file: read-only, bounded in time and memory, without an exception.

What a query may do is decided in `sqlite_worker`, the process that runs it: one statement that reads. This side starts
that process, ends it when a query outlasts the wall clock, and starts another for the next query. It compares nothing:
that is `core.sql_results`.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipelines.core.sql_results import Result, Value
from pipelines.errors import BackendError, BadConfig

LONGEST = 10_000
"""Characters of a query; a longer one is not run."""
_WORKER = Path(__file__).with_name("sqlite_worker.py")
_LIMITS = {"rows": 10_000, "bytes": 16_000_000, "heap": 128 * 2**20, "memory": 512 * 2**20}
_PATIENCE = 30.0  # seconds that the process may take to open the file


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Kill, wait, close the pipes; nothing when that was done before."""
    if worker.returncode is None:
        worker.kill()
        worker.communicate()


def _value(value: Any) -> Value:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


class SqliteQueries:
    """One database to ask. `seconds`: CPU-seconds of a query, so that a busy machine changes no result; after five
    times as many on the wall clock it is ended all the same. Use it as a context, or `close` it.

    BadConfig when the file is no SQLite database with a table. An immutable file is read: what stands in a
    write-ahead log beside it is not seen.
    """

    def __init__(self, file: Path, *, seconds: float = 2.0) -> None:
        if not file.is_file():
            raise BadConfig(f"generate.database is {str(file)!r}, which does not exist or is no file")
        self._file = file.resolve()
        self._seconds = seconds
        self._worker: subprocess.Popen[bytes] | None = None
        self._started()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a later query starts another."""
        worker, self._worker = self._worker, None
        if worker is not None:
            _end(worker)

    def run(self, sql: str) -> Result:
        """The rows of one query, or why there are none (`core.sql_results.ERRORS`). Never raises for the query's
        sake; BackendError when the process cannot be started."""
        if len(sql) > LONGEST:
            return Result(error="invalid", detail=f"longer than {LONGEST} characters")
        if not sql.strip():
            return Result(error="empty", detail="no statement in it")
        worker = self._worker or self._started()
        try:
            said = self._said(worker, sql, patience=5 * self._seconds + 1)
        except TimeoutError:
            self.close()
            return Result(error="time", detail="ended by the wall clock", seconds=self._seconds)
        except (EOFError, OSError):
            self.close()
            return Result(error="memory", detail="its process died", seconds=self._seconds)
        rows = tuple(tuple(_value(value) for value in row) for row in said.get("rows", ()))
        return Result(rows, said.get("error"), said.get("detail", ""), said["seconds"])

    def _started(self) -> subprocess.Popen[bytes]:
        """A worker that has opened the database."""
        try:
            worker = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={},
            )
        except OSError as exc:
            raise BackendError(f"the process that runs SQL cannot be started: {exc}") from exc
        self._worker = worker
        weakref.finalize(self, _end, worker)
        try:
            said = self._said(worker, {"file": str(self._file), "seconds": self._seconds, **_LIMITS}, _PATIENCE)
        except (TimeoutError, EOFError, OSError) as exc:
            self.close()
            raise BackendError(f"the process that runs SQL did not open {self._file.name}") from exc
        if "refused" in said:
            self.close()
            raise BadConfig(f"generate.database is {str(self._file)!r}, which is no SQLite database: {said['refused']}")
        return worker

    @staticmethod
    def _said(worker: subprocess.Popen[bytes], asked: Any, patience: float) -> dict[str, Any]:
        """The worker's answer to one line. TimeoutError after `patience` seconds, EOFError when it has ended."""
        assert worker.stdin is not None and worker.stdout is not None  # both are pipes
        worker.stdin.write(json.dumps(asked).encode() + b"\n")
        until, found = time.monotonic() + patience, b""
        with selectors.DefaultSelector() as ready:
            ready.register(worker.stdout, selectors.EVENT_READ)
            while not found.endswith(b"\n"):
                if not ready.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError
                piece = os.read(worker.stdout.fileno(), 1 << 20)
                if not piece:
                    raise EOFError
                found += piece
        answer: dict[str, Any] = json.loads(found)
        return answer
