"""What the arm `prompt` asks with, drawn from a corpus's workspace. A release carries the result; it is not read again.

It reads examples and gold questions; `core.long_prompt` chooses among them. What rests on documents whose access label
`mix.labels` does not allow is never shown: a prompt is for all readers. Where there is a training set, only what
was admitted to it is shown: what training refuses (secrets, contamination, bad form), a prompt does not show either.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core import gold, mixing, splits
from pipelines.core.digests import digest_bytes, digest_json
from pipelines.core.long_prompt import LongPrompt, candidates, draw, instructions
from pipelines.core.prompts import first_object
from pipelines.params import CorpusParams, Generate
from pipelines.ports import Generator, Ports
from pipelines.reply_schema import load_schema
from pipelines.workspace import Workspace

Item = Mapping[str, Any]


def shots_source(workspace: Workspace, labels: Sequence[str] = ()) -> str:
    """Digest of what few-shot examples are drawn from: files of the corpus, and the access labels that are allowed."""
    files = [workspace.versioned / name for name in ("examples.jsonl", "questions.jsonl")]
    digests = [digest_bytes(file.read_bytes()) if file.is_file() else None for file in files]
    return digest_json([*digests, *([sorted(labels)] if labels else [])])


def _examples(
    generate: Generate,
    workspace: Workspace,
    questions: Sequence[Item],
    *,
    structured: bool,
    admitted: Collection[str] | None,
) -> list[Item]:
    """The corpus's examples, or its gold questions as examples: those `admitted`, by id; None: where something was
    trained on, only what was."""
    from pipelines.schemas import read_jsonl

    def rows(file: Path) -> Iterable[Item]:
        return read_jsonl(file) if file.is_file() else ()

    found: list[Item] = [mixing.with_id(example) for example in rows(workspace.versioned / "examples.jsonl")]
    if not found:
        how: dict[str, Any] = {"structured": structured, "refusal": generate.refusal}
        found = [mixing.from_question(q, **how) for q in questions if q["answers"] or not q["evidence"]]
    if admitted is None:
        admitted = {row["id"] for row in rows(workspace.training / "train.jsonl")}
    return [example for example in found if not admitted or example["id"] in admitted]


def distilled_prompt(workspace: Workspace) -> Path:
    """Where `mix` leaves the prompt that it distilled, with `mix.teacher`."""
    return workspace.training / "teacher.json"


def long_prompt(
    params: CorpusParams,
    workspace: Workspace,
    generator: Generator,
    *,
    questions: Sequence[Item],
    ports: Ports,
    admitted: Collection[str] | None = None,
) -> LongPrompt:
    """What the arm `prompt` asks with: instructions, and examples of the training split that obey the reply's schema;
    gold questions of that split where the corpus has no examples. `questions` are all gold questions, `admitted` the
    ids of examples that may be shown (None: what was trained on). Where a prompt was distilled, it is that one."""
    known = distilled_prompt(workspace)
    if admitted is None and params.mix.teacher is not None and known.is_file():
        return LongPrompt.of(json.loads(known.read_text(encoding="utf-8")))
    generate, split = params.generate, params.split.model_dump()
    schema = load_schema(generate.reply_schema, ports)
    examples = _examples(generate, workspace, questions, structured=schema is not None, admitted=admitted)
    examples = [example for example in examples if not gold.restricted(example, params.mix.labels)]
    tested = [q["question"] for q in questions if splits.split_of(q, **split) == splits.TEST]
    found = candidates(examples, tested, split=split)
    obeying = [e for e in found if schema is None or schema.valid(first_object(mixing.completion_of(e)))]
    system = generate.prompt.instructions
    if system is None:
        text = schema.text if schema else None
        system = instructions(generate.system, schema=text, refusal=generate.refusal)
    knobs = generate.prompt
    fits: dict[str, Any] = {"shots": knobs.shots, "most": knobs.max_tokens, "count": generator.count}
    return draw(system, obeying, **fits, source=shots_source(workspace, params.mix.labels))
