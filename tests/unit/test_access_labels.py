"""Access labels: what they are, that they change a digest only where they are not public, and that what was written
before there were any is read as public."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import tuning_rows
from pipelines.actions.verify import parquet_digest
from pipelines.backends.objects import ObstoreObjects
from pipelines.builds import build_rows
from pipelines.chunk_sets import read_part, rows_digest
from pipelines.core import gold
from pipelines.core.digests import digest_json, digest_row, digest_set
from pipelines.core.names import PUBLIC, matching, valid_label
from pipelines.core.nouns import Chunk, Document, labelled, marks
from pipelines.core.splits import TRAIN, split_of
from pipelines.corpus_files import (
    Changes,
    CorpusFiles,
    changes,
    document_batches,
    document_row,
    folder_digest,
    write_files,
)
from pipelines.embeddings import Rows
from pipelines.errors import IntegrityError
from pipelines.few_shot import long_prompt, shots_source
from pipelines.schemas import CHUNKS, DOCUMENTS, VECTORS, with_access
from pipelines.show import show_passages
from pipelines.stages.chunk import _row, read_documents
from pipelines.stages.embed import write_rows
from pipelines.tasks import labels_of
from tests.adapter_kit import params_of, wiring, workspace_with

LABELS = st.from_regex(r"[a-z][a-z0-9]{0,5}([-_][a-z0-9]{1,4}){0,2}", fullmatch=True)


def document(key="a.md", text="The text.", access=PUBLIC):
    return Document(key, "A", text, "text/markdown", f"source/{key}", access=access)


@pytest.mark.parametrize("label", ["public", "hr", "hr-eu", "a_b-c", "b2b", "x" * 40])
def test_labels_accepted(label):
    assert valid_label(label)


@pytest.mark.parametrize(
    "label",
    [
        "",
        "HR",
        "h r",
        "hr,board",
        "-hr",
        "hr-",
        "hr--eu",
        "1a",
        "é",
        "ｈｒ",
        "hr\n",
        "hr\0",
        'a"',
        "x" * 41,
        None,
        3,
        ["hr"],
    ],
)
def test_labels_refused(label):
    assert not valid_label(label)


@given(st.text(max_size=50))
def test_an_accepted_label_can_be_written_anywhere(text):
    """Into a list separated by commas, a filter expression, a file name."""
    if valid_label(text):
        assert text.isascii() and text.replace("-", "a").replace("_", "a").isalnum() and text == text.lower()


def test_patterns_match_whole_ids_and_go_into_folders():
    patterns = {"hr/*": "hr", "*.md": "staff", "hr/[ab].md": "board"}
    assert matching("hr/deep/x.txt", patterns) == ["hr/*"]
    assert matching("hr/a.md", patterns) == list(patterns)
    assert matching("HR/a.txt", patterns) == matching("a", patterns) == []


def test_digests_of_what_is_public_are_those_of_before_there_were_labels():
    assert document().digest == digest_json(["a.md", "A", "The text."])
    assert document().digest == "6a441a7dac8f833bbc0dd8724e5e58f3d9f2439716ffa04ace9ea62f2509826e"
    assert marks(PUBLIC) == () and labelled("d", PUBLIC) == "d"
    chunk = Chunk("a.md", 0, 0, 9, "The text.", 3)
    table = pa.Table.from_pylist([_row(chunk, "A", access=PUBLIC)], schema=CHUNKS)
    row = digest_row(chunk.id.encode(), b"A", b"0 9 3", chunk.text_digest.encode())
    assert rows_digest(table) == rows_digest(with_access(table.drop_columns(["access"]))) == digest_set([row])


@given(LABELS, LABELS)
def test_a_label_is_in_every_digest_but_the_texts(first, second):
    """Alike where the labels are; so a changed label is a changed document, chunk set and build, embedded before."""
    chunk = Chunk("a.md", 0, 0, 9, "The text.", 3)
    rows = [_row(chunk, "A", access=label) for label in (first, second)]
    tables = [pa.Table.from_pylist([row], schema=CHUNKS) for row in rows]
    same = first == second
    assert (document(access=first).digest == document(access=second).digest) is same
    assert (rows_digest(tables[0]) == rows_digest(tables[1])) is same
    assert (labelled("d", first) == labelled("d", second)) is same
    assert rows[0]["key"] == rows[1]["key"] and rows[0]["text_digest"] == rows[1]["text_digest"]


def test_a_changed_label_is_counted_as_a_change_and_is_versioned(tmp_path):
    for name, access in (("old", "public"), ("new", "hr")):
        rows = [document_row(document(access=access)), document_row(document("b.md"))]
        write_files(tmp_path / name, CorpusFiles(rows, [], [], []))
    assert changes(tmp_path / "old", tmp_path / "new") == Changes(0, 1, 0)
    assert folder_digest(tmp_path / "old") != folder_digest(tmp_path / "new")
    assert [d.access for d in read_documents(tmp_path / "new" / "documents.parquet")] == ["hr", "public"]


def older(folder: Path, **access: str) -> Path:
    """documents.parquet without the column `access`."""
    rows = [document_row(document(f"{key}.md", access=label)) for key, label in access.items()]
    folder.mkdir()
    table = pa.Table.from_pylist(rows, schema=DOCUMENTS).drop_columns(["access"])
    pq.write_table(table, folder / "documents.parquet")
    return folder


def test_a_corpus_of_before_there_were_labels_is_public(tmp_path):
    folder = older(tmp_path / "old", a="public", b="public")
    assert [d.access for d in read_documents(folder / "documents.parquet")] == ["public", "public"]
    (batch,) = document_batches(folder)
    assert batch.schema == DOCUMENTS and batch["access"].to_pylist() == ["public", "public"]
    (batch,) = document_batches(folder, ["id"])
    assert batch.schema.names == ["id"]


def test_labels_that_were_taken_away_are_missed(tmp_path):
    """Their documents' digests say so: nothing confidential becomes public because a column is gone."""
    folder = older(tmp_path / "cut", a="public", b="hr")
    with pytest.raises(IntegrityError, match=r"document b\.md is not the text that was versioned"):
        list(read_documents(folder / "documents.parquet"))


