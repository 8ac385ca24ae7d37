"""MLflow and Milvus as servers of their own, killed before a promotion: what readers see meanwhile, and how soon after
the server is back everything says the same again."""

import time

import psutil
import pytest

from infra.local_milvus import free_port
from infra.services import Services, port
from infra.sessions import end_sessions, members
from pipelines.actions import reconcile
from pipelines.actions.ask import find_passages
from pipelines.errors import AssayError, BackendError
from pipelines.settings import QUIET
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.faults
TINY = kit.CORPUS
QUESTION = "Within how many days are refunds paid?"
THIRD = {**kit.NEWER, "refunds": "Refunds are paid within 90 days of delivery. There is no restocking fee."}
TEXTS = {1: kit.TEXTS, 2: kit.NEWER, 3: THIRD}
"""What the generations hold."""


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """The servers, and generation 1. The tests share them, in order."""
    settings = kit.home(tmp_path_factory.mktemp("services") / "home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW", "MILVUS"):
            patch.setenv(f"ASSAY_{name}_PORT", str(free_port()))
        made = Services(settings, ("milvus", "mlflow"))
        made.start()
        patch.setenv("MLFLOW_TRACKING_URI", made.mlflow_url)
        patch.setenv("ASSAY_MILVUS_URI", f"http://127.0.0.1:{port('milvus')}")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", QUIET["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
        try:
            kit.candidate(settings, TEXTS[1])
            kit.run_promote(settings)
            yield made
        finally:
            made.stop()


def kill(pid):
    """kill -9 of a service and of its workers."""
    processes = [psutil.Process(pid), *members([pid])]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=10)
    end_sessions([pid])


def soon(act, *, within):
    """As `upkeep` does: again while a service that was started does not answer yet."""
    began = time.monotonic()
    while True:
        try:
            return act()
        except BackendError:
            if time.monotonic() - began > within:
                raise
            time.sleep(1)


def agree(settings, generation):
    """Whether MLflow's and Milvus's aliases and the log name the same generation."""
    import mlflow

    wiring = Wiring.of(settings, TINY)
    manifest = wiring.releases.read(TINY)
    version = mlflow.MlflowClient(settings.mlflow_uri).get_model_version_by_alias(TINY, "champion")
    aliases = wiring.store._client.list_aliases(manifest["index"]["collection"])["aliases"]
    wiring.store.close()
    return manifest["generation"] == int(version.tags["assay.generation"]) == generation and TINY in aliases


def seen(settings):
    """(generation, passage) as a fresh reader has them."""
    found = find_passages(settings, TINY, QUESTION)
    return found["release"]["generation"], found["passages"][0]["text"]


@pytest.mark.parametrize(("name", "generation"), [("mlflow", 2), ("milvus", 3)])
def test_a_server_that_is_killed_before_promote_makes_no_mixture_and_soon_all_agrees(
    services, name, generation, faults
):
    settings, new = services.settings, (generation, TEXTS[generation]["refunds"])
    assert agree(settings, generation - 1)
    kit.candidate(settings, TEXTS[generation])
    with faults(f"kill -9 of {name}'s server before a promotion, readers, and the server again"):
        kill(services.processes[name])
        with pytest.raises(AssayError, match=r"(?i)mlflow|milvus"):
            kit.run_promote(settings)
        if name == "mlflow":  # readers do not need it: the log has decided
            assert seen(settings) == new
        else:
            with pytest.raises(AssayError, match=r"(?i)milvus"):
                seen(settings)
        with pytest.raises(AssayError, match=r"(?i)mlflow|milvus"):
            reconcile.reconcile_corpus(settings, TINY)
        services.start(again=True)
        back = time.monotonic()
        soon(lambda: reconcile.reconcile_corpus(settings, TINY), within=35)
        assert agree(settings, generation)
        assert time.monotonic() - back < 40  # upkeep tries again every 20 s: within a minute
        assert seen(settings) == new
