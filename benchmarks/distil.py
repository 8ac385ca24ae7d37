"""Prompt distillation: a long house instruction against the adapter that it was distilled into, on the same requests.

The requests of tests/fixtures/instructions run through the product's own stages (fetch to score_answers) in a home of
their own. `base` and `tuned` read a prompt of three words, `prompt` the instruction and its examples; what `tuned`
learned are the base model's replies to that prompt (`mix.teacher`). Quality is the token F1 of what a reply says that
the request is about, and the share of replies in the right form; intervals are the product's paired bootstrap, 95 %.
CPU-seconds are of the whole process tree; a reply's are those of its generation. With --home what is done stays.

    python -m benchmarks.distil [--home FOLDER] [--steps N] [--shots N] [--quick]
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks import harness
from benchmarks.tasks import measured
from pipelines.actions.views import comparison
from pipelines.errors import BadInput
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.settings import Settings, checkout
from pipelines.workspace import Workspace

Json = Mapping[str, Any]
NAME = "fernhollow"
ARMS = ("base", "prompt", "tuned")
METRIC = "token_f1"
FIXTURE = checkout() / "tests" / "fixtures" / "instructions"


def land(folder: Path) -> None:
    """documents, questions.jsonl and examples.jsonl of the fixture. The examples' own completions are only for those
    that the prompt shows."""
    rows = list(read_jsonl(FIXTURE / "requests.jsonl"))
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    shutil.copy(FIXTURE / "instructions.txt", folder / "documents" / "slips.txt")
    asked, learned = [], []
    for row in rows:
        own = {"id": row["id"], "evidence": [], "split": row["split"]}
        if row["split"] == "test":
            asked.append({**own, "question": row["request"], "answers": [row["about"]]})
        else:
            slip = json.dumps({"answer": row["about"], "urgent": row["urgent"]})
            learned.append({**own, "prompt": row["request"], "completion": slip})
    write_jsonl(folder / "questions.jsonl", asked)
    write_jsonl(folder / "examples.jsonl", learned)


def block(folder: Path, *, steps: int, shots: int, quick: bool) -> dict[str, Any]:
    """The params of the corpus."""
    instructions = (FIXTURE / "instructions.txt").read_text(encoding="utf-8")
    source = {"documents": "documents", "questions": "questions.jsonl", "examples": "examples.jsonl"}
    return {
        "source": {kind: str(folder / name) for kind, name in source.items()},
        "generate": {
            "system": "Write the slip.",
            "refusal": "",
            "reply_schema": str(FIXTURE / "reply.schema.json"),
            "max_new_tokens": 24,
            "prompt": {"instructions": instructions, "shots": shots, "max_tokens": 1200},
        },
        "retrieve": {"mode": "dense", "k": 1},
        # Requests are short, and some are alike but for one word.
        "mix": {"teacher": "prompt", "near_duplicate": None, "sensitive": "report", "min_examples": 4},
        "train": {"recipe": "distil", "steps": 2 if quick else steps, "batch": 8, "max_tokens": 256},
        "answer": {"arms": list(ARMS), "max_questions": 4 if quick else 1000, "batch": 30},
    }


def prepare(home: Path, *, steps: int, shots: int, quick: bool) -> Settings:
    """An ASSAY_HOME with the landed set and a params file of this one corpus."""
    folder = home / "landed" / NAME
    land(folder)
    raw = yaml.safe_load((checkout() / "params.yaml").read_text(encoding="utf-8"))
    raw["corpora"] = {NAME: block(folder, steps=steps, shots=shots, quick=quick)}
    (home / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    os.environ |= {"ASSAY_HOME": str(home), "ASSAY_PARAMS": str(home / "params.yaml")}
    for name in ("ASSAY_OBJECTS_URI", "ASSAY_MILVUS_URI", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    return Settings.from_env()


def _shown(metric: Json | None, form: str = ".3f") -> str:
    if metric is None:
        return "–"
    value, low, high = (format(metric[end], form) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _less_prompt(found: Json, arm: str) -> dict[str, Json]:
    """The paired differences of an arm to `prompt`; receipts hold those of the later arm less the earlier."""
    known = found["differences"].get(f"{arm} - prompt")
    if known is not None:
        return dict(known)
    turned = found["differences"].get(f"prompt - {arm}") or {}
    return {name: {"value": -m["value"], "low": -m["high"], "high": -m["low"]} for name, m in turned.items()}


def rows_of(found: Json, workspace: Workspace, spent: Mapping[str, harness.Cost]) -> list[dict[str, Any]]:
    """A row per arm. What making the adapter took (asking the teacher, training) stands in the row of `tuned`."""
    replies = list(read_jsonl(workspace.scores("answers")))
    made = [spent["mix"], spent["train"]]
    out = []
    for arm, metrics in found["arms"].items():
        difference = _less_prompt(found, arm)
        own = [row for row in replies if row["arm"] == arm]
        tuned = arm == "tuned"
        out.append(
            {
                "arm": arm,
                "n": metrics[METRIC]["n"],
                "token F1 (95 %)": _shown(metrics[METRIC]),
                "minus prompt": _shown(difference.get(METRIC)),
                "right form": f"{metrics['format_valid']['value']:.3f}",
                "tokens in": float(metrics["tokens_in"]["value"]),
                "minus prompt, tokens": _shown(difference.get("tokens_in"), ".0f"),
                "wall s / reply": sum(row["ms"] for row in own) / len(own) / 1000,
                "CPU s / reply": sum(row["cpu_seconds"] for row in own) / len(own),
                "made in wall s": f"{sum(cost.wall for cost in made):.0f}" if tuned else "–",
                "made in CPU s": f"{sum(cost.cpu for cost in made):.0f}" if tuned else "–",
            }
        )
    return out


def ratios_of(found: Json, workspace: Workspace, spent: Mapping[str, harness.Cost]) -> dict[str, float]:
    """The gain in numbers, the teacher's replies, and seconds of all stages."""
    taught, gain = workspace.receipt("mix")["teacher"], found["distilled"]
    return {
        "tokens in, tuned / prompt": 1 + gain["share"],
        "token F1, tuned less prompt": gain["difference"]["value"],
        "teacher's replies kept / asked": taught["kept"] / taught["asked"],
        "training wall s": spent["train"].wall,
        "training CPU s": spent["train"].cpu,
        "wall s in all": sum(cost.wall for cost in spent.values()),
        "CPU s in all": sum(cost.cpu for cost in spent.values()),
    }


def main() -> None:
    flags = harness.arguments(
        __doc__,
        home={"type": Path, "help": "keep what is made here, and go on from it (default: a temporary folder)"},
        steps={"type": int, "default": 48, "help": "training steps of 8 requests"},
        shots={"type": int, "default": 6, "help": "examples in the long prompt"},
    )
    home = (flags.home or Path(tempfile.mkdtemp(prefix="assay-distil-"))).resolve()
    home.mkdir(parents=True, exist_ok=True)
    try:
        settings = prepare(home, steps=flags.steps, shots=flags.shots, quick=flags.quick)
        spent = measured(settings, NAME)
        workspace = Workspace(settings.workspace(NAME), NAME)
        found = comparison(settings, NAME)
        if not found["distilled"]:
            raise BadInput(f"nothing was distilled: {workspace.summary('mix')}; {workspace.summary('train')}")
        title = found["distilled"]["sentence"] + (" (--quick: no measurement)" if flags.quick else "")
        rows, ratios = rows_of(found, workspace, spent), ratios_of(found, workspace, spent)
        harness.show(title, rows, ratios=ratios, json_file=flags.json)
    finally:
        if flags.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    harness.run_plainly(main)
