"""The training set: no test question and no test document in it, stable, and honest about what it dropped."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import mixing
from pipelines.core.prompts import first_object, normalised
from pipelines.core.splits import TEST, TRAIN, documents_of, split_of, split_of_key
from pipelines.errors import BadConfig, BadInput
from pipelines.reply_schema import load_validator
from pipelines.schemas import read_jsonl
from pipelines.settings import checkout
from pipelines.stages.mix import compose, run
from tests.adapter_kit import handbook, params_of, shuffled_answers, workspace_with

PORTS = SimpleNamespace(
    path=lambda text: checkout() / text, generator=lambda: SimpleNamespace(count=lambda chat: len(str(chat)) // 4)
)
STYLE = mixing.Style("", "none", structured=False, context_share=1.0, distractors=2, seed=7)


def count(chat):
    return sum(len(m["content"].split()) for m in chat)


def mixed(params, examples, questions, *, schema=None):
    return compose(params, examples, questions, count=count, schema=schema)


def of(split, n, **over):
    """n examples whose document is in `split`, of the handbook's params."""
    how = params_of().split.model_dump()
    names = (f"d{i}" for i in range(10_000))
    documents = [d for d in names if split_of_key(d, **how) == split][:n]
    evidence = [[{"document": d, "quote": f"Quote of {d}."}] for d in documents]
    return [
        {"id": f"{split}-{d}", "prompt": f"Ask {d}?", "completion": f"Say {d}.", "evidence": e, **over}
        for d, e in zip(documents, evidence, strict=True)
    ]


def test_handbook_holds_nothing_of_the_test():
    params = params_of()
    how = params.split.model_dump()
    examples, questions = handbook("examples"), handbook("questions")
    schema = load_validator(params.generate.reply_schema, PORTS)
    training, validation, dropped = mixed(params, examples, questions, schema=schema)
    assert len(training) >= 100 and validation and not any(dropped.values())
    tested = {d for e in [*examples, *questions] for d in documents_of(e) if split_of_key(d, **how) == TEST}
    asked = {normalised(q["question"]) for q in questions if split_of(q, **how) == TEST}
    assert tested and asked
    quoted = [e["quote"] for x in [*examples, *questions] for e in x["evidence"] if e["document"] in tested]
    for row in [*training, *validation]:
        prompt = row["messages"][-2]["content"]
        heads = {line.partition("] ")[2] for line in prompt.splitlines() if line.startswith("[")}
        assert not heads & tested, row["id"]
        assert normalised(prompt.rpartition("Question: ")[2]) not in asked
        assert not [q for q in quoted if q in prompt], row["id"]


def test_handbook_completions_cite_what_they_were_shown():
    params = params_of(mix={"context_share": 0.6})
    training, _, _ = mixed(params, handbook("examples"), handbook("questions"))
    shown = [row for row in training if "Passages:" in row["messages"][-2]["content"]]
    assert 0.4 < len(shown) / len(training) < 0.75  # context_share 0.6; a few have no quotes to show
    for row in shown:
        for cited in first_object(row["messages"][-1]["content"])["citations"]:
            assert f"] {cited}\n" in row["messages"][-2]["content"]


def test_rows_that_say_their_split_are_taken_at_their_word():
    rows = [
        {"id": f"q{n}", "question": f"Ask {n}?", "answers": [f"SELECT {n}"], "evidence": [], "split": split}
        for n, split in enumerate(("train", "train", "validation", "test"))
    ]
    rows.append({"id": "q9", "question": "Ask 3?", "answers": ["SELECT 9"], "evidence": [], "split": "train"})
    examples = [mixing.from_question(row, structured=False, refusal="") for row in rows]
    training, validation, dropped = mixed(params_of(generate={"reply_schema": None}), examples, rows)
    assert [row["id"] for row in training] == ["q0", "q1"] and [row["id"] for row in validation] == ["q2"]
    assert dropped["test_question"] == 1  # q9 asks what the test asks


@pytest.mark.parametrize("revision", ["2026-04-20", "2026-09-07"])
def test_a_later_revision_trains_nothing_anew(revision):
    params = params_of()
    first = handbook("questions")
    later = {q["id"]: q for q in [*first, *handbook("questions", revision)]}
    assert list(later.values()) != first
    assert mixed(params, handbook("examples"), first) == mixed(params, handbook("examples"), list(later.values()))


def test_a_refusal_is_shown_distractors_only():
    params = params_of(
        mix={"context_share": 1.0, "distractors": 2}, generate={"reply_schema": None, "refusal": "Not found."}
    )
    refusals = [{"id": f"r{n}", "prompt": f"Odd {n}?", "completion": "Not found.", "evidence": []} for n in range(9)]
    training, validation, _ = mixed(params, [*of(TRAIN, 12), *refusals], [])
    rows = [row for row in [*training, *validation] if row["id"].startswith("r")]
    assert rows
    for row in rows:
        assert row["messages"][-2]["content"].count("Quote of ") == 2


def test_distractors_are_of_other_documents_and_evidence_is_always_there():
    params = params_of(mix={"context_share": 1.0, "distractors": 3}, generate={"reply_schema": None})
    training, _, _ = mixed(params, of(TRAIN, 20), [])
    places = set()
    for row in training:
        document = row["id"].partition("-")[2]
        heads = [line[4:] for line in row["messages"][-2]["content"].splitlines() if line.startswith("[")]
        assert len(heads) == len(set(heads)) == 4 and document in heads
        places.add(heads.index(document))
    assert len(places) > 2  # the evidence stands anywhere


