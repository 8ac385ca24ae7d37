"""params.yaml is parsed strictly, and its errors are one line that shows the valid form."""

from pathlib import Path

import pytest
import yaml

from pipelines import params
from pipelines.errors import BadConfig, NotFound
from pipelines.settings import checkout

SHIPPED = checkout() / "params.yaml"


def edited(tmp_path: Path, change) -> Path:
    raw = yaml.safe_load(SHIPPED.read_text())
    change(raw)
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def test_the_shipped_file_is_valid():
    assert "handbook" in params.load(SHIPPED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(corpus={}), r"unknown key 'corpus'; valid keys there are defaults, corpora"),
        (lambda r: r["corpora"]["handbook"].update(chunks={}), r"unknown key 'chunks'; valid keys there are schedule,"),
        (
            lambda r: r["corpora"]["handbook"].update(chunk={"max": 3}),
            r"unknown key 'chunk.max'; valid keys there are min_tokens, max_tokens, overlap",
        ),
        (lambda r: r["defaults"]["split"].update(test=0.95), r"validation \+ test must stay below 1"),
        (
            lambda r: r["defaults"]["embed"].update(precision="fp16"),
            r"embed.precision is 'fp16': Input should be 'fp32', 'bf16' or 'int8'",
        ),
        (
            lambda r: r["corpora"]["handbook"].update(mix={"allow": ["*@"]}),
            r"mix.allow.0 is '\*@': .*is no regular expression: nothing to repeat",
        ),
        (
            lambda r: r["corpora"]["handbook"].update(mix={"synthetic": {"per_document": 0, "max_documents": 3}}),
            r"mix.synthetic.per_document is 0: Input should be greater than or equal to 1",
        ),
        (
            lambda r: r["defaults"]["promote"].update(valid_days=0),
            r"promote.valid_days is 0: Input should be greater than or equal to 1",
        ),
        (
            lambda r: r["corpora"]["handbook"].update(fetch={"access": {"hr/*": "HR only"}}),
            r"fetch\.access\.hr/\* is 'HR only': .*is no access label; a label is a lower-case letter, then letters",
        ),
        (
            lambda r: r["corpora"]["handbook"].update(mix={"labels": ["hr", "x y"]}),
            r"mix\.labels\.1 is 'x y': .*is no access label; a label is a lower-case letter",
        ),
        (lambda r: r["corpora"].update({"../up": {}}), r"corpus name '\.\./up' is not valid; a name is"),
        (lambda r: r["corpora"].update(other={}), r"corpus other: source is .*Field required"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    with pytest.raises(BadConfig, match=message) as error:
        params.load(edited(tmp_path, change))
    assert "\n" not in str(error.value)


def test_an_unknown_corpus_names_those_that_exist():
    with pytest.raises(NotFound, match=r"no corpus 'nope' in params\.yaml; there are: handbook"):
        params.load_corpus(SHIPPED, "nope")


def test_a_corpus_overrides_a_key_and_keeps_the_rest(tmp_path):
    file = edited(tmp_path, lambda r: r["corpora"]["handbook"].update(chunk={"overlap": 5}))
    chunk = params.load_corpus(file, "handbook").chunk
    assert (chunk.overlap, chunk.max_tokens) == (5, 254)


def test_floors_are_replaced_whole(tmp_path):
    file = edited(tmp_path, lambda r: r["corpora"]["handbook"].update(judge={"floors": {"retrieval.mrr": 0.1}}))
    assert params.load_corpus(file, "handbook").judge.floors == {"retrieval.mrr": 0.1}


def test_paths(tmp_path):
    file, home = tmp_path / "params.yaml", tmp_path / "home"
    assert params.resolve("$ASSAY_HOME/a", file=file, home=home) == home / "a"
    assert params.resolve("../docs", file=tmp_path / "x" / "params.yaml", home=home) == tmp_path / "docs"
