"""A real tuning on the handbook: killed and gone on with, whole, known when asked again, its index judged by the gate.

The embedder is tuned badly on purpose (a learning rate a hundred times too high), so the gate must reject it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines import exports as export_folders
from pipelines import tuned, tuning
from pipelines.actions import tune as action
from pipelines.backends.reranker import read_definition
from pipelines.core.splits import TEST, split_of
from pipelines.errors import BadInput, NotFound
from pipelines.settings import checkout
from pipelines.stages.judge import decide
from tests import release_kit as kit
from tests.index_kit import Ports, params_of, ports_of, run_stage
from tests.integration.test_embedding_precision import passages

pytestmark = pytest.mark.integration

SMALL = {"max_steps": 4, "batch": 4, "evaluations": 4, "validation_rows": 4, "precision": "float32", "patience": 4}
RECIPES = {
    "embedder": {"mini_batch": 2, "learning_rate": 0.05, "warmup_share": 0.0},  # two rows at once: gradients are cached
    "reranker": {},
}
DENSE = {"mode": "dense"}


def recipe(kind: str) -> dict[str, Any]:
    return {**tuning.read_recipe(kind), **SMALL, **RECIPES[kind]}


def asked(texts: dict[str, str]) -> list[dict[str, Any]]:
    """A question of each passage: its first line asks for it. A third of them is quoted, so both levels are there."""
    out = []
    for number, (key, text) in enumerate(texts.items()):
        evidence = {"document": key, **({"quote": text[:40]} if number % 3 == 0 else {})}
        out.append({"id": f"q{number:03d}", "question": f"{text[:60]}?", "answers": [], "evidence": [evidence]})
    return out


def indexed(home: Path, texts: dict[str, str], **embed: Any) -> Ports:
    """Ports on an index of the passages; embed.model as asked for, pinned as the runner pins it."""
    params = params_of(retrieve=DENSE, embed=embed or {"model": "minilm"})
    made = ports_of(home, tuned.pinned(params, "tiny", home=home, models=checkout() / "models"))
    made.workspace.write_receipt("index", kit.build(made, texts), {}, "")
    return made


class Stopped(Exception):
    """What ends a training in the middle, as a kill would."""


def tuned_embedder(ports: Ports, questions: list[dict[str, Any]]) -> tuple[bool, dict[str, Any]]:
    found = action.tune(ports, "embedder", recipe=recipe("embedder"), questions=questions)
    ports.store.close()
    return found


def test_a_tuned_embedder_is_whole_known_again_and_judged(tmp_path, monkeypatch, capsys) -> None:
    texts = passages()
    questions, ports = asked(texts), indexed(tmp_path, texts)
    with monkeypatch.context() as patched:

        def stop(self: Any, step: int, steps: int, values: Any) -> None:
            if step == 3:
                raise Stopped

        patched.setattr(action.Progress, "__call__", stop)
        with pytest.raises(Stopped):
            tuned_embedder(ports, questions)
    assert tuned.newest(tmp_path, "tiny", "embedder") is None  # nothing half-done is there

    changed, facts = tuned_embedder(ports, questions)
    assert "tune: going on from step 2 of a training that was stopped" in capsys.readouterr().out
    assert changed and facts["digest"] != facts["base"]["digest"]
    folder = tuned.folder_of(tmp_path, "tiny", "embedder", facts["digest"])
    base = tuning.base_definition("embedder").folder
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(
        (base / "model.safetensors").stat().st_size, rel=0.01
    )
    assert facts["steps"] == 4 and facts["questions"]["train"] > 40
    assert not (tmp_path / "cache" / "tuning" / facts["key"]).exists()

    monkeypatch.setattr(tuning, "train", lambda *args, **kwargs: pytest.fail("it was trained before"))
    assert tuned_embedder(ports, questions) == (False, facts)

    theirs = indexed(tmp_path, texts, model="tuned")
    kit.scored(theirs, theirs.workspace.receipt("index"))
    (theirs.workspace.versioned / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    scores = run_stage(theirs, "score_retrieval").facts
    test = [row for row in questions if split_of(row, **theirs.params.split.model_dump()) == TEST]
    assert (scores["questions"], scores["left_out"]) == (len(test), len(questions) - len(test))
    assert scores["tuned_embedder"]["n"] == len(test) and scores["tuned_embedder"]["high"] < 0
    check = {c["name"]: c for c in decide(theirs.params, theirs.workspace)["checks"]}["retrieval tuned embedder"]
    assert not check["passed"] and check["n"] == len(test)
    assert theirs.embedder.digest == facts["digest"] != theirs.base_embedder().digest == facts["base"]["digest"]
    export = tmp_path / "cache" / "embedders" / facts["digest"]
    assert export_folders.opened(export)
    shutil.rmtree(export)  # the cache is shared between tests, and this model is of no use to another


def test_a_tuned_reranker_is_a_cross_encoder_of_its_own_digest(tmp_path, monkeypatch) -> None:
    texts = passages()
    ports = indexed(tmp_path, texts)
    changed, facts = action.tune(ports, "reranker", recipe=recipe("reranker"), questions=asked(texts))
    folder = tuned.folder_of(tmp_path, "tiny", "reranker", facts["digest"])
    file = checkout() / "models" / "rerankers" / "tuned.yaml"
    assert changed and read_definition(file, home=tmp_path, tuned=folder).window == recipe("reranker")["window"]
    ports.store.close()
    assert facts["rows"]["train"] > facts["questions"]["train"]  # passages that answer, and those that do not


def test_what_cannot_be_tuned_says_why_in_one_line(tmp_path) -> None:
    settings = kit.home(tmp_path)
    with pytest.raises(NotFound, match="has no index yet; run: assay run"):
        action.tune_corpus(settings, kit.CORPUS, "embedder")
    texts = dict(list(passages().items())[:12])
    ports = indexed(tmp_path / "few", texts)
    with pytest.raises(BadInput, match=r"^\d+ gold questions of the training split have .*, at least 20"):
        tuned_embedder(ports, asked(texts))
    params = params_of(retrieve=DENSE, embed={"model": "tuned"})
    with pytest.raises(NotFound, match=r"tiny has none yet; .* and run: assay tune tiny embedder"):
        _ = ports_of(tmp_path / "few", params).embedder