def part(rows, schema):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, write_page_checksum=True)
    return sink.getvalue()


def test_a_build_of_before_there_were_labels_is_public_and_has_its_digest(tmp_path):
    objects, vector = ObstoreObjects(str(tmp_path)), np.eye(3, dtype="<f4")[0]
    row = {**_row(Chunk("a.md", 0, 0, 9, "The text.", 3), "A", access="public"), "vector": vector.tolist()}
    before = pa.schema([field for field in VECTORS if field.name != "access"])
    objects.put("builds/b/part-0", part([row], before))
    index = {"key": "builds/b", "parts": ["part-0"]}
    digest = digest_set([digest_row(row["key"].encode(), row["text_digest"].encode(), vector.tobytes())])
    assert parquet_digest(objects, index) == (1, digest)
    assert [b["access"].to_pylist() for b in build_rows(objects, index)] == [["public"]]
    objects.put("builds/b/part-0", part([{**row, "access": "hr"}], VECTORS))
    assert parquet_digest(objects, index)[1] != digest
    objects.put("builds/b/part-0", part([{**row, "access": None}], VECTORS))
    assert parquet_digest(objects, index)[1] != digest


@pytest.mark.parametrize("access", ["public", "hr"])
def test_a_build_takes_labels_from_its_chunks_and_vectors_from_the_build_before(tmp_path, access):
    """A document's label changed: the vector is the old one, the label the new one, and so is the digest."""
    objects, vector = ObstoreObjects(str(tmp_path)), np.eye(3, dtype="<f4")[0]
    row = _row(Chunk("a.md", 0, 0, 9, "The text.", 3), "A", access=access)
    chunks = [field for field in CHUNKS if access != "public" or field.name != "access"]
    objects.put("chunks/c/part-0", part([row], pa.schema(chunks)))
    objects.put("builds/old/part-0", part([{**row, "access": "board", "vector": vector.tolist()}], VECTORS))
    task = Rows(0, "chunks/c/part-0", ("builds/old/part-0",), ())
    made = write_rows(task, objects=objects, folder="builds/new")
    table = read_part(objects, f"builds/new/{made['part']}")
    assert table.schema == VECTORS and table["access"].to_pylist() == [access]
    text = labelled(row["text_digest"], access)
    assert made["digest"] == digest_set([digest_row(row["key"].encode(), text.encode(), vector.tobytes())])
    assert pc.list_flatten(table["vector"]).to_pylist() == vector.tolist()


