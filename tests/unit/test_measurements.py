"""`assay measure` on corpora that a measurement says nothing of: named and left out, not the end of the others."""

import pytest

from pipelines.actions import measure, measure_learning
from pipelines.core.nouns import Document
from pipelines.corpus_files import CorpusFiles, document_row, write_files
from pipelines.errors import BackendError, NotMeasurable
from pipelines.measurements import held
from pipelines.wiring import Wiring
from tests import release_kit as kit

FACTS = {"collection": "b_tiny_0", "key": "builds/b_tiny_0", "rows": 1, "documents": 1}


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A scored corpus of queries: no question rests on a document, and nothing was trained. Only `learning` applies,
    and is not really made here."""
    wiring = Wiring.of(kit.home(tmp_path), kit.CORPUS)
    rows = [document_row(Document("town", "Town", "Table town", "text/plain", "town"))]
    questions = [
        {"id": f"q{n}", "question": f"Count {n}.", "answers": [f"SELECT {n}"], "evidence": [], "split": "test"}
        for n in range(2)
    ]
    write_files(wiring.workspace.versioned, CorpusFiles(rows, questions, [], []))
    kit.scored(wiring, FACTS)
    monkeypatch.setattr(measure, "_record", lambda *args: "run")
    monkeypatch.setattr(measure_learning, "measure", lambda subject: {"metric": subject.primary, "rows": []})
    return wiring


def test_what_does_not_apply_is_said_and_the_next_is_made(task):
    assert list(measure.measure_corpus(task.settings, kit.CORPUS)) == [
        "freshness: does not apply: tiny: no test question's answer stands verbatim in its document",
        "learning: measured in 0 s",
        "extraction: does not apply: tiny has no adapter: no text was trained on that could be recovered",
    ]
    assert list(held(task.workspace)) == ["learning"]


@pytest.mark.parametrize("name", ["freshness", "extraction"])
def test_asked_for_by_name_it_fails(task, name):
    with pytest.raises(NotMeasurable, match=r"stands verbatim in its document|has no adapter") as error:
        list(measure.measure_corpus(task.settings, kit.CORPUS, [name]))
    assert error.value.exit_code == 2


def test_a_corpus_that_none_applies_to_fails(task, monkeypatch):
    def nothing(subject):
        raise NotMeasurable("tiny asks nothing")

    monkeypatch.setattr(measure_learning, "measure", nothing)
    with pytest.raises(NotMeasurable, match="tiny: none of the measurements freshness, learning, extraction applies"):
        list(measure.measure_corpus(task.settings, kit.CORPUS))


def test_a_failure_is_not_hidden(task, monkeypatch):
    def fails(subject):
        raise BackendError("the copy failed")

    monkeypatch.setattr(measure_learning, "measure", fails)
    said = measure.measure_corpus(task.settings, kit.CORPUS)
    assert next(said).startswith("freshness: does not apply")
    with pytest.raises(BackendError, match="the copy failed"):
        next(said)
