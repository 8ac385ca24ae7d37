"""Whether a document looks written to steer a model or a search, not to inform people. No I/O; it decides nothing.

| kind | what is looked for |
|---|---|
| instructions to a model | what `core.orders` finds, also in disguise (`core.disguise`) |
| hidden text | Unicode tags, overrides of direction, invisible or foreign letters in words, words spelt out, base64 |
| keyword stuffing | a stretch of words that repeats itself far more than prose, code or tables do |
| gold question | a gold question nearly word for word in a document that is no evidence for it |

The last is the form of poisoned passages that a search is sure to find (Zou et al. 2024, "PoisonedRAG": the question
itself, then the false answer). What is reworded altogether is not found: docs/attacks.md says how often.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.contamination import Index, Probe, words_of
from pipelines.core.disguise import UNUSUAL, covert, plain
from pipelines.core.orders import orders

INSTRUCTIONS = "instructions to a model"
HIDDEN = "hidden text"
STUFFED = "keyword stuffing"
GOLD = "gold question"
KINDS = (INSTRUCTIONS, HIDDEN, STUFFED, GOLD)


@dataclass(frozen=True)
class Suspicion:
    """Why a document is suspicious: its kind (one of KINDS), and what was found. It repeats no text of the document."""

    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.detail})"


_TAGGED = re.compile("[\U000e0020-\U000e007e]")
_TURNED = re.compile("[\u202d\u202e]")
_SPLIT = re.compile("(?<=[A-Za-z])[\u200b-\u200d\u2060\ufeff]+(?=[A-Za-z])")
_MINGLED = re.compile("[A-Za-z][\u0400-\u04ff]|[\u0400-\u04ff][A-Za-z]")
_SPLITS, _MINGLES = 8, 8  # a few come from web pages that hint at breaks, and from names of products and formulas


def _hidden(text: str, disguised: Sequence[tuple[str, str]]) -> Suspicion | None:
    for sign, least, detail in (
        (_TAGGED, 1, "Unicode tags"),
        (_TURNED, 1, "override of direction"),
        (_SPLIT, _SPLITS, "zero-width characters inside words"),
        (_MINGLED, _MINGLES, "Cyrillic letters inside Latin words"),
    ):
        if not text.isascii() and len(sign.findall(text)) >= least:
            return Suspicion(HIDDEN, detail)
    covered = next((how for how, said in disguised if how in UNUSUAL and len(said) >= 24), None)
    return Suspicion(HIDDEN, covered) if covered else None


def _instructions(seen: str, disguised: Sequence[tuple[str, str]]) -> Suspicion | None:
    for said in (seen, *(said for _, said in disguised)):
        if found := orders(said):
            return Suspicion(INSTRUCTIONS, found)
    return None


_ADDRESS = re.compile(r"[/\\@_]")  # a word that holds one is an address, a path or a name in code
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_WINDOW, _STEP, _LEAST = 100, 50, 40  # words of a stretch, between two, and of the shortest that is judged
_SMALL = frozenset(
    re.findall(
        r"\w+",
        """
        the of and an to in is are was were be been for on with as by at or from that this it its which not
        can will if  we you your our their his her he she they them there these those have has had do does
        may must should would could  into than then also when where who what how all any each more most such
        no so but
        """,
    )
)


def _prose(text: str) -> list[str]:
    """The words of lines that are neither code nor tables nor addresses: those repeat themselves by nature."""
    out: list[str] = []
    for line in text.split("\n"):
        words = [word for word in line.split() if not _ADDRESS.search(word)]
        solid = "".join(words)
        letters = sum(map(str.isalpha, solid)) + sum(map(solid.count, ",.;"))
        if solid and not solid.startswith("|") and letters >= 0.9 * len(solid):
            out += _LETTERS.findall(" ".join(words).casefold())
    return out


def _stuffed(text: str) -> Suspicion | None:
    """A stretch that deflates to a quarter, or of which three words are two fifths. English abstracts and encyclopedia
    articles stay above 0.30 and below 0.34."""
    words = _prose(plain(text))
    for start in range(0, max(1, len(words) - _WINDOW + _STEP), _STEP):
        stretch = words[start : start + _WINDOW]
        if len(stretch) < _LEAST:
            break
        said = " ".join(stretch).encode()
        if len(zlib.compress(said, 9)) < 0.25 * len(said):
            return Suspicion(STUFFED, "words in the same order again and again")
        if len(set(stretch)) >= 0.6 * len(stretch) + 3:
            continue  # three words cannot make up two fifths
        most = Counter(word for word in stretch if len(word) > 2 and word not in _SMALL).most_common(3)
        if sum(count for _, count in most) > 0.4 * len(stretch):
            return Suspicion(STUFFED, "a few words make up most of it")
    return None


_RUN, _SHARE, _SHORTEST, _BLOCK = 4, 0.75, 5, 60  # words in common, of the question, of a question, of a block


class Detector:
    """Looks at documents, one at a time. `questions` are the corpus's gold questions, whose wording is looked for."""

    def __init__(self, questions: Iterable[Mapping[str, Any]] = ()) -> None:
        self._evidence: dict[str, frozenset[str]] = {}
        self._gold = Index(self._asked(questions), words=_RUN)

    def _asked(self, questions: Iterable[Mapping[str, Any]]) -> Iterator[Probe]:
        """Questions whose evidence is known, or known to be none: of others no document can be said to be foreign."""
        for row in questions:
            if len(words_of(row["question"])) >= _SHORTEST and (row["evidence"] or not row["answers"]):
                self._evidence[row["id"]] = frozenset(entry["document"] for entry in row["evidence"])
                yield Probe(row["id"], "question", row["question"])

    def _asks(self, document: str, seen: str) -> Suspicion | None:
        words = words_of(seen) if self._evidence else []
        step = _BLOCK // 2
        starts = {at - at % step - back for at in self._gold.places(words) for back in (0, step)}
        for start in sorted(starts - {-step}):
            for found in self._gold.overlaps(" ".join(words[start : start + _BLOCK])):
                if found.share < _SHARE:
                    break
                if document not in self._evidence[found.about.id]:
                    return Suspicion(GOLD, "it asks what another document answers")
        return None

    def look(self, document: str, *, title: str, text: str) -> list[Suspicion]:
        """What is suspicious about a document (its id, title and text); one of each kind at most."""
        whole = f"{title}\n\n{text}"
        seen, disguised = plain(whole), covert(whole)
        found = (_instructions(seen, disguised), _hidden(whole, disguised), _stuffed(text), self._asks(document, seen))
        return [suspicion for suspicion in found if suspicion is not None]
