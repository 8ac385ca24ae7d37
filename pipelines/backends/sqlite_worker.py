"""The process in which SQL of a model runs: started by `sqlite_queries` as a script, standard library only.

It is a process of its own because a query can take time and memory before SQLite asks anyone whether it may go on: a
few nested common table expressions double a statement while it is still being parsed. So the operating system bounds
what SQLite does not: memory, open files (none but the database can be opened), and the size of written files (0).

Lines of JSON: the first names the file and the limits, and is answered by {"ready"} or {"refused"}; each further line
is a query, and is answered by {"rows"} or {"error", "detail"}, with "seconds". Bytes are {"hex"}.
"""

import json
import resource
import sqlite3
import sys
import time
from typing import Any
from urllib.parse import quote

_FORBIDDEN = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_EVERY = 2000  # instructions of SQLite's machine between two looks at the clock
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000_000,  # bytes of one value or row
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 1_000_000,
}
_KINDS = {sqlite3.SQLITE_AUTH: "denied", sqlite3.SQLITE_INTERRUPT: "time", sqlite3.SQLITE_TOOBIG: "size"}


def _authorise(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _FORBIDDEN):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _opened(file: str, *, heap: int) -> sqlite3.Connection:
    """The database, readable only. sqlite3.Error when it is none."""
    uri = f"file:{quote(file)}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    for pragma in ("query_only = 1", "trusted_schema = 0", "temp_store = 2", "mmap_size = 0"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA hard_heap_limit = {heap}")
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view')").fetchone()[0]:
        raise sqlite3.DatabaseError("it holds no table")
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_authorizer(_authorise)
    return connection


def _confine(*, memory: int) -> None:
    """What the operating system refuses from now on. Files that are open stay open."""
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _plain(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _rows(connection: sqlite3.Connection, sql: str, *, most_rows: int, most_bytes: int) -> dict[str, Any]:
    """{"rows"} or {"error", "detail"} of one statement."""
    cursor = connection.execute(sql)
    if cursor.description is None:
        return {"error": "empty", "detail": "no statement in it"}
    rows, size = [], 0
    for row in cursor:
        rows.append([_plain(value) for value in row])
        size += sum(16 + (len(value) if isinstance(value, str | bytes) else 0) for value in row)
        if len(rows) > most_rows or size > most_bytes:
            limit = f"{most_rows} rows" if len(rows) > most_rows else f"{most_bytes} bytes"
            return {"error": "size", "detail": f"more than {limit}"}
    return {"rows": rows}


def _kind(exc: Exception) -> str:
    if "one statement at a time" in str(exc):
        return "several"
    if str(exc).startswith("not authorized"):  # a function, or a pragma inside a query: a plain error to SQLite
        return "denied"
    return _KINDS.get(getattr(exc, "sqlite_errorcode", None) or 0, "invalid")


def _answer(connection: sqlite3.Connection, sql: str, *, seconds: float, **most: int) -> dict[str, Any]:
    """`_rows`, with every failure named. Nothing that SQL can do raises."""
    began = time.process_time()
    connection.set_progress_handler(lambda: time.process_time() - began > seconds, _EVERY)
    try:
        found = _rows(connection, sql, **most)
    except MemoryError:
        found = {"error": "memory", "detail": "out of memory"}
    except (sqlite3.Error, sqlite3.Warning) as exc:
        found = {"error": _kind(exc), "detail": str(exc)}
    except (ValueError, OverflowError) as exc:  # half a surrogate pair, a null character
        found = {"error": "invalid", "detail": str(exc)}
    spent = time.process_time() - began
    if spent > seconds and "rows" in found:  # one instruction alone took that long
        found = {"error": "time", "detail": "took longer"}
    return {**found, "seconds": spent}


def _say(value: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve until standard input ends."""
    how = json.loads(sys.stdin.buffer.readline())
    try:
        connection = _opened(how["file"], heap=how["heap"])
    except sqlite3.Error as exc:
        _say({"refused": str(exc)})
        return
    _say({"ready": True})
    _confine(memory=how["memory"])
    for line in sys.stdin.buffer:
        _say(
            _answer(
                connection, json.loads(line), seconds=how["seconds"], most_rows=how["rows"], most_bytes=how["bytes"]
            )
        )


if __name__ == "__main__":
    main()
