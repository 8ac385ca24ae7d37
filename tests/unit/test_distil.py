"""Distilling a long prompt: who is asked what, which replies teach, what is said of the gain. The teacher is a stub."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from pipelines.actions import views
from pipelines.backends.objects import ObstoreObjects
from pipelines.core import distil, mixing
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.splits import TEST, split_of
from pipelines.few_shot import distilled_prompt, long_prompt
from pipelines.ports import Completion
from pipelines.reply_schema import load_validator
from pipelines.schemas import read_jsonl
from pipelines.settings import Settings, checkout
from pipelines.stages.mix import compose
from pipelines.teacher import Teacher
from tests.adapter_kit import params_of, workspace_with

FIXTURE = checkout() / "tests" / "fixtures" / "instructions"
LONGER = LongPrompt("Long. ", ({"role": "user", "content": "Question: a"}, {"role": "assistant", "content": "b"}))
ASKED = {"role": "user", "content": "Question: Hi?"}


def test_the_teacher_is_asked_with_the_long_prompt_and_the_student_with_the_short_one():
    example = {"id": "e", "prompt": "Hi? ", "completion": "gold", "evidence": [], "split": "train"}
    shots = [dict(turn) for turn in LONGER.shots]
    assert distil.asking(example, LONGER) == [{"role": "system", "content": "Long."}, *shots, ASKED]
    learned = distil.taught(example, " Yo.\n", system="Short. ")
    assert learned == {"id": "e", "evidence": [], "split": "train", "messages": [
        {"role": "system", "content": "Short."}, ASKED, {"role": "assistant", "content": "Yo."}
    ]}  # fmt: skip
    assert mixing.as_chat(learned, [], system="") == learned["messages"]
    assert distil.taught(example, "Yo.", system=" ")["messages"][0] == ASKED
    chat = [{"role": "system", "content": "own"}, *shots, ASKED, {"role": "assistant", "content": "gold"}]
    assert distil.asking({"id": "m", "messages": chat}, LONGER)[-3:] == [*shots, ASKED]
    assert distil.taught({"id": "m", "messages": chat}, "Yo.", system="Short.")["messages"][1:4] == [*shots, ASKED]


def obeys(reply):
    return isinstance(reply, dict) and set(reply) == {"answer"}


@pytest.mark.parametrize(
    ("text", "schema", "cut", "reason"),
    [
        ("Tents.", None, False, None),
        (" \n", None, False, "empty"),
        ("Tents and", None, True, "unfinished"),
        ("Well, not found here.", None, False, "refusal"),
        ('{"answer": "Tents."}', obeys, True, None),  # an object that is whole is finished
        ('{"answer": "Ten', obeys, True, "format"),
        ('{"reply": "Tents."}', obeys, False, "format"),
        ('{"answer": "Not found."}', obeys, False, "refusal"),
        ("", obeys, False, "empty"),
    ],
)
def test_a_reply_teaches_or_it_is_said_why_not(text, schema, cut, reason):
    assert distil.unfit(text, refusal="Not found.", obeys=schema, cut=cut) == reason
    assert reason is None or reason in distil.DROPPED


def metric(value, low=0.0, high=0.0):
    return {"value": value, "low": low, "high": high, "n": 60}


def test_the_gain_is_one_sentence():
    arms = {"prompt": {"tokens_in": metric(286.0)}, "tuned": {"tokens_in": metric(74.0)}}
    found = {"tuned - prompt": {"tokens_in": metric(-212.0), "token_f1": metric(-0.012, -0.041, 0.021)}}
    made = distil.gained(arms, found, "token_f1")
    assert (made["tokens_in"], made["metric"]) == (-212, "token_f1") and made["share"] == pytest.approx(
        -0.741, abs=1e-3
    )
    assert made["sentence"] == (
        "Distilled: tuned reads 212 tokens fewer per request than prompt (−74 %), "
        "token_f1 tuned − prompt −0.01 [−0.04, 0.02]"
    )
    assert distil.gained(arms, found, "nothing")["metric"] == "token_f1"
    assert distil.gained(arms, {}, "token_f1") is None
    assert distil.gained(arms, {"tuned - prompt": {"tokens_in": metric(1.0)}}, "token_f1") is None
    longer = {"tuned - prompt": {**found["tuned - prompt"], "tokens_in": metric(10.0)}}
    assert "reads 10 tokens more per request than prompt (+3 %)" in distil.gained(arms, longer, "token_f1")["sentence"]


class Stub:
    """A generator that says what `said` makes of the last message."""

    digest = "d" * 64
    count = staticmethod(lambda chat: sum(len(m["content"].split()) for m in chat))

    def __init__(self, said):
        self.said, self.asked = said, []

    def reply(self, chats, *, max_new_tokens):
        self.asked += chats
        return [Completion(self.said(chat[-1]["content"]), 9, 3, 0.1) for chat in chats]


def corpus(tmp_path, said, **over):
    """(params, workspace, ports, questions, examples): 40 requests, ten of which are of the test."""
    split = ["train", "train", "validation", "test"]
    rows = [{"id": f"r{n:02}", "evidence": [], "split": split[n % 4]} for n in range(40)]
    learned = [row for row in rows if row["split"] != "test"]
    examples = [{**row, "prompt": f"Say {row['id']}.", "completion": f"gold {row['id']}"} for row in learned]
    asked = [row for row in rows if row["split"] == "test"]
    questions = [{**row, "question": f"Say {row['id']}.", "answers": ["x"]} for row in asked]
    generate = {"reply_schema": None, "system": "Short.", "refusal": "Not found.", "max_new_tokens": 8}
    generate |= {"prompt": {"instructions": "Long.", "shots": 2, "max_tokens": 500}}
    params = params_of(generate={**generate, **over}, mix={"teacher": "prompt", "near_duplicate": None})
    stub = Stub(said)
    objects = ObstoreObjects(str(tmp_path / "objects"))
    ports = SimpleNamespace(objects=objects, generator=lambda: stub, path=lambda text: tmp_path / text)
    workspace = workspace_with(tmp_path, questions=questions, examples=examples)
    return params, workspace, ports, questions, examples


def mixed(params, workspace, ports, questions, examples):
    teacher = Teacher(params, workspace, questions=questions, ports=ports)
    made = compose(params, examples, questions, count=Stub.count, schema=None, teach=teacher.teach)
    return *made, teacher


def test_only_what_is_learned_is_asked_and_the_replies_are_what_is_learned(tmp_path):
    def said(asked):
        return {"r00.": "", "r01.": "Not found.", "r04.": "mail me: jo.doe@gmail.com"}.get(
            asked.split()[-1], "ok " + asked
        )

    made = corpus(tmp_path, said)
    training, validation, account, teacher = mixed(*made)
    stub = made[2].generator()
    assert len(stub.asked) == 30 and not [c for c in stub.asked if any("test" in m["content"] for m in c)]
    tested = {f"Question: {q['question']}" for q in made[3]}
    assert not tested & {m["content"] for chat in stub.asked for m in chat}
    assert all(chat[0] == {"role": "system", "content": "Long."} and len(chat) == 6 for chat in stub.asked)
    assert teacher.facts == {"prompt": teacher.longer.digest, "asked": 30, "kept": 27, "dropped": {
        "empty": 1, "unfinished": 0, "format": 0, "refusal": 1, "sensitive": 1
    }}  # fmt: skip
    said_why = {(r.id, r.reason, r.because) for r in account.remarks}
    assert said_why == {("r00", "teacher", "empty"), ("r01", "teacher", "refusal"), ("r04", "teacher", "sensitive")}
    assert not any(account.dropped().values())
    assert (len(training), len(validation)) == (17, 10)
    for row in [*training, *validation]:
        question = f"Question: Say {row['id']}."
        assert [m["content"] for m in row["messages"]] == ["Short.", question, f"ok {question}"]
    assert distil.summary(teacher.facts) == "teacher: 30 asked, 3 replies dropped (1 empty, 1 refusal, 1 sensitive)"
    # Kept by content: a second run asks nothing and makes the same.
    assert mixed(*made)[:2] == (training, validation) and len(stub.asked) == 30


def test_replies_that_do_not_obey_the_schema_are_dropped(tmp_path):
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["answer"]}')
    made = corpus(tmp_path, lambda asked: '{"answer": "ok"}' if "3" in asked else "ok", reply_schema="s.json")
    training, validation, _, teacher = mixed(*made)
    kept = [row["id"] for row in [*training, *validation]]
    assert kept and all("3" in name for name in kept)
    assert teacher.facts["dropped"]["format"] == 30 - len(kept) == 30 - teacher.facts["kept"]
    assert teacher.longer.shots == ()  # no gold completion obeys the schema, so none is shown


def test_the_arm_prompt_is_asked_with_the_prompt_that_was_distilled(tmp_path):
    params, workspace, ports, questions, examples = corpus(tmp_path, lambda asked: "ok")
    *_, teacher = mixed(params, workspace, ports, questions, examples)
    how = {"questions": questions, "ports": ports}
    assert long_prompt(params, workspace, ports.generator(), **how).digest == teacher.longer.digest
    other = LongPrompt("Other.", (), "s")
    distilled_prompt(workspace).parent.mkdir(exist_ok=True)
    distilled_prompt(workspace).write_text(json.dumps(other.to_json()))
    assert long_prompt(params, workspace, ports.generator(), **how) == other
    plain = params.model_copy(update={"mix": params.mix.model_copy(update={"teacher": None})})
    assert long_prompt(plain, workspace, ports.generator(), **how).system == "Long."
    # What is distilled anew never looks at what was distilled before.
    assert mixed(params, workspace, ports, questions, examples)[3].longer.system == "Long."


@pytest.mark.parametrize("taught", [True, False])
def test_the_comparison_says_it_only_where_a_prompt_was_distilled(tmp_path, taught, monkeypatch):
    monkeypatch.setattr("pipelines.actions.compare.evidence", lambda workspace, arms: {})  # it reads every stage's
    monkeypatch.setattr("pipelines.actions.compare.params_of", lambda workspace: params_of())
    workspace = workspace_with(tmp_path)
    arms = {arm: {"token_f1": metric(0.5)} for arm in ("prompt", "tuned")}
    facts = {"questions": 60, "arms": arms, "differences": {"tuned - prompt": {"token_f1": metric(0.0)}}}
    spent = {"arms": {arm: {"tokens_in": metric(n)} for arm, n in (("prompt", 200.0), ("tuned", 50.0))}}
    spent["differences"] = {"tuned - prompt": {"tokens_in": metric(-150.0)}}
    workspace.write_receipt("score_answers", facts, spent, "")
    workspace.write_receipt("mix", {"teacher": {"kept": 3}} if taught else {}, {}, "")
    found = views.comparison(Settings(tmp_path, checkout() / "params.yaml", "local[1]"), "handbook")["distilled"]
    assert (found is not None) == taught
    assert not taught or "150 tokens fewer per request than prompt (−75 %)" in found["sentence"]


def test_the_instruction_set_is_what_its_page_says():
    rows = list(read_jsonl(FIXTURE / "requests.jsonl"))
    assert len(rows) == 208 == len({row["id"] for row in rows})
    prompts = {" ".join(row["request"].lower().split()) for row in rows}
    assert len(prompts) == 208
    assert Counter(row["split"] for row in rows) == {"train": 96, "validation": 12, "test": 100}
    schema = load_validator("reply.schema.json", SimpleNamespace(path=lambda name: FIXTURE / name))
    for row in rows:
        assert row["about"] in row["request"] and schema({"answer": row["about"], "urgent": row["urgent"]})
    assert len((FIXTURE / "instructions.txt").read_text().split()) > 150
    how = params_of().split.model_dump()
    assert sum(split_of(row, **how) == TEST for row in rows) == 100


def test_the_benchmarks_corpus_is_valid_and_its_examples_obey_their_schema(tmp_path):
    from benchmarks import distil as benchmark
    from pipelines.params import CorpusParams, corpus_block, read_raw

    benchmark.land(tmp_path)
    raw = read_raw(checkout() / "params.yaml")
    raw["corpora"] = {"fernhollow": benchmark.block(tmp_path, steps=48, shots=6, quick=False)}
    params = CorpusParams.model_validate(corpus_block(raw, "fernhollow"))
    assert params.mix.teacher == "prompt" and params.train.recipe == "distil"
    schema = load_validator(params.generate.reply_schema, SimpleNamespace(path=lambda name: FIXTURE / name))
    examples = list(read_jsonl(tmp_path / "examples.jsonl"))
    assert len(examples) == 108 and all(schema(json.loads(e["completion"])) for e in examples)
    asked = {q["question"] for q in read_jsonl(tmp_path / "questions.jsonl")}
    assert len(asked) == 100 and not asked & {e["prompt"] for e in examples}
