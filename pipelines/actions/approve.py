"""A person's word on the judged candidate, where `promote.approval` asks for one: giving it, and asking for it.

Tags of the candidate's MLflow model version are the place where it is given; `assay approve` sets them, and so may a
reviewer in MLflow's UI. With `airflow` it is the answer to the task `approve` of the release DAG. It publishes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines import released
from pipelines.candidates import page, promotable, registered
from pipelines.core import approval
from pipelines.errors import BadInput, NotApproved
from pipelines.params import CorpusParams
from pipelines.ports import Ports
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Json = Mapping[str, Any]


def _in_mlflow(workspace: Workspace, ports: Ports, judged: Json) -> dict[str, str]:
    name, version = registered(ports, workspace, judged)
    said = approval.said(ports.registry.tags(name, version))
    where, corpus = page(ports.settings, name, version), workspace.corpus
    if said.state == "waiting":
        raise NotApproved(
            f"{corpus}: waiting for approval: set {approval.STATUS}={approval.APPROVED} on model {name} version "
            f"{version} in MLflow ({where}), or: assay approve {corpus} --by WHO"
        )
    if said.state == "rejected":
        why = f": {said.reason}" if said.reason else ""
        raise NotApproved(f"{corpus}: rejected by {said.by} on model {name} version {version} ({where}){why}")
    how = f"MLflow: tag {approval.STATUS} of model {name} version {version}"
    return {"by": said.by, "at": released.now().isoformat(), "how": how}


def _in_airflow(corpus: str, judged: Json, answer: Mapping[str, str] | None) -> dict[str, str]:
    if answer is None:
        raise NotApproved(
            f"{corpus}: waiting for approval: answer the task `approve` of Airflow's DAG {corpus}_release"
        )
    if answer["candidate"] != judged["candidate"]:
        raise NotApproved(
            f"{corpus}: {answer['by']} approved candidate {answer['candidate'][:12]}, but {judged['candidate'][:12]} "
            f"was judged since; run the DAG {corpus}_release again"
        )
    return {key: answer[key] for key in ("by", "at", "how")}


def approved(
    params: CorpusParams, workspace: Workspace, *, ports: Ports, answer: Mapping[str, str] | None
) -> dict[str, str] | None:
    """Who approved exactly this candidate, when and how; None where nobody need. `answer` is what Airflow was answered.

    NotApproved while it waits for a person, and when one said no.
    """
    how, judged = params.promote.approval, workspace.receipt("judge")
    if answer is not None and how != "airflow":
        raise BadInput(f"promote.approval is {how}; an answer of Airflow's is for: airflow")
    if how == "none":
        return None
    return _in_mlflow(workspace, ports, judged) if how == "mlflow" else _in_airflow(workspace.corpus, judged, answer)


def approve_candidate(settings: Settings, corpus: str, *, by: str, reject: bool, reason: str | None) -> str:
    """`assay approve`: set the tags that approve, or reject, the judged candidate; one line. NotFound before anything
    was judged; NotPromotable without a passing verdict; BadInput where nobody is asked in MLflow."""
    from pipelines.wiring import Wiring

    if not by.strip():
        raise BadInput("--by is empty; it is the name of the person who decides")
    if reject != bool(reason and reason.strip()):
        raise BadInput("--reject and --reason go together: --reject --reason TEXT")
    ports = Wiring.of(settings, corpus)
    if (how := ports.params.promote.approval) != "mlflow":
        place = (
            f"answer the task `approve` of Airflow's DAG {corpus}_release" if how == "airflow" else "nobody is asked"
        )
        raise BadInput(f"promote.approval of {corpus} is {how}: {place}; here it must be mlflow")
    judged = promotable(ports.workspace)
    name, version = registered(ports, ports.workspace, judged)
    by = by.strip()
    tags = approval.rejecting(by, (reason or "").strip()) if reject else approval.approving(by)
    ports.registry.tag(name, version, tags)
    said = f"{corpus}: model {name} version {version} (candidate {judged['candidate'][:12]}) is"
    return f"{said} rejected by {by}" if reject else f"{said} approved by {by}; next: assay promote {corpus}"
