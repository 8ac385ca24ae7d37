"""A build as the stage index finds it in the object store: its parts, and the facts by which it is loaded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.digests import digest_row, digest_set
from pipelines.ports import ObjectStore


def put_build(objects: ObjectStore, parts: Sequence[pa.RecordBatch], *, collection: str, dim: int) -> dict[str, Any]:
    """Write one Parquet file per batch (columns of schemas.VECTORS, all public); the facts that `load_build` takes."""
    names, marks = [], []
    for number, rows in enumerate(parts):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_batches([rows]), sink)
        names.append(f"part-{number}")
        objects.put(f"builds/b/{names[-1]}", sink.getvalue())
        for row in rows.to_pylist():
            vector = np.asarray(row["vector"], dtype="<f4").tobytes()
            marks.append(digest_row(row["key"].encode(), row["text_digest"].encode(), vector))
    facts = {"key": "builds/b", "collection": collection, "parts": names, "rows": len(marks), "dim": dim}
    return {**facts, "digest": digest_set(marks)}
