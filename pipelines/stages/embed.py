"""Embed on Spark what was never embedded before, and write the build's rows: Parquet under the build's digest.

Texts are embedded once per embedder digest, whatever corpus or build they occur in (`embeddings/EMBEDDER_DIGEST/`).
Each part is written whole under a name that follows from its texts, so a job that was killed or repeated leaves no
duplicates and keeps what it finished. The build's marker is written last. Milvus is not touched here.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pipelines.core.digests import combine_sets, digest_json, digest_row, digest_set
from pipelines.core.index_choice import choose_index
from pipelines.core.names import collection_name
from pipelines.core.nouns import Report
from pipelines.errors import IntegrityError
from pipelines.params import CorpusParams
from pipelines.ports import Embedder, ObjectStore, Ports
from pipelines.schemas import EMBEDDINGS, VECTORS
from pipelines.workspace import Workspace

SCHEMA = VECTORS
ROWS_PER_PART = 20_000
TEXTS_PER_TASK = (256, 4_096)
"""Fewest and most texts of one Spark task, which is one part of the cache: what a kill can lose of a core's work."""

_CHUNK_COLUMNS = ("key", "document", "title", "ordinal", "start", "end", "tokens", "text", "text_digest")
_CHUNK_DDL = (
    "key string, document string, title string, ordinal int, start int, `end` int, tokens int, text string, "
    "text_digest string"
)
_CACHE_DDL = "text_digest string, vector array<float>"
_UNIT = 1e-3


def build_digest(chunks: dict[str, Any], *, embedder: str, index: dict[str, Any]) -> str:
    """What names a build: corpus, how it was cut and what came of it, embedder digest, index params."""
    return digest_json([chunks["corpus_digest"], chunks["params_digest"], chunks["digest"], embedder, index])


def check_vectors(vectors: Any, names: Sequence[str]) -> None:
    """IntegrityError on a vector that is not finite or not of unit length: Milvus would take it without a word."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1))
    bad = np.flatnonzero(~(np.abs(norms - 1.0) <= _UNIT))
    if len(bad):
        at = int(bad[0])
        raise IntegrityError(f"the vector of text {names[at]} has length {norms[at]}, not 1: it was not stored")


def tasks(texts: int, *, partitions: int) -> int:
    """How many Spark tasks embed so many texts: at least one per partition, each of a bounded size."""
    fewest, most = TEXTS_PER_TASK
    size = min(most, max(fewest, math.ceil(texts / 64)))
    return max(1, min(texts, max(partitions, math.ceil(texts / size))))


def _reader(objects: ObjectStore, columns: Sequence[str]) -> Callable[[str], Iterator[Any]]:
    """In a worker: the Arrow batches of one Parquet object; page checksums are verified."""

    def read(key: str) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(io.BytesIO(objects.get(key)), page_checksum_verification=True) as file:
            yield from file.iter_batches(batch_size=1000, columns=list(columns))

    return read


def _parquet(table: Any) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return sink.getvalue()


def _embed_work(objects: ObjectStore, embedder: Embedder, folder: str) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """In a worker: one partition of (text_digest, text) becomes one part of the cache."""

    def work(batches: Iterable[Any]) -> Iterator[Any]:
        import pyarrow as pa

        held = pa.Table.from_batches(list(batches))
        if not held.num_rows:
            return
        held = held.sort_by("text_digest")
        digests, texts = held["text_digest"].to_pylist(), held["text"].to_pylist()
        vectors = embedder.embed_batch(texts)
        check_vectors(vectors, digests)
        part = digest_json(digests)[:32]
        values = pa.array(vectors.reshape(-1), type=pa.float32())
        offsets = pa.array(range(0, vectors.size + 1, vectors.shape[1]), type=pa.int32())
        arrays = [pa.array(digests, type=pa.string()), pa.ListArray.from_arrays(offsets, values)]
        objects.put(f"{folder}/part-{part}.parquet", _parquet(pa.Table.from_arrays(arrays, schema=EMBEDDINGS)))
        yield pa.RecordBatch.from_pydict({"texts": pa.array([len(texts)], type=pa.int32())})

    return work


def _write_work(objects: ObjectStore, folder: str, dim: int) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """In a worker: one partition of joined rows becomes one part of the build, with its counts and digest."""

    def work(batches: Iterable[Any]) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa
        from pyspark import TaskContext

        context = TaskContext.get()
        held = pa.Table.from_batches([batch.cast(VECTORS) for batch in batches], schema=VECTORS).combine_chunks()
        if context is None or not held.num_rows:
            return
        keys, texts = held["key"].to_pylist(), held["text_digest"].to_pylist()
        column = held["vector"].combine_chunks()
        if column.null_count or len(column.flatten()) != dim * len(keys):
            raise IntegrityError(f"a row of {folder} has no vector of {dim} numbers; run the stage again")
        vectors = np.asarray(column.flatten(), dtype="<f4").reshape(-1, dim)
        check_vectors(vectors, texts)
        rows = (
            digest_row(key.encode(), text.encode(), vector.tobytes())
            for key, text, vector in zip(keys, texts, vectors, strict=True)
        )
        part = f"part-{context.partitionId():05d}.parquet"
        objects.put(f"{folder}/{part}", _parquet(held))
        counts = {"part": [part], "rows": [len(keys)], "tokens": [sum(held["tokens"].to_pylist())]}
        yield pa.RecordBatch.from_pydict({**counts, "digest": [digest_set(rows)]})

    return work


def _say(total: int) -> Callable[[float], None]:
    return lambda share: print(f"embed: {round(share * total):,} of {total:,} chunks", flush=True)


def _embed_missing(spark: Any, chunks: Any, ports: Ports, *, folder: str, partitions: int) -> int:
    """Embed the distinct texts that the cache lacks; returns how many those were."""
    from pipelines.backends.spark import read_parts, watch

    known = _parts(ports.objects, folder)
    texts = chunks.select("text_digest", "text").dropDuplicates(["text_digest"])
    if known:
        held = read_parts(spark, known, _reader(ports.objects, ["text_digest"]), "text_digest string")
        texts = texts.join(held, "text_digest", "left_anti")
    texts = texts.persist()
    missing = int(texts.count())
    if missing:
        spread = texts.repartition(tasks(missing, partitions=partitions), "text_digest")
        print(f"embed: 0 of {missing:,} chunks", flush=True)
        with watch(spark, _say(missing)):
            spread.mapInArrow(_embed_work(ports.objects, ports.embedder, folder), "texts int").collect()
    texts.unpersist()
    return missing


def _write_build(spark: Any, chunks: Any, ports: Ports, *, folder: str, cache: str, rows: int) -> list[Any]:
    """Join every chunk with its vector and write the build's parts; returns (part, rows, tokens, digest) of each."""
    from pipelines.backends.spark import read_parts

    stored = read_parts(spark, _parts(ports.objects, cache), _reader(ports.objects, EMBEDDINGS.names), _CACHE_DDL)
    joined = chunks.join(stored.dropDuplicates(["text_digest"]), "text_digest", "left").select(*VECTORS.names)
    spread = joined.repartition(max(1, math.ceil(rows / ROWS_PER_PART)), "key").sortWithinPartitions("key")
    work = _write_work(ports.objects, folder, ports.embedder.dim)
    made = spread.mapInArrow(work, "part string, rows long, tokens long, digest string").collect()
    return sorted(made, key=lambda row: row["part"])


