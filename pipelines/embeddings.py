"""Which texts of a chunk set were never embedded, and where the vectors of the others are: a plan; no vector is read.

Vectors are found in the build before (by the rows' keys, part by part), and else in the cache below
`embeddings/EMBEDDER_DIGEST/` (by text digest), which keeps every text ever embedded, whatever corpus it came from. Of
the cache only the digests are read, and only when the build before does not have everything. DuckDB joins them with
bounded memory. Nothing is embedded and nothing written here.

However rows and texts lie to each other, no part of the cache is read more than NEAR times: one that few parts of the
build need is read by each of these; one that more need (keys changed, as when documents are renamed) is read once, and
its vectors are handed on to the parts that need them.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from pipelines.chunk_sets import covering, number_of, part_name, read_part
from pipelines.ports import ObjectStore

TEXTS_PER_TASK = (256, 4_096)
"""Fewest and most texts of one task, which is one part of the cache: what a kill can lose of a core's work."""


NEAR = 16
"""Most parts of a build that read one part of the cache themselves."""


def cache_folder(embedder: str) -> str:
    """The cache of an embedder digest. Parts written before tokens were counted lie one level up and are not read."""
    return f"embeddings/{embedder}/counted"


def tasks(texts: int, *, partitions: int) -> int:
    """How many tasks embed so many texts: at least one per partition, each of a bounded size."""
    fewest, most = TEXTS_PER_TASK
    size = min(most, max(fewest, math.ceil(texts / 64)))
    return max(1, min(texts, max(partitions, math.ceil(texts / size))))


@dataclass(frozen=True)
class Texts:
    """What one task embeds: the rows with these keys (32 digits each, joined), which lie in these parts."""

    parts: tuple[str, ...]
    keys: str

    @property
    def count(self) -> int:
        return len(self.keys) // 32


@dataclass(frozen=True)
class Rows:
    """What one task writes: part `number` of the build, from that part of the chunk set and the objects that hold its
    vectors: parts of the build `before`, looked up by key, and of the cache, by text digest. Other vectors are handed
    to it (`Moves`)."""

    number: int
    chunks: str
    before: tuple[str, ...]
    cached: tuple[str, ...]


@dataclass(frozen=True)
class Moves:
    """What one task hands on: of the part `source` of the cache the vectors of these texts (32 digits each, joined),
    each to the part of the build whose number stands at its place in `parts`, which is in order."""

    source: str
    texts: str
    parts: array[int]


