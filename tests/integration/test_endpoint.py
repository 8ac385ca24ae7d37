"""Hosted models, really: a chat model behind `transformers serve`, from the training set to an answered question, and
MiniLM behind a server of the test's own, asked by Spark's workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from infra.local_milvus import free_port
from pipelines.actions import ask, promote, pull, verify, views
from pipelines.actions.compare import page_of
from pipelines.backends.openvino import load_embedder
from pipelines.backends.transformers import load_generator
from pipelines.builds import build_rows
from pipelines.core.prompts import Passage, chat
from pipelines.errors import BadInput, IntegrityError, NotTrainable
from pipelines.released import generator_of
from pipelines.schemas import read_jsonl
from pipelines.settings import QUIET, Settings, checkout
from pipelines.stages import embed as embed_stage
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace
from tests import index_kit
from tests import release_kit as kit
from tests.adapter_kit import SMOLLM2
from tests.endpoint_kit import KEY, embedding_answer, serving

pytestmark = pytest.mark.integration
BRIEF = "Answer the question in a few words. If passages are given, use only them."
TENT = [Passage("products/tents.md", "The Tarn and Corrie tents have a warranty of 5 years for faults of material.")]
CHATS = [
    chat("What is the capital of France?", system=BRIEF),
    chat("For how many years is a Tarn tent covered?", TENT, system=BRIEF),
    chat("Name a colour.", system=BRIEF),
]
QUESTIONS = [
    ("Within how many days are refunds paid?", "30 days", "refunds"),
    ("What does standard shipping cost?", "4.90 euros", "shipping"),
    ("How long is the warranty of tents?", "five years", "warranty"),
]
LOOSE = {"floors": {}, "max_regression": {}, "min_gain": -1.0, "min_questions": 1}


@pytest.fixture(scope="module")
def local() -> Any:
    """The same model in this process, one chat a batch, as the server asks it."""
    return load_generator(SMOLLM2, cache=kit.shared_cache(), batch=1)


@pytest.fixture(scope="module")
def served(local: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a `transformers serve` with the converted SmolLM2, healthy; stopped by its process id."""
    port, program = str(free_port()), Path(sys.executable).parent / "transformers"
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    where = ["--host", "127.0.0.1", "--port", port, "--device", "cpu", "--dtype", local.precision]
    with log.open("wb") as out:
        command = [program, "serve", str(local.folder), *where]
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **QUIET})
    try:
        _until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


SECTIONS: dict[str, Any] = {
    "split": {"validation": 0.0, "test": 0.99, "seed": 7},
    "mix": {"min_examples": 1},
    "retrieve": {"mode": "dense", "k": 1},
    "answer": {"max_questions": 3},
    "judge": LOOSE,
    "promote": {"arm": "rag"},
}


