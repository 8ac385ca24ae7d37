"""Embed on Spark what was never embedded before, and write the build's rows: Parquet under the build's digest.

Texts are embedded once per embedder digest, whatever corpus or build they occur in (`embeddings/EMBEDDER_DIGEST/`).
Each part is written whole under a name that follows from its texts, so a job that was killed or repeated leaves no
duplicates and keeps what it finished. The build's marker is written last. Milvus is not touched here.

Spark schedules, retries and repeats the tasks. A task is told which objects to read, and reads them itself: texts never
pass through the JVM (a row there and back costs some 50 microseconds), and of vectors only those that would else have
to be read again and again, because their rows lie scattered now (`pipelines.embeddings`).
The same tasks run in this process where all that is new is one task's worth and no cluster was named: a local session
costs 8 CPU-seconds before its first task (`SMALL`).
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Protocol

from pipelines.builds import parquet_digest
from pipelines.chunk_sets import database, parquet, part_name, read_part
from pipelines.core.costs import Spent
from pipelines.core.digests import combine_sets, digest_json, digest_row, digest_set
from pipelines.core.index_choice import choose_index
from pipelines.core.names import collection_name
from pipelines.core.nouns import Report, labelled
from pipelines.embeddings import TEXTS_PER_TASK, Plan, Rows, Texts, cache_folder
from pipelines.errors import IntegrityError, NotFound
from pipelines.params import CorpusParams
from pipelines.ports import Embedder, ObjectStore, OnDisk, Paid, Ports
from pipelines.schemas import EMBEDDINGS, VECTORS
from pipelines.temporary import temporary_folder
from pipelines.tombstones import MARKERS, claim
from pipelines.vectors import find_vectors, hand_on
from pipelines.workspace import Workspace

SCHEMA = VECTORS
_WAVE = 64
"""Tasks of one Spark job: the driver holds no more of the keys to embed than these name."""
_UNIT = 1e-3
SMALL = TEXTS_PER_TASK[0]
"""Texts to embed, and parts of rows to write, up to which no local Spark is started: this many, and one."""
Give = Callable[[Any], Iterable[tuple[int, bytes]]]
"""From a giver to (a task's place among the tasks, a piece for it)."""


class Each(Protocol):
    """Runs `work` of every task: `here`, or as Spark tasks (`backends.spark.each`)."""

    def __call__(
        self,
        work: Callable[..., Any],
        tasks: Sequence[Any],
        *,
        say: Callable[[float], None] | None = None,
        give: Give | None = None,
        givers: Sequence[Any] = (),
    ) -> list[Any]:
        """The results, in order. `say` is called with the share that is done, now and then. With `givers` it is
        `work(task, pieces)`: all that `give(giver)` yields for the task's place, in any order."""


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


def _lists(vectors: Any) -> Any:
    """(n, dim) float32 as an Arrow list array."""
    import pyarrow as pa

    offsets = pa.array(range(0, vectors.size + 1, vectors.shape[1]), type=pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1), type=pa.float32()))


def embed_texts(task: Texts, *, objects: ObjectStore, embedder: Embedder, folder: str) -> str:
    """In a worker: the texts of a task become one part of the cache; returns its key."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = pa.array([task.keys[at : at + 32] for at in range(0, len(task.keys), 32)])
    columns = ("key", "text_digest", "text")
    found = [read_part(objects, part, columns) for part in task.parts]
    held = pa.concat_tables(table.filter(pc.is_in(table["key"], value_set=keys)) for table in found)
    held = held.sort_by("text_digest")
    digests = held["text_digest"].to_pylist()
    vectors, tokens = embedder.embed_counted(held["text"].to_pylist())
    check_vectors(vectors, digests)
    arrays = [pa.array(digests, pa.string()), pa.array(tokens, pa.int32()), _lists(vectors)]
    name = f"{folder}/part-{digest_json(digests)[:32]}.parquet"
    objects.put(name, parquet(pa.Table.from_arrays(arrays, schema=EMBEDDINGS)))
    return name


def _check_tokens(rows: Any, read: Any) -> None:
    """IntegrityError when a row has no vector, or when its embedder read other than the chunk's own tokens."""
    import numpy as np

    wrong = np.flatnonzero(rows["tokens"].to_numpy() != read)
    if not len(wrong):
        return
    at = int(wrong[0])
    row = rows.slice(at, 1).to_pylist()[0]
    which = f"chunk {row['key']} of document {row['document']}"
    if read[at] < 0:
        raise IntegrityError(f"{which} has no vector; run stage embed again")
    raise IntegrityError(f"{which} has {row['tokens']} tokens, but the embedder read {read[at]} of them")


