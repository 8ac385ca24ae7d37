"""What a language model is asked when it grades, and how its word is read."""

import pytest

from pipelines.core import grading


@pytest.mark.parametrize(
    ("text", "grade"),
    [("yes", True), ("Yes, it says so.", True), ("no", False), ("**No**", False), ("maybe", None), ("", None)],
)
def test_the_first_word_is_the_grade(text, grade):
    assert grading.grade(text) is grade


def test_the_question_names_every_reference_and_an_empty_answer():
    said = grading.asking("How long?", ["30 days", "a month"], "")[-1]["content"]
    assert "- 30 days\n- a month\n" in said and "Answer: (nothing)" in said
