"""A language model as judge: whether it finds the replies of the arms right, and how far the gold answers agree.

The generator that `compare.judge` names is asked about every reply to a question with gold answers; grades are kept by
content like all replies. Nothing is decided by them. They go through MLflow's evaluation into the run, an assessment a
reply, where a reviewer can look at each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.answering import replies
from pipelines.core import grading
from pipelines.core.bootstrap import mean_interval
from pipelines.core.prompts import ARMS
from pipelines.errors import BadConfig, NotFound, NotMeasurable
from pipelines.ports import Completion, Generator
from pipelines.probes import Subject
from pipelines.schemas import read_jsonl

Row = Mapping[str, Any]
RIGHT = 0.5
"""A reply is right by the gold answers when its metric reaches this: whole answers, queries and labels are 0 or 1."""
_BY = ("contains_answer", "execution_accuracy", "label_accuracy")


def _judge(subject: Subject) -> Generator:
    from pipelines.wiring import Wiring

    name = subject.params.compare.judge
    if name is None:
        raise BadConfig("compare.judge is null; name a definition of models/generators that shall grade replies")
    generate = subject.params.generate.model_copy(update={"model": name})
    params = subject.params.model_copy(update={"generate": generate})
    return Wiring(subject.ports.settings, subject.workspace.corpus, params).base_generator()


def _grades(subject: Subject, judge: Generator, rows: Sequence[Row]) -> list[Completion]:
    """A word for each row: the likelier of yes and no, or what a judge writes that cannot say how likely a word is."""
    chats = [grading.asking(row["question"], row["gold"], row["answer"]) for row in rows]
    how: dict[str, Any] = {"max_new_tokens": 4, "batch": subject.params.answer.batch}

    def say(ready: int, wanted: int) -> None:
        print(f"measure: judge: {ready} of {wanted} replies graded", flush=True)

    try:
        return replies(subject.ports.objects, judge, chats, options=list(grading.WORDS), say=say, **how)[0]
    except BadConfig:
        return replies(subject.ports.objects, judge, chats, say=say, **how)[0]


def measure(subject: Subject) -> dict[str, Any]:
    """{"judge", "digest", "unreadable", "agreement": {value, low, high, n}, "kappa": Cohen's, null where one of both
    always says the same; "arms": {arm: share found right}, "rows"}. BadConfig without a judge; NotMeasurable without a
    reply to grade; NotFound when the judge says neither yes nor no."""
    from sklearn.metrics import cohen_kappa_score

    judge = _judge(subject)
    rows = [row for row in read_jsonl(subject.workspace.scores("answers")) if row["gold"] and row["arm"] in ARMS]
    by = next((name for name in _BY if rows and name in rows[0]["metrics"]), None)
    if by is None:
        raise NotMeasurable(f"{subject.workspace.corpus} has no reply that gold answers call right or wrong")
    graded = []
    for row, said in zip(rows, _grades(subject, judge, rows), strict=True):
        by_gold = bool(row["metrics"][by] >= RIGHT)
        graded.append({**_shown(row), "found_right": grading.grade(said.text), "right": by_gold})
    read = [row for row in graded if row["found_right"] is not None]
    if not read:
        raise NotFound(f"judge {judge.name} said neither yes nor no to any of {len(graded)} replies")
    found, right = [row["found_right"] for row in read], [row["right"] for row in read]
    varied = len(set(found)) > 1 and len(set(right)) > 1
    arms = {arm: [float(row["found_right"]) for row in read if row["arm"] == arm] for arm in ARMS}
    return {
        "judge": judge.name,
        "digest": judge.digest,
        "unreadable": len(graded) - len(read),
        "agreement": mean_interval([float(a == b) for a, b in zip(found, right, strict=True)]).to_json(),
        "kappa": round(float(cohen_kappa_score(found, right)), 4) if varied else None,
        "arms": {arm: mean_interval(values).to_json() for arm, values in arms.items() if values},
        "rows": graded,
    }


def _shown(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "arm", "question", "answer")} | {"gold": " | ".join(row["gold"])}
