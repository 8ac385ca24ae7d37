"""Bulk import: a server reads Parquet files from the storage that it keeps its own data in, instead of being sent rows.

An import inserts and does not look for keys that are there already, so it is for a collection that was just made: a
load that did not end whole begins again with a new one. What it did is read back like any other load. The files are
left where they were put, below the collection's name; they are not read again, and the bucket's own rules may remove
them.

A server works on its tasks in order, and one whose collection is dropped under it may hold up all that follow until it
expires, some 20 minutes later (2.3.5; github.com/milvus-io/milvus/issues/28617): see `settled`.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.backends.milvus.rows import checked_labels, checked_vectors
from pipelines.errors import BackendError, BadConfig
from pipelines.ports import ObjectStore

ROWS = 50_000
"""Rows of one file, which is one task of the server's: about 100 MB at 384 dimensions."""

_QUEUED = 16
"""Tasks at the server at once: its queue takes 32 of all its clients, and refuses more."""

_PATIENCE = 1_800.0
"""Seconds for one task after the one before it; a server gives up its own after some 1,200."""
_FIELDS = ("key", "document", "title", "text", "text_digest", "access", "start", "end", "vector")


def require_import(version: str, uri: str) -> None:
    """BadConfig unless a server of that version imports Parquet (from 2.3 on; milvus-lite does not)."""
    numbers = version.removeprefix("v").split(".")
    if not numbers[0].isdigit() or tuple(int(part) for part in numbers[:2]) < (2, 3):
        raise BadConfig(f"ASSAY_MILVUS_BULK needs a Milvus server of 2.3 or newer; {uri} is {version}: unset it")


def imported(client: Any, store: ObjectStore, collection: str, rows: Iterable[Any], *, dim: int) -> int:
    """Import Arrow record batches (columns of schemas.VECTORS) into a new collection; returns how many rows.

    `store` is the server's own storage, at the place that ASSAY_MILVUS_BULK names. BadConfig when the server does not
    find there what was put, BackendError when it fails otherwise; IntegrityError on a vector or label that is none.
    """
    handler = client._get_connection()  # MilvusClient has no method for it, the REST call needs another port
    total, tasks = 0, deque[tuple[str, int]]()
    for number, table in enumerate(_tables(rows, dim)):
        key = f"{collection}/import-{number:05d}.parquet"
        store.put(key, _parquet(table))
        path = store.uri(key)
        # In a bucket the server wants the key, on its own disk the path.
        path = path.removeprefix("s3://").split("/", 1)[1] if path.startswith("s3://") else path
        if len(tasks) == _QUEUED:
            _wait(handler, *tasks.popleft())
        tasks.append((path, handler.do_bulk_insert(collection, "", [path])))
        total += table.num_rows
    while tasks:
        _wait(handler, *tasks.popleft())
    return total


def settled(client: Any, collection: str) -> None:
    """Return when the server works on no import into the collection, which may then be dropped; waits for what a
    killed run has left there. BackendError when one does not end."""
    handler = client._get_connection()
    tasks = handler.list_bulk_insert_tasks(0, collection)  # 0: all
    for task in sorted(tasks, key=lambda one: int(one.task_id)):  # as they were queued
        _end_of(handler, task.infos.get("files", "a file"), task.task_id)


def _tables(rows: Iterable[Any], dim: int) -> Iterator[Any]:
    """Batches joined to tables of about ROWS rows, in the collection's fields and types."""
    import pyarrow as pa

    whole, texts = pa.int64(), pa.string()
    types = {"start": whole, "end": whole, "vector": pa.list_(pa.float32())}
    schema = pa.schema([(name, types.get(name, texts)) for name in _FIELDS])
    held: list[Any] = []
    for batch in rows:
        checked_vectors(batch, dim)
        held.append(checked_labels(batch).select(list(_FIELDS)).cast(schema))
        if sum(part.num_rows for part in held) >= ROWS:
            yield pa.Table.from_batches(held)
            held = []
    if any(part.num_rows for part in held):
        yield pa.Table.from_batches(held)


def _parquet(table: Any) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _wait(handler: Any, path: str, task: int) -> None:
    state = _end_of(handler, path, task)
    if state.state_name == "Completed":
        return
    reason = str(state.infos.get("failed_reason", "no reason given"))
    if any(sign in reason for sign in ("no such file", "does not exist", "NoSuchKey")):
        raise BadConfig(
            f"Milvus does not find {path}; ASSAY_MILVUS_BULK must name a place in Milvus' own storage: "
            "s3://ITS-BUCKET/PREFIX, or a folder when its storage is local"
        )
    raise BackendError(f"Milvus could not import {path}: {reason[:300]}")


def _end_of(handler: Any, path: str, task: int) -> Any:
    """The state of a task that ended, well or not; says once a minute that it is waited for."""
    start = said = time.monotonic()
    while True:
        state, now = handler.get_bulk_insert_state(task), time.monotonic()
        if state.state_name == "Completed" or state.state_name.startswith("Failed"):
            return state
        if now - start > _PATIENCE:
            raise BackendError(f"Milvus did not import {path} within {_PATIENCE:.0f} s; it is at {state.state_name}")
        if now - said >= 60:
            said = now
            print(f"import of {path}: {state.state_name} after {now - start:.0f} s", flush=True)
        time.sleep(0.2)


def wait_for_rows(client: Any, collection: str, rows: int, *, patience: float = 120.0) -> None:
    """Return when searches see `rows` rows: after an import the server moves them into memory by itself.

    Too few at the end are no error here: the reader that compares a build with its files says so.
    """
    client.refresh_load(collection)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        counted = client.query(collection, filter="", output_fields=["count(*)"])
        if int(counted[0]["count(*)"]) >= rows:
            return
        time.sleep(0.2)
