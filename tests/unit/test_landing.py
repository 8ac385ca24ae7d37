"""Landing lays revisions over each other, whole."""

import json
from pathlib import Path

import pytest

from infra.demo import pending
from infra.landing import HANDBOOK, land, landed, revisions
from pipelines.errors import NotFound
from pipelines.settings import checkout


@pytest.fixture
def fixture(tmp_path: Path) -> Path:
    root = tmp_path / "fixture"
    for revision, documents, questions, removed in [
        ("2026-01-01", {"a.md": "old", "b.md": "b"}, [("q1", "old"), ("q2", "b")], ""),
        ("2026-02-01", {"a.md": "new", "c.md": "c"}, [("q1", "new"), ("q3", "c")], ""),
        ("2026-03-01", {}, [], "documents/b.md\nquestions/q2\n"),
    ]:
        (root / revision / "documents").mkdir(parents=True)
        (root / revision / "questions").mkdir()
        for name, text in documents.items():
            (root / revision / "documents" / name).write_text(text)
        rows = [json.dumps({"id": i, "answers": [a]}) for i, a in questions]
        (root / revision / "questions" / "x.jsonl").write_text("\n".join(rows))
        (root / revision / "removed.txt").write_text(removed)
    return root


def state(target: Path) -> tuple[dict[str, str], dict[str, str]]:
    documents = {file.name: file.read_text() for file in (target / "documents").iterdir()}
    rows = [json.loads(line) for line in (target / "questions" / "gold.jsonl").read_text().splitlines()]
    return documents, {row["id"]: row["answers"][0] for row in rows}


def test_revisions_replace_add_and_remove(fixture, tmp_path):
    target = tmp_path / "landing"
    land(target, "2026-01-01", fixture=fixture)
    assert state(target) == ({"a.md": "old", "b.md": "b"}, {"q1": "old", "q2": "b"})
    land(target, "2026-02-01", fixture=fixture)
    assert state(target) == ({"a.md": "new", "b.md": "b", "c.md": "c"}, {"q1": "new", "q2": "b", "q3": "c"})
    land(target, "2026-03-01", fixture=fixture)
    assert state(target) == ({"a.md": "new", "c.md": "c"}, {"q1": "new", "q3": "c"})
    assert landed(target) == "2026-03-01"


def test_removing_what_is_not_there_is_named_and_leaves_the_landing(fixture, tmp_path):
    target = tmp_path / "landing"
    land(target, "2026-01-01", fixture=fixture)
    (fixture / "2026-02-01" / "removed.txt").write_text("questions/q9\n")
    with pytest.raises(NotFound, match=r"2026-02-01/removed\.txt: no question q9"):
        land(target, "2026-02-01", fixture=fixture)
    assert landed(target) == "2026-01-01"


def test_the_handbook_has_three_revisions():
    assert len(revisions(checkout() / HANDBOOK)) == 3


def test_the_demo_goes_through_what_has_not_landed_and_first_through_what_was_left_unfinished():
    shown = ["2026-01-12", "2026-05-04"]
    assert pending(None, shown, unfinished=False) == shown
    assert pending(shown[0], shown, unfinished=False) == shown[1:]
    assert pending(shown[0], shown, unfinished=True) == shown
    assert pending(shown[1], shown, unfinished=False) == shown[1:]