def _parts(objects: ObjectStore, folder: str) -> list[str]:
    return [key for key in objects.list(folder) if key.rsplit("/", 1)[-1].startswith("part-")]


def whole_build(objects: ObjectStore, folder: str) -> dict[str, Any] | None:
    """The facts of a build whose marker and every part are there; else None."""
    there = set(objects.list(folder))
    if f"{folder}/embed.json" not in there:
        return None
    facts: dict[str, Any] = json.loads(objects.get(f"{folder}/embed.json"))
    return facts if all(f"{folder}/{part}" in there for part in facts["parts"]) else None


def _report(facts: dict[str, Any], *, embedded: int, seconds: float) -> Report:
    rate = {"tokens_per_second": facts["tokens"] * embedded / facts["rows"] / seconds} if embedded else {}
    measured = {"embedded": embedded, "reused": facts["rows"] - embedded, "seconds": seconds, **rate}
    said = (
        f"{embedded:,} embedded, {facts['rows'] - embedded:,} reused, {facts['rows']:,} rows in {facts['collection']}"
    )
    return Report("embed", facts, said, measured)


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """chunks/... -> embeddings/... and builds/COLLECTION/. With nothing missing, Spark is not started.

    IntegrityError on a vector that is not of unit length, or when the rows are not the chunks'.
    """
    started, chunks = time.monotonic(), workspace.receipt("chunk")
    embedder, objects = ports.embedder, ports.objects
    index_type, why = choose_index(params.index.type, rows=chunks["rows"])
    index = {**params.index.model_dump(), "type": index_type}
    collection = collection_name(workspace.corpus, build_digest(chunks, embedder=embedder.digest, index=index))
    folder, cache = f"builds/{collection}", f"embeddings/{embedder.digest}"
    if known := whole_build(objects, folder):
        return _report(known, embedded=0, seconds=time.monotonic() - started)
    from pipelines.backends.spark import read_parts, session

    export = ports.settings.cache / "embedders" / embedder.digest
    travels = [export] if export.is_dir() else []
    name = f"assay embed {workspace.corpus}"
    with session(ports.settings.spark_master, name=name, scratch=_scratch(ports), folders=travels) as spark:
        parts = _parts(objects, chunks["key"])
        table = read_parts(spark, parts, _reader(objects, _CHUNK_COLUMNS), _CHUNK_DDL).persist()
        embedded = _embed_missing(spark, table, ports, folder=cache, partitions=params.embed.partitions)
        made = _write_build(spark, table, ports, folder=folder, cache=cache, rows=chunks["rows"])
    facts = {
        "collection": collection,
        "key": folder,
        "parts": [row["part"] for row in made],
        "rows": sum(row["rows"] for row in made),
        "tokens": sum(row["tokens"] for row in made),
        "digest": combine_sets(row["digest"] for row in made),
        "index_type": index_type,
        "index_reason": why,
        "embedder": embedder.name,
        "embedder_digest": embedder.digest,
        "dim": embedder.dim,
        "documents": chunks["documents"],
        "corpus_digest": chunks["corpus_digest"],
        "chunks_digest": chunks["digest"],
    }
    _seal(objects, folder, facts, expected=chunks["rows"])
    return _report(facts, embedded=embedded, seconds=time.monotonic() - started)


def _scratch(ports: Ports) -> Any:
    return ports.settings.cache / "spark"


def _seal(objects: ObjectStore, folder: str, facts: dict[str, Any], *, expected: int) -> None:
    """The marker, last. IntegrityError when rows were lost, or when another run made other vectors of this build."""
    if facts["rows"] != expected:
        raise IntegrityError(f"{folder} has {facts['rows']} rows, but {expected} chunks were cut")
    if not objects.create(f"{folder}/embed.json", json.dumps(facts, indent=1, sort_keys=True).encode()):
        earlier = json.loads(objects.get(f"{folder}/embed.json"))["digest"]
        if earlier != facts["digest"]:
            raise IntegrityError(f"{folder} was built before with content {earlier[:12]}, now {facts['digest'][:12]}")
