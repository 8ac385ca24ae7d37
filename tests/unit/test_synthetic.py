"""Questions written about a passage: what is asked about, how a reply is read, what is not believed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.synthetic import UNGROUNDED, UNREAD, UNSUPPORTED, asking, read, sources, worth_asking

COST = "What does a patch of tent fabric cost?"
PASSAGE = "The workshop repairs a torn tent within 15 business days. A patch of tent fabric costs 18 euros."


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (f"Question: {COST}\nAnswer: 18 euros", (COST, "18 euros")),
        ("Sure!\nQuestion: How long does the workshop take for a torn tent?\nAnswer: within 15 BUSINESS days.",
         ("How long does the workshop take for a torn tent?", "within 15 business days")),
        ("Question: What does a patch cost?", UNREAD),
        ("A patch costs 18 euros.", UNREAD),
        ("Question: Tell me about the patch\nAnswer: 18 euros", UNREAD),
        ("Question: How much is a replacement lamp?\nAnswer: 18 euros", UNREAD),  # shown to it as an example
        ("Question: What does a patch of tent fabric cost?\nAnswer: 19 euros", UNSUPPORTED),
        ("Question: What does a patch of tent fabric cost?\nAnswer: 18 business days", UNSUPPORTED),  # not in one run
        ("Question: What does a patch of tent fabric cost?\nAnswer: !", UNSUPPORTED),
        ("Question: Which president signed the treaty?\nAnswer: 18 euros", UNGROUNDED),
        ("Question: How many days does the torn workshop take?\nAnswer: 18 euros", UNGROUNDED),  # of the other sentence
        ("Question: What is it?\nAnswer: 18 euros", UNGROUNDED),
        ("Question: Does a patch of tent fabric cost 18 euros?\nAnswer: 18 euros", UNGROUNDED),  # it says so itself
    ],
)  # fmt: skip
def test_replies_are_read_and_judged(reply, expected):
    assert read(reply, PASSAGE) == expected


def test_short_paragraphs_go_together():
    text = "# Title\n\nShort.\n\n" + "Long words here. " * 20 + "\n\n" + "Another one. " * 20 + "\n\nEnd.\n"
    found = list(sources("d", text))
    assert [s.text.split()[0] for s in found] == ["#", "Another", "End."]
    assert all(s.text == text[s.start : s.end] for s in found)
    assert [worth_asking(s) for s in found] == [True, True, False]


@given(st.text("ab.\n \t", max_size=600))
def test_sources_are_spans_that_hold_all_words(text):
    found = list(sources("d", text))
    assert all(s.text == text[s.start : s.end] and s.text == s.text.strip() for s in found)
    assert "".join("".join(s.text for s in found).split()) == "".join(text.split())
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_the_passage_is_asked_about_last():
    assert asking(PASSAGE)[-1] == {"role": "user", "content": f"Text: {PASSAGE}"}
