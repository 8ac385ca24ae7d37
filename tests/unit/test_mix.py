"""The training set: no test question and no test document in it, stable, and honest about what it dropped."""

import json
import re
from itertools import combinations
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import mixing
from pipelines.core.digests import digest_json
from pipelines.core.prompts import first_object, normalised
from pipelines.core.splits import TEST, TRAIN, VALIDATION, documents_of, split_of, split_of_key
from pipelines.errors import BadConfig, BadInput
from pipelines.reply_schema import load_validator
from pipelines.settings import checkout
from pipelines.stages.mix import compose, run
from tests.adapter_kit import handbook, params_of, shuffled_answers, workspace_with

PORTS = SimpleNamespace(
    path=lambda text: checkout() / text, base_generator=lambda: SimpleNamespace(count=lambda chat: len(str(chat)) // 4)
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
    training, validation, account = mixed(params, examples, questions, schema=schema)
    assert len(training) >= 100 and validation and not any(account.dropped().values()) and not account.found
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
    assert dropped.dropped()["test_question"] == 1  # q9 asks what the test asks


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


def test_everything_dropped_is_counted_and_named():
    params = params_of(
        train={"max_tokens": 64}, mix={"sensitive": "drop", "context_share": 0.0}, generate={"system": ""}
    )
    good = of(TRAIN, 7, completion='{"answer": "a"}')
    long = {**good[0], "id": "a-first", "prompt": " ".join(f"word{n}" for n in range(40))}
    kept = [long, *good]
    tested = {
        "id": "t",
        "question": "tested QUESTION?",
        "answers": ["x"],
        "evidence": [
            {"document": of(TEST, 1)[0]["evidence"][0]["document"], "quote": "One two three four five six seven eight."}
        ],
    }
    rows = [
        *kept,
        {**good[0], "id": "z-again", "prompt": "  ask D" + good[0]["prompt"][5:] + "!"},
        {**good[1], "id": "leak", "prompt": "Tested question"},
        {**good[2], "id": "quoted", "prompt": "Is it: one, two, three, four, five, six, seven, eight?"},
        {**good[3], "id": "broken", "prompt": "Broken?", "completion": "no json"},
        {**good[4], "id": "z-near", "prompt": long["prompt"] + " word40"},
        {**good[5], "id": "mail", "prompt": "Write to jane.doe@gmail.com or not?"},
        {**good[6], "id": "long", "prompt": "word " * 80},
        {**good[0], "id": "secret", "evidence": [{**good[0]["evidence"][0], "access": "hr"}]},
        *of(TEST, 3),
    ]
    training, validation, account = mixed(params, rows, [tested], schema=lambda reply: reply == {"answer": "a"})
    assert [row["id"] for row in training] == sorted(e["id"] for e in kept) and validation == []
    assert account.dropped() == dict.fromkeys(mixing.DROPPED, 1)
    said = {remark.id: (remark.reason, remark.because) for remark in account.remarks}
    assert said == {
        "secret": ("restricted", f"rests on {good[0]['evidence'][0]['document']}, labelled hr"),
        "z-again": ("repeated", f"as {good[0]['id']}"),
        "leak": ("test_question", f"is {tested['id']}"),
        "quoted": ("contaminated", f"holds 1.00 of the words of {tested['id']}'s evidence"),
        "broken": ("format", "the reply does not obey generate.reply_schema"),
        "z-near": ("near_duplicate", f"like {long['id']}"),
        "mail": ("sensitive", "Write to [e-mail address]"),
        "long": ("too_long", "83 tokens"),
    }
    assert account.found == {"e-mail address": 1}


def closed(examples, label="hr"):
    return [{**e, "evidence": [{**entry, "access": label} for entry in e["evidence"]]} for e in examples]


def test_what_rests_on_restricted_documents_is_not_trained_on_unless_its_label_is_allowed():
    """Not as a question, not as its passage, not as another's distractor: its words are nowhere in the set."""
    secret = [{**e, "prompt": f"Secret {e['id']}?"} for e in closed(of(TRAIN, 30)[20:])]
    unknown = closed(of(TRAIN, 31)[30:], label="")
    examples = [*of(TRAIN, 20), *secret, *unknown]

    def made(*labels):
        mix = {"context_share": 1.0, "distractors": 3, "labels": labels}
        training, validation, account = mixed(params_of(mix=mix, generate={"reply_schema": None}), examples, [])
        return str([*training, *validation]), len(training), account.dropped()["restricted"]

    said, trained, dropped = made()
    assert (trained, dropped) == (20, 11)
    assert not any(e["evidence"][0]["quote"] in said or e["prompt"] in said for e in [*secret, *unknown])
    assert made("board") == (said, 20, 11)
    said, trained, dropped = made("board", "hr")
    assert (trained, dropped) == (30, 1)  # one whose label is not known stays out whatever is allowed
    assert all(e["evidence"][0]["quote"] in said for e in secret)
    assert unknown[0]["evidence"][0]["quote"] not in said


def test_the_report_says_what_access_labels_kept_out(tmp_path):
    workspace = workspace_with(tmp_path, examples=[*of(TRAIN, 3), *closed(of(TRAIN, 5)[3:])])
    report = run(params_of(generate={"reply_schema": None}), workspace, ports=PORTS)
    assert report.facts["dropped"]["restricted"] == 2
    assert report.summary.endswith("(mix.min_examples); 2 examples rest on restricted documents")
    remarks = [json.loads(line) for line in (workspace.training / "remarks.jsonl").read_text().splitlines()]
    assert {remark["reason"] for remark in remarks} == {"restricted"} and len(remarks) == 2


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
    assert mixing.passages(plain, [], style=STYLE) == []  # no quote, no context
    assert mixing.as_chat(plain, [], system="")[0]["content"] == "Question: How long?"


def test_gold_questions_whose_documents_are_named_without_quotes_are_trained_with_passages():
    """As a BEIR folder has them: fetch put the document's passage beside the evidence."""
    questions = [
        {
            **row,
            "question": f"What of {row['id']}?",
            "answers": ["it"],
            "evidence": [
                {"document": row["evidence"][0]["document"], "relevance": 1, "context": f"Passage of {row['id']}."}
            ],
        }
        for row in of(TRAIN, 20)
    ]
    examples = [mixing.from_question(row, structured=False, refusal="none") for row in questions]
    params = params_of(
        mix={"context_share": 1.0, "oracle_share": 1.0, "distractors": 1}, generate={"reply_schema": None}
    )
    training, _, account = mixed(params, examples, questions)
    assert account.shown == len(training) == 20
    assert all(f"Passage of {row['id']}." in row["messages"][-2]["content"] for row in training)
    unsaid = [{**e, "evidence": [{"document": e["evidence"][0]["document"], "quote": ""}]} for e in examples]
    bare, _, none = mixed(params, unsaid, [])
    assert none.shown == 0 and len(bare) == 20


def test_an_example_without_id_is_named_by_its_content():
    one, two = mixing.with_id({"prompt": "a", "completion": "b"}), mixing.with_id({"prompt": "a", "completion": "c"})
    assert one["id"] != two["id"] and one == mixing.with_id({"prompt": "a", "completion": "b"})


def test_the_handbooks_set_is_what_it_was():
    """The demo's training set by the shipped params. It changes with its examples, with the prompt's template and with
    the params, and with nothing else: screens and RAFT leave it as it was before there were any."""
    schema = load_validator(params_of().generate.reply_schema, PORTS)
    training, validation, _ = mixed(params_of(), handbook("examples"), handbook("questions"), schema=schema)
    said = [[[row["id"], row["messages"]] for row in rows] for rows in (training, validation)]
    assert (len(training), len(validation)) == (127, 32)
    assert digest_json(said) == "9b5a0cf7b153e0d5b66ccffb775d7af3efecd90ea887830ab2085574536b40c3"


def test_without_the_evidence_as_many_distractors_are_shown_and_the_reply_stays():
    def shown(oracle_share):
        mix = {"context_share": 1.0, "distractors": 2, "oracle_share": oracle_share}
        training, _, _ = mixed(params_of(mix=mix, generate={"reply_schema": None}), of(TRAIN, 60), [])
        prompts = {row["id"]: row["messages"][-2]["content"] for row in training}
        assert all(row["messages"][-1]["content"] == f"Say {row['id'][6:]}." for row in training)
        assert all(prompt.count("Quote of ") == 3 for prompt in prompts.values())
        return {key: f"Quote of {key[6:]}." in prompt for key, prompt in prompts.items()}

    assert all(shown(1.0).values()) and not any(shown(0.0).values())
    some, more = shown(0.5), shown(0.8)
    assert 20 <= sum(some.values()) <= 40 and 40 <= sum(more.values()) <= 56
    assert all(more[key] for key, held in some.items() if held)  # a larger share takes none away


def test_what_validation_asks_is_not_trained_on():
    """In words of eight or more as part of a text, in fewer as the whole prompt; validation rows may say it."""
    longer = "How long is the blue tent in the window guaranteed?"
    documents = {split: of(split, 1)[0]["evidence"] for split in (TRAIN, VALIDATION)}
    asked = [
        {"id": f"v{n}", "question": text, "answers": ["x"], "evidence": documents[VALIDATION]}
        for n, text in enumerate(("How long?", longer))
    ]
    said = ("How long!", f"Well: {longer.upper()}", "How long is it?")
    rows = [
        {"id": f"{split}{n}", "prompt": text, "completion": f"{split} {n}", "evidence": evidence}
        for split, evidence in documents.items()
        for n, text in enumerate(said)
    ]
    training, validation, account = mixed(params_of(generate={"reply_schema": None}), rows, asked)
    assert [row["id"] for row in training] == ["train2"] and len(validation) == 3
    assert [(r.id, r.reason, r.because) for r in account.remarks] == [
        ("train0", "contaminated", "is v0"),
        ("train1", "contaminated", "holds 1.00 of the words of v1's question"),
    ]
    assert mixed(params_of(generate={"reply_schema": None}), rows[2:], [])[0] == training  # nothing else is changed


def test_personal_data_is_refused_by_name_unless_allowed_dropped_or_reported():
    letter = {"id": "letter", "prompt": "Is it jane.doe@gmail.com or +44 20 7946 0958?", "completion": "Yes."}
    token = {"id": "token", "prompt": "Is it so?", "completion": "ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789"}
    rows = [*of(TRAIN, 3), *({**e, "evidence": of(TRAIN, 1)[0]["evidence"]} for e in (letter, token))]

    def made(**mix):
        return mixed(params_of(generate={"reply_schema": None}, mix=mix), rows, [])

    with pytest.raises(BadInput) as error:
        made()
    assert str(error.value) == (
        "personal data or secrets in 2 training examples: letter (e-mail address, phone number), token (secret: GitHub "
        "Token); take them out, name what is harmless in mix.allow, or set mix.sensitive to drop or report"
    )
    assert len(made(allow=[".*@gmail.com", r"\+44.*", "ghp_.*"])[0]) == 5
    training, _, account = made(sensitive="drop")
    assert len(training) == 3 and account.dropped()["sensitive"] == 2
    training, _, account = made(sensitive="report")
    assert len(training) == 5 and account.dropped()["sensitive"] == 0
    assert account.found == {"e-mail address": 1, "phone number": 1, "secret: GitHub Token": 1}
    said = str(account)
    assert "Is it [e-mail address]; or [phone number]" in said and "gmail" not in said and "7946" not in said


def test_what_only_a_test_document_says_is_not_trained_on_and_what_both_say_is_told():
    quote = "The blue tent has a warranty of seven years from today."
    tested, trained = of(TEST, 1)[0]["evidence"][0]["document"], of(TRAIN, 1)[0]["evidence"][0]["document"]
    rows = [*of(TRAIN, 3), {**of(TRAIN, 4)[3], "id": "same", "completion": quote.upper()}]

    def made(*documents):
        evidence = [{"document": document, "quote": quote} for document in documents]
        question = {"id": "q", "question": "How long?", "answers": ["7 years"], "evidence": evidence}
        training, _, account = mixed(params_of(generate={"reply_schema": None}), rows, [question])
        return len(training), [(r.id, r.reason, r.dropped) for r in account.remarks]

    assert made(tested) == (3, [("same", "contaminated", True)])
    # A training document says it as well: training may, and the reader is told.
    assert made(tested, trained) == (3, [("same", "contaminated", True)])
    question = {"id": "q", "question": "How long?", "answers": [], "evidence": [
        {"document": tested, "quote": "Something else."}, {"document": trained, "quote": quote}
    ]}  # fmt: skip
    training, _, account = mixed(params_of(generate={"reply_schema": None}), rows, [question])
    assert len(training) == 4 and [(r.id, r.reason, r.dropped) for r in account.remarks] == [
        ("same", "shares_evidence", False)
    ]


WORDS = st.lists(st.sampled_from(["red", "tent", "blue", "boot", "snow", "how"]), min_size=1, max_size=12).map(" ".join)
EVIDENCE = st.lists(
    st.fixed_dictionaries({"document": st.sampled_from([f"d{n}" for n in range(12)]), "quote": WORDS}), max_size=2
)
EXAMPLES = st.lists(st.fixed_dictionaries({"prompt": WORDS, "completion": WORDS, "evidence": EVIDENCE}), max_size=20)
QUESTIONS = st.lists(
    st.fixed_dictionaries({"question": WORDS, "answers": st.lists(WORDS, max_size=1), "evidence": EVIDENCE}), max_size=8
)


def held(text, said, *, words):
    """Share of a text's words that stand in runs of `words` words that `said` has too, by looking for each run."""
    own, where = text.split(), f" {' '.join(re.findall(r'[a-z]+', said.lower()))} "
    places = set()
    for at in range(len(own) - words + 1):
        if f" {' '.join(own[at : at + words])} " in where:
            places.update(range(at, at + words))
    return len(places) / len(own)


def alike(one, other):
    """The smaller of the Jaccard indices of prompts and of completions, by runs of three normalised words."""

    def runs(text):
        words = normalised(text).split()
        return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}

    pairs = [(runs(one[part]), runs(other[part])) for part in ("prompt", "completion")]
    return min(len(a & b) / len(a | b) for a, b in pairs)


@settings(deadline=None, max_examples=30)
@given(EXAMPLES, QUESTIONS, st.integers(0, 99), st.floats(0, 1), st.integers(0, 2), st.randoms(use_true_random=False))
def test_no_training_set_holds_the_test_or_anything_twice(examples, questions, seed, oracle_share, distractors, order):
    mix = {"oracle_share": oracle_share, "distractors": distractors, "contamination": {"words": 4, "share": 0.8}}
    params = params_of(mix=mix, split={"seed": seed}, generate={"reply_schema": None})
    how = params.split.model_dump()
    examples = [{"id": f"e{n:02}", **example} for n, example in enumerate(examples)]
    questions = [{"id": f"q{n}", **question} for n, question in enumerate(questions)]
    training, validation, account = mixed(params, examples, questions)
    for split, rows in ((TRAIN, training), (VALIDATION, validation)):
        kept = [next(e for e in examples if e["id"] == row["id"]) for row in rows]
        rested = [split_of_key(d, **how) for e in kept for d in documents_of(e)]
        assert all(found in (TRAIN, split) for found in rested)
    learned = [next(e for e in examples if e["id"] == row["id"]) for row in [*training, *validation]]
    tested = [q for q in questions if split_of(q, **how) == TEST]
    secret = [q["question"] for q in tested] + [
        entry["quote"] for q in tested for entry in q["evidence"] if split_of_key(entry["document"], **how) == TEST
    ]
    for row, example in zip([*training, *validation], learned, strict=True):
        assert normalised(example["prompt"]) not in {normalised(q["question"]) for q in tested}
        assert all(held(text, m["content"], words=4) < 0.8 for text in secret for m in row["messages"][1:])
    assert all(alike(a, b) < 0.8 for a, b in combinations(learned, 2))
    left = {remark.id for remark in account.remarks if remark.dropped}
    others = {e["id"] for e in examples if split_of(e, **how) != TEST}
    assert left | {row["id"] for row in [*training, *validation]} == others  # each is trained on, or it is said why not
    order.shuffle(examples)
    order.shuffle(questions)
    assert mixed(params, examples, questions)[:2] == (training, validation)


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
