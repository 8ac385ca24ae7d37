"""Publish the judged candidate as the next signed generation, then move the projections.

The exclusive creation of the manifest is the only commit point: before it nothing is visible, after it everything
else can be made again. Of two racing promotions one loses with PromotionConflict. Killed at any moment and run
again, there is exactly one generation for a candidate. It does not judge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import released
from pipelines.actions.approve import approved
from pipelines.actions.reconcile import project
from pipelines.actions.views import candidate_report, comparison, in_order, release_list
from pipelines.builds import require_embedder
from pipelines.candidates import promotable, withdrawn_by
from pipelines.code_version import code_version
from pipelines.core import manifest as manifests
from pipelines.core.digests import digest_bytes
from pipelines.core.prompts import TUNED
from pipelines.errors import IntegrityError, NotFound, NotPromotable, PromotionConflict
from pipelines.params import CorpusParams
from pipelines.ports import Generator, Ports
from pipelines.released import newest_release
from pipelines.report import write_report
from pipelines.settings import Settings
from pipelines.workspace import Workspace, write_whole

Json = Mapping[str, Any]
Answer = Mapping[str, str] | None
"""To the task `approve` of the release DAG: by, at, how, candidate."""


def _revision(ports: Ports, judged: Json) -> dict[str, str]:
    """The corpus revision that the index was built from; IntegrityError when the workspace is at another."""
    current = ports.versioner.current()
    if current is None or current.digest != judged["index"]["corpus_digest"]:
        at = f"{current.revision} ({current.digest[:12]})" if current else "no revision"
        built = judged["index"]["corpus_digest"][:12]
        raise IntegrityError(f"the index was built from corpus {built}, the workspace is at {at}; run it again")
    return {"tag": current.revision, "commit": current.commit, "digest": current.digest}


def _evaluation(workspace: Workspace, arm: str) -> dict[str, Any]:
    """What the decision rests on: retrieval metrics, the arms' metrics, the MLflow runs that hold the rest, and the
    versions under which MLflow's registry has index and adapter (`NAME-index`, `NAME-adapter`)."""
    retrieval, answers = workspace.receipt("score_retrieval"), workspace.receipt("score_answers")
    stages = ("index", "train", "score_retrieval", "score_answers", "judge")
    runs = {stage: workspace.measured(stage).get("run_id") for stage in stages}
    made_by = {"index": "index", "adapter": "train"}
    arms = in_order(answers["arms"])
    return {
        "runs": {stage: run for stage, run in runs.items() if run},
        "versions": {what: workspace.measured(stage).get("version") for what, stage in made_by.items()},
        "retrieval": retrieval["metrics"],
        "answers": arms[arm],
        "arms": arms,
        "questions": answers["questions"],
    }


def _require_reranker(judged: Json, ports: Ports) -> None:
    """IntegrityError when `retrieve.rerank` names another model now than the one that was judged."""
    reranker = ports.reranker
    if manifests.reranker_digest(judged) != (reranker.digest if reranker else None):
        raise IntegrityError(
            "the candidate was judged with another reranker than retrieve.rerank names now; run it again"
        )


def _require_embedder(params: CorpusParams, judged: Json, ports: Ports) -> None:
    """IntegrityError when another embedder was tuned since the candidate's index was made: params name the newest."""
    if params.embed.tuned is not None:
        require_embedder(judged["index"], ports.embedder)


def _base(judged: Json, ports: Ports, corpus: str) -> Generator:
    """The model that the judged arm was asked of, without its adapter; IntegrityError when it is another now."""
    base = ports.base_generator() if judged["arm"] in TUNED else ports.generator()
    was = judged.get("model") or {"name": "none", "digest": ""}
    if base.base_digest != was["digest"]:
        raise IntegrityError(
            f"{corpus}: arm {judged['arm']} was judged with generator {was['name']} {was['digest'][:12]}, but "
            f"{base.name} is {base.base_digest[:12]} now; ask it again: assay stage {corpus} score_answers --force, "
            f"then: assay run {corpus}"
        )
    return base


def candidate_manifest(
    params: CorpusParams, workspace: Workspace, ports: Ports, *, generation: int, approval: Json | None = None
) -> dict[str, Any]:
    """The manifest that promoting the judged candidate would sign as that generation."""
    judged = workspace.receipt("judge")
    base = _base(judged, ports, workspace.corpus)
    _require_reranker(judged, ports)
    _require_embedder(params, judged, ports)
    created = released.now().isoformat()
    return manifests.build(
        corpus=workspace.corpus,
        created=created,
        expires=manifests.expiry(created, params.promote.valid_days),
        approval=approval,
        generation=generation,
        judged=judged,
        revision=_revision(ports, judged),
        params=params.model_dump(mode="json"),
        base={"name": base.name, "digest": base.base_digest, "tokenizer": base.tokenizer_digest},
        evaluation=_evaluation(workspace, judged["arm"]),
        code=code_version(),
        window=workspace.receipt("chunk")["window"],
    )