class Plan:
    """The plan of one chunk set, `chunks` (its facts); `before` are the facts of a build by the same embedder.

    `joining` is a DuckDB: it holds key and text digest, 16 bytes of each, of the rows that `before` does not have.
    """

    def __init__(
        self,
        objects: ObjectStore,
        joining: Any,
        *,
        chunks: Mapping[str, Any],
        before: Mapping[str, Any] | None,
        cache: str,
    ) -> None:
        self._objects, self._joining, self._chunks, self._before = objects, joining, chunks, before
        self._sources: list[str] = []
        joining.execute("CREATE TABLE new (key UUID, text UUID, part INTEGER)")
        joining.execute("CREATE TABLE cached (text UUID, source INTEGER)")
        self._find_new()
        if self._count("new"):
            self._find_cached(cache)
        joining.execute(
            "CREATE TABLE held AS SELECT text, min(source) AS source FROM cached SEMI JOIN new USING (text) "
            "GROUP BY text"
        )
        joining.execute(
            "CREATE TABLE missing AS SELECT text, min(key) AS key FROM new ANTI JOIN held USING (text) GROUP BY text"
        )
        joining.execute("DROP TABLE cached")
        self.missing = self._count("missing")

    def _count(self, table: str) -> int:
        ((rows,),) = self._joining.table(table).count("*").fetchall()
        return int(rows)

    def _find_new(self) -> None:
        """The rows that the build before does not have, part by part."""
        import pyarrow.compute as pc

        for number in range(self._chunks["parts"]):
            table = read_part(self._objects, self._part(number), ("key", "text_digest"))
            for part in self._parts_before(number):
                known = read_part(self._objects, part, ("key",))["key"]
                table = table.filter(pc.invert(pc.is_in(table["key"], value_set=known)))
            if table.num_rows:
                self._joining.register("rows", table)
                self._joining.execute(
                    "INSERT INTO new SELECT key::UUID, left(text_digest, 32)::UUID, $part FROM rows", {"part": number}
                )

    def _find_cached(self, cache: str) -> None:
        """The digests of everything that was ever embedded, and the part that holds each."""
        self._sources = [key for key in self._objects.list(cache) if key.rsplit("/", 1)[-1].startswith("part-")]
        for number, key in enumerate(self._sources):
            self._joining.register("rows", read_part(self._objects, key, ("text_digest",)))
            self._joining.execute(
                "INSERT INTO cached SELECT left(text_digest, 32)::UUID, $source FROM rows", {"source": number}
            )

    def _part(self, number: int) -> str:
        return f"{self._chunks['key']}/{part_name(number)}"

    def _parts_before(self, number: int) -> list[str]:
        if not self._before:
            return []
        numbers = covering(number, self._chunks["bits"], of=self._before["bits"])
        return [f"{self._before['key']}/{part_name(n)}" for n in numbers]

    def texts(self, *, partitions: int) -> Iterator[Texts]:
        """The tasks that embed what is missing, each text in one of them; neighbours by key share a task."""
        if not self.missing:
            return
        count, bits = tasks(self.missing, partitions=partitions), self._chunks["bits"]
        self._joining.execute(
            "CREATE TABLE todo AS SELECT text, key, "
            "((row_number() OVER (ORDER BY key) - 1) * $tasks // $texts)::INTEGER AS task FROM missing",
            {"tasks": count, "texts": self.missing},
        )
        rows = self._joining.cursor().execute(
            "SELECT string_agg(replace(key::VARCHAR, '-', ''), '' ORDER BY key) FROM todo GROUP BY task ORDER BY task"
        )
        while row := rows.fetchone():
            (keys,) = row
            first, last = number_of(keys[:32], bits), number_of(keys[-32:], bits)
            yield Texts(tuple(self._part(number) for number in range(first, last + 1)), keys)

    def rows(self, made: list[str]) -> list[Rows]:
        """The tasks that write the build. `made`: the parts of the cache that the tasks of `texts` wrote, in order."""
        if made:
            self._joining.execute(
                "INSERT INTO held SELECT text, task + $first FROM todo", {"first": len(self._sources)}
            )
            self._sources += made
        self._joining.execute(
            "CREATE TABLE needed AS SELECT source, part FROM new JOIN held USING (text) GROUP BY source, part"
        )
        self._joining.execute(
            "CREATE TABLE far AS SELECT source FROM needed GROUP BY source HAVING count(*) > $near", {"near": NEAR}
        )
        near = self._joining.execute(
            "SELECT part, list(source ORDER BY source) FROM needed ANTI JOIN far USING (source) GROUP BY part"
        )
        cached = {part: tuple(self._sources[number] for number in numbers) for part, numbers in near.fetchall()}
        return [
            Rows(number, self._part(number), tuple(self._parts_before(number)), cached.get(number, ()))
            for number in range(self._chunks["parts"])
        ]

    def moves(self) -> list[Moves]:
        """What is handed on to the tasks of `rows`, which was asked before: 34 bytes for each text and part."""
        found = self._joining.cursor().execute(
            "SELECT DISTINCT source, replace(text::VARCHAR, '-', '') AS digits, part FROM new JOIN held USING (text) "
            "SEMI JOIN far USING (source) ORDER BY source, part, digits"
        )
        moves = []
        for source, rows in groupby(_each(found), key=itemgetter(0)):
            texts, parts = array("B"), array("H")
            for _, text, part in rows:
                texts.frombytes(text.encode())
                parts.append(part)
            moves.append(Moves(self._sources[source], texts.tobytes().decode(), parts))
        return moves


def _each(found: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of a result, some thousands in memory at a time."""
    while rows := found.fetchmany(4_096):
        yield from rows
