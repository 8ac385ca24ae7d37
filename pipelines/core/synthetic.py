"""Questions written by a model about a passage: how it is asked, how its reply is read, what is not believed. No I/O.

A pair is kept only when the passage supports it by its letter: the answer's words stand in the passage in one run, and
half of the question's content words stand in the same sentence. That is a filter of what is made up, not of what is
wrong: an answer taken from a sentence about something near passes. (A judgement by another model would see more; it
would cost as much again, and a small one judges badly.) So the generator decides what this is worth: of 23 pairs that
the packaged one of 135 million parameters wrote about the handbook, 2 were kept, and both miss the point.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.core.contamination import words_of
from pipelines.core.prompts import normalised

UNREAD, UNSUPPORTED, UNGROUNDED = "unread", "unsupported", "ungrounded"
REASONS = (UNREAD, UNSUPPORTED, UNGROUNDED)

_SYSTEM = "You write one question that a text answers, and its answer, copied word for word from the text."
_SHOWN = (
    (
        "The museum opens at nine in the morning. On Mondays it stays closed.",
        "On which day is the museum closed?",
        "Mondays",
    ),
    ("A replacement lamp costs 14 euros and is sent within two days.", "How much is a replacement lamp?", "14 euros"),
)
_PAIR = re.compile(r"Question:[ \t]*(?P<question>\S[^\n]*)\n+Answer:[ \t]*(?P<answer>\S[^\n]*)")
_WORD = re.compile(r"\w+")
_STOP = re.compile(r"[.!?]\s+|\n\s*\n")
_PARAGRAPH = re.compile(r"\S[^\n]*(?:\n[^\S\n]*\S[^\n]*)*")
_LEAST = 240  # characters: shorter paragraphs are joined with those after them
_FEWEST = 12  # words of a passage worth asking about
_LONGEST = 30  # words of an answer
_GROUNDED = 0.5  # share of the question's content words that must stand in the answer's sentence
_ASKING = re.compile(
    r"about|does|from|have|here|into|many|much|that|their|there|they|this|what|when|where|which|with|your"
)


@dataclass(frozen=True)
class Source:
    """A span of a document, in characters: text == document[start:end]."""

    document: str
    start: int
    end: int
    text: str


def sources(document: str, text: str) -> Iterator[Source]:
    """Paragraphs of a text; short ones together with those that follow."""
    start = None
    for paragraph in _PARAGRAPH.finditer(text):
        start = paragraph.start() if start is None else start
        found = text[start : paragraph.end()].rstrip()
        if len(found) >= _LEAST:
            yield Source(document, start, start + len(found), found)
            start = None
    if start is not None:
        rest = text[start:].rstrip()
        yield Source(document, start, start + len(rest), rest)


def worth_asking(source: Source) -> bool:
    """False for headings and fragments."""
    return len(words_of(source.text)) >= _FEWEST


def asking(passage: str) -> list[dict[str, str]]:
    """The chat that asks for one pair about a passage, with two pairs shown before."""
    chat = [{"role": "system", "content": _SYSTEM}]
    for text, question, answer in _SHOWN:
        chat += [
            {"role": "user", "content": f"Text: {text}"},
            {"role": "assistant", "content": f"Question: {question}\nAnswer: {answer}"},
        ]
    return [*chat, {"role": "user", "content": f"Text: {passage.strip()}"}]


def _run(words: Sequence[str], text: Sequence[str]) -> int | None:
    """Where `words` stand in `text` in one run."""
    places = range(len(text) - len(words) + 1)
    return next((at for at in places if list(text[at : at + len(words)]) == list(words)), None)


def _around(passage: str, start: int, end: int) -> str:
    """The sentences that a span stands in."""
    before = [stop.end() for stop in _STOP.finditer(passage, 0, start)]
    after = _STOP.search(passage, end)
    return passage[before[-1] if before else 0 : after.start() if after else len(passage)]


def read(reply: str, passage: str) -> tuple[str, str] | str:
    """(question, answer) of a reply, the answer as the passage writes it; or one of REASONS: it is no pair of one
    question and one answer, the passage does not hold the answer, or the question is not about it."""
    pair = _PAIR.search(reply)
    if pair is None:
        return UNREAD
    question, answer = pair["question"].strip(), words_of(pair["answer"])
    if not question.endswith("?") or any(normalised(question) == normalised(shown) for _, shown, _ in _SHOWN):
        return UNREAD
    places = list(_WORD.finditer(passage))
    words = [place.group().casefold() for place in places]
    at = _run(answer, words) if 0 < len(answer) <= _LONGEST else None
    if at is None:
        return UNSUPPORTED
    asked = words_of(question)
    content = [word for word in asked if len(word) > 3 and not _ASKING.fullmatch(word)]
    start, end = places[at].start(), places[at + len(answer) - 1].end()
    near = set(words_of(_around(passage, start, end)))
    if not content or sum(word in near for word in content) < _GROUNDED * len(content):
        return UNGROUNDED
    if _run(answer, asked) is not None:
        return UNGROUNDED
    return question, passage[start:end]
