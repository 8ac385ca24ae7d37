"""What a row of a build is in Milvus: names, fields, indexes, and rows in and out. It connects to nothing."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np

from pipelines.core.names import LABEL_FORM, PUBLIC, valid_label
from pipelines.errors import BadInput, IntegrityError
from pipelines.ports import Hit

COLLECTION = re.compile(r"b_[a-z][a-z0-9_]{0,49}_[0-9a-f]{16}")
SHOWN = ["document", "title", "start", "end", "text"]
"""Fields that a search returns beside the key."""

ACCESS = "access"
"""The field of the access label. Collections that were loaded before there were labels do not have it."""

_TEXTS = {"document": 65_535, "title": 65_535, "text": 65_535, "text_digest": 64, ACCESS: 64}
_STORED = ("key", "document", "title", "start", "end", "text_digest", "text", ACCESS)
_HNSW = {"M": 16, "efConstruction": 200}
"""Edges of a node and breadth of the construction; recall@10 by `benchmarks.queries`: decision 0006."""


def valid_collection(name: str) -> str:
    """The name itself; BadInput when it is not that of a build."""
    if COLLECTION.fullmatch(name) is None:
        raise BadInput(f"{name!r} is no collection of a build; one is b_CORPUS_ and 16 hex digits")
    return name


def schema(client: Any, dim: int, *, full_text: bool) -> Any:
    """Fields of a collection; with `full_text` also BM25 over `text`, which Milvus derives itself."""
    from pymilvus import DataType, Function, FunctionType

    made = client.create_schema(auto_id=False, enable_dynamic_field=False)
    made.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
    for name, length in _TEXTS.items():
        analyzed = {"enable_analyzer": True} if full_text and name == "text" else {}
        made.add_field(name, DataType.VARCHAR, max_length=length, **analyzed)
    made.add_field("start", DataType.INT64)
    made.add_field("end", DataType.INT64)
    made.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    if full_text:
        made.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        made.add_function(
            Function(
                name="bm25",
                function_type=FunctionType.BM25,
                input_field_names=["text"],
                output_field_names=["sparse"],
            )
        )
    return made


def indexes(client: Any, index_type: str, *, full_text: bool) -> Any:
    """The vector's index (FLAT or HNSW, by cosine) and, with `full_text`, BM25's."""
    made = client.prepare_index_params()
    params = _HNSW if index_type == "HNSW" else {}
    made.add_index("vector", index_type=index_type, metric_type="COSINE", params=params)
    if full_text:
        made.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    return made


def checked_vectors(batch: Any, dim: int) -> np.ndarray:
    """float32 (rows, dim) of an Arrow batch; IntegrityError on vectors that Milvus should not take."""
    vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
    if vectors.size != dim * batch.num_rows or not np.isfinite(vectors).all():
        raise IntegrityError(f"a batch holds vectors that are not {dim} finite numbers each; it was not loaded")
    return np.asarray(vectors.reshape(batch.num_rows, dim))


def checked_labels(batch: Any) -> Any:
    """The batch with its access labels, all public where it was written before there were any; IntegrityError on a row
    whose label is none: nobody could say who may read it."""
    from pipelines.schemas import with_access  # brings Arrow, which readers do without

    batch = with_access(batch)
    for label in batch.column(ACCESS).unique().to_pylist():
        if not valid_label(label):
            raise IntegrityError(
                f"a batch has a row with access label {label!r}, it was not loaded; a label is {LABEL_FORM}"
            )
    return batch


def entities(batch: Any, dim: int, *, fields: Collection[str]) -> list[dict[str, Any]]:
    """An Arrow batch as `upsert` takes it into a collection of these fields; IntegrityError on a vector or label that
    it should not take, and on a row that is not public where the collection has no place for its label."""
    matrix, batch = checked_vectors(batch, dim), checked_labels(batch)
    stored = [name for name in _STORED if name != ACCESS or ACCESS in fields]
    if ACCESS not in fields and batch.column(ACCESS).unique().to_pylist() not in ([], [PUBLIC]):
        raise IntegrityError(
            "a batch has rows that are not public, but the collection was made before there were access labels: "
            "it was not loaded; drop the collection and run stage index again"
        )
    columns = [batch.column(name).to_pylist() for name in stored]
    return [
        {**dict(zip(stored, row, strict=True)), "vector": matrix[n]} for n, row in enumerate(zip(*columns, strict=True))
    ]


def hit(raw: Any, mode: str, *, labels: bool) -> Hit:
    """A passage found; public where the collection has no field for labels.

    milvus-lite hands BM25 scores out negated, a Milvus server does not; by definition they are not below zero."""
    found = raw["entity"]
    score = abs(float(raw["distance"])) if mode == "bm25" else float(raw["distance"])
    return Hit(
        chunk=raw.id,  # servers before 2.4 do not say what the key's field is called
        document=found["document"],
        title=found["title"],
        start=int(found["start"]),
        end=int(found["end"]),
        text=found["text"],
        score=score,
        access=found[ACCESS] if labels else PUBLIC,
    )
