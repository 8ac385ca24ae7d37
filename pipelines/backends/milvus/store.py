"""Dense + BM25 collections in Milvus, behind `ports.VectorStore`: a milvus-lite folder (`*.db`) or a server's address.

A collection is a projection of a build's Parquet: it can be dropped and loaded again. Milvus is not trusted to refuse
what is wrong: vectors, names and what is filtered by are checked here. A milvus-lite folder serves one process at a
time; where several need it, they go through a server. Servers before 2.5 have no BM25: their collections are dense.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.backends.milvus import bulk, lite
from pipelines.backends.milvus import filters as filtering
from pipelines.backends.milvus.rows import ACCESS, COLLECTION, SHOWN, entities, hit, indexes, schema, valid_collection
from pipelines.core.names import valid_corpus_name
from pipelines.core.nouns import labelled
from pipelines.errors import BackendError, BadConfig, BadInput, IntegrityError, NotFound
from pipelines.ports import Hit, ObjectStore

RRF_K = 60
"""Constant of reciprocal rank fusion: a passage scores the sum of 1 / (60 + rank), Cormack et al. (SIGIR 2009)."""

DEPTH = 50
"""Least number of passages that each of the two searches hands to the fusion."""

KEEPALIVE = {"grpc.keepalive_time_ms": 300_000, "grpc.keepalive_permit_without_calls": False}
"""pymilvus pings an idle server every 10 seconds, for which milvus-lite hangs up; gRPC servers allow 5 minutes."""

Erased = Callable[[str], Collection[str]]

PAGE = 10_000
"""Rows of one page when all are read back: 16 MB at 384 dimensions. A page costs milvus-lite a look at every key."""


def quiet_grpc() -> None:
    """Before gRPC is first imported: its C core else writes lines to stderr on every fork and reconnect, and starts its
    threads anew in every fork, where they now and then kill what was to become a JVM."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class MilvusStore:
    """One Milvus. Connected on first use; `close` lets a milvus-lite folder go. Pickled, only the address travels."""

    def __init__(self, uri: str, *, imports: ObjectStore | None = None, erased: Erased | None = None) -> None:
        """`imports`: a place in the server's own storage; new collections are then imported from files put there.
        `erased(collection)`: the documents that no search of it may find; asked anew at every search."""
        if "://" not in uri and not uri.endswith(".db"):
            raise BadConfig(f"ASSAY_MILVUS_URI is {uri!r}; it is a path ending in .db or http://HOST:PORT")
        if imports is not None and "://" not in uri:
            raise BadConfig(f"ASSAY_MILVUS_BULK is for a Milvus server; ASSAY_MILVUS_URI is {uri}: unset one of them")
        self._uri, self._imports, self._erased = uri, imports, erased
        self._searchable: dict[str, frozenset[str]] = {}  # loaded collections and their fields
        quiet_grpc()

    def __reduce__(self) -> tuple[Any, ...]:
        return MilvusStore, (self._uri,)

    @property
    def _server(self) -> bool:
        return "://" in self._uri

    @property
    def shared(self) -> bool:
        """True for a server that is sent its rows: several processes may then load one collection at once.

        Not milvus-lite's, whose upserts take no lock: of rows from eight writers at once it loses some and says
        nothing, and as it is one Python process, two writers load it no faster than one. A BackendError when the
        server does not say what it is.
        """
        return self._server and self._imports is None and not self._version.startswith("milvus_lite")

    @cached_property
    def _client(self) -> Any:
        import logging

        from pymilvus import MilvusClient

        # Their loggers print tracebacks of errors that are raised as well, and shown by us in one line.
        theirs = [name for name in logging.root.manager.loggerDict if name.startswith("pymilvus.")]
        for name in ("milvus_lite", "pymilvus", "grpc", *theirs):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if not self._server:
            Path(self._uri).parent.mkdir(parents=True, exist_ok=True)
        try:
            return MilvusClient(self._uri, timeout=30, grpc_options=KEEPALIVE)
        except Exception as exc:  # pymilvus raises its own and gRPC's errors here
            if not self._server and lite.locked(Path(self._uri)):
                raise BackendError(
                    f"{self._uri} is in use by another process; for several at once start its server with: make up"
                ) from exc
            raise BackendError(f"Milvus at {self._uri} cannot be opened: {' '.join(str(exc).split())[:200]}") from exc

    def close(self) -> None:
        """Disconnect; another process may then open the same folder."""
        if "_client" in self.__dict__:
            self._client.close()
            del self._client
            self._searchable.clear()
            if not self._server:
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

    def _fields(self, collection: str) -> frozenset[str]:
        """What a collection holds: `sparse` where it has BM25, `access` unless it is of before there were labels."""
        return frozenset(field["name"] for field in self._client.describe_collection(collection)["fields"])

    def _ready(self, collection: str) -> frozenset[str]:
        """Load the collection into memory, once (collections reopen as not loaded); its fields.

        NotFound when there is none. One in a milvus-lite folder that cannot be read is removed first: it can be loaded
        again from its build, and nothing else mends it.
        """
        if valid_collection(collection) not in self._searchable:
            try:
                with self._said_plainly(f"loading {collection}"):
                    if not self._exists(collection):
                        raise NotFound(f"Milvus at {self._uri} has no collection {collection}")
                    self._client.load_collection(collection)
                    fields = self._fields(collection)
            except BackendError as exc:
                if self._server or "_client" not in self.__dict__:  # it may be the way there, or another process
                    raise
                self.close()
                lite.forget(Path(self._uri), collection)
                raise NotFound(f"{collection} in {self._uri} was damaged, and removed; load it again") from exc
            self._searchable[collection] = fields
        return self._searchable[collection]

    @cached_property
    def _version(self) -> str:
        with self._said_plainly("asking for its version"):
            return str(self._client.get_server_version())

    @cached_property
    def _full_text(self) -> bool:
        """True where Milvus computes BM25 itself: milvus-lite, and servers from 2.5 on."""
        found = re.match(r"v?(\d+)\.(\d+)", self._version)
        return found is None or (int(found[1]), int(found[2])) >= (2, 5)

    def load(
        self, collection: str, rows: Iterable[Any], *, dim: int, index_type: str = "FLAT", finish: bool = True
    ) -> int:
        """Create if needed (with a FLAT or HNSW index) and upsert Arrow record batches (columns of schemas.VECTORS).
        With `imports` the rows are the whole collection: what is there is dropped first, and all are imported.

        Returns the rows held; with `finish=False` the rows written, and a later call flushes and counts. On a `shared`
        store several processes may do that at once, into a collection that one of them created before. IntegrityError
        on a vector that is not finite or not of `dim` numbers, and on an access label that is none or has no place.
        """
        valid_collection(collection)
        written = 0
        with self._said_plainly(f"loading {collection}"):
            known = self._exists(collection)
            if self._imports is not None:
                written, rows = self._import(self._imports, collection, rows, dim=dim, index_type=index_type), ()
            elif not known:
                self._create(collection, dim, index_type)
            fields = self._fields(collection)
            for batch in rows:
                if batch.num_rows:
                    self._client.upsert(collection, entities(batch, dim, fields=fields))
                    written += batch.num_rows
            if not finish:
                return written
            if written or known:
                self._client.flush(collection)
        self._ready(collection)
        with self._said_plainly(f"counting {collection}"):
            counted = self._client.query(collection, filter="", output_fields=["count(*)"])
        return int(counted[0]["count(*)"])

    def _create(self, collection: str, dim: int, index_type: str) -> None:
        if not self._server:
            lite.forget(Path(self._uri), collection)
        with_bm25 = {"full_text": self._full_text}
        self._client.create_collection(
            collection,
            schema=schema(self._client, dim, **with_bm25),
            index_params=indexes(self._client, index_type, **with_bm25),
            consistency_level="Strong",
        )

    def _import(self, to: ObjectStore, collection: str, rows: Iterable[Any], *, dim: int, index_type: str) -> int:
        """Import into an empty collection, always a new one: an import adds to what is there. One that fails leaves
        none."""
        bulk.require_import(self._version, self._uri)
        self._drop_settled(collection)
        self._create(collection, dim, index_type)
        try:
            written = bulk.imported(self._client, to, collection, rows, dim=dim)
            bulk.wait_for_rows(self._client, collection, written)
        except Exception:
            with suppress(BackendError):
                self._drop_settled(collection)
            raise
        return written

    def _drop_settled(self, collection: str) -> None:
        with self._said_plainly(f"waiting for imports into {collection}"):
            if self._exists(collection):
                bulk.settled(self._client, collection)
        self.drop(collection)

    def rows(self, collection: str) -> Iterator[tuple[str, str, bytes]]:
        """(key, text digest, vector bytes as little-endian float32) of every row, the digest `labelled`; NotFound
        without a collection."""
        labels = {ACCESS} & self._ready(collection)
        with self._said_plainly(f"reading {collection}"):
            fields = ["key", "text_digest", "vector", *labels]
            pages = self._client.query_iterator(collection, batch_size=PAGE, output_fields=fields)
            while page := pages.next():
                for row in page:
                    text = labelled(row["text_digest"], row[ACCESS]) if labels else row["text_digest"]
                    yield row["key"], text, np.asarray(row["vector"], dtype="<f4").tobytes()
            pages.close()

    def search(
        self,
        collection: str,
        questions: Sequence[str],
        vectors: np.ndarray,
        *,
        k: int,
        mode: str,
        filters: Mapping[str, str | Sequence[str]] | None = None,
        labels: Sequence[str] | None = (),
    ) -> list[list[Hit]]:
        """The k best of each question, best first. `mode` is dense (cosine), bm25, or hybrid (both, fused by
        reciprocal rank). `filters`: whole values of `document` or `title`; of several values one must match, of
        several fields all. `labels`: a reader's access labels; what is found is public or bears one of them. None, for
        stages that judge the whole index, restricts nothing. Erased documents are never found.

        A collection without the field `access` is searched without the condition on it, for one reason: it was loaded
        before there were labels, so all that it holds is public: `load` puts nothing else into it, and its name is a
        digest of its content.

        NotFound without a collection; a question without words finds nothing by BM25. BadConfig for a mode that the
        collection does not have, BadInput for a filter or label that is none. IntegrityError, and no passage, when
        Milvus finds one that the labels do not admit.
        """
        searches = {"dense": self._dense, "bm25": self._bm25, "hybrid": self._hybrid}
        if mode not in searches:
            raise BadConfig(f"retrieve.mode is {mode!r}; one of {', '.join(searches)}")
        seen, admitted = filtering.readable(labels), filtering.expression(filters, labels=labels)
        fields = self._ready(collection)
        if ACCESS not in fields:
            admitted = filtering.expression(filters, labels=None)
        gone = self._erased(collection) if self._erased else ()
        where = " and ".join(filter(None, (admitted, filtering.excluding(gone))))
        if "sparse" not in fields and mode != "dense":
            raise BadConfig(
                f"retrieve.mode is {mode}, but {collection} has no BM25: Milvus at {self._uri} was older than 2.5 when "
                "it was loaded; set retrieve.mode to dense, or use a newer server"
            )
        if not len(questions):
            return []
        lists = np.asarray(vectors, dtype=np.float32).tolist()
        # Strong consistency was had when the build was read back before it was sealed, and it never changes again: its
        # readers need not wait for the server's clock (0.2 s a search on 2.3).
        shown = [*SHOWN, *({ACCESS} & fields)]
        common = {"limit": k, "output_fields": shown, "filter": where, "consistency_level": "Bounded"}
        with self._said_plainly(f"searching {collection}"):
            raw = searches[mode](collection, questions, lists, **common)
        found = [[hit(one, mode, labels=ACCESS in fields) for one in hits] for hits in raw]
        if seen is not None and any(one.access not in seen for hits in found for one in hits):
            raise IntegrityError(f"Milvus at {self._uri} found passages of {collection} outside of the reader's labels")
        # Milvus is not trusted to have left them out.
        return [[one for one in hits if one.document not in gone] for hits in found]

    def _dense(self, collection: str, questions: Sequence[str], vectors: list[Any], **common: Any) -> Any:
        cosine = _cosine(common["limit"])
        return self._client.search(collection, data=vectors, anns_field="vector", search_params=cosine, **common)

    def _bm25(self, collection: str, questions: Sequence[str], vectors: list[Any], **common: Any) -> Any:
        bm25 = {"metric_type": "BM25"}
        return self._client.search(collection, data=list(questions), anns_field="sparse", search_params=bm25, **common)

    def _hybrid(self, collection: str, questions: Sequence[str], vectors: list[Any], **common: Any) -> Any:
        from pymilvus import AnnSearchRequest, RRFRanker

        depth, where = max(DEPTH, common["limit"]), common.pop("filter") or None
        dense = AnnSearchRequest(vectors, "vector", _cosine(depth), limit=depth, expr=where)
        sparse = AnnSearchRequest(list(questions), "sparse", {"metric_type": "BM25"}, limit=depth, expr=where)
        return self._client.hybrid_search(collection, [dense, sparse], RRFRanker(RRF_K), **common)

    def point(self, alias: str, collection: str) -> None:
        """Create or move an alias. BadInput unless it is a corpus name; NotFound without the collection."""
        from pymilvus.exceptions import MilvusException

        if not valid_corpus_name(alias) or COLLECTION.fullmatch(alias):
            raise BadInput(f"{alias!r} cannot be an alias; an alias is a corpus name")
        valid_collection(collection)
        with self._said_plainly(f"pointing {alias} at {collection}"):
            if not self._exists(collection):
                raise NotFound(f"Milvus at {self._uri} has no collection {collection}")
            try:
                self._client.alter_alias(collection, alias)
            except MilvusException:
                self._client.create_alias(collection, alias)

    def drop(self, collection: str) -> None:
        """Remove a collection with its aliases; nothing happens when there is none. BadInput for an alias."""
        valid_collection(collection)
        with self._said_plainly(f"dropping {collection}"):
            self._searchable.pop(collection, None)
            if self._exists(collection):
                for alias in self._client.list_aliases(collection).get("aliases", []):
                    self._client.drop_alias(alias)
                self._client.drop_collection(collection)


def _cosine(k: int) -> dict[str, Any]:
    """HNSW looks at `ef` candidates; FLAT, which looks at all, passes it over. Why 128: decision 0006."""
    return {"metric_type": "COSINE", "params": {"ef": max(128, 2 * k)}}
