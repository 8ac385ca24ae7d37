"""assay new: a block in params.yaml and nothing else."""

import difflib
from pathlib import Path

import pytest

from pipelines import params
from pipelines.actions.new import add_corpus
from pipelines.errors import BadConfig, BadInput
from pipelines.settings import Settings, checkout


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "project" / "checkout"
    (folder / "docs").mkdir(parents=True)
    (folder / "params.yaml").write_text((checkout() / "params.yaml").read_text())
    (tmp_path / "project" / "beside").mkdir()
    (tmp_path / "far").mkdir()
    return Settings(tmp_path / "home", folder / "params.yaml", "local[1]")


def test_only_the_block_is_added(place):
    before = place.params_file.read_text().splitlines()
    add_corpus(place, "faq_en", documents=place.params_file.parent / "docs")
    after = place.params_file.read_text().splitlines()
    changes = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert changes == ["+   faq_en:", "+     source:", "+       documents: docs"]
    assert params.load_corpus(place.params_file, "faq_en").chunk.max_tokens == 254


@pytest.mark.parametrize(
    ("where", "written"), [("checkout/docs", "docs"), ("beside", "../beside"), ("../far", None), ("checkout", ".")]
)
def test_paths_are_relative_below_or_beside_the_file_and_absolute_elsewhere(place, where, written):
    path = place.params_file.parent.parent / where
    add_corpus(place, "faq", documents=path)
    source = params.load_corpus(place.params_file, "faq").source
    assert source.documents == (written or str(path.resolve()))
    found = params.resolve(source.documents, file=place.params_file, home=place.home)
    assert found == path.resolve()


def test_a_relative_path_is_taken_from_the_current_folder(place, monkeypatch):
    monkeypatch.chdir(place.params_file.parent.parent)
    add_corpus(place, "faq", documents=Path("beside"))
    assert params.load_corpus(place.params_file, "faq").source.documents == "../beside"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("Bad-Name", {}, "corpus name 'Bad-Name' is not valid; a name is a lower-case letter"),
        ("handbook", {}, "corpus 'handbook' is already in params.yaml"),
        ("faq", {"documents": Path("/nowhere")}, "--documents /nowhere does not exist"),
        ("faq", {"questions": Path("/nowhere")}, "--questions /nowhere does not exist"),
        ("faq", {"documents": checkout() / "params.yaml"}, "is a file; it is a folder, or a .jsonl file"),
    ],
)
def test_what_cannot_be_added_leaves_the_file_alone(place, name, change, message):
    before = place.params_file.read_text()
    given = {"documents": place.params_file.parent / "docs", **change}
    with pytest.raises(BadInput) as error:
        add_corpus(place, name, **given)
    assert message in str(error.value)
    assert place.params_file.read_text() == before


def test_a_file_that_is_wrong_already_is_not_made_longer(place):
    place.params_file.write_text(place.params_file.read_text() + "extra: 1\n")
    with pytest.raises(BadConfig, match="unknown key 'extra'"):
        add_corpus(place, "faq", documents=place.params_file.parent / "docs")


def test_corpora_may_be_empty(place):
    text = place.params_file.read_text()
    place.params_file.write_text(text[: text.index("corpora:")] + "corpora:\n")
    add_corpus(place, "faq", documents=place.params_file.parent / "docs")
    assert list(params.load(place.params_file)) == ["faq"]
