"""Whether a text holds what an evaluation set asks, by runs of words in common. No I/O.

The method is that of Llama 2 (Touvron et al. 2023, appendix A.6), on words as GPT-3 took them (Brown et al. 2020,
appendix C: lower case, no punctuation): a word of a test text is covered when it stands in a run of `words` words that
the other text has too, and a text with `share` or more of a test text's words is contaminated. Skips inside a run are
not allowed for. A text without spaces between its words (Chinese) is one long word: there, only equality is seen.

What is a test text here:
- the question;
- each sentence of its evidence, and each of its answers, that stands in a test document. Where a question rests on a
  training document as well, training may say what that says (`core.splits`): such an overlap is told, not dropped.
Texts shorter than `words` are not looked for: short answers, labels and phrases recur by chance. Nor are answers of
questions without evidence: labels and queries are a form to be learned, and only the question says which is meant.

The validation questions are an evaluation set too, for what is trained on: they choose which weights are kept. What is
said of the test above holds for them and validation documents (`Guard`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.core.gold import evidence_text
from pipelines.core.splits import TEST, TRAIN, VALIDATION, split_of, split_of_key

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Probe:
    """One text of a test question `id`; `kind` is question, evidence or answer. `secret`: training must not hold it."""

    id: str
    kind: str
    text: str
    secret: bool = True


@dataclass(frozen=True)
class Overlap:
    """The test text that another text covers most, and the share of its words."""

    about: Probe
    share: float

    def __str__(self) -> str:
        return f"holds {self.share:.2f} of the words of {self.about.id}'s {self.about.kind}"


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


def probes(questions: Iterable[Mapping[str, Any]], *, of: str = TEST, **how: Any) -> Iterator[Probe]:
    """The texts of questions of the split `of`; `how` are the split's validation, test and seed."""
    for question in questions:
        yield Probe(question["id"], "question", question["question"])
        for entry in question["evidence"]:
            secret = split_of_key(entry["document"], **how) == of
            for sentence in _SENTENCE.split(evidence_text(question, entry)):
                yield Probe(question["id"], "evidence", sentence, secret)
        secret = all(split_of_key(entry["document"], **how) == of for entry in question["evidence"])
        for answer in question["answers"] if question["evidence"] else ():
            yield Probe(question["id"], "answer", answer, secret)


class Index:
    """Runs of `words` words of test texts, to look other texts up in. Memory: one entry per word of them."""

    def __init__(self, texts: Iterable[Probe], *, words: int) -> None:
        self._words = words
        self._texts: list[tuple[Probe, int]] = []
        self._runs: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for text in texts:
            found = words_of(text.text)
            for at, run in enumerate(self._cut(found)):
                self._runs[run].append((len(self._texts), at))
            self._texts.append((text, len(found)))

    def _cut(self, words: list[str]) -> Iterator[tuple[str, ...]]:
        return zip(*(words[at:] for at in range(self._words)), strict=False)

    def places(self, words: list[str]) -> list[int]:
        """Where in the words of another text a run of a test text begins."""
        return [at for at, run in enumerate(self._cut(words)) if run in self._runs]

    def overlaps(self, text: str) -> list[Overlap]:
        """Every test text that shares a run with `text`, the most covered first."""
        covered: dict[int, set[int]] = defaultdict(set)
        for run in self._cut(words_of(text)):
            for number, at in self._runs.get(run, ()):
                covered[number].update(range(at, at + self._words))
        found = [Overlap(self._texts[n][0], len(places) / self._texts[n][1]) for n, places in covered.items()]
        return sorted(found, key=lambda o: (-o.share, o.about.id, o.about.kind, o.about.text))

    def worst(self, texts: Iterable[str], *, share: float, secret: bool) -> Overlap | None:
        """Of several texts the overlap of at least `share` that is largest, with test texts that training must not
        hold (`secret`), or with those it may; None without one."""
        found = [o for text in texts for o in self.overlaps(text) if o.about.secret is secret and o.share >= share]
        return min(found, key=lambda o: (-o.share, o.about.id, o.about.kind), default=None)


class Guard:
    """The evaluation sets of a corpus's questions: `tested` and `chosen`, those of the test and the validation split.

    Rows of the training split are held against both, rows of the validation split against the test.
    """

    def __init__(
        self, questions: Iterable[Mapping[str, Any]], *, words: int, share: float, split: Mapping[str, Any]
    ) -> None:
        by: dict[str, list[Mapping[str, Any]]] = {TEST: [], VALIDATION: [], TRAIN: []}
        for question in questions:
            by[split_of(question, **split)].append(question)
        self.tested, self.chosen, self._share = by[TEST], by[VALIDATION], share
        test, validation = (Index(probes(by[of], of=of, **split), words=words) for of in (TEST, VALIDATION))
        self._test = test
        self._against = {TRAIN: (test, validation), VALIDATION: (test,)}

    def overlap(self, texts: Iterable[str], split: str, *, share: float | None = None) -> Overlap | None:
        """The largest overlap, of at least `share`, with a text that a row of `split` must not hold; None without."""
        texts, least = list(texts), self._share if share is None else share
        found = [index.worst(texts, share=least, secret=True) for index in self._against[split]]
        return max((o for o in found if o is not None), key=lambda o: o.share, default=None)

    def shared(self, texts: Iterable[str]) -> Overlap | None:
        """The largest overlap with a text of the test that training may hold, since a training document says it."""
        return self._test.worst(texts, share=self._share, secret=False)
