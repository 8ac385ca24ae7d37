"""How replies are read and scored: one scorer per task (`generate.task`). It asks no model and judges nothing.

| task | a reply | is held against |
|---|---|---|
| answer | text, or a JSON object with `answer` and `citations` | gold answers and evidence |
| sql | a query, alone or in a code fence | the results of the gold queries on `generate.database` |
| label | one of the labels, chosen by likelihood | the gold labels |

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
from pipelines.reply_schema import ReplySchema, load_schema


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
    """Questions answered from documents. `schema` is the form of a reply; None: plain text."""

    refusal: str
    schema: ReplySchema | None
    rouge_l: answers.Similarity

    @property
    def metrics(self) -> tuple[str, ...]:
        return answers.METRICS

    def score(self, text: str, question: Mapping[str, Any], passages: Sequence[Passage]) -> Scored:
        reply = parse_reply(text, passages, refusal=self.refusal, structured=self.schema is not None)
        form: dict[str, Any] = {"format_valid": answers.plain_format(text), "style": None}
        if self.schema is not None:
            said = first_object(text)
            form = {"format_valid": self.schema.valid(said), "style": self.schema.style(said)}
        documents = splits.documents_of(question)
        seen: dict[str, Any] = {"passages": passages, "rouge_l": self.rouge_l}
        return Scored(
            reply.answer, reply.citations, answers.score(reply, question["answers"], documents, **seen, **form)
        )


def _answer(generate: Generate, ports: Ports) -> Scorer:
    from pipelines.backends.rouge import RougeL

    return AnswerScorer(generate.refusal, load_schema(generate.reply_schema, ports), RougeL())


def _sql(generate: Generate, ports: Ports) -> Scorer:
    from pipelines.tasks import SqlScorer, open_database

    return SqlScorer(open_database(generate, ports))


def _label(generate: Generate, ports: Ports) -> Scorer:
    from pipelines.tasks import LabelScorer

    return LabelScorer()


TASKS: Mapping[str, Callable[[Generate, Ports], Scorer]] = {"answer": _answer, "sql": _sql, "label": _label}


def scorer(generate: Generate, ports: Ports) -> Scorer:
    """The scorer of `generate.task`. BadConfig when what it scores by (a schema, a database) cannot be used."""
    return TASKS[generate.task](generate, ports)
