"""Arrow schemas and JSON-line forms of what passes between stages.

Payloads are Parquet; gold and training sets are JSON lines. A payload without the column `access` was written before
there were access labels: everything in it is public (`with_access`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.core.names import PUBLIC

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("media_type", pa.string()),
        ("uri", pa.string()),
        ("metadata", pa.string()),  # JSON
        ("digest", pa.string()),
        ("access", pa.string()),
    ]
)
"""corpus/documents.parquet and staging/*/documents.parquet, sorted by id."""

CHUNKS = pa.schema(
    [
        ("key", pa.string()),  # Chunk.id
        ("document", pa.string()),
        ("title", pa.string()),
        ("ordinal", pa.int32()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("tokens", pa.int32()),
        ("text", pa.string()),
        ("text_digest", pa.string()),
        ("access", pa.string()),
    ]
)
"""objects: chunks/CORPUS/by-key/CHUNKS_DIGEST/part-*.parquet, each a range of keys, sorted."""

VECTORS = CHUNKS.append(pa.field("vector", pa.list_(pa.float32())))
"""objects: builds/COLLECTION/part-*.parquet: the truth that Milvus is loaded from."""

EMBEDDINGS = pa.schema(
    [
        ("text_digest", pa.string()),
        ("tokens", pa.int32()),  # that the embedder read of the text: a build compares them with its chunks'
        ("vector", pa.list_(pa.float32())),
    ]
)
"""objects: embeddings/EMBEDDER_DIGEST/counted/part-*.parquet: the content-addressed cache."""


def with_access(rows: Any) -> Any:
    """A table or record batch itself, or with `access` appended, all public, when it was written before labels."""
    if "access" in rows.schema.names:
        return rows
    return rows.append_column("access", pa.array([PUBLIC] * rows.num_rows, pa.string()))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; blank lines are passed over. ValueError names the line that is no object."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as exc:
                raise ValueError(f"{path.name} line {number} is not JSON: {exc}") from exc
            if not isinstance(value, dict):
                raise ValueError(f"{path.name} line {number} is {type(value).__name__}, not an object")
            yield value


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows whole or not at all (temporary file, then rename); returns how many."""
    count = 0
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, sort_keys=False) + "\n")
            count += 1
    temporary.replace(path)
    return count
