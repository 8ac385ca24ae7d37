"""Proprietary tasks: text-to-SQL by execution accuracy and intents by label accuracy, arm by arm on the same questions.

Each set runs through the product's own stages (fetch to score_answers) in a home of its own: what is measured is what a
user gets. Labels are chosen among all 77 by likelihood in every arm; queries are run on the real database. Intervals
are the product's paired bootstrap, 95 %. CPU-seconds are of the whole process tree. With --home what is done stays.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks import harness
from benchmarks.task_corpora import CORPORA, compact_schema, write
from pipelines.errors import BadInput
from pipelines.runner import run_node
from pipelines.settings import Settings, checkout
from pipelines.workspace import Workspace

Json = Mapping[str, Any]
ARMS = ("base", "prompt", "rag", "tuned", "both")
STAGES = ("fetch", "check", "snapshot", "chunk", "embed", "index", "mix", "train", "score_answers")
PRIMARY = {"sql": "execution_accuracy", "label": "label_accuracy"}
LABEL_QUESTIONS = 150
"""Test messages of banking77 that are asked, of 3,080: a choice among 77 labels takes about a CPU-second."""
STEPS = {"sql": 180, "label": 120}
BATCH = 16
"""Sequences are some 57 tokens: 180 steps of 16 are 5 epochs of geography, and 120 are one of banking77's messages."""


def _train(task: str, *, quick: bool) -> dict[str, Any]:
    numbers = {"recipe": "task", "batch": BATCH, "rank": 16, "learning_rate": 0.001, "max_tokens": 256, "seed": 7}
    return {**numbers, "steps": 2 if quick else STEPS[task]}


def sql_block(*, quick: bool) -> dict[str, Any]:
    """The params of a geography corpus. The schema stands in the instructions of the arm `prompt` and in the documents
    that `rag` finds; the tuned model learns it, so that its prompt stays short."""
    database = harness.shared_data("finetune/geography.sqlite")
    ask = "Write the SQLite query that answers the question. Reply with the query only."
    instructions = f"{ask} The tables: {compact_schema(database)}"
    return {
        "generate": {
            "task": "sql",
            "database": str(database),
            "system": "Write the SQLite query.",
            "refusal": "",
            "max_new_tokens": 96,
            "passage_tokens": 160,
            "prompt": {"instructions": instructions, "shots": 3, "max_tokens": 320},
        },
        "retrieve": {"mode": "hybrid", "k": 1},
        "train": _train("sql", quick=quick),
        "answer": {"max_questions": 8 if quick else 1000, "batch": 48},
    }


def label_block(*, quick: bool) -> dict[str, Any]:
    """The params of banking77. A label's document shows five messages, so `rag` sees the labels that are near."""
    return {
        "generate": {
            "task": "label",
            "system": "Name the intent.",
            "refusal": "",
            "passage_tokens": 100,
            "prompt": {
                "instructions": "Name the intent of the bank customer's message.",
                "shots": 8,
                "max_tokens": 400,
            },
        },
        "retrieve": {"mode": "hybrid", "k": 3},
        "train": _train("label", quick=quick),
        "answer": {"max_questions": 4 if quick else LABEL_QUESTIONS, "batch": 25},
    }


