"""Lines of gold and training data, BEIR's join, quarantine look-up, titles: pure decisions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import gold
from pipelines.core.titles import file_title, markdown_title

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["id", "question", "answers", "evidence", "prompt", "completion", "messages", "split", "other"])


def test_a_question_has_all_four_keys_and_keeps_the_others():
    assert gold.question({"id": "q1", "question": "Why?", "tier": 2}) == {
        "id": "q1",
        "question": "Why?",
        "answers": [],
        "evidence": [],
        "tier": 2,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Why?"}, "id must be text"),
        ({"id": "q", "question": " "}, "question must be text"),
        ({"id": "q", "question": "Why?", "answers": "yes"}, "answers must be a list of texts"),
        ({"id": "q", "question": "Why?", "evidence": ["a.md"]}, "evidence must be a list of objects"),
        ({"id": "q", "question": "Why?", "evidence": [{"quote": "x"}]}, "document must be text"),
        ({"id": "q", "question": "Why?", "evidence": [{"document": "a", "quote": 3}]}, "quote must be text"),
        ({"id": "q", "question": "Why?", "evidence": [{"document": "a", "relevance": 0}]}, "relevance is 0"),
        ({"id": "q", "question": "Why?", "split": "dev"}, "split is 'dev'; it is one of train, validation, test"),
        ({"id": "q", "question": "Why?", "split": None}, "split is None"),
        ({"id": "q", "question": "Why?", "split": ["test"]}, r"split is \['test'\]"),
    ],
)
def test_a_wrong_question_is_refused_with_the_valid_form(row, message):
    with pytest.raises(ValueError, match=message):
        gold.question(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "completion must be text"),
        ({"messages": []}, "messages must be a list that is not empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role must be one of"),
        ({"messages": [{"role": "user", "content": "x"}]}, "the last message must be the assistant's"),
        ({"prompt": "a", "completion": "b", "id": 3}, "id must be text"),
        ({"prompt": "a", "completion": "b", "split": "Test"}, "split is 'Test'; it is one of train, validation, test"),
    ],
)
def test_a_wrong_example_is_refused_with_the_valid_form(row, message):
    with pytest.raises(ValueError, match=message):
        gold.example(row)


def test_conversational_prompt_and_completion_become_messages():
    asked, said = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    assert gold.example({"prompt": [asked], "completion": [said]}) == {"messages": [asked, said]}


@given(st.dictionaries(KEYS, JSON, max_size=5))
def test_any_object_is_a_line_or_a_value_error(row):
    for parse in (gold.question, gold.example, gold.query):
        try:
            out = parse(row)
        except ValueError as exc:
            assert "\n" not in str(exc)
        else:
            json.dumps(out)


def test_beir_keeps_judged_queries_with_their_grades():
    queries = [gold.query({"_id": k, "text": f"{k}?"}) for k in ("q1", "q2", "q3")]
    queries[0] = gold.query({"_id": "q1", "text": "q1?", "metadata": {"answers": ["yes"]}})
    # q2 was judged, but only as not relevant; q3 was not judged at all
    judged = [gold.judgement(line) for line in ("q1\td2\t3", "q1\td1\t1", "q1\td9\t0", "q2 0 d1 0")]
    assert gold.beir_questions(queries, judged) == [
        {
            "id": "q1",
            "question": "q1?",
            "answers": ["yes"],
            "evidence": [{"document": "d1", "relevance": 1}, {"document": "d2", "relevance": 3}],
        }
    ]


def test_a_wrong_judgement_shows_the_form():
    with pytest.raises(ValueError, match="query-id, corpus-id and a whole-number score"):
        gold.judgement("q1\td1\tvery")


def test_a_document_is_accounted_for_by_name_or_by_the_form_of_unreadable_ids():
    accounted = gold.in_quarantine(
        [
            {"document": "a.pdf", "reason": "x", "bytes": 1},
            {"document": "faq.jsonl line 3", "reason": "x", "bytes": 1, "ids": "faq.jsonl#*"},
        ]
    )
    assert [accounted(d) for d in ("a.pdf", "faq.jsonl#hours", "faq.jsonlx", "b.pdf")] == [True, True, False, False]
    assert not gold.in_quarantine([])("a.pdf")


def test_readable_share_counts_replacements_and_controls():
    # 8 characters beside white space, of which 2 are bad
    assert gold.readable_share("abc def\ufffd\x01\n") == pytest.approx(6 / 8)
    assert gold.readable_share(" \n") == 1.0


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Refund *policy*\n\ntext", "Refund policy"),
        ("intro\n\n### See [the rules](x.md) ###\n", "See the rules"),
        ("Refunds\n=======\ntext", "Refunds"),
        ("```\n# a comment\n```\n## Real", "Real"),
        ("---\ntitle: 'From the field'\ndate: x\n---\n# Later", "From the field"),
        ("---\nnot front matter", None),
        ("no heading at all", None),
        ("#hashtag", None),
        ("", None),
    ],
)
def test_titles_come_from_the_first_heading(text, title):
    assert markdown_title(text) == title


def test_a_file_name_becomes_readable():
    assert file_title("orders/spare-parts_2.csv") == "spare parts 2"


@given(st.text(alphabet="#=-`~ab\n []()", max_size=60))
def test_a_title_is_one_line_or_none(text):
    title = markdown_title(text)
    assert title is None or (title.strip() and "\n" not in title)


LONG = f"Begin. {'word ' * 400}The lamp is lit at nine. {'tail ' * 400}End."


def test_a_long_document_is_shown_around_its_answer_and_a_short_one_whole():
    assert gold.passage_around("Lit at nine.", ["ten"]) == "Lit at nine."
    shown = gold.passage_around(LONG, ["none", "NINE"], most=200)
    assert "lit at nine." in shown and 150 < len(shown) <= 200
    assert set(shown.split()) <= set(LONG.split())  # whole words
    assert gold.passage_around(LONG, ["lam", " "], most=200) == ""  # no word of it: nothing shows the answer
    assert gold.passage_around(LONG, ["End."], most=50).endswith("End.")
    assert gold.passage_around(LONG, ["Begin"], most=50).startswith("Begin.")


def test_only_evidence_that_says_nothing_gets_its_documents_passage():
    question = {"id": "q", "answers": ["nine"], "evidence": [{"document": "a"}, {"document": "b", "quote": "At nine."}]}
    assert gold.unquoted(question) == ["a"]
    told = gold.with_passages(question, {"a": "Lit at nine."})
    assert told["evidence"] == [{"document": "a", "context": "Lit at nine."}, question["evidence"][1]]
    assert [gold.evidence_text(told, entry) for entry in told["evidence"]] == ["Lit at nine.", "At nine."]
    assert gold.with_passages(question, {}) == question  # in quarantine
    for other in ({**question, "answers": []}, {**question, "context": "At nine."}):
        assert gold.unquoted(other) == [] and gold.with_passages(other, {"a": "Lit."}) == other
