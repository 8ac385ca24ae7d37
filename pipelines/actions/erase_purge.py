"""Remove what an erasure found and nothing needs: one unit after the other, each so that a killed purge is simply taken
up again. What cannot be removed now stays, with the reason; nothing is decided here.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pipelines import adapters, dvc_objects, tombstones
from pipelines.backends.objects import ObstoreObjects
from pipelines.core.digests import digest_json
from pipelines.core.erasure import REMAINS, REMOVE, REWRITE, Decision
from pipelines.errors import AssayError
from pipelines.git_history import History
from pipelines.locks import exclusive
from pipelines.traces import Wanted
from pipelines.wiring import Wiring

GONE = "[erased]"
_ORDER = (
    "builds", "milvus", "chunks", "adapters", "embeddings", "answers", "cache", "reports", "artifacts", "mlflow-db",
    "dvc-cache", "dvc-remote", "git",
)  # fmt: skip


class Purge:
    """Of one corpus. `texts`: digests of the texts whose vectors go."""

    def __init__(self, wiring: Wiring, wanted: Wanted, texts: Collection[str]) -> None:
        self._wiring, self._wanted, self._texts = wiring, wanted, texts
        self._home, self._objects = wiring.settings.home, wiring.objects

    def carry_out(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Do what was decided; the decisions as they came out: one that failed remains, with the reason."""
        done = [d for d in decisions if d.action == REMAINS]
        acts: dict[str, Callable[[str], None]] = {
            "builds": self._folder, "chunks": self._folder, "adapters": self._adapter, "milvus": self._collection,
            "embeddings": self._vectors, "answers": self._object, "cache": self._path, "reports": self._path,
            "artifacts": self._path, "mlflow-db": self._database, "dvc-cache": self._cached, "dvc-remote": self._pushed,
        }  # fmt: skip
        todo = [d for d in decisions if d.action in (REMOVE, REWRITE)]
        todo.sort(key=lambda d: _ORDER.index(d.place.kind))
        with tombstones.sweeping(self._wiring.settings):
            for decision in (d for d in todo if d.place.kind != "git"):
                done.append(self._tried(decision, lambda d=decision: acts[d.place.kind](d.place.unit)))  # type: ignore[misc]
        done += self._struck([d for d in todo if d.place.kind == "git"])
        return done

    @staticmethod
    def _tried(decision: Decision, act: Callable[[], None]) -> Decision:
        try:
            act()
        except (AssayError, OSError, sqlite3.Error) as exc:
            return replace(decision, action=REMAINS, why=f"it could not be removed now: {' '.join(str(exc).split())}")
        return decision

    def _struck(self, blobs: Sequence[Decision]) -> list[Decision]:
        if not blobs:
            return []
        names = {decision.place.unit for decision in blobs}
        root = self._wiring.workspace.root
        return [self._tried(blobs[0], lambda: History(root).strike(names)), *blobs[1:]]

    def _folder(self, folder: str) -> None:
        """A build with its collection, or a chunk set."""
        tombstones.mark(self._objects, folder, now=datetime.now(UTC))
        collection = folder.startswith("builds/")
        tombstones.remove(self._objects, folder, drop=lambda: self._collection(folder) if collection else None)

    def _collection(self, folder: str) -> None:
        """The collection of a build, and the files that a server imported it from."""
        collection, store = folder.split("/")[1], self._wiring.store
        try:
            store.drop(collection)
        finally:
            store.close()  # type: ignore[attr-defined]
        if bulk := self._wiring.settings.milvus_bulk_uri:
            imports = ObstoreObjects(bulk)
            imports.delete(imports.list(collection))

    def _adapter(self, folder: str) -> None:
        """The sealed folder, its copy in the cache, and the weights in MLflow's artifacts; model cards stay."""
        tombstones.mark(self._objects, folder, now=datetime.now(UTC))
        tombstones.remove(self._objects, folder, drop=lambda: None)
        shutil.rmtree(self._home / "cache" / folder, ignore_errors=True)
        for file in (self._home / "mlflow" / "artifacts").rglob("adapter_model.safetensors"):
            whole = all((file.parent / name).is_file() for name in adapters.FILES)
            if whole and adapters.digest(file.parent) == folder.split("/")[1]:
                file.unlink()

    def _vectors(self, key: str) -> None:
        """A part of the cache without the rows; written under its new name first."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from pipelines.chunk_sets import parquet, read_part

        table = read_part(self._objects, key)
        gone = pc.is_in(table["text_digest"], value_set=pa.array(sorted(self._texts), pa.string()))
        kept = table.filter(pc.invert(gone))
        if kept.num_rows:
            name = f"part-{digest_json(kept['text_digest'].to_pylist())[:32]}.parquet"
            self._objects.put(f"{key.rpartition('/')[0]}/{name}", parquet(kept))
        self._objects.delete([key])

    def _object(self, key: str) -> None:
        self._objects.delete([key])

    def _path(self, path: str) -> None:
        """A file, or a folder with all in it, below ASSAY_HOME."""
        place = self._home / path
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def _cached(self, md5: str) -> None:
        dvc_objects.cache_of(self._wiring.workspace.root).delete([dvc_objects.key_of(md5)])

    def _pushed(self, md5: str) -> None:
        remote = ObstoreObjects(self._wiring.settings.dvc_remote(self._wiring.corpus))
        remote.delete([dvc_objects.key_of(md5)])

    def _database(self, path: str) -> None:
        """Overwrite what MLflow's tables repeat of the texts, and give the freed pages back zeroed."""
        file = self._home / path
        with exclusive(file.with_suffix(".lock"), patience=600, what="MLflow's database"):
            database = sqlite3.connect(file, timeout=60, isolation_level=None)
            try:
                database.execute("PRAGMA secure_delete = ON")
                for table in _tables(database):
                    self._overwrite(database, table)
                database.execute("VACUUM")
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                database.close()

    def _overwrite(self, database: sqlite3.Connection, table: str) -> None:
        names = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
        columns = ", ".join(f'"{name}"' for name in names)
        found = database.execute(f'SELECT rowid, {columns} FROM "{table}"')  # noqa: S608 names from the database's own schema
        changed = [
            (name, struck, rowid)
            for rowid, *values in found
            for name, value in zip(names, values, strict=True)
            if (struck := self._without(value)) != value
        ]
        for name, value, rowid in changed:
            database.execute(f'UPDATE "{table}" SET "{name}" = ? WHERE rowid = ?', (value, rowid))  # noqa: S608 as above

    def _without(self, value: Any) -> Any:
        """A value without the texts: whole strings of JSON, or all of what is none, are overwritten."""
        if isinstance(value, dict):
            return {key: self._without(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._without(inner) for inner in value]
        if not isinstance(value, str | bytes):
            return value
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        if not any(needle in data for needle in self._wanted.needles):
            return value
        try:
            inner = json.loads(value)
        except ValueError:
            return GONE if isinstance(value, str) else GONE.encode()
        made = json.dumps(self._without(inner)) if isinstance(inner, dict | list) else json.dumps(GONE)
        return made if isinstance(value, str) else made.encode()


def _tables(database: sqlite3.Connection) -> Iterable[str]:
    """Tables with text in rows of their own; virtual and shadow tables are not written by MLflow."""
    found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE TABLE%'")
    return [row[0] for row in found.fetchall() if not row[0].startswith("sqlite_")]
