"""What a training set must not hold, and Great Expectations on the chats as they were written: the last look before it.

What a chat rests on and what it has in common with the evaluation sets are looked up anew here, whatever made the set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.backends import gx
from pipelines.core import mixing, splits
from pipelines.core.contamination import Guard
from pipelines.errors import BadInput
from pipelines.params import CorpusParams

Item = Mapping[str, Any]
Row = Mapping[str, Any]
_NAMED = 5  # chats named in an error


def guard_of(params: CorpusParams, questions: Sequence[Item]) -> Guard:
    """The texts of the corpus's evaluation sets by `split` and `mix.contamination`."""
    how = params.mix.contamination
    return Guard(questions, words=how.words, share=how.share, split=params.split.model_dump())


def _facts_of(row: Row, split: str, guard: Guard, *, strays: int) -> dict[str, Any]:
    """What Great Expectations looks at: lengths in characters, and what the chat has in common with evaluation sets."""
    overlap = guard.overlap(mixing.spoken(row["messages"]), split, share=0.0)
    return {
        "id": row["id"],
        "prompt": len(mixing.prompt_of(row).strip()),
        "reply": len(mixing.completion_of(row).strip()),
        "last": row["messages"][-1]["role"],
        "tokens": row["tokens"],
        "strays": strays,
        "overlap": overlap.share if overlap else 0.0,
    }


def expected(
    params: CorpusParams,
    rows: Mapping[str, Sequence[Row]],
    examples: Sequence[Item],
    questions: Sequence[Item],
    *,
    site: Path,
) -> Path:
    """Great Expectations on the chats (`rows` by split), made of `examples`; the page of its Data Docs. BadInput names
    the first that fails.

    A row's own `split` stands against that of its documents, save for documents under questions, or under other rows,
    that are split by document.
    """
    how: dict[str, Any] = params.split.model_dump()
    guard = guard_of(params, questions)
    made_of: dict[str, list[Item]] = {}
    for example in examples:
        made_of.setdefault(str(example["id"]), []).append(example)
    held_out = [example for row in rows[splits.VALIDATION] for example in made_of[str(row["id"])]]
    unsaid = splits.unsaid([*questions, *held_out])

    def strays(row: Row, split: str) -> int:
        found = (splits.strays(e, split, unsaid=unsaid, **how) for e in made_of[str(row["id"])])
        return len({document for of in found for document in of})

    facts = [_facts_of(row, split, guard, strays=strays(row, split)) for split, found in rows.items() for row in found]
    validation = gx.Validation(site)
    expectations = gx.training_expectations(max_tokens=params.train.max_tokens, share=params.mix.contamination.share)
    results = validation.run("training", facts, expectations)
    page = validation.publish()
    for expectation, failed in results:
        if failed:
            named = ", ".join(str(facts[at]["id"]) for at, _ in failed[:_NAMED])
            raise BadInput(f"the training set is refused: {expectation.reason}, in {len(failed)} chats: {named}")
    return page
