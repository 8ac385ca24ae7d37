"""How replies are read and scored: one scorer per task (`generate.task`). It asks no model and judges nothing.

| task | a reply | is held against |
|---|---|---|
| answer | text, or a JSON object with `answer` and `citations` | gold answers and evidence |

A further task is one more entry of `TASKS`: a function of (generate params, ports) that returns a `Scorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.core import answers, splits
from pipelines.core.prompts import Passage, first_object, parse_reply
from pipelines.params import Generate
from pipelines.ports import Ports
from pipelines.reply_schema import load_validator


@dataclass(frozen=True)
class Scored:
    """A reply as it was read (what it answers, which documents it cites) and its metrics, most of them in [0, 1]; a
    metric that has no meaning for this question or reply is absent."""

    answer: str
    citations: tuple[str, ...]
    metrics: Mapping[str, float]


class Scorer(Protocol):
    """Reads and scores replies of one task. `metrics` are all names that it may give, in the order shown."""

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def score(self, text: str, question: Mapping[str, Any], passages: Sequence[Passage]) -> Scored:
        """`text`: the reply as generated; `question`: a row of questions.jsonl (`id`, `question`, `answers`,
        `evidence`, and what else the line holds); `passages`: those in the prompt, as the model saw them."""
        ...


@dataclass(frozen=True)
class AnswerScorer:
    """Questions answered from documents. `valid` says whether a reply's object obeys the schema; None: plain text."""

    refusal: str
    valid: Callable[[Any], bool] | None

    @property
    def metrics(self) -> tuple[str, ...]:
        return answers.METRICS

    def score(self, text: str, question: Mapping[str, Any], passages: Sequence[Passage]) -> Scored:
        reply = parse_reply(text, passages, refusal=self.refusal, structured=self.valid is not None)
        well_formed = answers.plain_format(text) if self.valid is None else self.valid(first_object(text))
        documents = splits.documents_of(question)
        found = answers.score(reply, question["answers"], documents, format_valid=well_formed)
        return Scored(reply.answer, reply.citations, found)


def _answer(generate: Generate, ports: Ports) -> Scorer:
    return AnswerScorer(generate.refusal, load_validator(generate.reply_schema, ports))


TASKS: Mapping[str, Callable[[Generate, Ports], Scorer]] = {"answer": _answer}


def scorer(generate: Generate, ports: Ports) -> Scorer:
    """The scorer of `generate.task`. BadConfig when what it scores by (a schema, a database) cannot be used."""
    return TASKS[generate.task](generate, ports)
