"""The folder form of a corpus (staging/fetched, staging/checked, corpus/): written whole, compared, swapped in.

A corpus may be larger than memory: documents pass by in record batches, files are read piece by piece. It does not
decide what belongs into a corpus, and knows nothing of versions.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.digests import canonical_json, digest_list
from pipelines.core.nouns import Document
from pipelines.schemas import DOCUMENTS, read_jsonl, with_access, write_jsonl

if TYPE_CHECKING:
    import pyarrow as pa

FILES = ("documents.parquet", "questions.jsonl", "examples.jsonl", "quarantine.jsonl")
GROUP_ROWS = 65_536
GROUP_BYTES = 64 * 2**20
"""A row group of documents.parquet is closed by whichever comes first: what a writer holds in memory."""


@dataclass(frozen=True)
class CorpusFiles:
    """What such a folder holds beside `source/`.

    `rows` are DOCUMENTS rows: mappings in any order for a corpus that is small, or an iterator of record batches
    that come sorted by id. `quarantine` is sorted by (document, reason) when it is an iterator.
    """

    rows: Sequence[Mapping[str, Any]] | Iterator[pa.RecordBatch]
    questions: Iterable[Mapping[str, Any]]
    examples: Iterable[Mapping[str, Any]]
    quarantine: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]


def document_row(document: Document) -> dict[str, Any]:
    """One row of DOCUMENTS; metadata as canonical JSON."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "media_type": document.media_type,
        "uri": document.uri,
        "metadata": canonical_json(dict(document.metadata)),
        "digest": document.digest,
        "access": document.access,
    }


def write_files(folder: Path, files: CorpusFiles) -> None:
    """Write the four files; the same content gives the same bytes (no times, fixed compression, sorted rows)."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source").mkdir(exist_ok=True)
    rows, quarantine = files.rows, files.quarantine
    if isinstance(rows, Sequence):
        rows = iter([pa.RecordBatch.from_pylist(sorted(rows, key=lambda row: row["id"]), schema=DOCUMENTS)])
    if isinstance(quarantine, Sequence):
        quarantine = iter(sorted(quarantine, key=lambda row: (row["document"], row["reason"])))
    write_documents(folder / "documents.parquet", rows)
    write_jsonl(folder / "questions.jsonl", files.questions)
    write_jsonl(folder / "examples.jsonl", files.examples)
    write_jsonl(folder / "quarantine.jsonl", quarantine)


def write_documents(file: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write sorted batches of DOCUMENTS; how the rows were cut into batches does not show in the bytes."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, DOCUMENTS, compression="zstd", compression_level=3) as out:
        for table in _row_groups(batches):
            out.write_table(table, row_group_size=GROUP_ROWS)


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of GROUP_ROWS rows, or fewer whose texts reach GROUP_BYTES; each in one piece, because the pieces of a
    table show in Parquet's pages. One empty table when there are no rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    held: list[pa.RecordBatch] = []
    rows = size = groups = 0

    def whole() -> pa.Table:
        return pa.Table.from_batches(held, schema=DOCUMENTS).combine_chunks()

    for batch in batches:
        rest = batch
        while rest.num_rows:
            lengths = pc.fill_null(pc.binary_length(rest["text"]), 0).to_numpy(zero_copy_only=False)
            reached = size + np.cumsum(lengths[: GROUP_ROWS - rows], dtype=np.int64)
            taken = min(int(np.searchsorted(reached, GROUP_BYTES)) + 1, len(reached))
            held.append(rest.slice(0, taken))
            rows, size, rest = rows + taken, int(reached[taken - 1]), rest.slice(taken)
            if rows == GROUP_ROWS or size >= GROUP_BYTES:
                yield whole()
                held, rows, size, groups = [], 0, 0, groups + 1
    if held or not groups:
        yield whole()


def document_batches(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """documents.parquet in its order, in batches of at most 4096 rows and one row group; with `access` also where it
    was written before there were labels."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / "documents.parquet") as file:
        for group in range(file.num_row_groups):
            batches = file.iter_batches(batch_size=4096, row_groups=[group], columns=columns)
            yield from map(with_access, batches) if columns is None or "access" in columns else batches


