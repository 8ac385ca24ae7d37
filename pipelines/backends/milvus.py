"""Dense + BM25 collections in Milvus, behind `ports.VectorStore`: a milvus-lite folder (`*.db`) or a server's address.

A collection is a projection of a build's Parquet: it can be dropped and loaded again. Milvus is not trusted to refuse
what is wrong: vectors are checked here, names are validated here, and nothing that a user typed enters a filter.
A milvus-lite folder serves one process at a time; where several need it, they go through a server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.names import valid_corpus_name
from pipelines.errors import BackendError, BadConfig, BadInput, IntegrityError, NotFound
from pipelines.ports import Hit

RRF_K = 60
"""Constant of reciprocal rank fusion: a passage scores the sum of 1 / (60 + rank), Cormack et al. (SIGIR 2009)."""

DEPTH = 50
"""Least number of passages that each of the two searches hands to the fusion."""

_KEEPALIVE = {"grpc.keepalive_time_ms": 300_000, "grpc.keepalive_permit_without_calls": False}
"""pymilvus pings an idle server every 10 seconds, for which milvus-lite hangs up; gRPC servers allow 5 minutes."""

_COLLECTION = re.compile(r"b_[a-z][a-z0-9_]{0,49}_[0-9a-f]{16}")
_TEXTS = {"document": 65_535, "title": 65_535, "text": 65_535, "text_digest": 64}
_STORED = ("key", "document", "title", "start", "end", "text_digest", "text", "vector")
_SHOWN = ["document", "title", "start", "end", "text"]


def _collection(name: str) -> str:
    if _COLLECTION.fullmatch(name) is None:
        raise BadInput(f"{name!r} is no collection of a build; one is b_CORPUS_ and 16 hex digits")
    return name


def _locked(folder: Path) -> bool:
    """True when another process holds the milvus-lite folder."""
    import fcntl

    try:
        with (folder / "LOCK").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


class MilvusStore:
    """One Milvus. Connected on first use; `close` lets a milvus-lite folder go."""

    def __init__(self, uri: str, *, index_type: str) -> None:
        if "://" not in uri and not uri.endswith(".db"):
            raise BadConfig(f"ASSAY_MILVUS_URI is {uri!r}; it is a path ending in .db or http://HOST:PORT")
        self._uri, self._index_type = uri, index_type
        self._loaded: set[str] = set()
        # Read when gRPC is first imported; its C core else writes lines to stderr on every fork and reconnect.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    @cached_property
    def _client(self) -> Any:
        import logging

        from pymilvus import MilvusClient

        # Their loggers print tracebacks of errors that are raised as well, and shown by us in one line.
        theirs = [name for name in logging.root.manager.loggerDict if name.startswith("pymilvus.")]
        for name in ("milvus_lite", "pymilvus", "grpc", *theirs):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        local = "://" not in self._uri
        if local:
            Path(self._uri).parent.mkdir(parents=True, exist_ok=True)
        try:
            return MilvusClient(self._uri, timeout=30, grpc_options=_KEEPALIVE)
        except Exception as exc:  # pymilvus raises its own and gRPC's errors here
            if local and _locked(Path(self._uri)):
                raise BackendError(
                    f"{self._uri} is in use by another process; for several at once start its server with: make up"
                ) from exc
            raise BackendError(f"Milvus at {self._uri} cannot be opened: {' '.join(str(exc).split())[:200]}") from exc

    def close(self) -> None:
        """Disconnect; another process may then open the same folder."""
        if "_client" in self.__dict__:
            self._client.close()
            del self._client
            self._loaded.clear()
            if "://" not in self._uri:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(self._uri)

    @contextmanager
    def _said_plainly(self, doing: str) -> Iterator[None]:
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as exc:
            raise BackendError(f"Milvus at {self._uri}: {doing}: {' '.join(str(exc).split())[:300]}") from exc

    def _exists(self, collection: str) -> bool:
        """True for a physical collection of that name; BadInput for an alias, which reads and drops its target."""
        if not self._client.has_collection(collection):
            return False
        if self._client.describe_collection(collection)["collection_name"] != collection:
            raise BadInput(f"{collection} is an alias; name the collection itself")
        return True

    def _ready(self, collection: str) -> None:
        """Collections reopen as not loaded. NotFound when there is none."""
        if _collection(collection) not in self._loaded:
            with self._said_plainly(f"loading {collection}"):
                if not self._exists(collection):
                    raise NotFound(f"Milvus at {self._uri} has no collection {collection}")
                self._client.load_collection(collection)
            self._loaded.add(collection)

    def _create(self, collection: str, dim: int) -> None:
        from pymilvus import DataType, Function, FunctionType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
        for name, length in _TEXTS.items():
            schema.add_field(name, DataType.VARCHAR, max_length=length, enable_analyzer=name == "text")
        schema.add_field("start", DataType.INT64)
        schema.add_field("end", DataType.INT64)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        bm25 = FunctionType.BM25
        schema.add_function(
            Function(name="bm25", function_type=bm25, input_field_names=["text"], output_field_names=["sparse"])
        )
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type=self._index_type, metric_type="COSINE")
        index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        self._client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")

    def load(self, collection: str, rows: Iterable[Any], *, dim: int) -> int:
        """Create if needed and upsert Arrow record batches (columns of schemas.VECTORS); returns rows held.

        IntegrityError on a vector that is not finite or not of `dim` numbers.
        """
        _collection(collection)
        with self._said_plainly(f"loading {collection}"):
            if not self._exists(collection):
                self._create(collection, dim)
            wrote = False
            for batch in rows:
                if batch.num_rows:
                    self._client.upsert(collection, _entities(batch, dim))
                    wrote = True
            if wrote:
                self._client.flush(collection)
        self._ready(collection)
        with self._said_plainly(f"counting {collection}"):
            counted = self._client.query(collection, filter="", output_fields=["count(*)"])
        return int(counted[0]["count(*)"])

    def rows(self, collection: str) -> Iterator[tuple[str, str, bytes]]:
        """(key, text digest, vector bytes as little-endian float32) of every row; NotFound without a collection."""
        self._ready(collection)
        with self._said_plainly(f"reading {collection}"):
            fields = ["key", "text_digest", "vector"]
            pages = self._client.query_iterator(collection, batch_size=1000, output_fields=fields)
            while page := pages.next():
                for row in page:
                    yield row["key"], row["text_digest"], np.asarray(row["vector"], dtype="<f4").tobytes()
            pages.close()

    def search(
        self, collection: str, questions: Sequence[str], vectors: np.ndarray, *, k: int, mode: str
    ) -> list[list[Hit]]:
        """The k best of each question, best first. `mode` is dense (cosine), bm25, or hybrid (both, fused by
        reciprocal rank). NotFound without a collection; a question without words finds nothing by BM25."""
        self._ready(collection)
        if not len(questions):
            return []
        with self._said_plainly(f"searching {collection}"):
            if mode == "hybrid":
                found = self._hybrid(collection, questions, vectors, k=k)
            elif mode == "dense":
                found = self._dense(collection, vectors, k=k)
            elif mode == "bm25":
                found = self._client.search(
                    collection,
                    data=list(questions),
                    anns_field="sparse",
                    limit=k,
                    output_fields=_SHOWN,
                    search_params={"metric_type": "BM25"},
                )
            else:
                raise BadConfig(f"retrieve.mode is {mode!r}; one of dense, bm25, hybrid")
        return [[_hit(raw, mode) for raw in hits] for hits in found]

    def _dense(self, collection: str, vectors: np.ndarray, *, k: int) -> Any:
        return self._client.search(
            collection,
            data=_lists(vectors),
            anns_field="vector",
            limit=k,
            output_fields=_SHOWN,
            search_params=self._dense_params(k),
        )

    def _dense_params(self, k: int) -> dict[str, Any]:
        return {"metric_type": "COSINE", "params": {"ef": max(64, k)} if self._index_type == "HNSW" else {}}

    def _hybrid(self, collection: str, questions: Sequence[str], vectors: np.ndarray, *, k: int) -> Any:
        from pymilvus import AnnSearchRequest, RRFRanker

        depth = max(DEPTH, k)
        dense = AnnSearchRequest(_lists(vectors), "vector", self._dense_params(depth), limit=depth)
        sparse = AnnSearchRequest(list(questions), "sparse", {"metric_type": "BM25"}, limit=depth)
        return self._client.hybrid_search(collection, [dense, sparse], RRFRanker(RRF_K), limit=k, output_fields=_SHOWN)

    def point(self, alias: str, collection: str) -> None:
        """Create or move an alias. BadInput unless it is a corpus name; NotFound without the collection."""
        from pymilvus.exceptions import MilvusException

        if not valid_corpus_name(alias) or _COLLECTION.fullmatch(alias):
            raise BadInput(f"{alias!r} cannot be an alias; an alias is a corpus name")
        _collection(collection)
        with self._said_plainly(f"pointing {alias} at {collection}"):
            if not self._exists(collection):
                raise NotFound(f"Milvus at {self._uri} has no collection {collection}")
            try:
                self._client.alter_alias(collection, alias)
            except MilvusException:
                self._client.create_alias(collection, alias)

    def drop(self, collection: str) -> None:
        """Remove a collection with its aliases; nothing happens when there is none. BadInput for an alias."""
        _collection(collection)
        with self._said_plainly(f"dropping {collection}"):
            self._loaded.discard(collection)
            if self._exists(collection):
                for alias in self._client.list_aliases(collection).get("aliases", []):
                    self._client.drop_alias(alias)
                self._client.drop_collection(collection)


def _lists(vectors: np.ndarray) -> list[list[float]]:
    return [[float(x) for x in vector] for vector in vectors]


def _entities(batch: Any, dim: int) -> list[dict[str, Any]]:
    """An Arrow batch as Milvus takes it; IntegrityError on a vector that it should not take."""
    vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
    if vectors.size != dim * batch.num_rows or not np.isfinite(vectors).all():
        raise IntegrityError(f"a batch holds vectors that are not {dim} finite numbers each; it was not loaded")
    columns = [batch.column(name).to_pylist() for name in _STORED[:-1]]
    matrix = vectors.reshape(batch.num_rows, dim)
    return [dict(zip(_STORED, (*row, matrix[n]), strict=True)) for n, row in enumerate(zip(*columns, strict=True))]


def _hit(raw: Any, mode: str) -> Hit:
    """milvus-lite hands BM25 scores out negated, a Milvus server does not; by definition they are not below zero."""
    found = raw["entity"]
    score = abs(float(raw["distance"])) if mode == "bm25" else float(raw["distance"])
    return Hit(
        chunk=raw["key"],
        document=found["document"],
        title=found["title"],
        start=int(found["start"]),
        end=int(found["end"]),
        text=found["text"],
        score=score,
    )
