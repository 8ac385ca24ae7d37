"""Projections of the release log: MLflow's registered model and its alias, Milvus's alias, the workspace's tag.

Each can be made again from the log at any time, in any order, any number of times; readers resolve by the log, not
by them. Nothing is decided here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import dvc_objects, tombstones
from pipelines.builds import load_build
from pipelines.core.digests import digest_bytes
from pipelines.errors import NotFound
from pipelines.ports import Ports
from pipelines.report import describe
from pipelines.settings import Settings
from pipelines.wiring import Wiring

ALIAS = "champion"


def _serving_code() -> Path:
    """The models-from-code file that MLflow keeps with each release."""
    import pipelines

    return Path(pipelines.__file__).parent / "release_model.py"


def _register(ports: Ports, manifest: Mapping[str, Any], envelope: bytes) -> int:
    """The MLflow model version of this release; made once per signed manifest."""
    from pipelines.backends.mlflow import write_model

    corpus, generation = manifest["corpus"], manifest["generation"]
    digest = digest_bytes(envelope)
    tags = {
        "assay.digest": digest,
        "assay.generation": str(generation),
        "assay.candidate": manifest["candidate"],
        "assay.revision": manifest["revision"]["tag"],
        "assay.arm": manifest["arm"],
        "assay.collection": manifest["index"]["collection"],
    }
    with (
        ports.registry.run(corpus, f"release g{generation}", tags={**tags, "assay.key": f"release:{digest}"}) as log,
        tempfile.TemporaryDirectory() as temporary,
    ):
        if not log.settled:
            file = Path(temporary) / "release.json"
            file.write_bytes(envelope)
            write_model(Path(temporary) / "model", code=_serving_code(), artifacts={"release": file})
            log.folder(Path(temporary) / "model", name="model")
            log.params({"arm": manifest["arm"], "revision": manifest["revision"], "index": manifest["index"]})
            log.metrics(_numbers(manifest["evaluation"]))
            log.table("checks", manifest["verdict"]["checks"])
    return ports.registry.register(corpus, run_id=log.run_id, path="model", description=describe(manifest), tags=tags)


def _numbers(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Metric name -> value of the retrieval metrics and of the served arm's."""
    return {
        f"{family}.{name}": metric["value"]
        for family in ("retrieval", "answers")
        for name, metric in evaluation[family].items()
    }


def project(ports: Ports, manifest: Mapping[str, Any], envelope: bytes) -> None:
    """Make every projection say what `manifest`, the newest of its corpus, says. Safe to repeat."""
    corpus, generation = manifest["corpus"], manifest["generation"]
    try:
        ports.store.point(corpus, manifest["index"]["collection"])
    except NotFound:  # Milvus lost it; the Parquet did not
        load_build(ports.store, ports.objects, manifest["index"])
        ports.store.point(corpus, manifest["index"]["collection"])
    version = _register(ports, manifest, envelope)
    ports.registry.alias(corpus, ALIAS, version)
    ports.versioner.record(f"Release generation {generation}", tag=f"g{generation}")


def reconcile_corpus(settings: Settings, corpus: str) -> str:
    """Bring the projections of one corpus back in line with its log; returns one line. NotFound without a release.

    The rows in Milvus are compared with the release's, and loaded again from Parquet when they differ.
    """
    wiring = Wiring.of(settings, corpus)
    manifest = wiring.releases.read(corpus)
    load_build(wiring.store, wiring.objects, manifest["index"])
    project(wiring, manifest, wiring.releases.envelope(corpus, manifest["generation"]))
    return json.dumps({"corpus": corpus, "generation": manifest["generation"], "alias": ALIAS})


def mend_remote(settings: Settings, corpus: str) -> str:
    """Send again what DVC's remote lost or damaged of the corpus's revisions; returns one line. See `dvc_objects.mend`.

    It reads everything back, so it is for a person to ask for, not for `upkeep`. Nothing is removed meanwhile: what an
    erasure has taken out does not return.
    """
    with tombstones.sweeping(settings):
        done = dvc_objects.mend(settings.workspace(corpus), settings.dvc_remote(corpus))
    return json.dumps({"corpus": corpus, "remote": done})
