"""Nothing is published before a person approved exactly that candidate in MLflow; on the real registry, log and git.
In order, on one home."""

import os
import re

import pytest
import yaml

from pipelines.actions import approve, promote, views
from pipelines.core.approval import UNKNOWN
from pipelines.errors import BadInput, NotApproved, NotFound, NotPromotable
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.cli_kit import assay, process

pytestmark = pytest.mark.integration
TINY = kit.CORPUS
MODEL = f"{TINY}-candidate"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    found = kit.home(tmp_path_factory.mktemp("approval"), promote={"approval": "mlflow"})
    before = dict(os.environ)
    os.environ.update(kit.environment(found))
    yield found
    os.environ.clear()
    os.environ.update(before)


def run_promote(settings, **answer):
    wiring = Wiring.of(settings, TINY)
    try:
        return promote.run(wiring.params, wiring.workspace, ports=wiring, **answer)
    finally:
        wiring.store.close()


def client(settings):
    from mlflow import MlflowClient

    return MlflowClient(settings.mlflow_uri, registry_uri=settings.mlflow_uri)


def newest(settings):
    return views.release_manifest(settings, TINY, None)


def with_approval(settings, how):
    """The corpus asks for another kind of approval from here on."""
    raw = yaml.safe_load(settings.params_file.read_text())
    raw["corpora"][TINY]["promote"]["approval"] = how
    settings.params_file.write_text(yaml.safe_dump(raw))


def test_a_candidate_waits_and_says_where(settings):
    with pytest.raises(NotFound, match="tiny has no judge yet"):
        approve.approve_candidate(settings, TINY, by="Ada", reject=False, reason=None)
    facts = kit.candidate(settings)
    done = assay("promote", TINY)
    assert (done.returncode, done.stdout) == (2, "")  # as for a rejected candidate
    wanted = f"assay: tiny: waiting for approval: set validation_status=approved on model {MODEL} version 1 in MLflow ("
    assert done.stderr.startswith(wanted) and "or: assay approve tiny --by WHO" in done.stderr
    changed, said = run_promote(settings)
    assert not changed and said.startswith("waiting for approval: set validation_status=approved on model")
    assert views.release_list(settings, TINY)["releases"] == []
    (version,) = client(settings).search_model_versions(f"name = '{MODEL}'")
    assert version.tags["assay.digest"] == facts["candidate"] and "checks passed" in version.description
    assert not client(settings).search_model_versions(f"name = '{TINY}'")


def test_a_rejection_is_said_with_who_and_why(settings):
    for wrong in (("--reject",), ("--reason", "no")):
        done = assay("approve", TINY, "--by", "Ben", *wrong)
        assert done.returncode == 2 and "--reject and --reason go together" in done.stderr
    done = assay("approve", TINY, "--by", "Ben", "--reject", "--reason", "the tone is off")
    assert done.returncode == 0 and "is rejected by Ben" in done.stdout
    with pytest.raises(NotApproved, match=rf"rejected by Ben on model {MODEL} version 1 \(.*\): the tone is off"):
        promote.promote_candidate(settings, TINY)
    assert run_promote(settings)[1].startswith("rejected by Ben")
    assert views.release_list(settings, TINY)["releases"] == []


def test_what_was_approved_is_published_and_signed_with_who_and_when(settings):
    done = process(settings, "approve", TINY, "--by", "Ada Lovelace")
    assert done.stdout.startswith(f"tiny: model {MODEL} version 1 (candidate ") and "approved by Ada" in done.stdout
    assert run_promote(settings) == (True, "generation 1: arm rag, revision r1")
    approval = newest(settings)["approval"]
    assert approval["by"] == "Ada Lovelace" and re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", approval["at"])
    assert approval["how"] == f"MLflow: tag validation_status of model {MODEL} version 1"
    released = client(settings).get_model_version_by_alias(TINY, "champion")
    assert "Approved by Ada Lovelace at " in released.description
    assert run_promote(settings)[1] == "unchanged at generation 1"


def test_the_approval_of_one_candidate_is_none_of_the_next(settings):
    kit.candidate(settings, kit.NEWER)
    with pytest.raises(NotApproved, match=f"waiting for approval: .* on model {MODEL} version 2 in MLflow"):
        promote.promote_candidate(settings, TINY)
    client(settings).set_model_version_tag(MODEL, "2", "validation_status", "approved")  # in MLflow's UI, no name
    assert promote.promote_candidate(settings, TINY) == f"{TINY}: generation 2: arm rag, revision r2"
    assert newest(settings)["approval"]["by"] == UNKNOWN


def test_what_the_gate_rejected_cannot_be_approved(settings):
    kit.candidate(settings, ndcg=0.1)
    with pytest.raises(NotPromotable, match="the candidate was rejected: retrieval"):
        approve.approve_candidate(settings, TINY, by="Ada", reject=False, reason=None)


def test_an_answer_from_airflow_counts_for_its_candidate_only(settings):
    facts = kit.candidate(settings, {**kit.NEWER, "extra": "Gift cards are valid for three years."})
    answer = {"by": "Ada", "at": "2026-01-02T03:04:05+00:00", "how": "Airflow", "candidate": facts["candidate"]}
    with pytest.raises(BadInput, match=r"promote.approval is mlflow; an answer of Airflow's is for: airflow"):
        run_promote(settings, answer=answer)
    with_approval(settings, "airflow")
    with pytest.raises(
        BadInput, match="answer the task `approve` of Airflow's DAG tiny_release; here it must be mlflow"
    ):
        approve.approve_candidate(settings, TINY, by="Ada", reject=False, reason=None)
    with pytest.raises(
        NotApproved, match="waiting for approval: answer the task `approve` of Airflow's DAG tiny_release"
    ):
        promote.promote_candidate(settings, TINY)
    changed, said = run_promote(settings, answer={**answer, "candidate": "0" * 64})
    assert not changed and said.startswith("Ada approved candidate 000000000000, but ")
    assert run_promote(settings, answer=answer)[0]
    assert newest(settings)["approval"] == {key: answer[key] for key in ("by", "at", "how")}


def test_where_nobody_is_asked_nobody_is_named(settings):
    with_approval(settings, "none")
    kit.candidate(settings, kit.TEXTS, arms={"base": 0.1, "rag": 0.6})
    assert promote.promote_candidate(settings, TINY).startswith(f"{TINY}: generation 4")
    assert newest(settings)["approval"] is None
    with pytest.raises(BadInput, match=r"promote.approval of tiny is none: nobody is asked; here it must be mlflow"):
        approve.approve_candidate(settings, TINY, by="Ada", reject=False, reason=None)
