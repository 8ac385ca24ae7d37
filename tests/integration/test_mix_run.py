"""The mix stage whole: Great Expectations on the set that is written, questions asked for about documents, and a set
whose completions a long prompt gave."""

import json

import pytest

from pipelines.core.long_prompt import LongPrompt
from pipelines.core.nouns import Document
from pipelines.core.splits import TEST, split_of_key
from pipelines.corpus_files import CorpusFiles, document_row, write_files
from pipelines.errors import BadInput
from pipelines.few_shot import distilled_prompt
from pipelines.ports import Completion
from pipelines.schemas import read_jsonl
from pipelines.stages import mix
from tests.adapter_kit import (
    OwnGenerator,
    handbook,
    params_of,
    shuffled_answers,
    tiny_generator,
    wiring,
    workspace_with,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def definition(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("models") / "tiny")


def test_the_set_its_digest_its_remarks_and_its_page(tmp_path, definition):
    params = params_of(train={"max_tokens": 4000})
    workspace = workspace_with(tmp_path, questions=handbook("questions"), examples=handbook("examples"))
    ports = wiring(tmp_path, params, definition)
    report = mix.run(params, workspace, ports=ports)
    rows = list(read_jsonl(workspace.training / "train.jsonl"))
    assert report.facts["train"] == len(rows) == 127 and report.facts["source"] == "examples"
    assert report.facts["validation"] == len(list(read_jsonl(workspace.training / "validation.jsonl"))) == 32
    assert report.facts["screened"] == {"policy": "refuse", "found": {}}
    said = "127 training and 32 validation chats from examples, 124 of them with passages; nothing sensitive found"
    assert report.summary == said
    remarks = list(read_jsonl(workspace.training / "remarks.jsonl"))
    assert [(r["id"], r["reason"], r["dropped"]) for r in remarks] == [("services-e012", "shares_evidence", False)]
    page = tmp_path / "reports" / "handbook" / "training_docs" / "index.html"
    assert report.measured == {"data_docs": str(page)} and "training" in page.read_text()
    assert mix.run(params, workspace, ports=ports) == report
    worse = workspace_with(tmp_path / "worse", examples=shuffled_answers(handbook("examples")))
    assert mix.run(params, worse, ports=ports).facts["digest"] != report.facts["digest"]


def test_a_rows_own_split_stands_against_that_of_its_document(tmp_path, definition):
    params = params_of(generate={"reply_schema": None}, train={"max_tokens": 4000}, mix={"min_examples": 1})
    how = params.split.model_dump()
    document = next(d for d in (f"d{n}" for n in range(99)) if split_of_key(d, **how) == TEST)
    evidence = [{"document": document, "quote": "Tents last."}]
    example = {"id": "e", "prompt": "Ask?", "completion": "Say.", "evidence": evidence, "split": "train"}
    ports = wiring(tmp_path, params, definition)
    said = workspace_with(tmp_path / "said", examples=[example])
    assert mix.run(params, said, ports=ports).facts["train"] == 1
    question = {"id": "q", "question": "Do tents last?", "answers": ["Yes."], "evidence": evidence}
    counted_on = workspace_with(tmp_path / "counted", examples=[example], questions=[question])
    with pytest.raises(BadInput, match="rests on a document of a stricter split, in 1 chats: e"):
        mix.run(params, counted_on, ports=ports)


def test_an_expectation_that_fails_refuses_the_set_and_leaves_what_was_there(tmp_path, definition):
    params = params_of(train={"max_tokens": 4000})
    first, *rest = handbook("examples")
    twice = [{**first, "id": rest[3]["id"]}, *rest]
    workspace = workspace_with(tmp_path, examples=twice)
    (workspace.training).mkdir()
    (workspace.training / "train.jsonl").write_text("as it was")
    with pytest.raises(
        BadInput, match=r"the training set is refused: id occurs more than once, in 2 chats: desk-e005,"
    ):
        mix.run(params, workspace, ports=wiring(tmp_path, params, definition))
    assert (workspace.training / "train.jsonl").read_text() == "as it was"


def test_replies_that_are_no_pairs_train_nothing_and_are_asked_for_once(tmp_path, definition):
    """A corpus without questions and examples, and a model that says nothing sensible."""
    params = params_of(
        generate={"reply_schema": None, "max_new_tokens": 8},
        mix={"synthetic": {"per_document": 1, "max_documents": 2}},
    )
    workspace = workspace_with(tmp_path)
    documents = [Document(f"d{n}", "T", f"Document {n} says. " * 12, "text/plain", f"d{n}") for n in range(20)]
    write_files(workspace.versioned, CorpusFiles([document_row(d) for d in documents], [], [], []))
    ports = wiring(tmp_path, params, definition)
    report = mix.run(params, workspace, ports=ports)
    assert report.facts["source"] == "documents"
    assert report.facts["synthetic"] == {
        "asked": 2,
        "kept": 0,
        "dropped": {"unread": 2, "unsupported": 0, "ungrounded": 0},
        "restricted": 0,
    }
    assert report.facts["skipped"].startswith("0 training examples")
    kept = ports.objects.list("answers/")
    assert len(kept) == 2
    assert mix.run(params, workspace, ports=ports) == report and ports.objects.list("answers/") == kept


def test_restricted_documents_are_not_asked_about(tmp_path, definition):
    documents = [
        Document(f"d{n}", "T", f"Document {n} says. " * 12, "text/plain", f"d{n}", access="hr" if n % 2 else "public")
        for n in range(20)
    ]
    found = {}
    for labels in ((), ("hr",)):
        params = params_of(
            generate={"reply_schema": None, "max_new_tokens": 8},
            mix={"synthetic": {"per_document": 1, "max_documents": 20}, "labels": labels},
        )
        workspace = workspace_with(tmp_path / "-".join(("with", *labels)))
        write_files(workspace.versioned, CorpusFiles([document_row(d) for d in documents], [], [], []))
        report = mix.run(params, workspace, ports=wiring(tmp_path, params, definition))
        found[labels] = (report.facts["synthetic"]["asked"], report.facts["synthetic"]["restricted"])
        withheld = "restricted documents were not asked about" in report.summary
        assert withheld is not bool(labels)
    asked, restricted = found[()]
    assert asked and restricted and found[("hr",)] == (asked + restricted, 0)


def test_a_teacher_that_says_nothing_sensible_leaves_no_set_and_says_so(tmp_path, definition):
    params = params_of(
        generate={"reply_schema": None, "max_new_tokens": 2, "prompt": {"shots": 1, "max_tokens": 4000}},
        mix={"teacher": "prompt"},
        train={"max_tokens": 4000},
    )
    examples = handbook("examples")[:12]
    workspace = workspace_with(tmp_path, questions=handbook("questions"), examples=examples)
    ports = wiring(tmp_path, params, definition)
    report = mix.run(params, workspace, ports=ports)
    taught = report.facts["teacher"]
    assert taught["asked"] > 0 == taught["kept"] and sum(taught["dropped"].values()) == taught["asked"]
    assert "skipped: 0 training examples" in report.summary and "replies dropped (" in report.summary
    assert len(ports.objects.list("answers/")) == taught["asked"] and not distilled_prompt(workspace).exists()


class Taught(OwnGenerator):
    """The real wiring, with a model that replies in the house's form to what it is asked."""

    def generator(self, adapter=None):
        found = super().generator(adapter)
        form = {"citations": [], "tone": "neutral", "next_step": "none"}

        def reply(chats, max_new_tokens):
            said = ({"answer": f"As to {chat[-1]['content'].split()[-1]}", **form} for chat in chats)
            return [Completion(json.dumps(one), 9, 9, 0.1) for one in said]

        found.reply = reply
        return found


def test_a_set_that_a_long_prompt_taught(tmp_path, definition):
    params = params_of(mix={"teacher": "prompt"}, generate={"prompt": {"shots": 2, "max_tokens": 9000}})
    params = params.model_copy(update={"train": params.train.model_copy(update={"max_tokens": 4000})})
    workspace = workspace_with(tmp_path, questions=handbook("questions"), examples=handbook("examples"))
    ports = Taught(wiring(tmp_path, params).settings, "handbook", params)
    ports.definition = definition
    report = mix.run(params, workspace, ports=ports)
    taught = report.facts["teacher"]
    assert taught["asked"] == taught["kept"] == report.facts["train"] + report.facts["validation"]
    assert "teacher: 159 asked, every reply kept" in report.summary
    prompt = LongPrompt.of(json.loads(distilled_prompt(workspace).read_text()))
    assert prompt.digest == taught["prompt"] and len(prompt.shots) == 4
    for row in read_jsonl(workspace.training / "train.jsonl"):
        system, asked, reply = row["messages"]
        assert system["content"] == params.generate.system and "Passages:" not in asked["content"]
        assert json.loads(reply["content"])["answer"] == f"As to {asked['content'].split()[-1]}"
    assert mix.run(params, workspace, ports=ports) == report
    plain = params.model_copy(update={"mix": params.mix.model_copy(update={"teacher": None})})
    assert "teacher" not in mix.run(plain, workspace, ports=ports).facts
    assert not distilled_prompt(workspace).exists()
