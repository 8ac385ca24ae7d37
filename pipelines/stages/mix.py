"""Build the training set: the examples, or the gold questions where there are none, split by document.

It reads questions and examples, never documents: a revision that changes documents alone leaves the training set as
it is, so nothing is trained. Refused are repeats, what is too long to train on, completions that do not obey the
reply's schema, and prompts that are test questions; each is counted. Fewer examples than `mix.min_examples` are no
training set: that is said, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.core import mixing, splits
from pipelines.core.digests import digest_json
from pipelines.core.nouns import Report
from pipelines.core.prompts import first_object
from pipelines.errors import BadInput
from pipelines.params import CorpusParams
from pipelines.ports import Ports
from pipelines.reply_schema import load_validator
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.workspace import Workspace

Item = Mapping[str, Any]
Row = Mapping[str, Any]


def _read(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    file = workspace.versioned / f"{name}.jsonl"
    try:
        return list(read_jsonl(file)) if file.is_file() else []
    except ValueError as exc:
        raise BadInput(str(exc)) from exc


def _examples(params: CorpusParams, workspace: Workspace) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """(examples, gold questions, where the examples come from)."""
    questions = _read(workspace, "questions")
    examples = [mixing.with_id(example) for example in _read(workspace, "examples")]
    if examples:
        return examples, questions, "examples"
    structured, refusal = params.generate.reply_schema is not None, params.generate.refusal
    # A question with evidence but no answer (a retrieval set) teaches nothing: it is no unanswerable one.
    asked = [q for q in questions if q["answers"] or not q["evidence"]]
    return [mixing.from_question(q, structured=structured, refusal=refusal) for q in asked], questions, "questions"


def _obeys(schema: Callable[[Any], bool] | None, example: Item) -> bool:
    return schema is None or schema(first_object(mixing.completion_of(example)))


def compose(
    params: CorpusParams,
    examples: Sequence[Item],
    questions: Sequence[Item],
    *,
    count: Callable[[Sequence[Mapping[str, str]]], int],
    schema: Callable[[Any], bool] | None,
) -> tuple[list[Row], list[Row], dict[str, int]]:
    """(training rows, validation rows, what was dropped and why). `count` gives a chat's tokens; `schema` says
    whether a reply obeys. A row is {"id", "tokens", "messages"}, in the order of the ids."""
    how: dict[str, Any] = params.split.model_dump()
    structured = params.generate.reply_schema is not None
    mix, generate = params.mix, params.generate
    style = mixing.Style(generate.system, generate.refusal, structured, mix.context_share, mix.distractors, mix.seed)
    dropped = dict.fromkeys(("repeated", "test_question", "format", "too_long"), 0)
    tested = [q["question"] for q in questions if splits.split_of(q, **how) == splits.TEST]
    learned = [e for e in examples if splits.split_of(e, **how) != splits.TEST]
    learned, dropped["repeated"] = mixing.without_repeats(learned)
    learned, dropped["test_question"] = mixing.uncontaminated(learned, tested)
    obeying = [e for e in learned if _obeys(schema, e)]
    dropped["format"] = len(learned) - len(obeying)
    pool = mixing.quotes(e for e in obeying if splits.split_of(e, **how) == splits.TRAIN)
    rows: dict[str, list[Row]] = {splits.TRAIN: [], splits.VALIDATION: []}
    for example in sorted(obeying, key=lambda e: str(e["id"])):
        messages = mixing.as_chat(example, pool, style=style)
        tokens = count(messages)
        if tokens > params.train.max_tokens:
            dropped["too_long"] += 1
            continue
        rows[splits.split_of(example, **how)].append({"id": example["id"], "tokens": tokens, "messages": messages})
    return rows[splits.TRAIN], rows[splits.VALIDATION], dropped


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """Write training/train.jsonl and training/validation.jsonl. The receipt names the set's digest, or says under
    `skipped` why there is none. BadInput when no completion obeys the schema; MissingTool without the model."""
    examples, questions, source = _examples(params, workspace)
    schema = load_validator(params.generate.reply_schema, ports) if source == "examples" else None
    training: list[Row] = []
    validation: list[Row] = []
    dropped: dict[str, int] = {}
    if examples:
        count = ports.generator().count
        training, validation, dropped = compose(params, examples, questions, count=count, schema=schema)
    if dropped.get("format") and not training:
        raise BadInput(f"no training example's completion obeys {params.generate.reply_schema}; they must")
    least = params.mix.min_examples
    facts: dict[str, Any] = {"source": source, "dropped": dropped, "train": len(training)}
    if len(training) < least:
        facts["skipped"] = f"{len(training)} training examples, at least {least} are needed (mix.min_examples)"
        training, validation = [], []
    write_jsonl(workspace.training / "train.jsonl", training)
    write_jsonl(workspace.training / "validation.jsonl", validation)
    if "skipped" in facts:
        return Report("mix", facts, f"skipped: {facts['skipped']}")
    facts |= {
        "digest": digest_json([training, validation]),
        "validation": len(validation),
        "tokens": sum(row["tokens"] for row in training),
        "longest": max(row["tokens"] for row in training),
    }
    lost = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in dropped.items() if n)
    summary = f"{len(training)} training and {len(validation)} validation chats from {source}"
    return Report("mix", facts, summary + (f"; dropped {lost}" if lost else ""))
