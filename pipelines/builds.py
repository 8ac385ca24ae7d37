"""The rows of a build in the object store, and a vector store brought to exactly these rows.

The Parquet below `builds/COLLECTION/` is the truth, Milvus a projection of it: whoever needs the collection (the index
stage, a service, a check) can have it loaded from here. It seals nothing and tracks nothing.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.core.digests import combine_sets, digest_row, digest_set
from pipelines.core.nouns import labelled
from pipelines.errors import IntegrityError, NotFound
from pipelines.ports import Embedder, ObjectStore, VectorStore

BATCH = 500
"""Rows of one upsert: about 1 MB at 384 dimensions."""

Facts = Mapping[str, Any]
Spread = Callable[[Sequence[str], Callable[[str], int]], int]


def build_facts(objects: ObjectStore, key: str) -> dict[str, Any]:
    """What the embed stage said when the build was whole; NotFound when there is no such build, IntegrityError
    when that is damaged."""
    try:
        facts: dict[str, Any] = json.loads(objects.get(f"{key}/embed.json"))
    except KeyError as exc:
        raise NotFound(f"there is no whole build at {key} in the object store") from exc
    except ValueError as exc:
        raise IntegrityError(f"{key}/embed.json is damaged; run stage embed again") from exc
    return facts


def require_embedder(build: Facts, embedder: Embedder) -> None:
    """IntegrityError when `embedder`, which embed.model and embed.precision name, did not make the build's vectors."""
    if embedder.digest != build["embedder_digest"]:
        raise IntegrityError(
            f"{build['collection']} was embedded by {build['embedder_digest'][:12]}, "
            f"but embed.model and embed.precision are {embedder.digest[:12]} now (int8 is another "
            "where the CPU multiplies bf16 and where it does not); run stage embed again"
        )


def build_rows(objects: ObjectStore, build: Facts, *, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Arrow record batches of a build, part by part; one part (at most some 50 MB) is in memory at a time, and of
    `columns` no others are fetched. They have `access` also where the build was written before there were labels.

    `build` has `key` and `parts`. NotFound names a part that is gone, IntegrityError one that is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.schemas import with_access

    for key in (f"{build['key']}/{part}" for part in build["parts"]):
        try:
            source = objects.reader(key) if columns else io.BytesIO(objects.get(key))
        except KeyError as exc:
            raise NotFound(f"{key} is not in the object store; run stage embed again") from exc
        try:
            with pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as file:
                batches = file.iter_batches(batch_size=BATCH, columns=columns)
                yield from map(with_access, batches) if columns is None or "access" in columns else batches
        except (pa.ArrowException, OSError) as exc:
            raise IntegrityError(f"{key} is damaged; run stage embed again") from exc


def parquet_digest(objects: ObjectStore, build: Facts) -> tuple[int, str]:
    """(rows, order-free digest) of the build's Parquet in the object store. NotFound names a part that is gone,
    IntegrityError one that is damaged."""
    import numpy as np

    count, total = 0, digest_set(())
    for batch in build_rows(objects, build):  # all columns: what is not digested has checksums of its own
        vectors = np.asarray(batch.column("vector").flatten(), dtype="<f4").reshape(batch.num_rows, -1)
        texts = map(labelled, batch.column("text_digest").to_pylist(), batch.column("access").to_pylist())
        rows = zip(batch.column("key").to_pylist(), texts, vectors, strict=True)
        total = combine_sets([total, digest_set(digest_row(k.encode(), t.encode(), v.tobytes()) for k, t, v in rows)])
        count += batch.num_rows
    return count, total


def held(store: VectorStore, collection: str) -> tuple[int, str]:
    """(rows, order-free digest) of what the store holds, every row read back; NotFound without the collection."""
    count = 0

    def marks() -> Iterator[int]:
        nonlocal count
        for key, text, vector in store.rows(collection):
            count += 1
            yield digest_row(key.encode(), text.encode(), vector)

    digest = digest_set(marks())
    return count, digest


def _load(store: VectorStore, objects: ObjectStore, build: Facts, spread: Spread | None) -> None:
    """Load every row of a build, side by side where the store is shared and there are several parts to load."""
    collection, parts = build["collection"], build["parts"]
    shape: dict[str, Any] = {"dim": build["dim"], "index_type": build.get("index_type", "FLAT")}
    if spread is None or not store.shared or len(parts) < 2:
        store.load(collection, _told(build_rows(objects, build), build["rows"]), **shape)
        return

    def load(part: str) -> int:
        return store.load(collection, build_rows(objects, {**build, "parts": [part]}), **shape, finish=False)

    store.load(collection, [], **shape)  # made here, once: of several that create it, all but one would fail
    spread(parts, load)
    store.load(collection, [], **shape)


def load_build(store: VectorStore, objects: ObjectStore, build: Facts, *, spread: Spread | None = None) -> int:
    """Bring the store to exactly the rows of `build` (embed's facts); returns how many loads that took (0, 1 or 2).

    `spread(parts, load)` calls `load(part)` for every part, in other processes: how a server is loaded in parallel.
    What differs is loaded over; what then still differs (rows that do not belong there) is dropped and loaded again.
    IntegrityError when it differs even so.
    """
    collection, expected = build["collection"], (build["rows"], build["digest"])
    try:
        if held(store, collection) == expected:
            return 0
    except NotFound:
        pass
    for attempt in (1, 2):
        _load(store, objects, build, spread)
        found = held(store, collection)
        if found == expected:
            return attempt
        if attempt == 1:
            store.drop(collection)
    raise IntegrityError(
        f"{collection} holds {found[0]} rows of digest {found[1][:12]} after loading, "
        f"not {expected[0]} of {expected[1][:12]}"
    )


def _told(batches: Iterator[Any], total: int) -> Iterator[Any]:
    """Pass batches on, with a line on stdout now and then."""
    rows, last = 0, time.monotonic()
    for batch in batches:
        yield batch
        rows += batch.num_rows
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"index: {rows:,} of {total:,} rows", flush=True)
