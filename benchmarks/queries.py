"""Time of one query: embed, search by both ways, fetch; with recall, beside Chroma and FAISS on the same vectors.

    python -m benchmarks.queries [--json FILE] [--quick] [--rows N ...] [--queries N]

Below 10,000 chunks only FLAT and HNSW of milvus-lite in process are asked: those sizes show from where HNSW pays, by
which `index.type: auto` chooses (docs/decisions/0006).

Every engine holds the same synthetic chunks: words around the sentences of a small vocabulary, with vectors around the
real embedder's vectors of these sentences. Questions are such sentences and are embedded by the real query embedder.
Engines are asked in turn, in three rounds, by one thread and by eight. Two things are timed: searching by a given
vector and fetching ten passages, which all can do; and what the product does, which is to embed, search by vector and
by BM25, fuse and fetch. Recall@10 is that of the first, against all vectors, on a
thousand questions where the index is a graph. CPU is of the engine's whole process tree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import arguments, run_plainly, show
from benchmarks.query_engines import (
    DENSE,
    FULL,
    Ask,
    Corpus,
    K,
    blocks,
    chroma,
    embedded,
    faiss_flat,
    milvus,
    settle,
)
from infra.local_milvus import lite_server, real_server, running
from pipelines.backends.openvino import load_embedder
from pipelines.errors import AssayError, MissingTool
from pipelines.ports import Embedder
from pipelines.settings import Settings, checkout

ROUNDS, THREADS = 3, (1, 8)
RECALL = 1_000
"""Questions that HNSW's recall is counted on: one that misses all ten is then 0.001 of it. FLAT's: those timed."""
SIZES = (1_000, 3_000, 10_000, 100_000)
ALL_ENGINES_FROM = 10_000
"""Chunks below which only milvus-lite in process is asked."""
LITE = "milvus-lite in process"
TOPICS = 400


def corpus_of(rows: int, queries: int, embedder: Embedder) -> Corpus:
    """`rows` chunks around TOPICS sentences, and `queries` questions around the same; always the same for a size."""
    random = np.random.default_rng(7)
    words = [
        f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "e", "io", "u") for c in ("ck", "ll", "nd", "rt", "st")
    ]
    topics = [" ".join(random.choice(words, 12)) for _ in range(TOPICS)]
    centres = embedder.embed_batch(topics)

    def around(numbers: np.ndarray) -> np.ndarray:
        spread = random.normal(size=(len(numbers), centres.shape[1])) * (0.6 / np.sqrt(centres.shape[1]))
        vectors = centres[numbers] + spread
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    about, asked = random.integers(TOPICS, size=rows), random.integers(TOPICS, size=queries)
    texts = [f"{topics[n]} {' '.join(random.choice(words, 60))}" for n in about]
    questions = [f"{topics[n]} {random.choice(words)}?" for n in asked]
    return Corpus(texts, around(about), questions, embedder.embed_batch(questions))


Engines = dict[tuple[str, str], tuple[Ask, tuple[str, ...]]]
"""(engine, index) -> how to ask it, and what it can be asked."""


def in_process(corpus: Corpus, embedder: Embedder, stack: ExitStack, folder: Path) -> Engines:
    """milvus-lite in this process, by both kinds of index."""
    engines: Engines = {}
    for index in ("FLAT", "HNSW"):
        ours = milvus(corpus, embedder, uri=str(folder / f"{index}.db"), index_type=index)
        engines[LITE, index] = stack.enter_context(ours), (DENSE, FULL)
    return engines


def others(corpus: Corpus, embedder: Embedder, stack: ExitStack, folder: Path) -> Engines:
    """The other engines. What cannot be had here is named on stderr."""
    engines: Engines = {}

    def embed_only(kind: str, number: int) -> list[int]:
        embedded(embedder, corpus.asked[number])
        return []

    engines["embedder alone", ""] = blocks(embed_only), ("embed",)
    engines["FAISS", "FLAT"] = stack.enter_context(faiss_flat(corpus)), (DENSE,)
    try:
        engines["Chroma", "HNSW"] = stack.enter_context(chroma(corpus, folder)), (DENSE,)
    except MissingTool as exc:
        print(f"left out: {exc}", file=sys.stderr)
    for index in ("FLAT", "HNSW"):
        server = stack.enter_context(running(lite_server(folder / f"served-{index}")))
        theirs = milvus(corpus, embedder, uri=server.uri, index_type=index)
        engines["milvus-lite server", index] = stack.enter_context(theirs), (DENSE, FULL)
    for index in ("FLAT", "HNSW"):
        try:
            server = real_server(folder / f"real-{index}")
        except AssayError as exc:
            print(f"left out: {exc}", file=sys.stderr)
            return engines
        stack.enter_context(running(server))
        real = milvus(corpus, embedder, uri=server.uri, index_type=index)
        engines["Milvus server 2.3.5", index] = stack.enter_context(real), (DENSE,)
    return engines


def opened(corpus: Corpus, embedder: Embedder, stack: ExitStack, folder: Path, *, all_from: int) -> Engines:
    """What is asked at the size of this corpus: below `all_from` chunks milvus-lite in process alone."""
    found = others(corpus, embedder, stack, folder) if len(corpus.texts) >= all_from else {}
    return found | in_process(corpus, embedder, stack, folder)


def measured(rows: int, queries: int, embedder: Embedder, *, all_from: int = ALL_ENGINES_FROM) -> list[dict[str, Any]]:
    """A row of the table per engine, index, kind and number of threads."""
    corpus = corpus_of(rows, max(queries, RECALL), embedder)
    exact = np.argpartition(-(corpus.questions @ corpus.vectors.T), K, axis=1)[:, :K].copy()  # not a view of all
    seconds: dict[Any, list[float]] = {}
    cpu: dict[Any, float] = {}
    recall: dict[tuple[str, str], list[float]] = {}

    def count(engine: tuple[str, str], numbers: Iterable[int], keys: Iterable[list[int]]) -> None:
        shares = [len({*k} & {*exact[n].tolist()}) / K for n, k in zip(numbers, keys, strict=True)]
        recall.setdefault(engine, []).extend(shares)

    with ExitStack() as stack, tempfile.TemporaryDirectory() as temporary:
        engines = opened(corpus, embedder, stack, Path(temporary), all_from=all_from)
        settle()
        for name, (ask, kinds) in engines.items():
            for kind in kinds:
                ask(kind, [0], 1)  # warm
                for threads in THREADS:
                    seconds[(*name, kind, threads)], cpu[(*name, kind, threads)] = [], 0.0
        for number, part in enumerate(np.array_split(np.arange(queries), ROUNDS), 1):
            for cell in seconds:
                say = f"queries: {rows:,} chunks, round {number} of {ROUNDS}: {' '.join(map(str, cell))}"
                print(say, file=sys.stderr, flush=True)
                name, kind, threads = cell[:2], cell[2], cell[3]
                took, keys, used = engines[name][0](kind, [int(n) for n in part], threads)
                seconds[cell] += took
                cpu[cell] += used
                if kind == DENSE and threads == 1:
                    count(name, part, keys)
        more = range(queries, len(exact))
        for name in recall:
            if name[1] == "HNSW" and more:
                print(f"queries: {rows:,} chunks, recall: {' '.join(name)}", file=sys.stderr, flush=True)
                count(name, more, engines[name][0](DENSE, more, 1)[1])
    return [
        {
            "chunks": rows,
            "engine": cell[0],
            "index": cell[1],
            "what": cell[2],
            "threads": cell[3],
            "p50 ms": float(np.percentile(took, 50)) * 1e3,
            "p99 ms": float(np.percentile(took, 99)) * 1e3,
            "CPU ms": cpu[cell] / queries * 1e3,
            "recall@10": round(float(np.mean(recall[cell[:2]])), 4) if cell[2] == DENSE else "",
        }
        for cell, took in seconds.items()
    ]


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """HNSW's p50 and CPU over FLAT's, by engine and size, one thread: above 1, FLAT is the better choice."""
    one = {(r["chunks"], r["engine"], r["index"], r["what"]): r for r in rows if r["threads"] == 1}
    return {
        f"HNSW/FLAT, {engine}, {chunks:,} chunks, {what}, {of}": one[chunks, engine, "HNSW", what][of] / flat[of]
        for (chunks, engine, index, what), flat in one.items()
        for of in ("p50 ms", "CPU ms")
        if index == "FLAT" and (chunks, engine, "HNSW", what) in one
    }


def main() -> None:
    given = arguments(
        __doc__,
        rows={"type": int, "nargs": "+", "default": list(SIZES), "help": "chunks"},
        queries={"type": int, "default": 150, "help": "questions of each engine, kind and number of threads"},
    )
    sizes, queries, all_from = given.rows, given.queries, ALL_ENGINES_FROM
    if given.quick:
        sizes, queries, all_from = [500, 2_000], 30, 2_000
    embedder = load_embedder(
        checkout() / "models" / "embedders" / "minilm.yaml", cache=Settings.from_env().cache, precision="fp32"
    )
    rows = [row for size in sizes for row in measured(size, queries, embedder, all_from=all_from)]
    show("One query, milliseconds", rows, ratios=ratios(rows), json_file=given.json)


if __name__ == "__main__":
    run_plainly(main)
