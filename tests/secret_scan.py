"""Where planted values are found in what a run left: the bytes of files, SQLite's values, Git's objects."""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from tests.integration.test_secrets_stay import git_objects


def cells(database: Path) -> Iterator[bytes]:
    """Every value of an SQLite database; what is compressed, unpacked."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        opened.text_factory = bytes
        for (table,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in opened.execute(f'SELECT * FROM "{table.decode()}"'):  # noqa: S608 -- names of its own tables
                for value in row:
                    data = value if isinstance(value, bytes) else str(value).encode()
                    yield zlib.decompress(data) if data[:2] == b"x\x9c" else data


def places(
    folder: Path, planted: Mapping[str, str], *, but: Collection[str] = ()
) -> tuple[set[tuple[str, str]], dict[str, int]]:
    """{(name, file)} of all below the folder that holds a planted value: in the bytes of files, in the values of
    SQLite databases, and in Git objects."""
    named = {value.encode(): name for name, value in planted.items()}
    wanted = re.compile(b"|".join(re.escape(value) for value in named))
    found: set[tuple[str, str]] = set()
    looked = {"files": 0, "databases": 0, "repositories": 0}

    def look(data: bytes, where: str) -> None:
        found.update((named[hit], where) for hit in wanted.findall(data))

    for path in sorted(folder.rglob("*")):
        where = path.relative_to(folder).as_posix()
        if where in but or path.is_symlink():
            continue
        if path.name == ".git":
            looked["repositories"] += 1
            look(git_objects(path), where)
        elif path.is_file():
            data = path.read_bytes()
            looked["files"] += 1
            look(data, where)
            if data.startswith(b"SQLite format 3\0"):
                looked["databases"] += 1
                look(b"\0".join(cells(path)), where)
    return found, looked
