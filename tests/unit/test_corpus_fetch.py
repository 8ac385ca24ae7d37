"""fetch: what lands becomes documents or quarantine records, nothing is lost, nothing bad stops the batch."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import erasures, params
from pipelines.actions import fetch
from pipelines.backends import spool
from pipelines.backends.objects import ObstoreObjects
from pipelines.corpus_files import tree_digest
from pipelines.errors import BadInput
from pipelines.settings import Settings, checkout
from pipelines.workspace import Workspace
from tests.corpus_kit import read_files

GOOD = {"a.md": b"# Alpha\n\nThe first document.\n", "deep/er/b.txt": b"The second document.\n"}


@dataclass(frozen=True)
class Paths:
    """The ports that fetch uses."""

    settings: Settings

    @property
    def objects(self) -> ObstoreObjects:
        return ObstoreObjects(self.settings.objects_uri)

    def path(self, text: str) -> Path:
        return Path(text)


class Home:
    def __init__(self, root: Path, documents: dict[str, bytes] | None = None, max_mb: float = 0.01) -> None:
        self.landing = root / "landing"
        self.landing.mkdir(parents=True)
        self.workspace = Workspace(root / "home" / "workspaces" / "demo", "demo")
        self.ports = Paths(Settings(root / "home", checkout() / "params.yaml", "local[1]"))
        self.max_mb = max_mb
        self.source = {"documents": str(self.landing)}
        self.generate: dict[str, Any] = {}
        self.access: dict[str, str] = {}
        for name, data in (documents or {}).items():
            self.land(name, data)

    def land(self, name: str, data: bytes) -> None:
        path = self.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def gold(self, kind: str, text: str) -> Path:
        path = self.landing.parent / f"{kind}.jsonl"
        path.write_text(text)
        self.source[kind] = str(path)
        return path

    def fetch(self) -> tuple[bool, str]:
        shipped = params.load_corpus(checkout() / "params.yaml", "handbook")
        generate = shipped.generate.model_copy(update=self.generate)
        mine = {"source": params.Source(**self.source), "fetch": self.params}
        mine |= {"generate": generate}
        return fetch.run(shipped.model_copy(update=mine), self.workspace, ports=self.ports)

    @property
    def params(self) -> params.Fetch:
        return params.Fetch(max_document_mb=self.max_mb, access=self.access)

    @property
    def labels(self) -> dict[str, str]:
        return {row["id"]: row["access"] for row in self.files.rows}

    @property
    def files(self):
        return read_files(self.workspace.fetched)

    @property
    def reasons(self) -> dict[str, str]:
        return {row["document"]: row["reason"] for row in self.files.quarantine}


def line(**row) -> bytes:
    return json.dumps(row).encode() + b"\n"


def test_a_folder_of_any_depth(tmp_path):
    home = Home(tmp_path, {**GOOD, "faq.jsonl": line(id="hours", title="Hours", text="Open.") + line(id=7, text="x")})
    changed, summary = home.fetch()
    rows = {row["id"]: row for row in home.files.rows}
    assert changed and summary == "4 documents, 0 questions, 0 examples"
    assert list(rows) == ["a.md", "deep/er/b.txt", "faq.jsonl#7", "faq.jsonl#hours"]
    assert [rows[k]["title"] for k in rows] == ["Alpha", "b", "7", "Hours"]
    assert rows["deep/er/b.txt"]["uri"] == "source/deep/er/b.txt"
    assert (home.workspace.fetched / "source" / "deep" / "er" / "b.txt").read_bytes() == GOOD["deep/er/b.txt"]


def test_text_is_kept_but_for_the_mark_and_line_ends(tmp_path):
    home = Home(tmp_path, {"a.txt": b"\xef\xbb\xbfone\r\ntwo\rthree  \n"})
    home.fetch()
    assert home.files.rows[0]["text"] == "one\ntwo\nthree  \n"


def test_the_same_landing_is_unchanged_and_the_same_bytes(tmp_path):
    home, other = Home(tmp_path / "1", GOOD), Home(tmp_path / "2", dict(reversed(GOOD.items())))
    home.fetch()
    inode = home.workspace.fetched.stat().st_ino
    assert home.fetch() == (False, "unchanged: 2 documents, 0 questions, 0 examples")
    assert home.workspace.fetched.stat().st_ino == inode
    other.fetch()
    assert tree_digest(other.workspace.fetched) == tree_digest(home.workspace.fetched)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("junk.md", b"abc\0def", "binary content: it holds NUL bytes"),
        ("latin.txt", "Größe".encode("latin-1"), "not UTF-8 text: byte 2 cannot be decoded"),
        ("photo.png", b"\x89PNG", "unsupported extension '.png'; formats are md, markdown, txt, pdf, "),
        ("README", b"text", "no extension; formats are"),
        ("empty.md", b"", "no text in it"),
        ("blank.txt", b" \n\t\n", "no text in it"),
        ("big.txt", b"x" * 10_001, "too big: 0.0 MB, above fetch.max_document_mb = 0.01"),
        ("none.jsonl", b"\n", "no text in it"),
        ("torn.jsonl", b'{"id": 1\n', "none of its 1 lines is a document; the first: malformed JSON"),
    ],
)
def test_a_bad_file_is_quarantined_and_the_rest_goes_on(tmp_path, name, data, reason):
    home = Home(tmp_path, {**GOOD, name: data})
    _, summary = home.fetch()
    assert [row["id"] for row in home.files.rows] == sorted(GOOD)
    assert list(home.reasons) == [name] and home.reasons[name].startswith(reason)
    assert not (home.workspace.fetched / "source" / name).exists()
    assert "1 quarantined" in summary


def test_a_bad_line_is_quarantined_and_the_other_lines_stay(tmp_path):
    lines = [
        line(id="a", text="first"),
        b"{not json}\n",
        line(id="a", text="again"),
        line(id="b", text=""),
        line(text="no id"),
        b"[1]\n",
        line(id="long", text="x" * 10_000),
        b'{"id": "nan", "text": "x", "score": NaN}\n',
        b'{"id": "half", "text": "\\ud800"}\n',
        b"\xff\xfe\n",
    ]
    home = Home(tmp_path, {"faq.jsonl": b"".join(lines)})
    home.fetch()
    assert [row["text"] for row in home.files.rows] == ["first"]
    assert {key: value.split(":")[0].split(";")[0] for key, value in home.reasons.items()} == {
        "faq.jsonl line 2": "malformed JSON",
        "faq.jsonl#a": "duplicate id at faq.jsonl line 3",
        "faq.jsonl#b": "no text in it",
        "faq.jsonl line 5": "no id",
        "faq.jsonl line 6": "a line must be an object, not list",
        "faq.jsonl line 7": "too big",
        "faq.jsonl line 8": "malformed JSON",
        "faq.jsonl#half": "text holds half of a surrogate pair",
        "faq.jsonl line 10": "not UTF-8 text",
    }


def test_labels_come_from_the_line_else_from_the_last_pattern_that_matches_else_are_public(tmp_path):
    lines = (
        line(id="own", text="x", access="board") + line(id="open", text="x", access="public") + line(id="y", text="x")
    )
    home = Home(tmp_path, {**GOOD, "hr/pay.md": b"# Pay", "hr/deep/faq.md": b"# Faq", "hr/all.jsonl": lines})
    home.access = {"hr/*": "hr", "hr/deep/*": "public", "*.md": "staff", "hr/*.md": "hr", "no/*": "hr"}
    _, summary = home.fetch()
    assert home.labels == {
        "a.md": "staff",
        "deep/er/b.txt": "public",
        "hr/all.jsonl#open": "public",
        "hr/all.jsonl#own": "board",
        "hr/all.jsonl#y": "hr",
        "hr/deep/faq.md": "hr",  # `*` goes into folders, and the last that matches counts
        "hr/pay.md": "hr",
    }
    assert "; 1 labelled board; 3 labelled hr; 1 labelled staff; " in summary
    assert summary.endswith("; fetch.access: 'no/*' matches no document")
    own = next(row for row in home.files.rows if row["id"] == "hr/all.jsonl#own")
    assert "access" not in own["metadata"]


@pytest.mark.parametrize("label", ["HR", "", None, 3, ["hr"], 'hr"]', "hr\n", "x" * 41, "\ud800"])
def test_a_line_whose_label_is_none_is_quarantined_and_the_others_stay(tmp_path, label):
    home = Home(tmp_path, {"faq.jsonl": line(id="bad", text="secret", access=label) + line(id="good", text="x")})
    home.gold("questions", QUESTION % "faq.jsonl#bad" + (QUESTION % "faq.jsonl#good").replace('"q"', '"r"'))
    home.fetch()
    assert home.labels == {"faq.jsonl#good": "public"}
    assert home.reasons["faq.jsonl#bad"].startswith("access label is not valid: ")
    assert "; a label is a lower-case letter" in home.reasons["faq.jsonl#bad"]
    evidence = {row["id"]: row["evidence"] for row in home.files.questions}
    # Nobody knows who may read it: nothing may be trained on it.
    assert evidence == {"q": [{"document": "faq.jsonl#bad", "access": ""}], "r": [{"document": "faq.jsonl#good"}]}


def test_gold_carries_the_labels_of_what_it_rests_on(tmp_path):
    home = Home(tmp_path, {**GOOD, "hr/pay.md": b"# Pay", "bad.md": b"\0"})
    home.gold("questions", QUESTION % "hr/pay.md" + (QUESTION % "a.md").replace('"q"', '"r"'))
    rests = [{"document": "hr/pay.md", "quote": "Pay"}, {"document": "bad.md"}, {"document": "a.md"}]
    home.gold("examples", json.dumps({"prompt": "p", "completion": "c", "evidence": rests}) + "\n")
    home.fetch()
    before = home.files
    assert [row["evidence"] for row in before.questions] == [[{"document": "hr/pay.md"}], [{"document": "a.md"}]]
    assert before.examples[0]["evidence"] == rests  # no labels anywhere: gold stays as it is
    home.access = {"hr/*": "hr"}
    changed, _ = home.fetch()
    assert changed
    assert [row["evidence"] for row in home.files.questions] == [
        [{"document": "hr/pay.md", "access": "hr"}],
        [{"document": "a.md"}],
    ]
    assert [entry.get("access") for entry in home.files.examples[0]["evidence"]] == ["hr", "", None]


def test_a_changed_label_is_a_changed_document(tmp_path):
    home = Home(tmp_path, GOOD)
    home.fetch()
    before = {row["id"]: row["digest"] for row in home.files.rows}
    home.access = {"a.md": "hr"}
    assert home.fetch()[0]
    after = {row["id"]: row["digest"] for row in home.files.rows}
    assert after["a.md"] != before["a.md"] and after["deep/er/b.txt"] == before["deep/er/b.txt"]
    assert home.fetch()[0] is False


def test_a_sparse_document_of_50_mb_is_quarantined_without_being_read(tmp_path):
    home = Home(tmp_path, GOOD, max_mb=20)
    with (home.landing / "huge.txt").open("wb") as out:
        out.truncate(50_000_000)
    home.fetch()
    assert home.reasons == {"huge.txt": "too big: 50.0 MB, above fetch.max_document_mb = 20"}
    assert home.files.quarantine[0]["bytes"] == 50_000_000


def test_a_line_of_50_mb_is_quarantined_and_the_next_line_read(tmp_path):
    home = Home(tmp_path)
    with (home.landing / "huge.jsonl").open("wb") as out:
        out.truncate(50_000_000)
        out.seek(0, 2)
        out.write(b"\n" + line(id="after", text="still here"))
    home.fetch()
    assert [row["id"] for row in home.files.rows] == ["huge.jsonl#after"]
    assert home.reasons == {"huge.jsonl line 1": "too big: 50.0 MB, above fetch.max_document_mb = 0.01"}


def test_hidden_files_and_litter_are_counted_not_read(tmp_path):
    home = Home(tmp_path, {**GOOD, ".git/config": b"x", "__MACOSX/a.md": b"x", "Thumbs.db": b"x", "~$a.docx": b"x"})
    (home.landing / "loop").symlink_to(home.landing)
    _, summary = home.fetch()
    assert summary.endswith("; 5 hidden files passed over") and not home.files.quarantine


def test_odd_entries_are_quarantined(tmp_path):
    home = Home(tmp_path, GOOD)
    (home.landing / "nowhere.md").symlink_to(home.landing / "gone.md")
    os.mkfifo(home.landing / "pipe.md")
    (home.landing / os.fsdecode(b"caf\xe9.md")).write_bytes(b"# x\n\ntext")
    home.fetch()
    assert home.reasons == {
        "nowhere.md": "unreadable: it vanished, or its link leads nowhere",
        "pipe.md": "not a regular file",
        "caf\\xe9.md": "file name is not UTF-8",
    }


def test_names_that_are_not_utf_8_are_quarantined_whatever_their_extension(tmp_path):
    home = Home(tmp_path, GOOD)
    for name in (b"caf\xe9.png", b"caf\xe9.jsonl", b"caf\xe9"):
        (home.landing / os.fsdecode(name)).write_bytes(line(id="a", text="x"))
    home.fetch()
    assert home.reasons == dict.fromkeys(["caf\\xe9", "caf\\xe9.jsonl", "caf\\xe9.png"], "file name is not UTF-8")


def test_a_file_that_is_named_like_a_line_is_not_lost(tmp_path):
    home = Home(tmp_path, {"faq.jsonl": line(id="a.md", text="the line"), "faq.jsonl#a.md": b"the file"})
    home.fetch()
    assert [(row["id"], row["text"]) for row in home.files.rows] == [("faq.jsonl#a.md", "the line")]
    assert home.reasons == {"faq.jsonl#a.md": "duplicate id at faq.jsonl#a.md; the first is kept"}


def test_a_number_beyond_json_is_quarantined(tmp_path):
    home = Home(tmp_path, {"faq.jsonl": line(id="a", text="x") + b'{"id": "b", "text": "x", "score": 1e999}\n'})
    home.fetch()
    assert [row["id"] for row in home.files.rows] == ["faq.jsonl#a"]
    assert home.reasons["faq.jsonl#b"].startswith("malformed JSON: Out of range float")


def test_a_folder_that_cannot_be_read_is_quarantined(tmp_path, monkeypatch):
    home = Home(tmp_path, {**GOOD, "closed/c.md": b"# C\n\ntext"})
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    home.gold("questions", QUESTION % "closed/c.md")
    home.fetch()
    assert home.reasons == {"closed": "a folder that cannot be read"}


def test_a_full_disk_is_one_line_and_leaves_everything_as_it_was(tmp_path, monkeypatch):
    home = Home(tmp_path, GOOD)
    home.fetch()
    before = tree_digest(home.workspace.root)
    home.land("c.md", b"# New\n\nanother")

    def full(*_, **__):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(fetch, "write_files", full)
    with pytest.raises(BadInput, match=r"demo: fetch cannot go on: No space left on device \(x\)"):
        home.fetch()
    assert tree_digest(home.workspace.root) == before


def test_a_disk_that_is_full_for_the_spool_is_one_line_too(tmp_path, monkeypatch):
    home = Home(tmp_path, GOOD)
    home.fetch()
    before = tree_digest(home.workspace.root)
    monkeypatch.setattr(spool, "_TABLE", "PRAGMA max_page_count = 4;" + spool._TABLE)
    home.land("c.txt", b"x" * 9000)
    home.land("d.txt", b"x" * 9000)
    with pytest.raises(BadInput, match=r"demo: fetch cannot go on: .*(disk is full).*found\.sqlite"):
        home.fetch()
    assert tree_digest(home.workspace.root) == before


def test_a_beir_folder_as_it_is(tmp_path):
    home = Home(
        tmp_path,
        {
            "corpus.jsonl": line(_id="p0", title="T", text="one") + line(_id="p1", title="", text="two", year=1999),
            "queries.jsonl": line(_id="q0", text="Which?", answers=["one"]) + line(_id="q1", text="Unjudged?"),
            "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq0\tp0\t2\n",
        },
    )
    home.fetch()
    rows = home.files.rows
    assert [(row["id"], row["title"], row["metadata"]) for row in rows] == [
        ("p0", "T", "{}"),
        ("p1", "p1", '{"year":1999}'),
    ]
    evidence = [{"document": "p0", "relevance": 2, "context": "one"}]
    assert home.files.questions == [{"id": "q0", "question": "Which?", "answers": ["one"], "evidence": evidence}]
    assert (home.workspace.fetched / "source" / "qrels" / "test.tsv").is_file()


def test_a_single_jsonl_file(tmp_path):
    home = Home(tmp_path, {"all.jsonl": line(_id="peps/1.rst", text="one")})
    home.source["documents"] = str(home.landing / "all.jsonl")
    home.fetch()
    assert [row["id"] for row in home.files.rows] == ["peps/1.rst"]


def test_questions_and_examples_of_a_folder_are_merged_in_name_order(tmp_path):
    home = Home(tmp_path, GOOD)
    for name in ("2.jsonl", "1.jsonl"):
        path = tmp_path / "questions" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\n" + line(id=name, question="Why?", evidence=[{"document": "a.md", "quote": "x"}]))
    home.source["questions"] = str(tmp_path / "questions")
    home.gold("examples", json.dumps({"prompt": "p", "completion": "c"}))
    home.fetch()
    assert [row["id"] for row in home.files.questions] == ["1.jsonl", "2.jsonl"]
    assert home.files.examples == [{"prompt": "p", "completion": "c"}]


QUESTION = '{"id": "q", "question": "Why?", "evidence": [{"document": "%s"}]}\n'


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("questions", '\n{"id": "q"}\n', r"questions\.jsonl line 2: question must be text"),
        ("questions", "{torn\n", r"questions\.jsonl line 1: is not JSON"),
        ("questions", "[]\n", r"questions\.jsonl line 1: is list, not an object"),
        ("questions", '{"id": "\\ud800", "question": "x"}', "line 1: holds half of a surrogate pair"),
        ("questions", QUESTION % "a.md" * 2, "question id 'q' occurs more than once"),
        ("questions", QUESTION % "gone.md", r"question 'q' names document 'gone\.md', which is not among the landed"),
        ("examples", '{"prompt": "p"}\n', r"examples\.jsonl line 1: completion must be text"),
    ],
)
def test_gold_that_cannot_be_used_stops_and_leaves_everything_as_it_was(tmp_path, kind, text, message):
    home = Home(tmp_path, GOOD)
    home.fetch()
    before = tree_digest(home.workspace.root)
    home.land("c.md", b"# New\n\nanother")
    home.gold(kind, text)
    with pytest.raises(BadInput, match=message) as error:
        home.fetch()
    assert "\n" not in str(error.value)
    assert tree_digest(home.workspace.root) == before


def test_a_question_whose_document_is_in_quarantine_is_kept(tmp_path):
    home = Home(tmp_path, {**GOOD, "bad.md": b"\0"})
    home.gold("questions", QUESTION % "bad.md")
    _, summary = home.fetch()
    assert summary.endswith("; 1 evidence documents are in quarantine")
    assert len(home.files.questions) == 1


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_no_documents_is_bad_input(tmp_path, make):
    home = Home(tmp_path)
    home.source["documents"] = str(tmp_path / "elsewhere")
    make(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=r"documents: .*(does not exist|holds none|is not a folder)"):
        home.fetch()
    assert not home.workspace.fetched.exists()


def test_a_task_that_cannot_be_scored_stops_and_leaves_everything_as_it_was(tmp_path):
    home = Home(tmp_path, GOOD)
    home.fetch()
    before = tree_digest(home.workspace.fetched)
    home.land("c.md", b"# More\n\nA third document.\n")
    home.generate = {"task": "sql", "database": str(tmp_path / "none.sqlite"), "reply_schema": None}
    with pytest.raises(BadInput, match=r"generate\.database is '.*none\.sqlite', which does not exist or is no file"):
        home.fetch()
    assert tree_digest(home.workspace.fetched) == before


@pytest.mark.parametrize("kind", ["questions", "examples"])
def test_a_gold_path_that_is_not_there_is_bad_input(tmp_path, kind):
    home = Home(tmp_path, GOOD)
    home.source[kind] = str(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=f"{kind}: .*nowhere does not exist"):
        home.fetch()


def test_a_fetch_killed_between_the_two_renames_is_mended(tmp_path):
    home = Home(tmp_path, GOOD)
    home.fetch()
    whole = tree_digest(home.workspace.fetched)
    home.workspace.fetched.rename(home.workspace.root / "staging" / ".fetched.old")
    (home.workspace.root / "staging" / ".fetched.building").mkdir()
    assert home.fetch()[0] is False
    assert tree_digest(home.workspace.fetched) == whole


NAMES = st.sampled_from(["a.md", "b.txt", "c.jsonl", "d/e.md", "d/f.jsonl", "g.bin", ".h", "i"])
LINES = st.builds(
    lambda rows: b"\n".join(json.dumps(row).encode() for row in rows),
    st.lists(st.fixed_dictionaries({}, optional={"id": st.text(max_size=2), "text": st.text(max_size=5)}), max_size=4),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, st.binary(max_size=40) | LINES, min_size=1))
def test_whatever_lands_every_file_is_accounted_for(tmp_path_factory, landed):
    home = Home(tmp_path_factory.mktemp("any"), landed)
    try:
        home.fetch()
    except BadInput:
        assert all(Path(name).name.startswith(".") for name in landed)
        return
    named = [row["id"] for row in home.files.rows] + list(home.reasons)
    for name in landed:
        if not name.startswith("."):
            assert any(key == name or key.startswith((f"{name}#", f"{name} line ")) for key in named)
    assert len({row["id"] for row in home.files.rows}) == len(home.files.rows)


def test_what_was_erased_is_never_taken_up_again(tmp_path):
    lines = line(id="a", text="Alpha is here.") + line(id="b", text="Beta is secret.") + line(id="c", text="Gamma.")
    home = Home(tmp_path, {**GOOD, "faq.jsonl": lines, "only.jsonl": line(id="x", text="The secret alone.")})
    asked = {"question": "?", "answers": ["x"]}
    rows = [{**asked, "id": d, "evidence": [{"document": d, "quote": ""}]} for d in ("a.md", "deep/er/b.txt")]
    home.gold("questions", "".join(json.dumps(row) + "\n" for row in rows))
    home.fetch()
    gone = [{"id": document} for document in ("a.md", "faq.jsonl#b", "only.jsonl#x")]
    erasures.log_of(home.ports).append("demo", {"created": "2026-11-29T10:00:00+00:00", "documents": gone})
    changed, summary = home.fetch()
    assert changed and "3 erased on 2026-11-29" in summary
    assert summary.endswith("; 1 questions and 0 examples about erased documents left out")
    assert home.reasons == dict.fromkeys(("a.md", "faq.jsonl#b", "only.jsonl#x"), "erased on 2026-11-29")
    assert [row["id"] for row in home.files.rows] == ["deep/er/b.txt", "faq.jsonl#a", "faq.jsonl#c"]
    assert [row["id"] for row in home.files.questions] == ["deep/er/b.txt"]
    landed = {file.name: file.read_bytes() for file in (home.workspace.fetched / "source").rglob("*") if file.is_file()}
    assert "a.md" not in landed and landed["faq.jsonl"].count(b"\n") == 3
    assert not any(text in data for data in landed.values() for text in (b"secret", b"first document"))
    assert home.fetch()[0] is False
