"""What an attacker lands: names, links, archives and lines that should reach beyond their document, and do not."""

import os
import zipfile
from io import BytesIO

import pytest

from tests.unit.test_corpus_fetch import GOOD, Home, line

OUTSIDE = "the secret of another folder"


def everything(home):
    """Relative paths of all files of the home but the landing."""
    return sorted(p.relative_to(home.workspace.root).as_posix() for p in home.workspace.root.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "key", ["../../../escaped", "/etc/escaped", "..\\..\\escaped", "C:\\escaped", "a/" * 200, "x" * 300]
)
def test_an_id_of_a_line_names_no_file(tmp_path, key):
    home = Home(tmp_path, {"faq.jsonl": line(id=key, text="The text of it.")})
    home.fetch()
    assert [row["id"] for row in home.files.rows] == [f"faq.jsonl#{key}"]
    names = ["documents.parquet", "examples.jsonl", "quarantine.jsonl", "questions.jsonl", "source/faq.jsonl"]
    assert everything(home) == ["measured/fetch.lock", *(f"staging/fetched/{name}" for name in names)]
    assert not list(tmp_path.rglob("*escaped*")) and not os.path.lexists("/etc/escaped")


@pytest.mark.parametrize(
    "name", ["..md", "a\\..\\b.md", "%2e%2e%2fb.md", "a;rm -rf b.md", "$(touch c).md", "x" * 252 + ".md"]
)
def test_an_odd_file_name_is_a_name_and_nothing_else(tmp_path, name):
    home = Home(tmp_path, {"good.md": b"# Good\n\nA document.", name: b"# Odd\n\nAnother."})
    home.fetch()
    found = {row["id"] for row in home.files.rows}
    assert found == ({"good.md"} if name.startswith(".") else {"good.md", name})
    assert {p.name for p in (home.workspace.fetched / "source").iterdir()} == found


def test_a_link_to_a_file_outside_is_not_followed(tmp_path):
    (tmp_path / "secret.md").write_text(OUTSIDE)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.txt").write_text(OUTSIDE)
    home = Home(tmp_path, GOOD)
    (home.landing / "absolute.md").symlink_to(tmp_path / "secret.md")
    (home.landing / "relative.md").symlink_to("../secret.md")
    (home.landing / "lines.jsonl").symlink_to("../secret.md")
    (home.landing / "folder").symlink_to(tmp_path / "private")
    (home.landing / "inside.md").symlink_to("a.md")
    home.fetch()
    reason = "a link that leads out of the landed folder"
    assert home.reasons == dict.fromkeys(["absolute.md", "lines.jsonl", "relative.md"], reason)
    assert sorted(row["id"] for row in home.files.rows) == sorted([*GOOD, "inside.md"])
    assert all(OUTSIDE not in (home.workspace.root / name).read_text(errors="replace") for name in everything(home))


def test_a_corpus_file_of_a_beir_folder_that_leads_outside_is_not_followed(tmp_path):
    (tmp_path / "secret.jsonl").write_bytes(line(_id="s", text=OUTSIDE))
    home = Home(tmp_path, {"queries.jsonl": line(_id="q", text="What?")})
    (home.landing / "corpus.jsonl").symlink_to(tmp_path / "secret.jsonl")
    home.fetch()
    assert not home.files.rows and home.reasons == {"corpus.jsonl": "a link that leads out of the landed folder"}


def test_a_hard_link_is_copied_and_its_original_never_written(tmp_path):
    original = tmp_path / "original.md"
    original.write_text("# Original\n\nThe text.")
    home = Home(tmp_path, GOOD)
    os.link(original, home.landing / "linked.md")
    home.fetch()
    kept = home.workspace.fetched / "source" / "linked.md"
    assert not kept.samefile(original) and original.read_text() == kept.read_text() == "# Original\n\nThe text."


def archive(name: str, data: bytes) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.7z", "a.md.zip"])
def test_archives_are_never_unpacked(tmp_path, name):
    data = archive("../../escaped.md", archive("inner.zip", b"x" * 1_000_000))
    home = Home(tmp_path, {**GOOD, name: data}, max_mb=1)
    home.fetch()
    assert home.reasons[name].startswith("unsupported extension")
    assert not list(tmp_path.rglob("*escaped*")) and not list(tmp_path.rglob("inner*"))


def test_a_line_of_100_mb_is_passed_over_without_being_held(tmp_path):
    home = Home(tmp_path)
    with (home.landing / "huge.jsonl").open("wb") as out:
        out.write(b'{"id": "huge", "text": "')
        out.truncate(100_000_000)
        out.seek(0, 2)
        out.write(b'"}\n' + line(id="after", text="still here"))
    home.fetch()
    assert [row["id"] for row in home.files.rows] == ["huge.jsonl#after"]
    assert home.reasons == {"huge.jsonl line 1": "too big: 100.0 MB, above fetch.max_document_mb = 0.01"}


def test_bidi_and_other_marks_are_kept_as_they_are_and_surrogates_refused(tmp_path):
    turned = "price \u202e09\u202c euros"
    home = Home(tmp_path, {"faq.jsonl": line(id="turned", text=turned) + b'{"id": "half", "text": "x \\udc80"}\n'})
    home.fetch()
    assert [row["text"] for row in home.files.rows] == [turned]  # what check then holds for review
    assert home.reasons["faq.jsonl#half"] == "text holds half of a surrogate pair"


def test_nested_json_is_not_a_stack_overflow(tmp_path):
    deep = b'{"id": "deep", "text": "x", "more": ' + b"[" * 4000 + b"]" * 4000 + b"}\n"
    home = Home(tmp_path, {"faq.jsonl": deep + line(id="good", text="y")}, max_mb=1)
    home.fetch()
    assert "faq.jsonl#good" in [row["id"] for row in home.files.rows]
