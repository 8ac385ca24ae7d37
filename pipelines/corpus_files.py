"""The folder form of a corpus (staging/fetched, staging/checked, corpus/): written whole, compared, swapped in.

It does not decide what belongs into a corpus, and knows nothing of versions.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.digests import canonical_json, digest_bytes, digest_json
from pipelines.core.nouns import Document
from pipelines.schemas import DOCUMENTS, read_jsonl, write_jsonl

FILES = ("documents.parquet", "questions.jsonl", "examples.jsonl", "quarantine.jsonl")


@dataclass(frozen=True)
class CorpusFiles:
    """What such a folder holds beside `source/`. `rows` are DOCUMENTS rows as mappings, sorted by id."""

    rows: Sequence[Mapping[str, Any]]
    questions: Sequence[Mapping[str, Any]]
    examples: Sequence[Mapping[str, Any]]
    quarantine: Sequence[Mapping[str, Any]]


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
    }


def write_files(folder: Path, files: CorpusFiles) -> None:
    """Write the four files; the same content gives the same bytes (no times, fixed compression, sorted rows)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source").mkdir(exist_ok=True)
    table = pa.Table.from_pylist(sorted(files.rows, key=lambda row: row["id"]), schema=DOCUMENTS)
    pq.write_table(table, folder / "documents.parquet", compression="zstd", compression_level=3, row_group_size=65536)
    write_jsonl(folder / "questions.jsonl", files.questions)
    write_jsonl(folder / "examples.jsonl", files.examples)
    write_jsonl(folder / "quarantine.jsonl", sorted(files.quarantine, key=lambda row: (row["document"], row["reason"])))


def read_files(folder: Path) -> CorpusFiles:
    """Read the four files back; FileNotFoundError when the folder is not whole."""
    import pyarrow.parquet as pq

    return CorpusFiles(
        rows=pq.read_table(folder / "documents.parquet").to_pylist(),
        questions=list(read_jsonl(folder / "questions.jsonl")),
        examples=list(read_jsonl(folder / "examples.jsonl")),
        quarantine=list(read_jsonl(folder / "quarantine.jsonl")),
    )


def document_digests(folder: Path) -> dict[str, str]:
    """Document id to content digest, read from documents.parquet without the texts; empty without a folder."""
    import pyarrow.parquet as pq

    file = folder / "documents.parquet"
    if not file.is_file():
        return {}
    table = pq.read_table(file, columns=["id", "digest"])
    return dict(zip(table["id"].to_pylist(), table["digest"].to_pylist(), strict=True))


def content_digest(digests: Mapping[str, str]) -> str:
    """64 hex digits over the documents' ids and contents alone: equal wherever and whenever they were landed."""
    return digest_json(sorted(digests.items()))


def listing(folder: Path) -> list[str]:
    """Relative paths of all files below, sorted."""
    return sorted(
        os.path.relpath(Path(parent) / name, folder) for parent, _, names in os.walk(folder) for name in names
    )


def tree_digest(folder: Path) -> str:
    """64 hex digits over the relative paths and bytes of all files below."""
    return digest_json([(name, digest_bytes((folder / name).read_bytes())) for name in listing(folder)])


def same_tree(left: Path, right: Path) -> bool:
    """True when both folders hold the same files with the same bytes."""
    if not (left.is_dir() and right.is_dir()):
        return False
    names = listing(left)
    if names != listing(right):
        return False
    return all(
        (left / name).samefile(right / name) or filecmp.cmp(left / name, right / name, shallow=False) for name in names
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
