"""The folder form of a corpus of any size: the same bytes however it comes, in order, and what changed counted."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import corpus_files
from pipelines.core.digests import digest_bytes, digest_json, digest_list
from pipelines.core.nouns import Document
from pipelines.corpus_files import (
    Changes,
    CorpusFiles,
    changes,
    content_digest,
    document_batches,
    document_count,
    document_row,
    documents_among,
    folder_digest,
    listing,
    same_tree,
    tree_digest,
    write_documents,
    write_files,
)
from pipelines.schemas import DOCUMENTS


def rows_of(texts: dict[str, str]) -> list[dict]:
    return [document_row(Document(k, k.title(), text, "text/plain", f"source/{k}")) for k, text in texts.items()]


def corpus(folder: Path, **texts: str) -> Path:
    write_files(folder, CorpusFiles(rows_of(texts), [], [], []))
    return folder


def cut(rows: list[dict], size: int):
    return iter(pa.RecordBatch.from_pylist(rows[n : n + size], schema=DOCUMENTS) for n in range(0, len(rows), size))


@pytest.fixture(scope="module")
def many() -> list[dict]:
    return rows_of({f"{n:05d}": f"The text of document {n}. " * (n % 7 + 1) for n in range(5000)})


def test_the_bytes_are_those_of_one_table_however_the_batches_were_cut(tmp_path, many, monkeypatch):
    monkeypatch.setattr(corpus_files, "GROUP_ROWS", 2048)
    whole = pa.Table.from_pylist(many, schema=DOCUMENTS)
    pq.write_table(whole, tmp_path / "whole", compression="zstd", compression_level=3, row_group_size=2048)
    for size in (5000, 2048, 700, 1):
        write_documents(tmp_path / "cut", cut(many, size))
        assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_row_group_is_closed_when_its_texts_are_large(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "GROUP_BYTES", 100)
    # 40, 40, 40 reach 100 at the third; 250 does alone; 30 is what is left
    rows = rows_of({key: "x" * size for key, size in zip("abcde", (40, 40, 40, 250, 30), strict=True)})
    for size in (5, 2, 1):
        write_documents(tmp_path / "documents.parquet", cut(rows, size))
        file = pq.ParquetFile(tmp_path / "documents.parquet")
        assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [3, 1, 1]
        assert [batch.num_rows for batch in document_batches(tmp_path)] == [3, 1, 1]
    assert file.read().to_pylist() == rows


def test_no_documents_are_a_file_too(tmp_path):
    write_files(tmp_path, CorpusFiles(iter(()), [], [], iter(())))
    assert document_count(tmp_path) == 0
    assert folder_digest(tmp_path) == content_digest({})


def test_wanted_documents_are_found_and_other_texts_are_not_read(tmp_path, many, monkeypatch):
    monkeypatch.setattr(corpus_files, "GROUP_ROWS", 1000)
    write_documents(tmp_path / "documents.parquet", cut(many, 4096))
    read = []
    batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda file, **how: read.append(how["row_groups"]) or batches(file, **how)
    )
    found = list(documents_among(tmp_path, {"03999", "03000", "nowhere"}, columns=["id", "text"]))
    assert found == [{"id": many[n]["id"], "text": many[n]["text"]} for n in (3000, 3999)]
    assert read == [[3]]
    assert list(documents_among(tmp_path, (), columns=["id"])) == []


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3))


@given(st.lists(JSON, max_size=20), st.sampled_from([1, 3000]))
def test_a_list_digested_piece_by_piece_has_the_digest_of_the_whole(items, times):
    items = items * times
    assert digest_list(iter(items)) == digest_json(items)


def test_a_folders_digest_is_that_of_its_ids_and_contents(tmp_path, many):
    write_documents(tmp_path / "documents.parquet", cut(many, 999))
    pairs = {row["id"]: row["digest"] for row in many}
    expected = digest_bytes(json.dumps(sorted(map(list, pairs.items())), separators=(",", ":")).encode())
    assert folder_digest(tmp_path) == content_digest(pairs) == expected


TEXTS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["one", "two", "three"]))


@settings(max_examples=15, deadline=None)
@given(TEXTS, TEXTS)
def test_changes_are_those_of_two_dictionaries(tmp_path_factory, old, new):
    root = tmp_path_factory.mktemp("changes")
    both = old.keys() & new.keys()
    changed = sum(old[key] != new[key] for key in both)
    expected = Changes(added=len(new) - len(both), changed=changed, gone=len(old) - len(both))
    assert changes(corpus(root / "old", **old), corpus(root / "new", **new)) == expected


def test_before_the_first_revision_everything_is_added(tmp_path):
    assert changes(tmp_path / "nowhere", corpus(tmp_path / "new", a="one", b="two")) == Changes(2, 0, 0)


NAMES = st.text(st.sampled_from("a-.b/é\U0001f600#"), min_size=1, max_size=5).filter(
    lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
)


@settings(max_examples=40, deadline=None)
@given(st.sets(NAMES, min_size=1, max_size=12))
def test_files_are_listed_in_the_order_of_their_paths(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("tree")
    written = set()
    for name in sorted(names):
        if not any(other.startswith(f"{name}/") for other in names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(name)
            written.add(name)
    assert list(listing(root)) == sorted(written)
    assert tree_digest(root) == digest_json([[name, digest_bytes(name.encode())] for name in sorted(written)])


def test_a_linked_folder_is_not_entered_and_a_missing_one_is_empty(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "a" / "file")
    assert list(listing(tmp_path)) == ["a/file", "c"]
    assert list(listing(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("change", ["more", "less", "other", "renamed"])
def test_trees_that_differ_in_one_file_differ(tmp_path, change):
    left, right = corpus(tmp_path / "left", a="one"), corpus(tmp_path / "right", a="one")
    assert same_tree(left, right)
    file = right / "questions.jsonl"
    if change == "more":
        (right / "zz").write_text("")
    elif change == "less":
        file.unlink()
    elif change == "other":
        file.write_text("{}\n")
    else:
        file.rename(right / "questions.json")
    assert not same_tree(left, right) and not same_tree(right, left)
