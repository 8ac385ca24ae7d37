"""What Spark adds: the embed stage's work on Spark against the same engine bare in two processes, on the same texts.

The stage's work is everything but its start: planning, reading chunks, embedding, writing cache and build. The bare
processes only embed: they hold the texts, and call the engine with the very lists that Spark's tasks call it with.
Session, workers and models are up before anything is measured. Rounds are interleaved; each starts with an empty cache.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from benchmarks.corpora import ports_of, run_stage, write_documents
from benchmarks.harness import arguments, metered, run_plainly, shared_data, show, spread
from pipelines.backends.spark import each, session
from pipelines.chunk_sets import database, read_part
from pipelines.core.nouns import Document
from pipelines.embeddings import Plan
from pipelines.stages.embed import build_on, planned
from pipelines.wiring import Wiring

SHAPE = {"min_tokens": 160, "max_tokens": 240, "overlap": 0}
"""Chunks of about 200 tokens."""


def manuals(count: int) -> Iterator[Document]:
    """So many of the long documents of the shared data."""
    with (shared_data("scale") / "peps.jsonl").open(encoding="utf-8") as lines:
        for _, line in zip(range(count), lines, strict=False):
            row = json.loads(line)
            yield Document(row["_id"], row["title"], row["text"], "text/markdown", row["_id"])


def _texts(ports: Wiring, chunks: dict[str, Any]) -> list[list[str]]:
    """The texts of every task that Spark will get."""
    with tempfile.TemporaryDirectory() as temporary, database(Path(temporary)) as joining:
        plan = Plan(ports.objects, joining, chunks=chunks, before=None, cache="embeddings/none")
        found = []
        for task in plan.texts(partitions=2):
            keys = {task.keys[at : at + 32] for at in range(0, len(task.keys), 32)}
            tables = [read_part(ports.objects, part, ("key", "text_digest", "text")) for part in task.parts]
            rows = [row for table in tables for row in table.to_pylist() if row["key"] in keys]
            found.append([row["text"] for row in sorted(rows, key=lambda row: row["text_digest"])])
        return found


@lru_cache(maxsize=1)
def _warm(embedder: Any) -> bool:
    embedder.embed_batch(["warm"])
    time.sleep(2)  # long enough that the other worker gets the other task
    return True


def _bare(embedder: Any, texts: list[str]) -> int:
    return len(embedder.embed_counted(texts)[0])


def _warm_one(_: int, embedder: Any) -> bool:
    return _warm(embedder)


@contextmanager
def pool(embedder: Any) -> Iterator[Any]:
    """Two processes with the engine open, one thread each (that is how it is unpickled)."""
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        workers.map(partial(_warm_one, embedder=embedder), range(2), chunksize=1)
        yield workers


def measure(home: Path, *, embedder: str, documents: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    ports = ports_of(home, embedder=embedder, chunk=SHAPE)
    write_documents(ports.workspace, manuals(documents))
    chunks = run_stage(ports, "chunk").facts
    texts = _texts(ports, chunks)
    cost: dict[str, list[Any]] = {"bare": [], "spark": []}
    scratch = ports.settings.cache / "spark"
    with session("local[2]", name="spark cost", scratch=scratch) as spark, pool(ports.embedder) as workers:
        spark.sparkContext.parallelize(range(2), 2).map(partial(_warm_one, embedder=ports.embedder)).collect()
        for number in range(rounds):
            for which in ("bare", "spark") if number % 2 == 0 else ("spark", "bare"):
                with metered() as seen:
                    if which == "bare":
                        done = sum(workers.imap_unordered(partial(_bare, ports.embedder), texts))
                    else:
                        with database(home) as joining:
                            plan = planned(joining, ports, ports.workspace, chunks=chunks)
                            parts, _ = build_on(
                                partial(each, spark), plan, ports, folder="builds/b_bench", partitions=2
                            )
                        done = plan.missing
                        shutil.rmtree(home / "objects" / "embeddings")
                        assert sum(part["rows"] for part in parts) == chunks["rows"]
                assert done == sum(map(len, texts))
                cost[which].append(seen)
    tokens = chunks["tokens"]
    rows = [
        {
            "what": what,
            "chunks": chunks["rows"],
            "tokens/chunk": tokens / chunks["rows"],
            "CPU-s": spread([one.cpu for one in cost[which]]),
            "wall s": spread([one.wall for one in cost[which]]),
            "tokens/CPU-s": tokens / statistics.median(one.cpu for one in cost[which]),
        }
        for which, what in (("bare", "two bare processes, embedding only"), ("spark", "the embed stage on Spark"))
    ]
    over = [spark.cpu / bare.cpu - 1 for spark, bare in zip(cost["spark"], cost["bare"], strict=True)]
    return rows, {"overhead in CPU, % (median of rounds)": 100 * statistics.median(over)}


def main() -> None:
    args = arguments(
        __doc__,
        documents={"type": int, "default": 115, "help": "long documents to cut: 115 give some 4,000 chunks"},
        rounds={"type": int, "default": 3, "help": "interleaved rounds"},
        embedder={"default": "minilm", "help": "a file of models/embedders, or hash: a cheap one"},
    )
    documents, rounds = (4, 1) if args.quick else (args.documents, args.rounds)
    home = Path(tempfile.mkdtemp(prefix="assay-spark-cost-"))
    try:
        rows, ratios = measure(home, embedder=args.embedder, documents=documents, rounds=rounds)
    finally:
        shutil.rmtree(home)
    show("Spark's own cost", rows, ratios=ratios, json_file=args.json)


if __name__ == "__main__":
    # Workers find these functions by their module, which __main__ is not.
    from benchmarks import spark_cost

    run_plainly(spark_cost.main)