def write_rows(task: Rows, pieces: Sequence[bytes] = (), *, objects: ObjectStore, folder: str) -> dict[str, Any]:
    """In a worker: one part of the chunk set with its vectors, those of `pieces` among them, becomes one part of the
    build; its counts and digest."""
    rows = read_part(objects, task.chunks)
    vectors, read = find_vectors(task, rows, pieces, objects=objects)
    _check_tokens(rows, read)
    keys, texts = rows["key"].to_pylist(), rows["text_digest"].to_pylist()
    check_vectors(vectors, texts)
    marks = (
        digest_row(key.encode(), labelled(text, access).encode(), vector.tobytes())
        for key, text, access, vector in zip(keys, texts, rows["access"].to_pylist(), vectors, strict=True)
    )
    part, tokens = part_name(task.number), int(read.sum())
    objects.put(f"{folder}/{part}", parquet(rows.append_column("vector", _lists(vectors)).cast(VECTORS)))
    return {"part": part, "rows": len(keys), "tokens": tokens, "digest": digest_set(marks), "dim": vectors.shape[1]}


def _say(done: int, wave: int, total: int) -> Callable[[float], None]:
    return lambda share: print(f"embed: {done + round(share * wave):,} of {total:,} chunks", flush=True)


def here(
    work: Callable[..., Any],
    tasks: Sequence[Any],
    *,
    say: Callable[[float], None] | None = None,
    give: Give | None = None,
    givers: Sequence[Any] = (),
) -> list[Any]:
    """`Each` in this process. The work is a copy, as a Spark worker's is: its embedder infers on one thread, which its
    vectors' last bits depend on."""
    copied = copy.deepcopy(work)
    if give is None or not givers:
        return [copied(task) for task in tasks]
    pieces: dict[int, list[bytes]] = {}
    for place, piece in (given for giver in givers for given in give(giver)):
        pieces.setdefault(place, []).append(piece)
    return [copied(task, pieces.get(place, [])) for place, task in enumerate(tasks)]


@contextmanager
def _workers(plan: Plan, ports: Ports, *, parts: int, corpus: str) -> Iterator[Each]:
    """What runs the tasks of a plan: this process for a small one, else Spark."""
    from pipelines.backends import spark

    master = ports.settings.spark_master
    if spark.is_local(master) and plan.missing <= SMALL and parts == 1:
        yield here
        return
    scratch, embedder = ports.settings.cache / "spark", ports.embedder
    travels = {embedder.digest: embedder.folder} if isinstance(embedder, OnDisk) else {}
    with spark.session(master, name=f"assay embed {corpus}", scratch=scratch, folders=travels) as session:
        yield partial(spark.each, session)


def _embed_missing(each: Each, plan: Plan, ports: Ports, *, folder: str, partitions: int) -> list[str]:
    """Embed what the plan misses, wave by wave; returns the cache parts made, in the order of the plan's tasks."""
    work = partial(embed_texts, objects=ports.objects, embedder=ports.embedder, folder=folder)
    made: list[str] = []
    done, following = 0, plan.texts(partitions=partitions)
    while wave := list(islice(following, _WAVE)):
        texts = sum(task.count for task in wave)
        print(f"embed: {done:,} of {plan.missing:,} chunks", flush=True)
        made += each(work, wave, say=_say(done, texts, plan.missing))
        done += texts
    return made


def whole_build(objects: ObjectStore, folder: str) -> dict[str, Any] | None:
    """The facts of a build whose marker and every part are there; else None. The parts are not read."""
    there = set(objects.list(folder))
    if f"{folder}/embed.json" not in there:
        return None
    try:
        facts: dict[str, Any] = json.loads(objects.get(f"{folder}/embed.json"))
    except ValueError:
        return None
    return facts if all(f"{folder}/{part}" in there for part in facts["parts"]) else None


def _known(objects: ObjectStore, folder: str) -> dict[str, Any] | None:
    """The facts of a build that is there, every row read again. What is left of a damaged one loses its markers: it is
    made again, with the same content, before it is sealed."""
    facts = whole_build(objects, folder)
    try:
        if facts is not None and parquet_digest(objects, facts) == (facts["rows"], facts["digest"]):
            return facts
    except (IntegrityError, NotFound):
        pass
    objects.delete([f"{folder}/{name}" for name in MARKERS])
    return None


def _cost(embedder: Embedder, objects: ObjectStore, made: Sequence[str]) -> Spent | None:
    """What a hosted embedder was paid for these parts of the cache, special tokens aside; None for one that is here."""
    if not isinstance(embedder, Paid):
        return None
    return embedder.cost(sum(sum(read_part(objects, part, ("tokens",))["tokens"].to_pylist()) for part in made))


