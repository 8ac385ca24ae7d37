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
from pathlib import Path
from typing import Any

from benchmarks.harness import arguments, run_plainly, show, tree
from benchmarks.queries import corpus_of
from benchmarks.query_engines import NAME, Corpus, settle
from infra.local_milvus import Server, real_server, running
from infra.milvus_server import fetched, require_namespaces
from pipelines.backends.milvus import MilvusStore
from pipelines.backends.milvus.store import KEEPALIVE
from pipelines.backends.openvino import load_embedder
from pipelines.core.capacity import Load, Rates, milvus_bytes
from pipelines.errors import BackendError
from pipelines.settings import Settings, checkout

SIZES = (50_000, 200_000)
_PATIENCE = 300.0


def resident(server: Server) -> float:
    """MiB of the largest process of the server's: the one that holds the vectors, below those that fence it in."""
    return max(process.memory_info().rss for process in tree(server.pid)) / 2**20


def fill(uri: str, corpus: Corpus, index: str) -> None:
    """Load the corpus as the product does; return when its segments are written and indexed."""
    from pymilvus import MilvusClient

    store = MilvusStore(uri)
    store.load(NAME, corpus.batches(), dim=corpus.vectors.shape[1], index_type=index)
    store.close()
    client = MilvusClient(uri, grpc_options=KEEPALIVE)
    client.flush(NAME)
    deadline = time.monotonic() + _PATIENCE
    while int(client.describe_index(NAME, "vector").get("pending_index_rows", 0)):
        if time.monotonic() > deadline:
            raise BackendError(f"{NAME}: not indexed within {_PATIENCE:.0f} s")
        time.sleep(1)
    client.close()


def taken(server: Server) -> tuple[float, float]:
    """MiB of the server at rest, and with the collection loaded and answering."""
    from pymilvus import MilvusClient

    client = MilvusClient(server.uri, grpc_options=KEEPALIVE)
    client.release_collection(NAME)  # a server loads again what was loaded when it was killed
    settle()
    before = resident(server)
    client.load_collection(NAME)
    settle()
    client.close()
    return before, resident(server)


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
    require_namespaces()  # before the corpus is embedded for nothing
    fetched()
    model = checkout() / "models" / "embedders" / "minilm.yaml"
    embedder = load_embedder(model, cache=Settings.from_env().cache, precision="fp32")
    rows: list[dict[str, Any]] = []
    for size in [20_000] if options.quick else options.rows:
        corpus = corpus_of(size, 1, embedder)
        for index in ("FLAT", "HNSW"):
            print(f"milvus_memory: {size:,} chunks, {index}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="assay-milvus-") as temporary:
                server = real_server(Path(temporary))
                with running(server):
                    fill(server.uri, corpus, index)
                with running(server):
                    rest, loaded = taken(server)
            if loaded <= rest:
                raise BackendError(f"{NAME}: the server holds {loaded:.0f} MiB loaded, {rest:.0f} at rest")
            model_mib = predicted(corpus, index)
            found = {"server at rest": rest, "predicted": model_mib, "measured": loaded - rest}
            rows.append({"chunks": size, "index": index, **found, "ratio": model_mib / (loaded - rest)})
    ratios = {f"{row['chunks']:,} chunks, {row['index']}": row["ratio"] for row in rows}
    show("Milvus server: memory of a loaded collection, MiB", rows, ratios=ratios, json_file=options.json)


if __name__ == "__main__":
    run_plainly(main)
