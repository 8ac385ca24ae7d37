"""What a loaded collection takes of a Milvus server's memory, beside what the capacity model says of it.

A server (standalone 2.3.5, as in tests) is filled and killed, so that nothing of the writing is left in its memory.
Started again on the same data it is measured at rest, then with the collection loaded. `measured` is the difference of
the two: resident memory of the server's process, which is the vectors, their graph, the fields, and what the server
keeps beside them. This server has no BM25, so the model is asked without postings.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import arguments, show
from benchmarks.queries import corpus_of, free_port
from benchmarks.query_engines import NAME, Corpus, served, settle
from infra.milvus_server import fetched, require_namespaces
from pipelines.backends.milvus import MilvusStore
from pipelines.backends.openvino import load_embedder
from pipelines.core.capacity import Load, Rates, milvus_bytes
from pipelines.errors import BackendError
from pipelines.settings import Settings, checkout

SIZES = (50_000, 200_000)
_PATIENCE = 300.0


@contextmanager
def server(data: Path) -> Iterator[str]:
    """The address of a Milvus server on this data folder, killed with the block."""
    port = free_port()
    line = [sys.executable, "-m", "infra.milvus_server", "--data", str(data), "--port", str(port)]
    with served(line, port, log=data.with_suffix(".log")) as uri:
        yield uri


def resident() -> float:
    """MiB of the largest process below this one: the server's."""
    return max(child.memory_info().rss for child in psutil.Process().children(recursive=True)) / 2**20


def fill(uri: str, corpus: Corpus, index: str) -> None:
    """Load the corpus as the product does; return when its segments are written and indexed."""
    from pymilvus import MilvusClient

    store = MilvusStore(uri)
    store.load(NAME, corpus.batches(), dim=corpus.vectors.shape[1], index_type=index)
    store.close()
    client = MilvusClient(uri)
    client.flush(NAME)
    deadline = time.monotonic() + _PATIENCE
    while int(client.describe_index(NAME, "vector").get("pending_index_rows", 0)):
        if time.monotonic() > deadline:
            raise BackendError(f"{NAME}: not indexed within {_PATIENCE:.0f} s")
        time.sleep(1)
    client.close()


def taken(uri: str) -> tuple[float, float]:
    """MiB of the server at rest, and with the collection loaded and answering."""
    from pymilvus import MilvusClient

    client = MilvusClient(uri)
    client.release_collection(NAME)  # a server loads again what was loaded when it was killed
    settle()
    before = resident()
    client.load_collection(NAME)
    settle()
    client.close()
    return before, resident()


def predicted(corpus: Corpus, index: str) -> float:
    """MiB that the capacity model says. One token a chunk, as long as its text: only the bytes matter."""
    rows, held = len(corpus.texts), sum(len(text.encode()) for text in corpus.texts)
    load = Load(documents=rows, sample=(1.0,), characters_per_token=held / rows)
    rates = Rates(dim=corpus.vectors.shape[1], terms_per_token=0.0)
    return milvus_bytes(load, rates, index=index) / 2**20


def main() -> None:
    options = arguments(
        __doc__, rows={"type": int, "nargs": "+", "default": list(SIZES), "help": "chunks of the collection"}
    )
    require_namespaces()
    fetched()
    model = checkout() / "models" / "embedders" / "minilm.yaml"
    embedder = load_embedder(model, cache=Settings.from_env().cache, precision="fp32")
    rows: list[dict[str, Any]] = []
    for size in [20_000] if options.quick else options.rows:
        corpus = corpus_of(size, 1, embedder)
        for index in ("FLAT", "HNSW"):
            print(f"milvus_memory: {size:,} chunks, {index}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="assay-milvus-") as temporary:
                data = Path(temporary) / "data"
                with server(data) as uri:
                    fill(uri, corpus, index)
                with server(data) as uri:
                    rest, loaded = taken(uri)
            model_mib = predicted(corpus, index)
            found = {"server at rest": rest, "predicted": model_mib, "measured": loaded - rest}
            rows.append({"chunks": size, "index": index, **found, "ratio": model_mib / (loaded - rest)})
    ratios = {f"{row['chunks']:,} chunks, {row['index']}": row["ratio"] for row in rows}
    show("Milvus server: memory of a loaded collection, MiB", rows, ratios=ratios, json_file=options.json)


if __name__ == "__main__":
    main()