def test_gold_is_marked_and_told():
    asked = {"id": "q", "evidence": [{"document": "a"}, {"document": "b", "quote": "x"}]}
    labels = {"a": "public", "b": "hr"}
    told = gold.with_labels(asked, labels)
    assert told["evidence"] == [{"document": "a"}, {"document": "b", "quote": "x", "access": "hr"}]
    assert gold.with_labels(asked, {}) == gold.with_labels(asked, {"a": "public", "b": "public"}) == asked
    assert gold.with_labels({"prompt": "p"}, labels) == {"prompt": "p"}
    assert gold.restricted(told) == gold.restricted(told, ["board"]) == "rests on b, labelled hr"
    assert gold.restricted(told, ["hr"]) is gold.restricted(asked) is gold.restricted({"prompt": "p"}) is None
    both = gold.with_labels(asked, {"a": "board", "b": "hr"})
    assert gold.restricted(both, ["hr"]) == "rests on a, labelled board"
    assert gold.restricted(both, ["hr", "board"]) is None
    lost = gold.with_labels(asked, {"a": gold.UNKNOWN})
    assert gold.restricted(lost, ["hr", ""]) == "rests on a, whose access label is not known"
    own = {"evidence": [{"document": "a", "access": "hr"}]}  # a line may restrict what it rests on, not free it
    assert gold.restricted(gold.with_labels(own, {"a": "public"}))
    assert gold.with_labels({"evidence": [{"document": "b", "access": "public"}]}, labels)["evidence"][0] == {
        "document": "b",
        "access": "hr",
    }


def learnt(params, count):
    """Examples of the training split, each with one document."""
    rows = (
        {"id": f"e{n}", "prompt": f"Ask {n}?", "completion": f"label{n}", "evidence": [{"document": f"d{n}"}]}
        for n in range(1000)
    )
    return [row for row in rows if split_of(row, **params.split.model_dump()) == TRAIN][:count]


def test_a_prompt_for_all_readers_shows_nothing_restricted(tmp_path):
    """Nothing was trained here, so no training set has sifted the examples."""

    class Words:
        count = staticmethod(lambda chat: 1)

    def drawn(*labels):
        params = params_of(mix={"labels": labels}, generate={"reply_schema": None})
        examples = learnt(params, 6)
        examples[:3] = [gold.with_labels(e, {e["evidence"][0]["document"]: "hr"}) for e in examples[:3]]
        workspace = workspace_with(tmp_path, examples=examples)
        made = long_prompt(params, workspace, Words(), questions=[], ports=wiring(tmp_path, params))
        assert made.source == shots_source(workspace, labels)
        said = json.dumps(made.to_json())
        return [n for n, example in enumerate(examples) if example["completion"] in said], made.source

    shown, source = drawn()
    assert shown and not {0, 1, 2} & set(shown)
    more, other = drawn("hr")
    assert {0, 1, 2} & set(more) and other != source


def test_options_are_not_learnt_from_restricted_examples(tmp_path):
    params = params_of(generate={"task": "label", "reply_schema": None})
    first, *others = learnt(params, 3)
    examples = [gold.with_labels(first, {first["evidence"][0]["document"]: "hr"}), *others]
    found = labels_of(params, [], examples, ports=wiring(tmp_path, params))
    assert found == sorted(example["completion"] for example in others)


def test_tuning_learns_from_nothing_restricted(monkeypatch):
    """Neither from questions that rest on it nor from its passages as wrong answers."""
    seen = {}

    def search(store, embedder, collection, questions, **how):
        seen.update(how, questions=questions)
        return [[] for _ in questions]

    monkeypatch.setattr(tuning_rows, "search", search)
    monkeypatch.setattr(tuning_rows, "_held", lambda *_: tuning_rows.Held({}, {}))
    embedder = SimpleNamespace(embed_batch=lambda texts: np.zeros((len(texts), 2)))
    ports = SimpleNamespace(store=None, embedder=embedder)
    questions = [
        {"question": "Open?", "evidence": [{"document": "a"}]},
        {"question": "Closed?", "evidence": [{"document": "b", "access": "hr"}]},
    ]
    for labels, asked in (((), ["Open?"]), (("hr",), ["Open?", "Closed?"])):
        tuning_rows.mined(ports, {"collection": "c"}, questions, depth=3, params=params_of(mix={"labels": labels}))
        assert (seen["questions"], seen["labels"]) == (asked, labels)


def test_a_passage_is_shown_with_its_label_where_that_is_not_public(capsys):
    passage = {"document": "d", "title": "T", "revision": "r1", "start": 0, "end": 4, "text": "text", "score": 0.5}
    found = {"release": {"corpus": "c", "generation": 1}}
    show_passages("Q?", {**found, "passages": [{**passage, "access": "hr"}]})
    assert "access hr" in capsys.readouterr().out
    for more in ({"access": "public"}, {}):
        show_passages("Q?", {**found, "passages": [{**passage, **more}]})
        assert "access" not in capsys.readouterr().out
