"""What one reading of a landing found, in a SQLite file: written as it comes, read back sorted, larger than memory.

SQLite rather than an engine of columns, because a document may have 20 MB: here memory holds one row, there a vector
of rows. It knows the rule for repeated ids (the first document stays); which reasons there are is the reader's
business. The file is for one process and one reading: a killed run's is dropped with its folder, so no journal is kept.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.names import PUBLIC
from pipelines.schemas import DOCUMENTS

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ", ".join(name for name in DOCUMENTS.names if name != "id")
_TABLE = f"""
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA cache_size = -65536;
    CREATE TABLE found (seq INTEGER PRIMARY KEY, id TEXT, place TEXT, reason TEXT, bytes INTEGER, ids TEXT,
                        {_COLUMNS.replace("text, ", "")}, text TEXT);
    BEGIN
"""
# Rows with a place are claims of a document id; the others are named after where something unreadable lay.
_REPEATED = """
    CREATE INDEX by_id ON found (id, seq, reason) WHERE place IS NOT NULL;
    CREATE TABLE repeated (id TEXT PRIMARY KEY, first INTEGER) WITHOUT ROWID;
    INSERT INTO repeated SELECT id, min(CASE WHEN reason IS NULL THEN seq END)
        FROM found WHERE place IS NOT NULL GROUP BY id HAVING count(*) > 1;
    UPDATE found SET reason = 'duplicate id at ' || place || '; the first is kept'
        FROM repeated WHERE place IS NOT NULL AND found.id = repeated.id AND found.seq > repeated.first
"""
_BATCH_ROWS, _BATCH_CHARACTERS = 4096, 16_000_000


class Spool:
    """In `file`, which is gone afterwards. A context: what SQLite raises inside, e.g. on a full disk, leaves it as an
    OSError."""

    def __init__(self, file: Path) -> None:
        self.good = 0
        self.passed_over = 0
        self._file = file
        self._database = sqlite3.connect(file, isolation_level=None)
        self._database.executescript(_TABLE)
        names = [*DOCUMENTS.names, "place", "bytes"]
        self._insert = f"INSERT INTO found ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608 names of ours

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, _: object, raised: BaseException | None, __: object) -> None:
        self._database.close()
        self._file.unlink(missing_ok=True)
        if isinstance(raised, sqlite3.Error):
            raise OSError(errno.EIO, str(raised), str(self._file)) from raised

    def add(self, row: Mapping[str, Any], *, place: str, size: int) -> None:
        """A DOCUMENTS row read at `place` from `size` bytes."""
        self._database.execute(self._insert, {**row, "place": place, "bytes": size})
        self.good += 1

    def refuse(
        self, document: str, reason: str, size: int, *, ids: str | None = None, place: str | None = None
    ) -> None:
        """A quarantine record. One whose line bore no readable id has `ids`: the form of such ids. One that names
        its document by an id has the `place` where that was read."""
        values = (document, reason, size, ids, place)
        self._database.execute("INSERT INTO found (id, reason, bytes, ids, place) VALUES (?, ?, ?, ?, ?)", values)

    def mark(self) -> int:
        """How far it is filled; for `take_back`."""
        return int(self._database.execute("SELECT coalesce(max(seq), 0) FROM found").fetchone()[0])

    def take_back(self, mark: int) -> tuple[int, str | None]:
        """Forget the refusals since `mark`: (how many they were, the first one's reason)."""
        first = self._database.execute("SELECT reason FROM found WHERE seq > ? ORDER BY seq LIMIT 1", [mark]).fetchone()
        count = self._database.execute("DELETE FROM found WHERE seq > ?", [mark]).rowcount
        return count, first[0] if first else None

    @property
    def empty(self) -> bool:
        """True when neither a document nor a refusal came."""
        return self.mark() == 0

    def settle(self) -> None:
        """Decide the repeated ids, once, after the last row: all but an id's first document become refusals."""
        self._database.executescript(_REPEATED)

    def documents(self) -> Iterator[pa.RecordBatch]:
        """The documents in batches of DOCUMENTS, sorted by id (UTF-8 order, which is that of code points)."""
        import pyarrow as pa

        query = "SELECT {} FROM found WHERE place IS NOT NULL AND reason IS NULL ORDER BY id"
        text = DOCUMENTS.names.index("text")
        held: list[tuple[str, ...]] = []
        characters = 0
        for row in self._database.execute(query.format(", ".join(DOCUMENTS.names))):
            held.append(row)
            characters += len(row[text])
            if len(held) == _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
                yield pa.record_batch(list(map(list, zip(*held, strict=True))), schema=DOCUMENTS)
                held, characters = [], 0
        if held:
            yield pa.record_batch(list(map(list, zip(*held, strict=True))), schema=DOCUMENTS)

    def texts(self, ids: Iterable[str]) -> dict[str, str]:
        """The texts of those of the ids that are documents, once settled."""
        query = "SELECT text FROM found WHERE id = ? AND place IS NOT NULL AND reason IS NULL"
        found = ((key, self._database.execute(query, [key]).fetchone()) for key in ids)
        return {key: row[0] for key, row in found if row}

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """The access labels of those of the ids that are documents, once settled."""
        query = "SELECT access FROM found WHERE id = ? AND place IS NOT NULL AND reason IS NULL"
        found = ((key, self._database.execute(query, [key]).fetchone()) for key in ids)
        return {key: row[0] for key, row in found if row}

    def labelled(self) -> dict[str, int]:
        """How many documents bear each access label, public aside, once settled."""
        query = """SELECT access, count(*) FROM found WHERE place IS NOT NULL AND reason IS NULL AND access <> ?
            GROUP BY access ORDER BY access"""
        return dict(self._database.execute(query, [PUBLIC]).fetchall())

    def quarantine(self) -> Iterator[dict[str, Any]]:
        """The refusals as records, sorted by document and reason."""
        query = "SELECT id, reason, bytes, ids FROM found WHERE reason IS NOT NULL ORDER BY id, reason, seq"
        for document, reason, size, ids in self._database.execute(query):
            record = {"document": document, "reason": reason, "bytes": size}
            yield record if ids is None else {**record, "ids": ids}
