"""What differs between champion and candidate, by hand; and which files of questions are refused."""

import pytest

from pipelines.actions.shadow import questions_of
from pipelines.core import shadow
from pipelines.errors import BadInput


def side(texts, answer=None, cited=()):
    found = {"passages": [{"document": d, "text": t} for d, t in texts]}
    return found if answer is None else {**found, "answer": answer, "citations": [{"document": d} for d in cited]}


def test_a_row_by_hand():
    old = side([("a", "one"), ("b", "two")], "Paid within 30 days.", ["a"])
    new = side([("a", "one!"), ("b", "two")], "Paid within 60 days.", ["a"])
    row = shadow.difference("when?", old, new)
    assert row == {
        "question": "when?", "champion": "Paid within 30 days.", "candidate": "Paid within 60 days.",
        "passages_gone": ["a"], "passages_new": ["a"],
        "passages_kept": pytest.approx(1 / 3),  # b of a, a!, b
        "same_best_passage": 0.0, "same_answer": 0.0,
        "answer_f1": 0.75,  # 3 of 4 tokens on either side
        "citations_kept": 1.0,
    }  # fmt: skip
    assert shadow.changed(row) and not shadow.changed(shadow.difference("when?", old, old))


def test_without_answers_passages_decide_and_the_summary_counts():
    old, new = side([("a", "one"), ("b", "two")]), side([("b", "two"), ("a", "one")])
    rows = [shadow.difference(q, old, n) for q, n in (("x", old), ("y", new), ("z", side([("c", "three")])))]
    assert [shadow.changed(row) for row in rows] == [False, False, True]
    found = shadow.summary(rows)
    assert (found["questions"], found["changed"]) == (3, 1)
    assert found["metrics"]["passages_kept"]["value"] == pytest.approx(2 / 3)
    assert found["metrics"]["same_best_passage"]["value"] == pytest.approx(1 / 3)
    assert "same_answer" not in found["metrics"]
    with pytest.raises(ValueError, match="no questions"):
        shadow.summary([])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("q.jsonl", '{"question": "a"}\n{"asked": "b"}\n', "q.jsonl, line 2 has no question"),
        ("q.txt", "\n  \n", "q.txt holds none"),
    ],
)
def test_a_file_without_questions_is_refused(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=reason):
        questions_of(tmp_path / name, limit=5)
    with pytest.raises(BadInput, match="is no file"):
        questions_of(tmp_path / "none.txt", limit=5)


def test_questions_are_asked_once_and_at_most_so_many(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"question": "a", "user": 1}\n{"question": " a "}\n{"question": "b"}\n')
    (tmp_path / "log.txt").write_text("a\nb\nc\n")
    assert questions_of(tmp_path / "log.jsonl", limit=5) == ["a", "b"]
    assert questions_of(tmp_path / "log.txt", limit=2) == ["a", "b"]
