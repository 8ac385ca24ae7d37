"""The sets of `benchmarks.evidence`: the params of each, and what it lands."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from benchmarks import distil, harness, tasks
from benchmarks.task_corpora import CORPORA, write
from infra.landing import land, revisions
from pipelines.settings import checkout

FACTS = ("xquad_plain", "xquad_raft")
SETS = (*FACTS, "handbook", "instructions", *CORPORA)
QUESTIONS = {"banking77": 100, "geography_questions": 100, "geography_queries": 100, "handbook": 100}
"""Test questions asked of every arm, at most."""
STEPS = {"banking77": 70, "geography_questions": 65, "geography_queries": 65, "handbook": 150, "instructions": 48}
STEPS |= dict.fromkeys(FACTS, 28)
SHOTS = 6
MORE_EXAMPLES = Path(__file__).with_name("handbook_examples.jsonl")
"""Quotes over several lines of tables and lists, and replies with quoted words, which as JSON must be escaped: these
need more steps to be learned than the demo has time for."""


def facts_block(name: str, *, quick: bool) -> dict[str, Any]:
    """XQuAD at the checkout's defaults, with three passages; trained without context, or by RAFT."""
    raft = {"context_share": 1.0, "oracle_share": 0.8, "distractors": 2}
    plain = {"context_share": 0.0, "oracle_share": 1.0, "distractors": 0}
    source = {"documents": str(harness.shared_data("xquad_en"))}
    recipe = "raft" if name == "xquad_raft" else "sft"
    return {
        "source": source,
        "mix": raft if name == "xquad_raft" else plain,
        "train": {"recipe": recipe, "steps": 2 if quick else STEPS[name], "max_tokens": 1024},
        "answer": {"max_questions": 6 if quick else 100, "batch": 50},
    }


def handbook_block(home: Path, *, quick: bool) -> dict[str, Any]:
    """The demo's own params and documents, with every arm; trained for longer, and on 28 further examples."""
    target = home / "landed" / "handbook"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        land(target, revisions()[1])
        shutil.copy(MORE_EXAMPLES, target / "examples" / "more.jsonl")
    block: dict[str, Any] = yaml.safe_load((checkout() / "params.yaml").read_text("utf-8"))["corpora"]["handbook"]
    block["source"] = {kind: str(target / kind) for kind in ("documents", "questions", "examples")}
    block["generate"]["reply_schema"] = str(checkout() / block["generate"]["reply_schema"])
    block["generate"]["max_new_tokens"] = 136  # a reply that is cut off is no valid JSON
    block["answer"] = {"max_questions": 6 if quick else QUESTIONS["handbook"], "batch": 50}
    block["split"] = {"test": 0.45}  # 100 questions
    return block | {"train": {"steps": 2 if quick else STEPS["handbook"], "batch": 8}}


def instructions_block(home: Path, *, quick: bool) -> dict[str, Any]:
    """As `benchmarks.distil` has it."""
    folder = home / "landed" / "instructions"
    distil.land(folder)
    return distil.block(folder, steps=STEPS["instructions"], shots=SHOTS, quick=quick)


def task_block(home: Path, name: str, *, quick: bool) -> dict[str, Any]:
    """As `benchmarks.tasks` has it, with fewer questions."""
    folder = home / "landed" / name
    if not (folder / "examples.jsonl").is_file():
        write(home / "landed", name)
    block = tasks.label_block(quick=quick) if name == "banking77" else tasks.sql_block(quick=quick)
    if not quick:
        block["answer"]["max_questions"] = QUESTIONS[name]
        block["train"]["steps"] = STEPS[name]
    primary = f"answers.{tasks.PRIMARY[block['generate']['task']]}"
    kinds = ("documents", "questions", "examples")
    source = {kind: str(folder / (kind if kind == "documents" else f"{kind}.jsonl")) for kind in kinds}
    lenient = {"near_duplicate": None, "sensitive": "report", "context_share": 0.0, "distractors": 0}
    judge = {"primary": primary, "floors": {}, "max_regression": {primary: 0.02}}
    return {"source": source, "mix": lenient, "judge": judge, **block}


def block_of(home: Path, name: str, *, quick: bool) -> dict[str, Any]:
    """The params of one of `SETS`; its landed files below `home`."""
    if name in FACTS:
        return facts_block(name, quick=quick)
    if name == "handbook":
        return handbook_block(home, quick=quick)
    if name == "instructions":
        return instructions_block(home, quick=quick)
    return task_block(home, name, quick=quick)
