"""Chunk sets in the object store: rows in parts by ranges of their key, so that two sets are joined part by part.

A set of so many rows always has the same parts: part N of 2**bits holds the keys whose leading bits are N, sorted. So
the same rows give the same files whether they were cut anew or taken over, the parts are of even size whatever the
corpus repeats (a key is a digest), and what reads or writes a set needs the memory of one part. The range join is ours
because it spares the shuffle: an engine that sorts rows by itself moves every text and vector to learn what the key
says already. Nothing is cut or embedded here.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.digests import combine_sets, digest_row, digest_set
from pipelines.core.nouns import labelled
from pipelines.errors import IntegrityError, NotFound
from pipelines.ports import ObjectStore

ROWS_PER_PART = 4_096
"""Most rows of a part on average: about 4 MB of texts, 6 MB of vectors at 384 dimensions."""
_PREFIX_BITS = 16
_HELD = 16_384
"""Rows that a spill holds in memory before it writes them."""


def bits_of(rows: int) -> int:
    """How many leading bits of the key name a part of a set of so many rows."""
    return min(_PREFIX_BITS, (max(1, math.ceil(rows / ROWS_PER_PART)) - 1).bit_length())


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def limits(number: int, bits: int) -> tuple[str, str]:
    """The keys of a part: first <= key < last, as strings (`g` comes after every hex digit)."""
    width = 1 << (_PREFIX_BITS - bits)
    return f"{number * width:04x}", f"{(number + 1) * width - 1:04x}g"


def number_of(key: str, bits: int) -> int:
    """The part that holds a key."""
    return int(key[:4], 16) >> (_PREFIX_BITS - bits)


def covering(number: int, bits: int, *, of: int) -> range:
    """The parts of a set with `of` bits that hold the keys of part `number` of a set with `bits`."""
    if of <= bits:
        return range(number >> (bits - of), (number >> (bits - of)) + 1)
    return range(number << (of - bits), (number + 1) << (of - bits))


def within(table: Any, low: str, high: str) -> Any:
    """The rows of an Arrow table with low <= key < high."""
    import pyarrow.compute as pc

    return table.filter(pc.and_(pc.greater_equal(table["key"], low), pc.less(table["key"], high)))


def read_part(objects: ObjectStore, key: str, columns: Sequence[str] | None = None) -> Any:
    """One Parquet object as an Arrow table; page checksums are verified. Of named `columns` no others are fetched. Rows
    have `access` also where they were written before there were labels.

    NotFound when it is not there, IntegrityError when it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.schemas import with_access

    stage = {"chunks": "chunk"}.get(key.split("/")[0], "embed")
    try:
        source = objects.reader(key) if columns else io.BytesIO(objects.get(key))
        with pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as file:
            table = file.read(columns=list(columns) if columns else None)
    except KeyError as exc:
        raise NotFound(f"{key} is not in the object store; run stage {stage} again") from exc
    except (OSError, pa.ArrowException) as exc:
        said = " ".join(str(exc).split())
        raise IntegrityError(f"{key} is damaged ({said[:80]}); delete it and run stage {stage} again") from exc
    return with_access(table) if columns is None or "access" in columns else table


def parquet(table: Any) -> bytes:
    """Parquet with page checksums. Vectors are not compressed: it gains 8 % of their size and triples the CPU."""
    import pyarrow.parquet as pq

    plain = {"vector.list.element": "none"} if "vector" in table.column_names else {}
    packing = {name: "zstd" for name in table.column_names if name != "vector"} | plain
    sink = io.BytesIO()
    pq.write_table(table, sink, compression=packing, use_dictionary=False, write_page_checksum=True)
    return sink.getvalue()


def database(scratch: Path) -> Any:
    """A DuckDB of its own in memory, at most 256 MB of it; what is more goes below `scratch`."""
    import duckdb

    settings: dict[str, Any] = {"memory_limit": "256MB", "temp_directory": str(scratch / "duckdb"), "threads": 2}
    return duckdb.connect(config=settings)


