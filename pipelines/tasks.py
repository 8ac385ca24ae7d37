"""The tasks `sql` and `label` (`generate.task`): what they need beside questions, and how their replies are scored.

A question of theirs has a query or a label as its answers. It runs no model, and decides no split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.core.gold import restricted
from pipelines.core.mixing import completion_of, with_id
from pipelines.core.prompts import Passage
from pipelines.core.splits import TEST, split_of
from pipelines.core.sql_results import Result, orders, same_result, sql_of
from pipelines.errors import BadConfig, BadInput
from pipelines.params import CorpusParams, Generate
from pipelines.ports import Ports
from pipelines.scoring import Scored

if TYPE_CHECKING:
    from pipelines.backends.sqlite_queries import SqliteQueries

Item = Mapping[str, Any]
MOST_LABELS = 2000
"""Of one corpus: each reply reads them all."""


def open_database(generate: Generate, ports: Ports) -> SqliteQueries:
    """`generate.database`, ready to be asked. BadConfig when it is not there or no SQLite file."""
    from pipelines.backends.sqlite_queries import SqliteQueries

    if generate.database is None:
        raise BadConfig("generate.database is null; task sql needs the path of a SQLite file")
    return SqliteQueries(ports.path(generate.database))


@dataclass
class SqlScorer:
    """Execution accuracy: a reply's query gives the result of a gold query (`core.sql_results`). A query that is not
    one statement that reads, or that takes too long, is no valid SQL. A question without a gold query has no metric."""

    queries: SqliteQueries
    metrics: tuple[str, ...] = ("execution_accuracy", "valid_sql")
    _known: dict[str, Result] = field(default_factory=dict)

    def score(self, text: str, question: Item, passages: Sequence[Passage]) -> Scored:
        """BadInput when a gold query does not run: nothing can be held against it."""
        sql = sql_of(text)
        if not question["answers"]:
            return Scored(sql, (), {})
        said = self.queries.run(sql)
        right = any(self._agrees(said, gold, str(question["id"])) for gold in question["answers"])
        return Scored(sql, (), {"execution_accuracy": float(right), "valid_sql": float(said.error is None)})

    def _agrees(self, said: Result, gold: str, name: str) -> bool:
        if gold not in self._known:
            self._known[gold] = _run_gold(self.queries, gold, name)
        wanted = self._known[gold]
        return said.error is None and same_result(wanted.rows, said.rows, ordered=orders(gold))


def _run_gold(queries: SqliteQueries, sql: str, name: str) -> Result:
    result = queries.run(sql)
    if result.error is not None:
        raise BadInput(f"question {name!r}: its gold query does not run: {result.error}: {result.detail}")
    return result


def _plain(label: str) -> str:
    return " ".join(label.split()).casefold()


@dataclass(frozen=True)
class LabelScorer:
    """A reply is right when it is a gold label, case and white space aside. A question without one has no metric."""

    metrics: tuple[str, ...] = ("label_accuracy",)

    def score(self, text: str, question: Item, passages: Sequence[Passage]) -> Scored:
        label = text.strip()
        if not question["answers"]:
            return Scored(label, (), {})
        right = _plain(label) in {_plain(gold) for gold in question["answers"]}
        return Scored(label, (), {"label_accuracy": float(right)})


def _listed(labels: str, ports: Ports) -> list[str]:
    file = ports.path(labels)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        raise BadConfig(f"generate.labels is {labels!r}, which is no file with one label a line: {reason}") from exc
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _learned(params: CorpusParams, questions: Iterable[Item], examples: Sequence[Item]) -> list[str]:
    """Labels of what is neither test nor rests on documents that may not be trained on, sorted: the examples'
    completions, or the questions' answers without examples."""
    how: dict[str, Any] = params.split.model_dump()

    def learned(item: Item) -> bool:
        return split_of(item, **how) != TEST and not restricted(item, params.mix.labels)

    if examples:
        return sorted({completion_of(example).strip() for example in filter(learned, map(with_id, examples))})
    return sorted({answer.strip() for q in filter(learned, questions) for answer in q["answers"]})


def labels_of(
    params: CorpusParams, questions: Iterable[Item], examples: Sequence[Item], *, ports: Ports
) -> list[str] | None:
    """What a reply is chosen from; None for a task that writes its replies. BadConfig for fewer than two labels."""
    generate = params.generate
    if generate.task != "label":
        return None
    if isinstance(generate.labels, str):
        found, source = _listed(generate.labels, ports), f"generate.labels {generate.labels!r}"
    elif generate.labels is not None:
        found, source = list(generate.labels), "generate.labels"
    else:
        found, source = _learned(params, questions, examples), "the training examples (generate.labels is null)"
    if not 2 <= len(found) <= MOST_LABELS:
        raise BadConfig(f"{source} give {len(found)} distinct labels; a label is chosen from 2 to {MOST_LABELS}")
    return found


def require_gold(params: CorpusParams, questions: Sequence[Item], examples: Sequence[Item], *, ports: Ports) -> None:
    """BadConfig and BadInput when the task cannot be scored: no database, a gold query that does not run on it, a gold
    label that is none of those listed. Labels that are derived are only counted: a test may hold one never learned."""
    generate = params.generate
    if generate.task == "sql":
        with open_database(generate, ports) as queries:
            for question in questions:
                for gold in question["answers"]:
                    _run_gold(queries, gold, str(question["id"]))
    elif generate.task == "label" and (questions or examples or generate.labels is not None):
        known = {_plain(label) for label in labels_of(params, questions, examples, ports=ports) or ()}
        for question in questions if generate.labels is not None else ():
            for gold in question["answers"]:
                if _plain(gold) not in known:
                    raise BadInput(f"question {question['id']!r}: its label {gold!r} is none of generate.labels")
