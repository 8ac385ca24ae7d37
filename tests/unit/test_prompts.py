"""What the model is shown, and how its reply is read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.prompts import (
    ARMS,
    Passage,
    chat,
    first_object,
    normalised,
    pairs,
    parse_reply,
    prompt_digest,
    refuses,
)

REFUSAL = "I could not find this in the handbook."
PASSAGES = [Passage("orders/refund-policy.md", "60 days."), Passage("a.md", "Other.")]


def test_a_chat_without_passages_is_system_and_question():
    assert chat(" How long? ", system="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Question: How long?"},
    ]
    assert [m["role"] for m in chat("x", system=" ")] == ["user"]


def test_passages_are_numbered_and_headed_by_their_document():
    user = chat("How long?", PASSAGES, system="s")[1]["content"]
    assert user == "Passages:\n[1] orders/refund-policy.md\n60 days.\n\n[2] a.md\nOther.\n\nQuestion: How long?"


def test_shots_stand_between_the_instructions_and_the_question():
    shots = [{"role": "user", "content": "Question: a"}, {"role": "assistant", "content": "b"}]
    messages = chat("c", system="s", shots=shots)
    assert [m["content"] for m in messages] == ["s", "Question: a", "b", "Question: c"]


def test_every_two_arms_are_a_pair_the_later_minus_the_earlier():
    named = [name for name, _, _ in pairs(ARMS)]
    assert len(named) == 10
    assert {"prompt - base", "both - rag", "both - tuned", "tuned - rag"} <= set(named)
    assert next(pairs(["rag", "both"])) == ("both - rag", "both", "rag")


def test_normalised_is_squads():
    assert normalised("The  Cat, a dog—and an 'owl'!") == "cat dog—and owl"
    assert normalised("Theatre") == "theatre"  # articles are whole words


def test_a_json_reply_is_its_answer_and_citations():
    text = 'Sure! {"answer": " 60 days. ", "citations": ["a.md", 3, "a.md", " b.md"], "tone": "warm"} {"answer": "no"}'
    reply = parse_reply(text, PASSAGES, refusal=REFUSAL, structured=True)
    assert (reply.answer, reply.citations, reply.refused) == ("60 days.", ("a.md", "b.md"), False)
    assert reply.fields is not None and reply.fields["tone"] == "warm"


def test_citations_that_are_no_list_are_none():
    assert parse_reply('{"answer": "x", "citations": "a.md"}', refusal=REFUSAL, structured=True).citations == ()


@pytest.mark.parametrize("text", ['{"answer": "cut off', "[1, 2]", '{"reply": "x"}', '{"answer": 5}', "plain"])
def test_a_reply_without_such_an_object_is_plain_text(text):
    reply = parse_reply(text, PASSAGES, refusal=REFUSAL, structured=True)
    assert reply.answer == text and reply.fields is None
    assert reply.citations == ()  # it was to cite, and did not
    named = parse_reply(f"{text} says a.md", PASSAGES, refusal=REFUSAL, structured=True)
    assert named.citations == ("a.md",) or named.fields is not None


def test_unstructured_replies_are_never_parsed():
    assert parse_reply('{"answer": "x"}', refusal=REFUSAL, structured=False).answer == '{"answer": "x"}'


def test_plain_text_cites_what_it_names_else_the_first_passage():
    def cited(text, passages=PASSAGES):
        return parse_reply(text, passages, refusal=REFUSAL, structured=False).citations

    assert cited("As a.md says, 60.") == ("a.md",)
    assert cited("Sixty [2], see [1].") == ("orders/refund-policy.md", "a.md")
    assert cited("data.mdx says so") == ("orders/refund-policy.md",)  # a.md only as part of another word
    assert cited("Sixty.", []) == ()
    assert cited(f"Sorry. {REFUSAL}") == ()


def test_refusals():
    assert refuses("  ", refusal=REFUSAL) and refuses("...", refusal=REFUSAL)
    assert refuses("Sorry, i could not find THIS in handbook!", refusal=REFUSAL)
    assert not refuses("Found in the handbook.", refusal=REFUSAL)
    assert not refuses("anything", refusal="")


@given(st.text(max_size=200), st.booleans())
def test_any_reply_can_be_read(text, structured):
    reply = parse_reply(text, PASSAGES, refusal=REFUSAL, structured=structured)
    assert isinstance(reply.answer, str)
    assert set(reply.citations) <= {"orders/refund-policy.md", "a.md"} or reply.fields is not None


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.text(max_size=20))
def test_the_first_whole_object_is_found(value, around):
    noise = around.replace("{", "(")
    assert first_object(noise + json.dumps(value) + around) == value


def test_the_digest_covers_every_knob():
    base = {
        "model": "m",
        "system": "s",
        "refusal": "r",
        "structured": False,
        "max_new_tokens": 9,
        "passage_tokens": 9,
    }
    changed = [{**base, key: value} for key, value in (("model", "n"), ("system", "t"), ("refusal", "q"))]
    changed += [{**base, "structured": True}, {**base, "max_new_tokens": 8}, {**base, "passage_tokens": 8}]
    changed += [{**base, "model": ["m", "n"]}, {**base, "model": ["m", "o"]}]
    changed += [{**base, "longer": [{"shots": 4}, "d"]}, {**base, "longer": [{"shots": 4}, "e"]}]
    digests = {prompt_digest(**each) for each in [base, *changed]}
    assert len(digests) == 11 and prompt_digest(**base) in digests
