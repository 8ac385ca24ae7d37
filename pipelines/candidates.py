"""The judged candidate of a workspace: whether it may be released, whether it waits for a person, its MLflow version.

A candidate is registered as `NAME-candidate` where a person must approve it in MLflow: the released versions of `NAME`
stay what was released. It publishes nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pipelines.core.manifest import held_back
from pipelines.errors import NotPromotable
from pipelines.ports import Ports, ReleaseLog
from pipelines.released import newest_release
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Json = Mapping[str, Any]


def _why(judged: Json) -> str:
    reasons = [check["reason"] for check in judged["checks"] if not check["passed"]]
    return "; ".join(reasons) or "it has no checks"


def promotable(workspace: Workspace) -> dict[str, Any]:
    """The judge's receipt. NotPromotable without a passing verdict, or when receipts have moved on since."""
    judged = workspace.receipt("judge")
    if not judged["passed"]:
        raise NotPromotable(f"{workspace.corpus}: the candidate was rejected: {_why(judged)}")
    made_of = {"index": workspace.receipt("index")["digest"], "adapter": workspace.receipt("train").get("digest")}
    verdict_on = {"index": judged["index"]["digest"], "adapter": (judged["adapter"] or {}).get("digest")}
    if made_of != verdict_on:
        corpus = workspace.corpus
        raise NotPromotable(f"{corpus}: the verdict is on another candidate than the newest; run: assay run {corpus}")
    return judged


def withdrawn_by(log: ReleaseLog, corpus: str, candidate: str) -> int | None:
    """The generation of the rollback that holds the candidate back, if one does."""
    return held_back(candidate, (log.read(corpus, generation) for generation in reversed(log.generations(corpus))))


def awaiting(workspace: Workspace, log: ReleaseLog) -> str | None:
    """The candidate that the graph would release next; None when it was rejected, is released or is held back."""
    judged, corpus = workspace.receipt("judge"), workspace.corpus
    candidate = str(judged["candidate"])
    released = newest_release(log, corpus).get("candidate") == candidate
    if not judged["passed"] or released or withdrawn_by(log, corpus, candidate) is not None:
        return None
    return candidate


def registered(ports: Ports, workspace: Workspace, judged: Json) -> tuple[str, int]:
    """(model name, version) of the candidate in MLflow, its digest in the tag `assay.digest`; made once."""
    corpus, digest = workspace.corpus, judged["candidate"]
    tags = {"assay.digest": digest, "assay.candidate": digest, "assay.stage": "candidate", "assay.arm": judged["arm"]}
    with (
        ports.registry.run(
            corpus, f"candidate {digest[:12]}", tags={**tags, "assay.key": f"candidate:{digest}"}
        ) as log,
        tempfile.TemporaryDirectory() as temporary,
    ):
        file = Path(temporary) / "candidate.json"
        file.write_text(json.dumps(dict(judged), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        log.folder(Path(temporary), name="candidate")
        log.table("checks", judged["checks"])
    run = workspace.measured("judge").get("run_id")
    description = (
        f"Candidate {digest} of {corpus}, not released: arm {judged['arm']} ({judged['arm_reason']}), judged against "
        f"generation {judged['against']}; all {len(judged['checks'])} checks passed (run {run}).\n\nTo have it "
        "released, set the tag `validation_status` to `approved` (or `rejected`) and `approved_by` to your name, or: "
        f"`assay approve {corpus} --by WHO`. Then: `assay promote {corpus}`."
    )
    name = f"{corpus}-candidate"
    return name, ports.registry.register(name, run_id=log.run_id, path="candidate", description=description, tags=tags)


def page(settings: Settings, name: str, version: int) -> str:
    """Where a person finds a model version: the address in MLflow's UI, without credentials; else the store's."""
    uri = settings.mlflow_uri
    if urlsplit(uri).scheme not in ("http", "https"):
        uri = settings.services.get("mlflow", uri)
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return uri
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return f"{bare}/#/models/{quote(name, safe='')}/versions/{version}"
