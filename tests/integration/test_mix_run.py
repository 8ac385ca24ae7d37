"""The mix stage whole: Great Expectations on the set that is written, and questions asked for about documents."""

import pytest

from pipelines.core.nouns import Document
from pipelines.corpus_files import CorpusFiles, document_row, write_files
from pipelines.errors import BadInput
from pipelines.schemas import read_jsonl
from pipelines.stages import mix
from tests.adapter_kit import handbook, params_of, shuffled_answers, tiny_generator, wiring, workspace_with

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
    assert report.summary == "127 training and 32 validation chats from examples; nothing sensitive found"
    remarks = list(read_jsonl(workspace.training / "remarks.jsonl"))
    assert [(r["id"], r["reason"], r["dropped"]) for r in remarks] == [("services-e012", "shares_evidence", False)]
    page = tmp_path / "reports" / "handbook" / "training_docs" / "index.html"
    assert report.measured == {"data_docs": str(page)} and "training" in page.read_text()
    assert mix.run(params, workspace, ports=ports) == report
    worse = workspace_with(tmp_path / "worse", examples=shuffled_answers(handbook("examples")))
    assert mix.run(params, worse, ports=ports).facts["digest"] != report.facts["digest"]


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
    }
    assert report.facts["skipped"].startswith("0 training examples")
    kept = ports.objects.list("answers/")
    assert len(kept) == 2
    assert mix.run(params, workspace, ports=ports) == report and ports.objects.list("answers/") == kept