def _publish(params: CorpusParams, workspace: Workspace, ports: Ports, newest: Json, answer: Answer) -> dict[str, Any]:
    """Append the next generation; PromotionConflict when the verdict was not reached against the newest release,
    NotApproved where a person must approve it first."""
    judged = workspace.receipt("judge")
    generation = int(newest.get("generation", 0)) + 1
    if judged["against"] != generation - 1:
        raise PromotionConflict(
            f"{workspace.corpus}: judged against generation {judged['against']}, but generation {generation - 1} "
            f"was released since; run: assay run {workspace.corpus}"
        )
    approval = approved(params, workspace, ports=ports, answer=answer)
    made = candidate_manifest(params, workspace, ports, generation=generation, approval=approval)
    ports.releases.append(workspace.corpus, made, generation=generation)
    return made


def _renew(params: CorpusParams, workspace: Workspace, ports: Ports, newest: Json) -> str:
    """Publish the newest release again, valid anew; one line. PromotionConflict when another publication came first,
    NotApproved when a person has rejected it since. What was approved in Airflow stays so."""
    generation, created = int(newest["generation"]) + 1, released.now().isoformat()
    made = manifests.restored(newest, [], generation=generation, created=created)
    made["expires"] = manifests.expiry(created, params.promote.valid_days)
    if params.promote.approval != "airflow" or not made.get("approval"):
        made["approval"] = approved(params, workspace, ports=ports, answer=None) or made.get("approval")
    ports.releases.append(workspace.corpus, made, generation=generation)
    _project(workspace, ports, generation)
    until = f"valid until {made['expires']}" if made["expires"] else "it never expires (promote.valid_days)"
    return f"generation {generation} renews generation {generation - 1}, {until}"


def _unchanged(workspace: Workspace, newest: Json) -> str:
    said = f"unchanged at generation {newest['generation']}"
    if manifests.expired(newest, released.now()):
        said += f", which expired at {newest['expires']}; to renew it: assay promote {workspace.corpus}"
    return said


def _project(workspace: Workspace, ports: Ports, generation: int) -> None:
    """Projections of the newest release, unless this workspace already made them of exactly that manifest."""
    corpus = workspace.corpus
    envelope = ports.releases.envelope(corpus, generation)
    marker = workspace.root / "measured" / "projected.json"
    content = json.dumps({"generation": generation, "envelope": digest_bytes(envelope)}) + "\n"
    if marker.is_file() and marker.read_text(encoding="utf-8") == content:
        return
    project(ports, ports.releases.read(corpus, generation), envelope)
    write_whole(marker, content)


def release(
    params: CorpusParams, workspace: Workspace, *, ports: Ports, asked: bool, answer: Answer = None
) -> tuple[bool, str]:
    """(whether a generation was published, one line). `asked`: a person ran `assay promote`, which also overrides
    the hold on a candidate that was rolled back, and renews an unchanged release, once half of its validity is over.

    NotPromotable without a passing verdict for exactly this candidate, NotApproved where a person must approve it and
    has not (`answer`, or MLflow's tags); PromotionConflict when another promotion
    won, and then the release to beat is brought up to date, so that the next run judges against it.
    """
    corpus = workspace.corpus
    judged = promotable(workspace)
    newest = newest_release(ports.releases, corpus)
    if newest.get("candidate") == judged["candidate"]:
        if asked and manifests.renewable(newest, released.now()):
            return True, _renew(params, workspace, ports, newest)
        _project(workspace, ports, newest["generation"])
        return False, _unchanged(workspace, newest)
    if not asked and (rollback := withdrawn_by(ports.releases, corpus, judged["candidate"])) is not None:
        return False, f"held back: generation {rollback} rolled it back; to release it again: assay promote {corpus}"
    try:
        made = _publish(params, workspace, ports, newest, answer)
    except PromotionConflict:
        latest = ports.releases.read(corpus)
        if latest["candidate"] != judged["candidate"]:
            write_whole(workspace.champion_file, json.dumps(latest, indent=1, sort_keys=True) + "\n")
            raise
        _project(workspace, ports, latest["generation"])
        return False, f"unchanged at generation {latest['generation']}"
    _project(workspace, ports, made["generation"])
    return True, f"generation {made['generation']}: arm {made['arm']}, revision {made['revision']['tag']}"


def _report(settings: Settings, corpus: str) -> Path:
    """The page for reviewers, of this verdict and these releases."""
    found = candidate_report(settings, corpus), comparison(settings, corpus), release_list(settings, corpus)
    return write_report(settings.reports, *found)


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports, answer: Answer = None) -> tuple[bool, str]:
    """The graph's last node. A rejected candidate is a result, (False, "rejected: ..."), and so is one that waits for
    a person: (False, "waiting for approval: ...")."""
    try:
        changed, summary = release(params, workspace, ports=ports, asked=False, answer=answer)
    except NotPromotable as exc:
        changed, summary = False, str(exc).split("the candidate was ", 1)[-1].removeprefix(f"{workspace.corpus}: ")
    _report(ports.settings, workspace.corpus)
    return changed, summary


def promote_candidate(settings: Settings, corpus: str) -> str:
    """`assay promote`: publish, or say why not. NotFound before anything was judged; NotPromotable on a rejected
    candidate, when receipts have moved on since the verdict, or while a person must approve it (NotApproved)."""
    from pipelines.wiring import Wiring

    wiring = Wiring.of(settings, corpus)
    workspace = wiring.workspace
    if not workspace.has("judge"):
        raise NotFound(f"{corpus} has no verdict yet; run: assay run {corpus}")
    _, summary = release(wiring.params, workspace, ports=wiring, asked=True)
    _report(settings, corpus)
    return f"{corpus}: {summary}"
