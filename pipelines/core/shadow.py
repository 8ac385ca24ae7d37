"""What differs between two releases asked the same questions: passages found, answers given. No I/O.

It says how much changes and where, never which is better: that needs gold answers and is the gate's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.answers import token_f1
from pipelines.core.bootstrap import mean_interval
from pipelines.core.prompts import normalised

Json = Mapping[str, Any]
SHOWN = ("passages_kept", "same_best_passage", "same_answer", "answer_f1", "citations_kept")


def _spans(passages: Sequence[Json]) -> list[tuple[str, str]]:
    """What a passage is, apart from its score and revision: its document and its text."""
    return [(passage["document"], passage["text"]) for passage in passages]


def _kept(old: Sequence[Any], new: Sequence[Any]) -> float:
    """Jaccard index of two lists as sets; 1.0 of two empty ones."""
    union = set(old) | set(new)
    return len(set(old) & set(new)) / len(union) if union else 1.0


def difference(question: str, champion: Json, candidate: Json) -> dict[str, Any]:
    """One row. Both have `passages`, best first, and, where answers were asked for, `answer` and `citations`.

    `answer_f1` is SQuAD's token F1 of the two answers, `passages_kept` and `citations_kept` are Jaccard indices of
    passages and of cited documents; all in [0, 1], 1 where nothing changes.
    """
    old, new = _spans(champion["passages"]), _spans(candidate["passages"])
    metrics = {"passages_kept": _kept(old, new), "same_best_passage": float(old[:1] == new[:1])}
    row: dict[str, Any] = {"question": question}
    if "answer" in champion and "answer" in candidate:
        said, says = champion["answer"], candidate["answer"]
        cited = [[entry["document"] for entry in side["citations"]] for side in (champion, candidate)]
        metrics["same_answer"] = float(normalised(said) == normalised(says))
        metrics["answer_f1"] = token_f1(says, said)
        metrics["citations_kept"] = _kept(*cited)
        row |= {"champion": said, "candidate": says}
    gone = list(dict.fromkeys(document for document, text in old if (document, text) not in new))
    came = list(dict.fromkeys(document for document, text in new if (document, text) not in old))
    return {**row, "passages_gone": gone, "passages_new": came, **metrics}


def changed(row: Json) -> bool:
    """Whether a reader would see a difference: another answer, or without answers other passages."""
    return bool(row["same_answer"] < 1) if "same_answer" in row else bool(row["passages_kept"] < 1)


def summary(rows: Sequence[Json]) -> dict[str, Any]:
    """`questions`, how many `changed`, and each metric's mean with its interval. ValueError on no rows."""
    if not rows:
        raise ValueError("no questions were asked")
    metrics = {name: mean_interval([row[name] for row in rows]).to_json() for name in SHOWN if name in rows[0]}
    return {"questions": len(rows), "changed": sum(changed(row) for row in rows), "metrics": metrics}