def test_without_context_nothing_is_shown():
    params = params_of(mix={"context_share": 0.0}, generate={"reply_schema": None})
    training, _, _ = mixed(params, of(TRAIN, 5), [])
    assert [row["messages"][-2]["content"] for row in training] == [f"Question: Ask {r['id'][6:]}?" for r in training]


def test_everything_dropped_is_counted():
    params = params_of(train={"max_tokens": 64})
    good = of(TRAIN, 4, completion='{"answer": "a"}')
    rows = [
        *good,
        {**good[0], "id": "again", "prompt": "  ask D" + good[0]["prompt"][5:] + "!"},
        {**good[1], "id": "leak", "prompt": "Tested question"},
        {**good[2], "id": "broken", "prompt": "Broken?", "completion": "no json"},
        {**good[3], "id": "long", "prompt": "word " * 80},
        *of(TEST, 3),
    ]
    tested = {**of(TEST, 1)[0], "question": "tested QUESTION?", "answers": ["x"]}
    training, validation, dropped = mixed(params, rows, [tested], schema=lambda reply: reply == {"answer": "a"})
    assert [row["id"] for row in training] == sorted(e["id"] for e in good) and validation == []
    assert dropped == {"repeated": 1, "test_question": 1, "format": 1, "too_long": 1}


def test_messages_are_taken_as_they_are():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    (row,) = mixed(params_of(generate={"reply_schema": None}), of(TRAIN, 1, messages=messages), [])[0]
    assert row["messages"] == messages and row["tokens"] == 2


def test_questions_stand_in_for_examples():
    question = {"id": "q", "question": "How long?", "answers": ["5 years", "five"], "evidence": [{"document": "d"}]}
    plain = mixing.from_question(question, structured=False, refusal="No.")
    assert (plain["prompt"], plain["completion"]) == ("How long?", "5 years")
    assert json.loads(mixing.from_question(question, structured=True, refusal="No.")["completion"]) == {
        "answer": "5 years",
        "citations": ["d"],
    }
    unanswerable = {**question, "answers": [], "evidence": []}
    assert mixing.from_question(unanswerable, structured=False, refusal="No.")["completion"] == "No."
    told = mixing.from_question({**question, "context": "All about d."}, structured=False, refusal="No.")
    assert told["evidence"] == [{"document": "d", "quote": "All about d."}]
    assert mixing.as_chat(plain, [], style=STYLE)[0]["content"] == "Question: How long?"  # no quote, no context


def test_an_example_without_id_is_named_by_its_content():
    one, two = mixing.with_id({"prompt": "a", "completion": "b"}), mixing.with_id({"prompt": "a", "completion": "c"})
    assert one["id"] != two["id"] and one == mixing.with_id({"prompt": "a", "completion": "b"})


def test_run_writes_the_set_and_its_digest(tmp_path):
    params = params_of(train={"max_tokens": 4000})
    workspace = workspace_with(tmp_path, questions=handbook("questions"), examples=handbook("examples"))
    report = run(params, workspace, ports=PORTS)
    rows = list(read_jsonl(workspace.training / "train.jsonl"))
    assert report.facts["train"] == len(rows) >= 100 and report.facts["source"] == "examples"
    assert report.facts["validation"] == len(list(read_jsonl(workspace.training / "validation.jsonl")))
    assert run(params, workspace, ports=PORTS) == report
    worse = workspace_with(tmp_path / "worse", examples=shuffled_answers(handbook("examples")))
    assert run(params, worse, ports=PORTS).facts["digest"] != report.facts["digest"]


def test_too_few_examples_are_no_training_set(tmp_path):
    workspace = workspace_with(tmp_path, examples=of(TRAIN, 3))
    params = params_of(generate={"reply_schema": None})
    report = run(params, workspace, ports=PORTS)
    assert report.facts["skipped"] == "3 training examples, at least 16 are needed (mix.min_examples)"
    assert (workspace.training / "train.jsonl").read_text() == ""


def test_no_questions_and_no_examples(tmp_path):
    report = run(params_of(), workspace_with(tmp_path), ports=PORTS)
    assert report.facts["skipped"].startswith("0 training examples")


def test_completions_that_never_obey_the_schema_are_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no training example's completion obeys"):
        run(params_of(), workspace_with(tmp_path, examples=of(TRAIN, 20)), ports=PORTS)


@pytest.mark.parametrize("text", [None, "{", '{"type": 5}'])
def test_an_unusable_schema_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "s.json").write_text(text)
    with pytest.raises(BadConfig, match=r"generate\.reply_schema is 's\.json', which is no JSON schema"):
        load_validator("s.json", SimpleNamespace(path=lambda name: tmp_path / name))


@given(st.lists(st.text(max_size=3), min_size=2, max_size=20))
def test_shuffled_answers_keep_the_answers_and_move_each(texts):
    rows = [{"id": n, "prompt": str(n), "completion": f"{n}{text}"} for n, text in enumerate(texts)]
    dealt = shuffled_answers(rows)
    assert sorted(r["completion"] for r in dealt) == sorted(r["completion"] for r in rows)
    assert all(a["completion"] != b["completion"] and a["id"] == b["id"] for a, b in zip(dealt, rows, strict=True))