def _report(facts: dict[str, Any], *, embedded: int, seconds: float, cost: Spent | None = None) -> Report:
    rate = {"tokens_per_second": facts["tokens"] * embedded / facts["rows"] / seconds} if embedded else {}
    measured = {"embedded": embedded, "reused": facts["rows"] - embedded, "seconds": seconds, **rate}
    if cost is not None:
        measured["cost"] = cost.to_json()
    said = (
        f"{embedded:,} embedded, {facts['rows'] - embedded:,} reused, {facts['rows']:,} rows in {facts['collection']}"
    )
    return Report("embed", facts, said if cost is None else f"{said}; {cost}", measured)


def _before(workspace: Workspace, objects: ObjectStore, embedder: str) -> dict[str, Any] | None:
    """The facts of the build before, when it is whole and its vectors and counted tokens are this embedder's."""
    facts = workspace.receipt("embed") if workspace.has("embed") else {}
    if facts.get("embedder_digest") != embedder or "tokens_read" not in facts:
        return None
    return whole_build(objects, facts["key"])


def planned(joining: Any, ports: Ports, workspace: Workspace, *, chunks: dict[str, Any]) -> Plan:
    """What the build of a chunk set needs; `joining` is a DuckDB of its own."""
    embedder = ports.embedder.digest
    before = _before(workspace, ports.objects, embedder)
    return Plan(ports.objects, joining, chunks=chunks, before=before, cache=cache_folder(embedder))


def build_on(
    each: Each, plan: Plan, ports: Ports, *, folder: str, partitions: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Embed and write: (part, rows, tokens, digest, dim of each part; the parts of the cache that hold what was
    embedded)."""
    cache = cache_folder(ports.embedder.digest)
    made = _embed_missing(each, plan, ports, folder=cache, partitions=partitions)
    return write_all(each, plan, ports.objects, folder=folder, made=made), made


def write_all(each: Each, plan: Plan, objects: ObjectStore, *, folder: str, made: list[str]) -> list[dict[str, Any]]:
    """The rows of a build, when the parts `made` of the cache have been added to it: see `build_on`."""
    work, give = partial(write_rows, objects=objects, folder=folder), partial(hand_on, objects=objects)
    rows = plan.rows(made)
    return each(work, rows, give=give, givers=plan.moves())


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """chunks/... -> embeddings/... and builds/COLLECTION/. A build that is there already is read and kept.

    IntegrityError on a vector that is not of unit length, or when the rows are not the chunks'.
    """
    started, chunks = time.monotonic(), workspace.receipt("chunk")
    embedder, objects = ports.embedder, ports.objects
    index_type, why = choose_index(params.index.type, rows=chunks["rows"])
    index = {**params.index.model_dump(), "type": index_type}
    collection = collection_name(workspace.corpus, build_digest(chunks, embedder=embedder.digest, index=index))
    folder = f"builds/{collection}"
    claim(objects, folder, settings=ports.settings)
    if known := _known(objects, folder):
        return _report(known, embedded=0, seconds=time.monotonic() - started)
    with temporary_folder(ports.settings.cache, "embed") as temporary, database(temporary) as joining:
        plan = planned(joining, ports, workspace, chunks=chunks)
        with _workers(plan, ports, parts=chunks["parts"], corpus=workspace.corpus) as each:
            made, cached = build_on(each, plan, ports, folder=folder, partitions=params.embed.partitions)
    facts = {
        "collection": collection,
        "key": folder,
        "parts": [row["part"] for row in made],
        "rows": sum(row["rows"] for row in made),
        "tokens": chunks["tokens"],
        "tokens_read": sum(row["tokens"] for row in made),
        "digest": combine_sets(row["digest"] for row in made),
        "index_type": index_type,
        "index_reason": why,
        "embedder": embedder.name,
        "embedder_digest": embedder.digest,
        "dim": max(row["dim"] for row in made),
        "bits": chunks["bits"],
        "documents": chunks["documents"],
        "corpus_digest": chunks["corpus_digest"],
        "chunks_digest": chunks["digest"],
    }
    _seal(objects, folder, facts, expected=chunks["rows"])
    cost = _cost(embedder, objects, cached)
    return _report(facts, embedded=plan.missing, seconds=time.monotonic() - started, cost=cost)


def _seal(objects: ObjectStore, folder: str, facts: dict[str, Any], *, expected: int) -> None:
    """The marker, last. IntegrityError when rows were lost, or when another run made other vectors of this build."""
    if facts["rows"] != expected:
        raise IntegrityError(f"{folder} has {facts['rows']} rows, but {expected} chunks were cut")
    if facts["tokens_read"] != facts["tokens"]:
        raise IntegrityError(
            f"{folder}: {facts['tokens_read']} tokens were embedded of {facts['tokens']} that were cut"
        )
    if not objects.create(f"{folder}/embed.json", json.dumps(facts, indent=1, sort_keys=True).encode()):
        earlier = json.loads(objects.get(f"{folder}/embed.json"))["digest"]
        if earlier != facts["digest"]:
            raise IntegrityError(f"{folder} was built before with content {earlier[:12]}, now {facts['digest'][:12]}")
