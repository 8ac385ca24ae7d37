"""What an erasure looks for and decides, and its list of entries: no service, no model."""

import gzip
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.backends.milvus.filters import MOST, excluding
from pipelines.backends.objects import ObstoreObjects
from pipelines.core import erasure
from pipelines.core.erasure import Needs, Place
from pipelines.erasures import ErasureLog, removed_by
from pipelines.errors import IntegrityError
from pipelines.traces import Wanted, holds

LINE = "The committee heard the witness from Bremen on the fourth day of the hearing."


def test_pieces_are_short_enough_for_a_chunk_and_spread_over_the_text():
    assert erasure.pieces("Short line.\nAnother.") == []
    assert erasure.pieces(f"# Title\n\n{LINE} Then.") == [
        "The committee heard the witness from Bremen",
    ]
    found = erasure.pieces(
        "\n".join(f"{LINE} Number {n}, and nothing like the other lines was said." for n in range(500))
    )
    assert len(found) == erasure.MOST and all(erasure.LEAST <= len(p) <= erasure.LONGEST for p in found)
    assert erasure.pieces("語" * 180) == ["語" * 90]  # without spaces; the same piece once
    assert erasure.pieces("Name: Ann Example, born 1970") == ["Name: Ann Example, born"]  # no line of 40 characters


def test_what_a_living_document_says_too_is_not_looked_for():
    assert erasure.distinctive(["alpha", "beta"], ["beta and gamma"]) == ["alpha"]


@pytest.mark.parametrize("text", [LINE, 'He said "naïve – façade" and <left> & never came back again, they say.'])
def test_a_text_is_found_in_every_form_that_a_file_has_it_in(text):
    wanted = Wanted.of(["a.md"], [text], {})
    inner = {"a": [text]}
    plain = text.encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("x.txt", plain)
    table = io.BytesIO()
    pq.write_table(pa.table({"n": [1], "said": [f"so {text} it is"]}), table, compression="zstd")
    zstd = pa.compress(plain, "zstd", asbytes=True)
    for data in (
        b"so " + plain,
        json.dumps(inner).encode(),
        json.dumps({"nested": json.dumps(inner)}).encode(),
        gzip.compress(plain),
        gzip.compress(gzip.compress(plain)),
        zstd,
        archive.getvalue(),
        table.getvalue(),
    ):
        assert holds(data, wanted), data[:40]
    assert (
        not holds(b"nothing of the kind", wanted) and not holds(b"", wanted) and not holds(b"\x1f\x8b broken", wanted)
    )


def test_rows_and_files_of_a_document_are_found_without_its_text():
    wanted = Wanted.of(["a.md"], [], {"9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0": 3})
    for columns, found in (
        ({"document": ["a.md"], "vector": [[1.0]]}, True),
        ({"document": ["b.md"], "vector": [[1.0]]}, False),
        ({"id": ["a.md"], "digest": ["x"]}, False),  # an id alone is no content
    ):
        data = io.BytesIO()
        pq.write_table(pa.table(columns), data)
        assert holds(data.getvalue(), wanted) is found
    assert holds(b"aaa", wanted) and not holds(b"aab", wanted)


@pytest.mark.parametrize(
    ("kind", "unit", "action"),
    [
        ("builds", "builds/b_x_1", erasure.REMAINS),
        ("builds", "builds/b_x_2", erasure.REMOVE),
        ("milvus", "builds/b_x_1", erasure.REMAINS),
        ("chunks", "chunks/x/by-key/1", erasure.REMAINS),
        ("chunks", "chunks/x/by-key/2", erasure.REMOVE),
        ("dvc-cache", "md5", erasure.REMAINS),
        ("dvc-remote", "other", erasure.REMOVE),
        ("git", "blob", erasure.REMOVE),
        ("answers", "answers/g/1.json", erasure.REMOVE),
        ("embeddings", "embeddings/e/part", erasure.REWRITE),
        ("mlflow-db", "mlflow/mlflow.db", erasure.REWRITE),
        ("workspace", "workspaces/x/corpus/a", erasure.REMAINS),
        ("source", "docs/a.md", erasure.REMAINS),
        ("releases", "releases/x/1.json", erasure.REMAINS),
        ("home", "run/some.log", erasure.REMAINS),
    ],
)
def test_what_becomes_of_a_place_follows_from_its_kind_and_who_needs_it(kind, unit, action):
    needs = Needs(champion={"builds/b_x_1"}, run={"chunks/x/by-key/1"}, revision={"md5"})
    decision = erasure.decide(Place(kind, unit, unit), needs)
    assert decision.action == action and decision.why


def test_a_receipt_is_finished_when_only_what_is_not_ours_remains():
    assert erasure.finished([{"kind": "source"}, {"kind": "not-scanned"}]) and erasure.finished([])
    assert not erasure.finished([{"kind": "source"}, {"kind": "builds"}])
    twice = erasure.merged([{"kind": "a", "place": "x", "why": "1"}], [{"kind": "a", "place": "x", "why": "2"}])
    assert twice == [{"kind": "a", "place": "x", "why": "2"}]


def log_at(folder, objects=None):
    return ErasureLog(
        objects or ObstoreObjects(str(folder / "objects")), key_file=folder / "release.pem", seen=folder / "seen"
    )


def entry(*documents):
    return {"created": "2026-11-29T10:00:00+00:00", "documents": [{"id": d, "digests": []} for d in documents]}


def test_entries_are_numbered_signed_and_hold_for_every_reader(tmp_path):
    log = log_at(tmp_path)
    assert log.erased("x") == {} and log.append("x", entry("a", "b")) == 1 and log.append("x", entry("c")) == 2
    assert log_at(tmp_path).erased_from("b_x_0123456789abcdef") == dict.fromkeys("abc", "2026-11-29")
    assert log.erased("y") == {} and log.receipt("x", 1) is None and removed_by(log._objects, "x", "builds/1") is None
    log.write_receipt("x", 1, {"state": "open", "removed": [{"place": "builds/1"}]})
    assert log.receipt("x", 1)["state"] == "open" and removed_by(log._objects, "x", "builds/1") == 1


def test_a_list_that_was_cut_copied_or_altered_is_refused(tmp_path):
    log = log_at(tmp_path)
    for name in ("a", "b"):
        log.append("x", entry(name))
    objects, keys = log._objects, [log.key("x", n) for n in (1, 2)]
    kept = [objects.get(key) for key in keys]
    assert set(log.erased("x")) == {"a", "b"}
    objects.delete([keys[1]])
    for reader in (log, log_at(tmp_path)):  # it read both before: in this process, and in this home
        with pytest.raises(IntegrityError, match="the list was cut"):
            reader.erased("x")
    objects.put(keys[1], kept[0])
    with pytest.raises(IntegrityError, match="erasure 2 of x holds erasure 1 of x"):
        log_at(tmp_path).erased("x")
    objects.put(keys[1], kept[1].replace(b'"sig": "', b'"sig": "AAAA'))
    with pytest.raises(IntegrityError, match="erasure 2 of x"):
        log_at(tmp_path).erased("x")
    objects.put(keys[1], kept[1])
    objects.put("erasures/y/000000001.json", kept[0])
    with pytest.raises(IntegrityError, match="erasure 1 of y holds erasure 1 of x"):
        log_at(tmp_path).erased("y")


def test_ids_become_literals_or_are_left_to_the_look_at_the_hits():
    assert excluding([]) == "" and excluding(["a\nb"]) == ""
    assert excluding(['q"x', "a"]) == 'document not in ["a", "q\\"x"]'
    assert excluding([str(n) for n in range(MOST + 1)]).count("not in") == 2
