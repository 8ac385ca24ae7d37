"""Whether some bytes hold something of a document: its text in any of the forms that files of ours have it in, rows
named after it, or the landed file itself.

Parquet is decoded; gzip, zstd and zip are unpacked, the payload of a signed envelope is read; all else (SQLite, logs,
JSON, HTML, Arrow streams) is looked at as it lies on the disk. Weights are not text and are not looked at.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.core.erasure import forms

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".onnx", ".so", ".png")
_DEPTH = 4
"""Most containers within each other."""


@dataclass(frozen=True)
class Wanted:
    """What is looked for: the documents' ids, pieces of their texts, and sha256 -> size of the files that landed."""

    documents: frozenset[str]
    needles: tuple[bytes, ...]
    files: Mapping[str, int]

    @classmethod
    def of(cls, documents: Collection[str], pieces: Collection[str], files: Mapping[str, int]) -> Wanted:
        found = {form for piece in pieces for form in forms(piece)}
        return cls(frozenset(documents), tuple(sorted(found)), dict(files))


def holds(data: Any, wanted: Wanted, *, depth: int = 0) -> bool:
    """Whether `data` (bytes or a memory map) holds something of the documents."""
    if any(data.find(needle) >= 0 for needle in wanted.needles):
        return True
    if len(data) in wanted.files.values() and hashlib.sha256(data).hexdigest() in wanted.files:
        return True
    if depth >= _DEPTH:
        return False
    if data[:4] == b"PAR1" and data[-4:] == b"PAR1":
        return _in_parquet(bytes(data), wanted)
    return any(holds(inner, wanted, depth=depth + 1) for inner in _inner(data))


def _inner(data: Any) -> Iterator[bytes]:
    """What a container holds; nothing for what is none, or is broken."""
    head = bytes(data[:4])
    try:
        if head[:2] == b"\x1f\x8b":
            yield gzip.decompress(bytes(data))
        elif head == b"\x28\xb5\x2f\xfd":
            import pyarrow as pa

            with pa.CompressedInputStream(pa.BufferReader(bytes(data)), "zstd") as stream:
                yield stream.read()
        elif head == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
                for name in archive.namelist():
                    yield archive.read(name)
        elif head[:1] == b"{" and data.find(b'"payloadType"') >= 0:
            yield base64.b64decode(json.loads(bytes(data))["payload"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile, binascii.Error):
        return


def _in_parquet(data: bytes, wanted: Wanted) -> bool:
    """Rows with content that name one of the documents, or any text of theirs."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids = pa.array(sorted(wanted.documents), pa.string())
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            names = file.schema_arrow.names
            owner = next((name for name in ("document", "id") if name in names), None)
            content = {"text", "vector"} & set(names)
            texts = [f.name for f in file.schema_arrow if pa.types.is_string(f.type) or pa.types.is_binary(f.type)]
            texts += [f.name for f in file.schema_arrow if pa.types.is_large_string(f.type)]
            for batch in file.iter_batches(batch_size=4096, columns=texts):
                if owner in texts and content and pc.any(pc.is_in(batch[owner], value_set=ids)).as_py():
                    return True
                if any(_in_column(batch[name], wanted) for name in texts):
                    return True
    except (OSError, pa.ArrowException):
        return False
    return False


def _in_column(column: Any, wanted: Wanted) -> bool:
    values = (v.encode("utf-8", "surrogatepass") if isinstance(v, str) else v for v in column.to_pylist() if v)
    joined = b"\0".join(values)
    return any(needle in joined for needle in wanted.needles)
