"""Facts changed in documents, so that a reply can only have the new value from there."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import changed_facts
from pipelines.core.prompts import normalised

TEXTS = {"a": "Refunds take 30 days. The fee is 5 euros.", "b": "Ask Mirren at the desk. Refunds take 30 days."}


def question(name: str, answer: str, *evidence: tuple[str, str]) -> dict[str, Any]:
    return {
        "id": name,
        "question": f"{name}?",
        "answers": [answer],
        "evidence": [{"document": document, "quote": quote} for document, quote in evidence],
    }


def test_a_fact_changes_in_all_of_its_evidence_and_nowhere_else():
    asked = [question("q", "30 days", ("a", "Refunds take 30 days."), ("b", "Refunds take 30 days."))]
    made, texts = changed_facts.change(asked, TEXTS, most=9, seed=7)
    (change,) = made
    assert change.old == "30 days"
    assert change.new != change.old
    assert change.documents == ("a", "b")
    assert texts == {
        "a": f"Refunds take {change.new}. The fee is 5 euros.",
        "b": f"Ask Mirren at the desk. Refunds take {change.new}.",
    }
    assert changed_facts.follows(f"It takes {change.new}.", change)
    assert not changed_facts.follows("It takes 30 days.", change)


def test_an_answer_that_its_quote_does_not_word_is_passed_over():
    asked = [question("q", "a month", ("a", "Refunds take 30 days.")), question("r", "5", ("a", "not in the text 5"))]
    assert changed_facts.change(asked, TEXTS, most=9, seed=7) == ([], {})


def test_a_name_becomes_another_name():
    made, texts = changed_facts.change(
        [question("q", "Mirren", ("b", "Ask Mirren at the desk."))], TEXTS, most=9, seed=7
    )
    assert "Mirren" not in texts["b"]
    assert made[0].new[0].isupper()


def test_no_more_than_asked_for_are_changed():
    asked = [
        question("q", "30 days", ("a", "Refunds take 30 days.")),
        question("r", "5 euros", ("a", "The fee is 5 euros.")),
    ]
    made, _ = changed_facts.change(asked, TEXTS, most=1, seed=7)
    assert len(made) == 1
    both, texts = changed_facts.change(asked, TEXTS, most=2, seed=7)
    assert all(change.new in texts["a"] for change in both)
    assert len(both) == 2


@given(st.from_regex(r"[A-Za-z]*[0-9 ]{0,6}[a-z]+", fullmatch=True), st.text(max_size=8))
def test_a_new_value_is_another_one_of_the_same_kind(old: str, key: str):
    new = changed_facts.altered(old, key=key)
    if any(letter.isdigit() for letter in old):
        assert normalised(new) != normalised(old)
        assert sum(map(str.isdigit, new)) == sum(map(str.isdigit, old))
    else:
        assert new.isalpha()
