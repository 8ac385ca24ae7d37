"""The arms without an adapter asked of another model than the one that is trained (`generate.untuned`): a hosted one on
a real HTTP server, beside a stub that stands for the model on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import answer_records
from pipelines.actions import compare, promote
from pipelines.answering import served_prompt
from pipelines.backends.objects import ObstoreObjects
from pipelines.core import tradeoffs
from pipelines.errors import BadConfig, IntegrityError, NotTrainable
from pipelines.ports import Completion, Hit, Ports
from pipelines.schemas import read_jsonl
from pipelines.settings import Settings, checkout
from pipelines.stages import judge, score_answers
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace
from tests import release_kit as kit
from tests.adapter_kit import params_of
from tests.endpoint_kit import Server, Words, generator
from tests.unit.test_judge import ADAPTER, INDEX

QUESTION = {"id": "q1", "question": "How long?", "answers": ["five years"], "evidence": [], "split": "test"}
HIT = Hit("c", "tents.md", "t", 0, 9, " ".join(f"w{n}" for n in range(40)), 1.0)


class Local(Words):
    """A model on this machine, with its adapter or without: a token is two words, a reply takes a CPU-second."""

    name, licence, base_digest, tokenizer_digest = "smollm2", None, "b" * 64, "k" * 64

    def __init__(self, adapter: bool = False) -> None:
        self.digest = ("c" if adapter else "b") * 64
        self.asked: list[Any] = []

    def trim(self, text: str, *, tokens: int) -> str:
        return super().trim(text, tokens=2 * tokens)

    def reply(self, chats: Any, *, max_new_tokens: int) -> list[Completion]:
        self.asked += chats
        return [Completion("five years", 7, 2, 0.5, 1.0) for _ in chats]


class Made:
    """The ports of `score_answers` with a hosted model for the arms without an adapter."""

    embedder, reranker, store = SimpleNamespace(digest=INDEX["embedder_digest"]), None, None

    def __init__(self, home: Path) -> None:
        self.objects = ObstoreObjects(str(home / "objects"))
        self.settings = Settings(home, checkout() / "params.yaml", "local[1]")
        self.hosted, self.tuned = generator(), Local(adapter=True)

    def generator(self, adapter: Path | None = None) -> Any:
        return self.hosted if adapter is None else self.tuned

    def base_generator(self) -> Any:
        return Local()


def params(**generate: Any) -> Any:
    shape = {"reply_schema": None, "system": "Be brief.", "max_new_tokens": 4, "passage_tokens": 16}
    prices = {"cpu_hour": 3.6, "currency": "EUR"}
    return params_of(
        generate={**shape, "untuned": "endpoint", **generate},
        answer={"arms": ["base", "rag", "tuned", "both"], "prices": prices},
        judge={"floors": {}, "max_regression": {}, "primary": "answers.token_f1", "min_questions": 1, "min_gain": -1},
        promote={"arm": "rag"},
    )


@pytest.fixture
def ports(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(score_answers, "search", lambda *found, **how: [[HIT] for _ in found[-1]])
    monkeypatch.setattr("pipelines.adapters.fetch", lambda objects, key, cache: tmp_path)
    monkeypatch.setattr(answer_records, "record", lambda *args, **facts: "run")
    return Made(tmp_path)


def scored(ports: Made, tmp_path: Path, **generate: Any) -> tuple[Workspace, Any]:
    workspace, given = Workspace(tmp_path / "tiny", "tiny"), params(**generate)
    kit.scored(SimpleNamespace(workspace=workspace, params=given), INDEX, adapter=ADAPTER)  # type: ignore[arg-type]
    workspace.versioned.mkdir(parents=True, exist_ok=True)
    (workspace.versioned / "questions.jsonl").write_text(json.dumps(QUESTION) + "\n")
    report = score_answers.run(given, workspace, ports=ports)  # type: ignore[arg-type]
    workspace.write_receipt("score_answers", report.facts, report.measured, report.summary)
    return workspace, report


def test_each_arm_is_asked_trimmed_and_paid_by_its_own_model(ports: Made, server: Server, tmp_path: Path) -> None:
    workspace, report = scored(ports, tmp_path)
    hosted = {"name": "hosted", "digest": ports.hosted.base_digest}
    local = {"name": "smollm2", "digest": "b" * 64}
    assert report.facts["models"] == {"base": hosted, "rag": hosted, "tuned": local, "both": local}
    asked = [body["messages"][-1]["content"] for _, body, _ in server.asked]
    assert asked[0] == "Hi" and len(asked) == 3  # what the digest asks; then base and rag
    assert "w15" in asked[2] and "w16" not in asked[2]  # 16 tokens of the hosted model's counter
    shown = ports.tuned.asked[1][-1]["content"]
    assert "w31" in shown and "w32" not in shown  # of the local one
    rows = {row["arm"]: row for row in read_jsonl(workspace.scores("answers"))}
    for arm in ("base", "rag"):  # 2 a million in, 10 out; no CPU time is known
        paid = (rows[arm]["tokens_in"] * 2 + rows[arm]["tokens_out"] * 10) / 1e6
        assert rows[arm]["cost"] == pytest.approx(paid) and rows[arm]["cpu_seconds"] is None
    for arm in ("tuned", "both"):  # one CPU-second at 3.6 an hour
        assert (rows[arm]["cost"], rows[arm]["cpu_seconds"]) == (pytest.approx(0.001), 1.0)
    kept_by = {key.split("/")[1] for key in ports.objects.list("answers/")}
    assert kept_by == {ports.hosted.digest, ports.tuned.digest}
    assert report.measured["cost"]["tokens_in"] == sum(rows[arm]["tokens_in"] for arm in ("base", "rag")) + 1
    compared = compare._facts(workspace, params(), report.facts["arms"])
    assert tradeoffs.asked_of(compared.models) == "base models hosted (base, rag); smollm2 (tuned, both)"


def test_what_cannot_choose_among_labels_says_so(ports: Made, tmp_path: Path) -> None:
    says = "generator hosted is an endpoint.*set generate.model, and generate.untuned if any, to models on this machine"
    with pytest.raises(BadConfig, match=says):
        scored(ports, tmp_path, task="label", labels=["a", "b"])


@pytest.mark.parametrize(("arm", "name"), [("rag", "hosted"), ("both", "smollm2")])
def test_a_release_binds_the_model_of_its_arm_and_no_other_than_was_judged(
    ports: Made, tmp_path: Path, arm: str, name: str
) -> None:
    workspace, _ = scored(ports, tmp_path)
    given = params()
    given = given.model_copy(update={"promote": given.promote.model_copy(update={"arm": arm})})
    judged = judge.decide(given, workspace)
    assert (judged["arm"], judged["model"]["name"]) == (arm, name)
    base = promote._base(judged, ports, "tiny")  # type: ignore[arg-type]
    assert (base.name, base.base_digest) == (name, judged["model"]["digest"])
    for other in ({"name": name, "digest": "0" * 64}, None):
        with pytest.raises(
            IntegrityError, match=f"arm {arm} was judged with .* but {name} is .* score_answers --force"
        ):
            promote._base({**judged, "model": other}, ports, "tiny")  # type: ignore[arg-type]
    answers = workspace.receipt("score_answers")
    answers["models"][arm]["digest"] = "0" * 64
    workspace.write_receipt("score_answers", answers, {}, "")
    assert judge.decide(given, workspace)["candidate"] != judged["candidate"]  # an alias that means another version


def test_what_is_asked_and_what_is_trained(server: Server, tmp_path: Path) -> None:
    def names(**generate: Any) -> list[str]:
        home = Settings(tmp_path, checkout() / "params.yaml", "local[1]")
        made: Ports = Wiring(home, "tiny", params_of(generate=generate))
        return [made.generator().name, made.generator(tmp_path).name, made.base_generator().name]

    assert names() == ["smollm2", "smollm2", "smollm2"]
    assert names(untuned="endpoint") == ["endpoint", "smollm2", "smollm2"]
    with pytest.raises(NotTrainable, match="no adapter can be loaded on it"):
        names(model="endpoint", untuned="smollm2")
    with pytest.raises(
        BadConfig, match=r"generate\.untuned is 'nowhere', but there is no .*; known: endpoint, smollm2"
    ):
        names(untuned="nowhere")
    assert not server.asked


def test_the_prompt_is_another_with_another_model_and_the_same_without() -> None:
    plain = params_of().generate
    one, other = (plain.model_copy(update={"untuned": name}) for name in ("endpoint", "larger"))
    assert len({served_prompt(each) for each in (plain, one, other)}) == 3