def prepare(home: Path, names: tuple[str, ...], arms: tuple[str, ...], *, quick: bool) -> Settings:
    """An ASSAY_HOME with the sets' folders and a params file that has one corpus a set."""
    home.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load((checkout() / "params.yaml").read_text(encoding="utf-8"))
    # Both sets are full of questions that differ in one word, and of people's names and amounts that are no secret.
    lenient = {"near_duplicate": None, "sensitive": "report", "context_share": 0.0, "distractors": 0}
    mix = {key: value for key, value in lenient.items() if key in raw["defaults"]["mix"]}
    raw["corpora"] = {}
    for name in names:
        folder = home / "landed" / name
        if not (folder / "examples.jsonl").is_file():
            print(f"{name}: {dict(write(home / 'landed', name))}", file=sys.stderr, flush=True)
        block = label_block(quick=quick) if name == "banking77" else sql_block(quick=quick)
        block["answer"]["arms"] = list(arms)
        primary = f"answers.{PRIMARY[block['generate']['task']]}"
        kinds = ("documents", "questions", "examples")
        source = {kind: str(folder / (kind if kind == "documents" else f"{kind}.jsonl")) for kind in kinds}
        judge = {"primary": primary, "floors": {primary: 0.5}, "max_regression": {primary: 0.05}}
        raw["corpora"][name] = {"source": source, "mix": mix, "judge": judge, **block}
    (home / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    os.environ |= {"ASSAY_HOME": str(home), "ASSAY_PARAMS": str(home / "params.yaml")}
    for name in ("ASSAY_OBJECTS_URI", "ASSAY_MILVUS_URI", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    return Settings.from_env()


def measured(settings: Settings, name: str) -> dict[str, harness.Cost]:
    """Run the set's stages; what each cost. A stage that had nothing to do costs what finding that out costs."""
    spent = {}
    for stage in STAGES:
        with harness.metered() as cost:
            outcome = run_node(settings, name, stage)
        spent[stage] = cost
        print(f"{name}: {stage}: {outcome.summary} ({cost.wall:.0f} s)", file=sys.stderr, flush=True)
    return spent


def _shown(metric: Json | None) -> str:
    return "–" if metric is None else f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def rows_of(settings: Settings, name: str, spent: Mapping[str, harness.Cost]) -> list[dict[str, Any]]:
    """A row per arm. Training and answering (of all arms together) stand in the row that they first matter for."""
    workspace = Workspace(settings.workspace(name), name)
    found, costs = workspace.receipt("score_answers"), workspace.measured("score_answers")
    if "skipped" in found:
        raise BadInput(f"{name}: no arm was asked: {found['skipped']}")
    primary = PRIMARY["label" if name == "banking77" else "sql"]
    out = []
    for arm, metrics in found["arms"].items():
        if arm == "champion":
            continue
        difference = found["differences"].get(f"{arm} - base") or {}
        train = spent["train"] if arm in ("tuned", "both") else None
        cost = costs["arms"][arm]
        out.append(
            {
                "set": name,
                "arm": arm,
                "n": metrics[primary]["n"],
                "accuracy (95 %)": _shown(metrics[primary]),
                "minus base": _shown(difference.get(primary)),
                "valid SQL": f"{metrics['valid_sql']['value']:.3f}" if "valid_sql" in metrics else "–",
                "tokens in": float(cost["tokens_in"]["value"]),
                "tokens out": float(cost["tokens_out"]["value"]),
                "p50 s": float(cost["latency_p50"]["value"]),
                "training wall s": f"{train.wall:.0f}" if train else "–",
                "training CPU s": f"{train.cpu:.0f}" if train else "–",
            }
        )
    return out


def ratios_of(settings: Settings, names: tuple[str, ...], spent: Mapping[str, Mapping[str, harness.Cost]]) -> Any:
    """Accuracies of the arms as numbers, and seconds of each set from landing to scores."""
    out: dict[str, float] = {}
    for name in names:
        found = Workspace(settings.workspace(name), name).receipt("score_answers")["arms"]
        primary = PRIMARY["label" if name == "banking77" else "sql"]
        out |= {f"{name}, {arm}": metrics[primary]["value"] for arm, metrics in found.items()}
        out[f"{name}, wall s in all"] = sum(cost.wall for cost in spent[name].values())
        out[f"{name}, CPU s in all"] = sum(cost.cpu for cost in spent[name].values())
    return out


def chosen(asked: str, known: tuple[str, ...], flag: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in asked.split(",") if part.strip())
    if not names or not set(names) <= set(known):
        raise BadInput(f"--{flag} {asked!r}; valid is a list of {', '.join(known)}")
    return names


def main() -> None:
    flags = harness.arguments(
        __doc__,
        home={"type": Path, "help": "keep what is made here, and go on from it (default: a temporary folder)"},
        sets={"default": ",".join(CORPORA), "help": "which sets, by commas"},
        arms={"default": ",".join(ARMS), "help": "which arms, by commas"},
    )
    names, arms = chosen(flags.sets, CORPORA, "sets"), chosen(flags.arms, ARMS, "arms")
    home = flags.home or Path(tempfile.mkdtemp(prefix="assay-tasks-"))
    try:
        settings = prepare(home.resolve(), names, arms, quick=flags.quick)
        spent = {name: measured(settings, name) for name in names}
        rows = [row for name in names for row in rows_of(settings, name, spent[name])]
        title = "Proprietary tasks" + (" (--quick: no measurement)" if flags.quick else "")
        harness.show(title, rows, ratios=ratios_of(settings, names, spent), json_file=flags.json)
    finally:
        if flags.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    harness.run_plainly(main)
