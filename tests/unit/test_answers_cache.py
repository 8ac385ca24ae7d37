"""Replies are kept by content: nothing is generated twice, and the order is that of the questions."""

import json

import pytest

from pipelines.answering import passages_of, replies
from pipelines.backends.objects import ObstoreObjects
from pipelines.core.splits import TEST, split_of
from pipelines.ports import Completion, Hit
from pipelines.stages.score_answers import chosen
from tests.adapter_kit import params_of


class Echo:
    """Replies with the question in capitals; counts what it was asked."""

    digest = "e" * 64

    def __init__(self, dies_at=None):
        self.asked, self.dies_at = [], dies_at

    def trim(self, text, *, tokens):
        return " ".join(text.split()[:tokens])

    def reply(self, chats, *, max_new_tokens):
        if self.dies_at is not None and len(self.asked) >= self.dies_at:
            raise KeyboardInterrupt
        self.asked += [c[-1]["content"] for c in chats]
        return [Completion(c[-1]["content"].upper(), 5, 1, 0.1, 0.2) for c in chats]


def chats(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def ask(objects, generator, *texts, batch=2, tokens=8):
    made, fresh = replies(objects, generator, chats(*texts), max_new_tokens=tokens, batch=batch)
    return [c.text for c in made], fresh


def test_order_is_kept_and_nothing_is_asked_twice(tmp_path):
    objects, generator = ObstoreObjects(str(tmp_path)), Echo()
    assert ask(objects, generator, "a", "longest", "mid", "bb") == (["A", "LONGEST", "MID", "BB"], 4)
    assert generator.asked == ["longest", "mid", "bb", "a"]  # like lengths together
    assert ask(objects, generator, "mid", "new", "a") == (["MID", "NEW", "A"], 1)
    assert generator.asked[4:] == ["new"]


def test_another_length_or_generator_is_another_reply(tmp_path):
    objects = ObstoreObjects(str(tmp_path))
    ask(objects, Echo(), "a")
    assert ask(objects, Echo(), "a", tokens=9)[1] == 1
    other = Echo()
    other.digest = "f" * 64
    assert ask(objects, other, "a")[1] == 1


def test_a_killed_run_keeps_its_whole_batches(tmp_path):
    objects = ObstoreObjects(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        ask(objects, Echo(dies_at=2), "aaa", "bbb", "c", "d")
    assert ask(objects, Echo(), "aaa", "bbb", "c", "d") == (["AAA", "BBB", "C", "D"], 2)


def test_kept_replies_are_json_with_their_first_cost(tmp_path):
    objects = ObstoreObjects(str(tmp_path))
    ask(objects, Echo(), "a")
    (key,) = objects.list("answers/")
    cost = {"tokens_in": 5, "tokens_out": 1, "seconds": 0.1, "cpu_seconds": 0.2}
    assert json.loads(objects.get(key)) == {"text": "A", **cost}
    # What an older version kept, or another machine made, has no CPU time.
    objects.put(key, json.dumps({"text": "A", "tokens_in": 5, "tokens_out": 1, "seconds": 0.1}).encode())
    (kept,), _ = replies(objects, Echo(), chats("a"), max_new_tokens=8, batch=2)
    assert (kept.text, kept.cpu_seconds) == ("A", None)


def test_passages_are_trimmed():
    hit = Hit("c", "d.md", "t", 0, 9, "one two three", 1.0)
    assert [(p.document, p.text) for p in passages_of([hit], Echo(), tokens=2)] == [("d.md", "one two")]


def test_chosen_questions():
    params = params_of(answer={"max_questions": 5})
    evidence = [{"document": "d"}]
    rows = [{"id": f"q{n:02}", "question": "?", "answers": ["x"], "evidence": []} for n in range(60)]
    rows += [{"id": "labels-only", "question": "?", "answers": [], "evidence": evidence}]
    few, more = chosen(rows, params), chosen(rows, params_of(answer={"max_questions": 9}))
    assert len(few) == 5 and few == sorted(few, key=lambda q: q["id"])
    assert {q["id"] for q in few} < {q["id"] for q in more}  # a larger cap only adds
    assert all(split_of(q, **params.split.model_dump()) == TEST for q in more)
    every = chosen(rows, params_of(answer={"max_questions": 100}, split={"test": 0.9, "validation": 0.0}))
    assert "labels-only" not in {q["id"] for q in every}