@pytest.fixture(scope="module")
def folder(served: str, local: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The models' definitions with one more beside them, of the served model; the environment says where that is."""
    folder = tmp_path_factory.mktemp("hosted")
    shutil.copytree(checkout() / "models", folder / "checkout" / "models")
    definition = yaml.safe_load((checkout() / "models" / "generators" / "endpoint.yaml").read_text())
    definition["model"] = str(local.folder)
    definition["limits"]["concurrency"] = 2  # the server has no more cores
    (folder / "checkout" / "models" / "generators" / "served.yaml").write_text(yaml.safe_dump(definition))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_OPENAI_BASE_URL", served)
        patch.setenv("ASSAY_OPENAI_API_KEY", KEY)
        patch.setattr("pipelines.wiring.checkout", lambda: folder / "checkout")
        yield folder


def home(folder: Path, **sections: Any) -> Iterator[Settings]:
    """A home of its own, which the environment names meanwhile."""
    found = kit.home(folder, **{**SECTIONS, **sections})
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("ASSAY_HOME", "ASSAY_PARAMS", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("ASSAY_HOME", str(found.home))
        patch.setenv("ASSAY_PARAMS", str(found.params_file))
        yield found


@pytest.fixture(scope="module")
def settings(folder: Path) -> Iterator[Settings]:
    """A home whose corpus is answered by the served model in every arm."""
    yield from home(folder / "home", generate={"model": "served", "max_new_tokens": 8, "passage_tokens": 40})


def run_stages(settings: Settings, *names: str) -> dict[str, Any]:
    wiring = Wiring.of(settings, kit.CORPUS)
    try:
        return {name: index_kit.run_stage(wiring, name) for name in names}
    finally:
        wiring.store.close()


def judged(settings: Settings) -> dict[str, Any]:
    """The reports of the stages, from the training set to the verdict, on an index of three documents."""
    wiring = Wiring.of(settings, kit.CORPUS)
    facts = kit.build(wiring, kit.TEXTS)
    wiring.workspace.champion_file.write_text("{}")
    kit.scored(wiring, facts)
    questions = [
        {"id": document, "question": q, "answers": [gold], "evidence": [{"document": document, "quote": gold}]}
        for q, gold, document in QUESTIONS
    ]
    examples = [{"prompt": f"Say {n}.", "completion": f"It is {n}."} for n in range(300)]
    for name, rows in (("questions", questions), ("examples", examples)):
        file = wiring.workspace.versioned / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_stages(settings, "mix", "train", "score_retrieval", "score_answers", "judge")


@pytest.fixture(scope="module")
def scored(settings: Settings) -> dict[str, Any]:
    return judged(settings)


def test_it_replies_as_the_same_model_does_here(settings: Settings, local: Any) -> None:
    hosted = Wiring.of(settings, kit.CORPUS).generator()
    there, here = hosted.reply(CHATS, max_new_tokens=8), local.reply(CHATS, max_new_tokens=8)
    assert [c.text for c in there] == [c.text for c in here] and "Paris" in there[0].text
    assert [c.tokens_in for c in there] == [c.tokens_in for c in here]
    # The server counts the token that ends a reply, which is not part of the text.
    assert all(0 <= a.tokens_out - b.tokens_out <= 1 for a, b in zip(there, here, strict=True))
    assert all(c.seconds > 0 for c in there)
    assert hosted.trim("one two three four", tokens=2) == local.trim("one two three four", tokens=2)
    assert hosted.count(CHATS[0]) == local.count(CHATS[0])
    again = Wiring.of(settings, kit.CORPUS).generator()
    assert (again.digest, again.base_digest) == (hosted.digest, hosted.base_digest)
    assert hosted.base_digest != local.base_digest


def test_a_model_that_the_server_does_not_serve_is_refused(settings: Settings) -> None:
    wiring = Wiring.of(settings, kit.CORPUS)
    params = wiring.params.model_copy(
        update={"generate": wiring.params.generate.model_copy(update={"model": "endpoint"})}
    )
    with pytest.raises(BadInput, match="generator endpoint: endpoint openai refuses the request"):
        Wiring(settings, kit.CORPUS, params).generator().reply(CHATS[:1], max_new_tokens=1)


def test_nothing_is_trained_and_the_arms_without_an_adapter_are_scored(scored: dict[str, Any]) -> None:
    assert scored["mix"].facts["train"] > 0 and "skipped" not in scored["mix"].facts
    why = scored["train"].facts["skipped"]
    assert why.startswith("generator served is an endpoint: nothing can be trained on it")
    answers = scored["score_answers"]
    assert set(answers.facts["arms"]) == {"base", "prompt", "rag"} and answers.facts["questions"] == 3
    assert answers.facts["missing"] == {"tuned": f"no adapter: {why}", "both": f"no adapter: {why}"}
    assert answers.facts["adapter"] is None
    assert {model["name"] for model in answers.facts["models"].values()} == {"served"}


def test_the_cost_is_counted_and_a_second_run_pays_for_one_short_question(
    settings: Settings, scored: dict[str, Any]
) -> None:
    cost, arms = scored["score_answers"].measured["cost"], scored["score_answers"].measured["arms"]
    replies_in = sum(arm["tokens_in"]["value"] * 3 for arm in arms.values())
    assert 0 < cost["tokens_in"] - replies_in < 60  # beside the replies, the one question that the digest asks
    amount = (cost["tokens_in"] * 0.40 + cost["tokens_out"] * 1.60) / 1e6  # models/generators/endpoint.yaml's price
    assert (cost["amount"], cost["currency"]) == (pytest.approx(amount), "USD")
    assert f"{cost['tokens_in']:,} tokens in" in scored["score_answers"].summary
    again = run_stages(settings, "score_answers")["score_answers"]
    assert again.facts == scored["score_answers"].facts and again.measured["generated"] == 0
    assert again.measured["cost"]["tokens_out"] == 1


def test_it_is_released_and_asked(settings: Settings, scored: dict[str, Any]) -> None:
    assert scored["judge"].facts["passed"], scored["judge"].summary
    wiring = Wiring.of(settings, kit.CORPUS)
    assert promote.run(wiring.params, wiring.workspace, ports=wiring)[0]
    manifest = wiring.releases.read(kit.CORPUS)
    assert (manifest["arm"], manifest["base"]["name"], manifest["adapter"]) == ("rag", "served", None)
    wiring.store.close()
    answered = ask.ask_release(settings, kit.CORPUS, QUESTIONS[2][0])
    assert answered["answer"] and answered["citations"][0]["document"] == "warranty"
    with pytest.raises(NotTrainable, match="no adapter can be loaded on it"):
        wiring.generator(settings.home)
    # Against itself as champion: asked with its own generator, of which every reply is known.
    wiring.workspace.champion_file.write_text(json.dumps(manifest))
    again = run_stages(settings, "score_answers")["score_answers"]
    assert again.facts["champion_unscored"] is None and again.measured["generated"] == 0
    assert again.facts["arms"]["champion"] == again.facts["arms"]["rag"]


def test_the_key_is_in_nothing_that_was_written(settings: Settings, scored: dict[str, Any]) -> None:
    files = [file for file in settings.home.rglob("*") if file.is_file() and not file.is_symlink()]
    assert {"mlflow.db", "score_answers.json"} <= {file.name for file in files}
    for file in files:
        held = file.read_bytes()
        assert KEY.encode() not in held, file
        if file.is_relative_to(settings.workspace(kit.CORPUS)):
            assert b"127.0.0.1" not in held, file


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[Settings]:
    """A home whose corpus trains the model on this machine and has the other arms asked of the served one."""
    generate = {"model": "smollm2", "untuned": "served", "max_new_tokens": 8, "passage_tokens": 40}
    train = {"steps": 2, "batch": 1, "rank": 4}
    yield from home(folder / "both", generate=generate, train=train)


@pytest.fixture(scope="module")
def compared(both: Settings) -> dict[str, Any]:
    return judged(both)


def test_all_arms_stand_in_one_comparison_each_by_its_own_model(
    both: Settings, compared: dict[str, Any], local: Any
) -> None:
    answers, train = compared["score_answers"], compared["train"].facts
    hosted = Wiring.of(both, kit.CORPUS).generator()
    there, here = ({"name": g.name, "digest": g.base_digest} for g in (hosted, local))
    models = {"base": there, "prompt": there, "rag": there, "tuned": here, "both": here}
    assert answers.facts["models"] == models and answers.facts["missing"] == {}
    assert (train["base"], train["base_digest"]) == (here["name"], here["digest"])
    assert answers.facts["adapter"] == train["digest"]
    rows = read_jsonl(Workspace(both.workspace(kit.CORPUS), kit.CORPUS).scores("answers"))
    by_arm: dict[str, list[Any]] = {arm: [] for arm in models}
    for row in rows:
        by_arm[row["arm"]].append(row)
    for arm, found in by_arm.items():  # billed there, CPU time here
        assert len(found) == 3 and all(row["cost"] > 0 for row in found)
        assert all((row["cpu_seconds"] is None) == (models[arm] == there) for row in found)
    cost = answers.measured["cost"]
    billed = sum(row["tokens_in"] for arm in ("base", "prompt", "rag") for row in by_arm[arm])
    assert 0 < cost["tokens_in"] - billed < 60
    shown = views.comparison(both, kit.CORPUS)
    assert list(shown["arms"]) == list(shown["models"]) == list(models)
    note = "base models served (base, prompt, rag); smollm2 (tuned, both)"
    assert shown["table"][0]["note"] == note and note in page_of(both, shown).read_text()
    again = run_stages(both, "score_answers")["score_answers"]
    assert again.facts == answers.facts and again.measured["generated"] == 0


def test_a_release_of_either_kind_answers_by_the_model_that_it_binds(both: Settings, compared: dict[str, Any]) -> None:
    for generation, (arm, name) in enumerate((("rag", "served"), ("both", "smollm2")), 1):
        raw = yaml.safe_load(both.params_file.read_text())
        raw["corpora"][kit.CORPUS]["promote"] = {"arm": arm}
        both.params_file.write_text(yaml.safe_dump(raw))
        run_stages(both, "judge")
        wiring = Wiring.of(both, kit.CORPUS)
        said = promote.run(wiring.params, wiring.workspace, ports=wiring)
        assert said == (True, f"generation {generation}: arm {arm}, revision r1")
        manifest = wiring.releases.read(kit.CORPUS)
        wiring.store.close()
        model = compared["score_answers"].facts["models"][arm]
        assert (manifest["base"]["name"], manifest["base"]["digest"]) == (name, model["digest"])
        assert manifest["adapter"]["digest"] == compared["train"].facts["digest"]
        row = next(
            row
            for row in read_jsonl(wiring.workspace.scores("answers"))
            if row["arm"] == arm and row["id"] == "warranty"
        )
        answered = ask.ask_release(both, kit.CORPUS, row["question"])
        assert (answered["arm"], answered["answer"]) == (arm, row["answer"])
        assert f"generator: {name} {model['digest'][:16]}" in list(verify.verify_release(both, kit.CORPUS))
        # As champion it is asked of its own model, of which every reply is known.
        wiring.workspace.champion_file.write_text(json.dumps(manifest))
        again = run_stages(both, "score_answers")["score_answers"]
        assert again.facts["champion_unscored"] is None and again.measured["generated"] == 0
        assert again.facts["arms"]["champion"] == again.facts["arms"][arm]
        other = {**manifest, "base": {**manifest["base"], "digest": "0" * 64}}
        with pytest.raises(IntegrityError, match=f"was judged with generator {name} 000000000000, but {name} has"):
            generator_of(other, Wiring.released(both, other))


def test_spark_embeds_through_an_endpoint(tmp_path: Path) -> None:
    here = load_embedder(checkout() / "models" / "embedders" / "minilm.yaml", cache=index_kit.exports())
    special = 2  # [CLS] and [SEP]

    def embed(texts: list[str]) -> tuple[Any, int]:
        vectors, tokens = here.embed_counted(texts)
        return vectors * 3.0, int(tokens.sum()) + special * len(texts)

    blocks = {"embed": {"model": "endpoint"}, "chunk": {"min_tokens": 24, "max_tokens": 48, "overlap": 4}}
    ports = index_kit.ports_of(tmp_path / "home", index_kit.params_of(**blocks))
    index_kit.write_corpus(ports.workspace, index_kit.documents_of(index_kit.rules(40)))  # too many for one process
    command = [sys.executable, "-m", "tests.index_kit", str(tmp_path / "home"), json.dumps(blocks)]
    with serving(embedding_answer(embed)) as server:
        address = {"ASSAY_OPENAI_BASE_URL": server.url, "ASSAY_OPENAI_API_KEY": KEY}
        done = subprocess.run(
            [*command, "chunk", "embed"], env={**os.environ, **address}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in address.items():
                patch.setenv(name, value)
            whose = {"name": "endpoint", "digest": ports.workspace.receipt("embed")["embedder_digest"]}
            (tmp_path / "copy").mkdir()
            pull._copy_models(ports, {"embedder": whose, "adapter": None}, tmp_path / "copy")
            assert not [*(tmp_path / "copy").iterdir()]  # a hosted model is not copied, and no reason to fail
    facts, measured = ports.workspace.receipt("embed"), ports.workspace.measured("embed")
    assert facts["tokens_read"] == facts["tokens"] and facts["dim"] == 384 and facts["embedder"] == "endpoint"
    assert measured["embedded"] == facts["rows"] > embed_stage.SMALL
    assert measured["cost"] == {"tokens_in": facts["tokens"], "tokens_out": 0, "amount": None, "currency": None}
    rows = [row for batch in build_rows(ports.objects, facts) for row in batch.to_pylist()]
    expected = here.embed_batch([row["text"] for row in rows])
    np.testing.assert_allclose(np.array([row["vector"] for row in rows]), expected, atol=1e-6)
    for file in (tmp_path / "home").rglob("*"):
        assert not file.is_file() or file.is_symlink() or KEY.encode() not in file.read_bytes(), file
