"""The spool against the rule in plain Python: of an id's documents the first stays, the rest has its reason."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.backends import spool as module
from pipelines.backends.spool import Spool
from pipelines.core.nouns import Document
from pipelines.corpus_files import document_row

IDS = st.text(st.sampled_from("ab\0\x7fé\uffff\U0001f600'\""), min_size=1, max_size=2)
CLAIMS = st.lists(st.tuples(IDS, st.sampled_from(["good", "bad", "unnamed"])), max_size=30)


def row(key: str, text: str) -> dict:
    return document_row(Document(key, key, text, "text/plain", f"source/x.jsonl#{key}", {"n": 1}))


def expected(claims):
    documents, refused = {}, []
    for n, (key, kind) in enumerate(claims):
        if kind == "unnamed":
            refused.append({"document": f"line {n}", "reason": "no id", "bytes": n, "ids": "x#*"})
        elif key in documents:
            refused.append({"document": key, "reason": f"duplicate id at line {n}; the first is kept", "bytes": n})
        elif kind == "bad":
            refused.append({"document": key, "reason": "no text in it", "bytes": n})
        else:
            documents[key] = row(key, f"text {n}")
    return (
        [documents[key] for key in sorted(documents)],
        sorted(refused, key=lambda record: (record["document"], record["reason"])),
    )


@settings(max_examples=60, deadline=None)
@given(CLAIMS)
def test_documents_come_sorted_and_everything_else_is_refused(tmp_path_factory, claims):
    with Spool(tmp_path_factory.mktemp("spool") / "found.sqlite") as spool:
        assert spool.empty
        for n, (key, kind) in enumerate(claims):
            if kind == "unnamed":
                spool.refuse(f"line {n}", "no id", n, ids="x#*")
            elif kind == "bad":
                spool.refuse(key, "no text in it", n, place=f"line {n}")
            else:
                spool.add(row(key, f"text {n}"), place=f"line {n}", size=n)
        assert spool.empty is (not claims)
        spool.settle()
        found = [document for batch in spool.documents() for document in batch.to_pylist()]
        assert (found, list(spool.quarantine())) == expected(claims)


def test_batches_are_closed_by_their_characters_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 100)
    with Spool(tmp_path / "found.sqlite") as spool:
        for n, size in enumerate((60, 60, 30, 200, 10)):
            spool.add(row(f"{n}", "x" * size), place="line", size=size)
        spool.settle()
        assert [batch.num_rows for batch in spool.documents()] == [2, 2, 1]


def test_refusals_can_be_taken_back_together(tmp_path):
    with Spool(tmp_path / "found.sqlite") as spool:
        spool.refuse("a", "first of all", 1)
        mark = spool.mark()
        assert spool.take_back(mark) == (0, None)
        spool.refuse("b", "malformed JSON: x", 1, ids="*")
        spool.refuse("c", "no text in it", 1, place="line 2")
        assert spool.take_back(mark) == (2, "malformed JSON: x")
        spool.settle()
        assert [record["document"] for record in spool.quarantine()] == ["a"]


def test_a_full_disk_is_an_os_error_and_the_file_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TABLE", "PRAGMA max_page_count = 4;" + module._TABLE)
    file = tmp_path / "found.sqlite"
    with pytest.raises(OSError, match="database or disk is full") as error, Spool(file) as spool:
        spool.add(row("a", "x" * 100_000), place="line 1", size=1)
    assert error.value.filename == str(file) and not file.exists()