def document_count(folder: Path) -> int:
    """How many documents there are, from the file's footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(folder / "documents.parquet").num_rows)


def documents_among(folder: Path, wanted: Iterable[str], *, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The wanted documents that are there, in order. A row group that holds none of them is not read beyond its ids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids = pa.array(sorted(wanted), pa.string())
    with pq.ParquetFile(folder / "documents.parquet") as file:
        for group in range(file.num_row_groups if len(ids) else 0):
            found = pc.is_in(file.read_row_group(group, columns=["id"])["id"], value_set=ids).combine_chunks()
            if not found.true_count:
                continue
            at = 0
            for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=list(columns)):
                yield from batch.filter(found.slice(at, batch.num_rows)).to_pylist()
                at += batch.num_rows


def quarantine_reasons(folder: Path) -> Counter[str]:
    """How many records of quarantine.jsonl there are of each reason, its details aside."""
    records = read_jsonl(folder / "quarantine.jsonl")
    return Counter(record["reason"].split(":")[0].split(";")[0] for record in records)


def records_about(documents: Container[str], folder: Path) -> Iterator[dict[str, Any]]:
    """The quarantine records that may account for one of the documents; see `gold.in_quarantine`."""
    records = read_jsonl(folder / "quarantine.jsonl")
    return (record for record in records if "ids" in record or record["document"] in documents)


def content_digest(digests: Mapping[str, str]) -> str:
    """64 hex digits over the documents' ids and contents alone: equal wherever and whenever they were landed."""
    return digest_list(sorted(digests.items()))


def folder_digest(folder: Path) -> str:
    """`content_digest` of a folder's documents, which are sorted; the texts are not read."""
    batches = document_batches(folder, ["id", "digest"])
    pairs = (pair for batch in batches for pair in zip(*(column.to_pylist() for column in batch), strict=True))
    return digest_list(pairs)


@dataclass(frozen=True)
class Changes:
    """How many documents the newer of two folders has added, changed and lost."""

    added: int
    changed: int
    gone: int


def changes(old: Path, new: Path) -> Changes:
    """Compare two folders by (id, content digest); a folder without documents counts as empty."""
    import duckdb

    def table(folder: Path) -> str:
        file = folder / "documents.parquet"
        return "read_parquet(?)" if file.is_file() else "(SELECT NULL AS id, NULL AS digest WHERE ? IS NULL)"

    query = f"""
        SELECT count(*) FILTER (o.id IS NULL), count(*) FILTER (o.digest <> n.digest), count(*) FILTER (n.id IS NULL)
        FROM (SELECT id, digest FROM {table(old)}) o FULL JOIN (SELECT id, digest FROM {table(new)}) n ON o.id = n.id
    """  # noqa: S608 the two forms above; paths are bound
    with duckdb.connect(config={"threads": 2, "memory_limit": "512MB"}) as database:
        row = database.execute(query, [str(folder / "documents.parquet") for folder in (old, new)]).fetchone()
    added, changed, gone = row or (0, 0, 0)
    return Changes(added, changed, gone)


def listing(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of all files below, sorted; one folder's names in memory at a time."""

    def below(prefix: str) -> Iterator[str]:
        with os.scandir(folder / prefix) as entries:
            # With its slash a folder sorts among the files as its files' paths do.
            found = sorted((e.name + "/" if e.is_dir() else e.name, e.is_symlink()) for e in entries)
        for name, link in found:
            if not name.endswith("/"):
                yield prefix + name
            elif not link:
                yield from below(prefix + name)

    return below("") if folder.is_dir() else iter(())


def file_digest(file: Path) -> str:
    """sha256 (hex) of a file's bytes, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(folder: Path) -> str:
    """64 hex digits over the relative paths and bytes of all files below."""
    return digest_list((name, file_digest(folder / name)) for name in listing(folder))


def same_tree(left: Path, right: Path) -> bool:
    """True when both folders hold the same files with the same bytes."""
    if not (left.is_dir() and right.is_dir()):
        return False
    return all(
        name == other
        and ((left / name).samefile(right / name) or filecmp.cmp(left / name, right / name, shallow=False))
        for name, other in zip_longest(listing(left), listing(right))
    )


def link_tree(source: Path, target: Path, names: Iterable[str]) -> None:
    """Hard-link files (POSIX paths below `source`) into `target`: both folders are ours and never edited in place."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(source / name, target / name)


def fresh(building: Path) -> Path:
    """An empty folder to build in; what a killed run left there is dropped."""
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    return building


def swap_in(building: Path, target: Path, *, aside: Path) -> None:
    """Put `building` where `target` is. A kill between the two renames is mended by `mend`."""
    shutil.rmtree(aside, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(aside)
    building.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def mend(target: Path, *, aside: Path) -> None:
    """Undo a swap that was killed half-way: the older folder comes back."""
    if aside.is_dir() and not target.exists():
        aside.rename(target)
