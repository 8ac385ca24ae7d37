"""The vectors of rows: found where a plan (`pipelines.embeddings`) says they are, and handed on to who needs them.

What is handed on is a piece: the bytes of an Arrow record batch of `schemas.EMBEDDINGS`. Nothing is embedded here, and
nothing written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.chunk_sets import read_part
from pipelines.embeddings import Moves, Rows
from pipelines.ports import ObjectStore
from pipelines.schemas import EMBEDDINGS


def hand_on(task: Moves, *, objects: ObjectStore) -> Iterator[tuple[int, bytes]]:
    """In a worker: (number of a part of the build, piece) for each part that needs vectors of this part of the cache,
    which is read once."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    source = read_part(objects, task.source, EMBEDDINGS.names).cast(EMBEDDINGS).combine_chunks()
    texts = pa.array([task.texts[at : at + 32] for at in range(0, len(task.texts), 32)])
    at = pc.index_in(texts, value_set=pc.utf8_slice_codeunits(source["text_digest"], 0, 32))
    numbers, starts = np.unique(np.frombuffer(task.parts, dtype=np.uint16), return_index=True)  # they are in order
    for number, start, end in zip(numbers, starts, [*starts[1:], len(texts)], strict=True):
        rows = source.take(at[start:end].drop_null())  # a text that is not there is missed where its row is written
        yield from ((int(number), batch.serialize().to_pybytes()) for batch in rows.combine_chunks().to_batches())


def find_vectors(task: Rows, rows: Any, pieces: Sequence[bytes], *, objects: ObjectStore) -> tuple[Any, Any]:
    """(n, dim) vectors and (n,) tokens read, of the rows of a part; -1 tokens where no vector was found."""
    import numpy as np
    import pyarrow.compute as pc

    tokens, vectors = np.full(rows.num_rows, -1, dtype=np.int32), None
    for source, by in _sources(task, pieces, objects):
        at = pc.index_in(rows[by], value_set=source[by]).to_numpy()
        found = np.flatnonzero(~np.isnan(at) & (tokens < 0))
        if not len(found):
            continue
        chosen = source.take(at[found].astype(np.int64))
        values = np.asarray(chosen["vector"].combine_chunks().flatten(), dtype="<f4").reshape(len(found), -1)
        if vectors is None:
            vectors = np.zeros((rows.num_rows, values.shape[1]), dtype="<f4")
        vectors[found] = values
        tokens[found] = chosen["tokens"].to_numpy()
    return vectors if vectors is not None else np.zeros((rows.num_rows, 1), dtype="<f4"), tokens


def _sources(task: Rows, pieces: Sequence[bytes], objects: ObjectStore) -> Iterator[tuple[Any, str]]:
    """(table with tokens and vectors, the column that it is searched by), one in memory at a time."""
    import pyarrow as pa

    yield from ((read_part(objects, part, ("key", "tokens", "vector")), "key") for part in task.before)
    yield from ((read_part(objects, part, EMBEDDINGS.names), "text_digest") for part in task.cached)
    if pieces:
        batches = [pa.ipc.read_record_batch(pa.py_buffer(piece), EMBEDDINGS) for piece in pieces]
        yield pa.Table.from_batches(batches).combine_chunks(), "text_digest"
