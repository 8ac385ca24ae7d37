"""A candidate asked beside the champion before it is promoted: real index, real weights, a run in MLflow."""

import json

import pytest

from pipelines.actions import promote
from pipelines.actions.shadow import shadow_candidate
from pipelines.errors import BadInput, NotFound
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.integration
ASKED = ["Within how many days are refunds paid?", "What does standard shipping cost?"]


def test_what_a_candidate_would_change_is_shown_and_nothing_is_released(tmp_path):
    settings = kit.home(tmp_path / "home")
    with pytest.raises(NotFound, match="no candidate yet"):
        shadow_candidate(settings, kit.CORPUS)
    kit.candidate(settings, kit.TEXTS)
    with pytest.raises(NotFound, match="no release to compare with"):
        shadow_candidate(settings, kit.CORPUS)
    wiring = Wiring.of(settings, kit.CORPUS)
    promote.run(wiring.params, wiring.workspace, ports=wiring)
    wiring.store.close()
    (tmp_path / "asked.txt").write_text("\n".join(ASKED))
    with pytest.raises(BadInput, match="what generation 1 serves already"):
        shadow_candidate(settings, kit.CORPUS, questions=tmp_path / "asked.txt")
    kit.candidate(settings, kit.NEWER)
    found = shadow_candidate(settings, kit.CORPUS, questions=tmp_path / "asked.txt")
    refunds, shipping = found["rows"]
    assert (found["questions"], found["generation"], found["arms"]["champion"]) == (2, 1, "rag")
    assert refunds["passages_new"] == refunds["passages_gone"] == ["refunds"]
    assert refunds["champion"] and "60" not in refunds["champion"]
    assert shipping["same_best_passage"] == 1.0 and {"answer_f1", "same_answer"} <= found["metrics"].keys()
    client = wiring.registry._client
    run = client.get_run(found["run_id"])
    assert run.info.status == "FINISHED" and run.data.metrics["questions"] == 2
    table = next((settings.home / "mlflow" / "artifacts").rglob("differences.json"))
    assert len(json.loads(table.read_text())["data"]) == 2
    assert Wiring.of(settings, kit.CORPUS).releases.generations(kit.CORPUS) == [1]
