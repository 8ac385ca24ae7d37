"""dvc.yaml + params.yaml -> DAGs: one task per stage, edges from the graph, assets between the four DAGs of a corpus.

A task runs `assay stage CORPUS STAGE` in a process of its own, so the scheduler's workers stay light and a killed
task dies whole. Where `promote.approval` is airflow, a person is asked before promote. XCom and asset events carry the
stage's one-line outcome, and the answer: references, never payloads.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from pipelines import graph
from pipelines import params as params_module
from pipelines.settings import Settings

NOTHING_TO_DO, BAD_INPUT = 99, 2
START = datetime(2026, 1, 1)
PATIENCE = timedelta(days=7)
"""How long a person may take; then the task fails for good, and the next candidate can be judged."""
AWAITS = {"corpus": (), "index": ("corpus",), "adapter": ("corpus",), "release": ("index", "adapter")}
PURPOSE = {
    "corpus": "Fetch the landed documents, check them and version what passed. An unchanged corpus emits no event.",
    "index": "Chunk, embed and load a new corpus revision into a sealed Milvus collection, and score its retrieval.",
    "adapter": "Mix the training set and train the LoRA adapter, if either changed.",
    "release": "Score the arms, judge the candidate, and publish it as a signed release if it passes.",
}


class StageOperator(BaseOperator):
    """One node of the graph as a subprocess. Exit 99 skips, exit 2 (bad input) fails without a retry. `approval` is
    JSON of what the task `approve` was answered, empty where it does not ask."""

    template_fields = ("force", "approval")
    ui_color = "#e8f0ea"

    def __init__(
        self, *, corpus: str, stage: str, skip_unchanged: bool, force: str = "", approval: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.corpus, self.stage, self.skip_unchanged, self.force = corpus, stage, skip_unchanged, force
        self.approval = approval
        self._hook = SubprocessHook()

    def execute(self, context: Any) -> dict[str, Any]:
        command = [sys.executable, "-m", "pipelines.cli", "stage", self.corpus, self.stage]
        command += ["--skip-code", str(NOTHING_TO_DO)] if self.skip_unchanged else []
        command += ["--force"] if self.force == "True" else []
        command += ["--approval", self.approval] if self.approval else []
        result = self._hook.run_command(command)
        if result.exit_code == NOTHING_TO_DO:
            raise AirflowSkipException(result.output)
        if result.exit_code == BAD_INPUT:
            raise AirflowFailException(result.output)
        if result.exit_code != 0:
            raise AirflowException(f"exit code {result.exit_code}: {result.output}")
        outcome: dict[str, Any] = json.loads(result.output)
        for asset in self.outlets:
            context["outlet_events"][asset].extra = outcome
        return outcome

    def on_kill(self) -> None:
        self._hook.send_sigterm()


class AskOperator(ApprovalOperator):
    """Asks a person whether `candidate` may be released: "Required Actions" in the UI. Asks nothing where there is no
    candidate. Its result is what promote is given: who, when, in which run, and which candidate.

    A retry asks again: Airflow 3.3 may fail a try that was answered within seconds (docs/faults.md).
    """

    template_fields = (*ApprovalOperator.template_fields, "candidate")

    def __init__(self, *, candidate: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.candidate = candidate

    def execute(self, context: Any) -> Any:
        return super().execute(context) if self.candidate else None

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        if event["error_type"] == "timeout":
            raise AirflowFailException(f"Nobody answered within {self.response_timeout}: {self.candidate}")
        super().process_trigger_event_error(event)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, str] | None:
        answer = super().execute_complete(context, event)
        if answer["chosen_options"] != [self.APPROVE]:
            return None
        user, ti = answer["responded_by_user"] or {}, context["ti"]
        return {
            "by": str(user.get("name") or user.get("id") or "unknown (Airflow says no user)"),
            "at": answer["responded_at"].isoformat(timespec="seconds"),
            "how": f"Airflow: {ti.dag_id} run {ti.run_id}",
            "candidate": self.candidate,
        }


def asset(corpus: str, kind: str) -> Asset:
    """`handbook_index` and so on: what one DAG makes and the next awaits."""
    return Asset(name=f"{corpus}_{kind}", uri=f"assay://{corpus}/{kind}", group="assay")


def render(kind: str) -> dict[str, DAG]:
    """The `kind` DAG of every corpus in params.yaml, by DAG id."""
    corpora = params_module.load(Settings.from_env().params_file)
    return {f"{name}_{kind}": _dag(name, kind, corpora[name]) for name in corpora}


def _dag(corpus: str, kind: str, params: params_module.CorpusParams) -> DAG:
    nodes = {name: node for name, node in graph.load().items() if node.dag == kind}
    steps = "\n".join(f"- **{node.name}**: {node.description}" for node in nodes.values())
    dag = DAG(
        dag_id=f"{corpus}_{kind}",
        schedule=[asset(corpus, name) for name in AWAITS[kind]] or params.schedule,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        tags=["assay", corpus, kind],
        description=PURPOSE[kind],
        doc_md=f"### {corpus}: {kind}\n{PURPOSE[kind]}\n\n{steps}",
        params={"force": Param(False, type="boolean", description="Run every stage, stale or not.")},
        default_args={"retries": 2, "retry_delay": timedelta(seconds=15), "owner": "assay"},
    )
    tasks = {}
    for name, node in nodes.items():
        tasks[name] = StageOperator(
            dag=dag,
            task_id=name,
            corpus=corpus,
            stage=name,
            # An unchanged corpus or release is no event; an unchanged index or adapter still is: its DAG is done.
            skip_unchanged=node.action and node.asset is not None,
            force="{{ params.force }}",
            outlets=[asset(corpus, node.asset)] if node.asset else [],
            doc_md=node.description,
        )
        for other in node.upstream:
            if other in tasks:
                tasks[other] >> tasks[name]
    if "promote" in tasks and params.promote.approval == "airflow":
        _ask_before(tasks["promote"], dag)
    return dag


def _ask_before(promote: StageOperator, dag: DAG) -> None:
    """The task `approve` between judge and promote; a "no" skips promote."""
    judged = "(ti.xcom_pull(task_ids='judge') or {})"
    ask = AskOperator(
        dag=dag,
        task_id="approve",
        subject=f"Release the new candidate of {promote.corpus}?",
        body=f"Candidate {{{{ {judged}.get('awaits', '') }}}}: {{{{ {judged}.get('summary', '') }}}}",
        candidate=f"{{{{ {judged}.get('awaits', '') }}}}",
        response_timeout=PATIENCE,
        doc_md="Ask a person (promote.approval: airflow). Nothing to release: nobody is asked.",
    )
    promote.approval = "{{ ti.xcom_pull(task_ids='approve') | tojson }}"
    dag.task_dict["judge"] >> ask >> promote


def upkeep() -> dict[str, DAG]:
    """One DAG that brings every corpus's projections back in line with its release log."""
    dag = DAG(
        dag_id="upkeep",
        schedule="*/5 * * * *",
        start_date=START,
        catchup=False,
        max_active_runs=1,
        tags=["assay"],
        description="Repair MLflow's and Milvus's aliases from the release log.",
        doc_md="The release log is the truth; aliases are projections. Each task runs `assay reconcile NAME`, again "
        "every 20 seconds while MLflow or Milvus does not answer: so they agree within a minute of coming back.",
        default_args={"retries": 15, "retry_delay": timedelta(seconds=20), "owner": "assay"},
    )
    for corpus in params_module.load(Settings.from_env().params_file):
        ReconcileOperator(dag=dag, task_id=corpus, corpus=corpus, doc_md="Repair the aliases from the log.")
    return {"upkeep": dag}


class ReconcileOperator(BaseOperator):
    """`assay reconcile CORPUS` as a subprocess."""

    def __init__(self, *, corpus: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.corpus = corpus
        self._hook = SubprocessHook()

    def execute(self, context: Any) -> str:
        result = self._hook.run_command([sys.executable, "-m", "pipelines.cli", "reconcile", self.corpus])
        if result.exit_code == BAD_INPUT:
            raise AirflowFailException(result.output)
        if result.exit_code != 0:
            raise AirflowException(f"exit code {result.exit_code}: {result.output}")
        return str(result.output)

    def on_kill(self) -> None:
        self._hook.send_sigterm()