class Spill:
    """Rows of CHUNKS on a local disk, apart by the first two digits of their key: a range is read back alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.rows = folder, 0
        self._held: list[dict[str, Any]] = []
        self._writers: dict[str, Any] = {}

    def add(self, rows: Iterable[dict[str, Any]]) -> int:
        """Returns how many rows these were."""
        before = len(self._held)
        self._held.extend(rows)
        added = len(self._held) - before
        self.rows += added
        if len(self._held) >= _HELD:
            self._flush()
        return added

    def _flush(self) -> None:
        import pyarrow as pa

        from pipelines.schemas import CHUNKS

        self._held.sort(key=lambda row: str(row["key"]))
        for first, rows in itertools.groupby(self._held, key=lambda row: str(row["key"][:2])):
            if first not in self._writers:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writers[first] = pa.ipc.new_stream(str(self.folder / first), CHUNKS, options=options)
            self._writers[first].write_table(pa.Table.from_pylist(list(rows), schema=CHUNKS))
        self._held = []

    def close(self) -> None:
        """Before the first `read`."""
        self._flush()
        for writer in self._writers.values():
            writer.close()

    def read(self, low: str, high: str) -> Iterator[Any]:
        """Arrow tables of the rows with low <= key < high."""
        import pyarrow as pa

        for first in sorted(self._writers):
            if low[:2] <= first <= high[:2]:
                with pa.ipc.open_stream(pa.memory_map(str(self.folder / first))) as stream:
                    yield within(stream.read_all(), low, high)


@dataclass(frozen=True)
class Kept:
    """The rows of a sealed set that go into the next one: those of all documents but `gone` (an Arrow array of ids)."""

    objects: ObjectStore
    key: str
    bits: int
    gone: Any

    def read(self, number: int, bits: int) -> Iterator[Any]:
        """Arrow tables of the kept rows that belong into part `number` of a set with `bits`."""
        import pyarrow.compute as pc

        for part in covering(number, bits, of=self.bits):
            table = within(read_part(self.objects, f"{self.key}/{part_name(part)}"), *limits(number, bits))
            yield table.filter(pc.invert(pc.is_in(table["document"], value_set=self.gone)))


def rows_digest(table: Any) -> str:
    """Order-free digest of rows of CHUNKS: key, title, place, tokens, text digest and access label of each."""
    names = ("key", "title", "start", "end", "tokens", "text_digest", "access")
    return digest_set(
        digest_row(key.encode(), title.encode(), f"{start} {end} {tokens}".encode(), labelled(text, access).encode())
        for key, title, start, end, tokens, text, access in zip(*(table[n].to_pylist() for n in names), strict=True)
    )


def write_parts(folder: Path, fresh: Spill, kept: Kept | None, *, rows: int) -> dict[str, Any]:
    """The parts of a set as files of `folder`, from rows just cut and rows kept; `rows` of them in all.

    Returns rows, tokens, digest, bits and parts as they were written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.schemas import CHUNKS

    bits, digests, written, tokens = bits_of(rows), [], 0, 0
    for number in range(1 << bits):
        old = kept.read(number, bits) if kept else ()
        table = pa.concat_tables([CHUNKS.empty_table(), *old, *fresh.read(*limits(number, bits))]).sort_by("key")
        (folder / part_name(number)).write_bytes(parquet(table))
        written += table.num_rows
        tokens += pc.sum(table["tokens"]).as_py() or 0
        digests.append(rows_digest(table))
    return {"rows": written, "tokens": tokens, "digest": combine_sets(digests), "bits": bits, "parts": 1 << bits}


def publish(folder: Path, objects: ObjectStore, key: str, *, facts: dict[str, Any]) -> None:
    """Parts first, the list of documents next, the seal last; a sealed set is not written again."""
    if f"{key}/seal.json" in objects.list(key):
        return
    for name in [*(part_name(number) for number in range(facts["parts"])), "documents.parquet"]:
        objects.put(f"{key}/{name}", (folder / name).read_bytes())
    objects.create(f"{key}/seal.json", json.dumps(facts, indent=1).encode())
