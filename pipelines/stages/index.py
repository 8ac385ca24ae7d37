"""Load a build's Parquet into one Milvus collection, and seal the build when count and digest agree.

A server is loaded by Spark's executors side by side, each reading its parts from the object store; a build of one part,
a milvus-lite folder, which serves one process, and milvus-lite's server, which loses rows of several writers, are
loaded by this process.

The Parquet is the truth: what Milvus holds is read back whole and compared with it. A half load that a killed run left
is dropped and loaded again, once. A sealed build is only looked at; when Milvus lost it, it is loaded again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.builds import Spread, load_build
from pipelines.core.nouns import Report
from pipelines.errors import IntegrityError
from pipelines.params import CorpusParams
from pipelines.ports import ObjectStore, Ports
from pipelines.workspace import Workspace

Facts = Mapping[str, Any]


def _index_of(facts: Facts) -> dict[str, str]:
    """The index and why it was chosen; builds of before the choice are FLAT."""
    return {"type": facts.get("index_type", "FLAT"), "reason": facts.get("index_reason", "index.type asked for it")}


def _describe(corpus: str, facts: Facts) -> str:
    chosen = _index_of(facts)
    return (
        f"Index of {corpus}: {facts['rows']:,} chunks of {facts['documents']:,} documents, embedded by "
        f"{facts['embedder']} ({facts['dim']} dimensions), in collection {facts['collection']}.\n\n"
        f"Index {chosen['type']}: {chosen['reason']}.\n\n"
        f"Content digest {facts['digest']}; corpus digest {facts['corpus_digest']}; embedder digest "
        f"{facts['embedder_digest']}. Rebuilt at any time from {facts['key']} in the object store."
    )


def _track(params: CorpusParams, corpus: str, facts: Facts, ports: Ports, measured: Facts) -> tuple[str, int]:
    """The MLflow run of this build and the registered version; each is made once per build."""
    tags = {
        "assay.key": f"index:{facts['collection']}:{facts['digest']}",
        "assay.digest": facts["digest"],
        "assay.stage": "index",
        "assay.collection": facts["collection"],
        "assay.embedder": f"{facts['embedder']} {facts['embedder_digest'][:12]}",
    }
    with (
        ports.registry.run(corpus, f"index {facts['collection']}", tags=tags) as log,
        tempfile.TemporaryDirectory() as temporary,
    ):
        sections = {name: getattr(params, name).model_dump() for name in ("chunk", "embed", "index")}
        sections["index"] |= _index_of(facts)
        log.params(sections)
        log.metrics({"rows": facts["rows"], "tokens": facts["tokens"], "documents": facts["documents"]})
        log.metrics({f"seconds.{name}": value for name, value in measured.items()})
        log.dataset(
            f"{corpus} documents",
            digest=facts["corpus_digest"],
            source=ports.objects.uri(facts["key"]),
            context="index",
            profile={"documents": facts["documents"], "chunks": facts["rows"], "tokens": facts["tokens"]},
        )
        file = Path(temporary) / "index.json"
        file.write_text(json.dumps(dict(facts), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        log.folder(Path(temporary), name="index")
    version = ports.registry.register(
        f"{corpus}-index", run_id=log.run_id, path="index", description=_describe(corpus, facts), tags=tags
    )
    return str(log.run_id), version


def _sealed(objects: ObjectStore, facts: Facts) -> dict[str, Any] | None:
    """The seal of a build, or None; IntegrityError when it seals other content."""
    try:
        seal: dict[str, Any] = json.loads(objects.get(f"{facts['key']}/seal.json"))
    except KeyError:
        return None
    except ValueError:  # damaged; the rows that it sealed were compared with the build just now
        objects.delete([f"{facts['key']}/seal.json"])
        return None
    if seal["digest"] != facts["digest"]:
        raise IntegrityError(
            f"{facts['key']} is sealed with content {seal['digest'][:12]}, but embed made {facts['digest'][:12]}"
        )
    return seal


def _on_spark(ports: Ports, corpus: str) -> Spread:
    """Parts of a build to rows loaded, one Spark task per part; a task that is repeated loads the same rows again."""

    def spread(parts: Sequence[str], load: Callable[[str], int]) -> int:
        from pipelines.backends.spark import read_parts, session

        def work(part: str) -> Iterator[Any]:
            import pyarrow as pa

            yield pa.RecordBatch.from_pydict({"rows": pa.array([load(part)], type=pa.int64())})

        settings = ports.settings
        with session(settings.spark_master, name=f"assay index {corpus}", scratch=settings.cache / "spark") as spark:
            return sum(row["rows"] for row in read_parts(spark, list(parts), work, "rows long").collect())

    return spread


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """builds/COLLECTION/*.parquet -> the collection, a tracked run, a registered version, and last the seal."""
    started = time.monotonic()
    facts = workspace.receipt("embed")
    loads = load_build(ports.store, ports.objects, facts, spread=_on_spark(ports, workspace.corpus))
    measured: dict[str, Any] = {"loads": loads, "seconds": time.monotonic() - started}
    seal = _sealed(ports.objects, facts)
    if seal is None:
        embedding = workspace.measured("embed").get("seconds", 0.0)
        run_id, version = _track(
            params, workspace.corpus, facts, ports, {"embed": embedding, "index": measured["seconds"]}
        )
        seal = {**facts, "run_id": run_id, "version": version}
        ports.objects.create(f"{facts['key']}/seal.json", json.dumps(seal, indent=1, sort_keys=True).encode())
    measured |= {"run_id": seal["run_id"], "version": seal["version"]}
    said = "already sealed" if loads == 0 else "loaded and sealed" if loads == 1 else "dropped, loaded again and sealed"
    return Report("index", facts, f"{facts['rows']:,} rows in {facts['collection']}, {said}", measured)
