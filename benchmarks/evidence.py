"""RAG, fine-tuning, or both? The arms on every shared set, through the product's own stages, in one table.

| set | what it asks for | training |
|---|---|---|
| xquad_plain, xquad_raft | facts that stand in passages | without context; with passages and distractors: RAFT |
| handbook | facts and house style together | the demo's examples and 28 more, more steps |
| instructions | slips in the form of a long house instruction | that instruction, distilled (no arm with passages) |
| banking77 | one of 77 labels | recipe `task` |
| geography_questions, geography_queries | text-to-SQL, by execution | recipe `task` |
| xquad_embedder | passages, by nDCG@10 on held-out questions | recipe `embedder`, against its base |

xquad is there twice: an adapter that never saw passages in training, then shown them, against one that was trained with
them. Intervals are the product's paired bootstrap, 95 %. Below the table stands, for each set, whether both together
beat either alone, and what `assay compare` recommends. With --home what is done stays, and is gone on from.

Each core runs one set at a time, in an ASSAY_HOME of the set's own below --home: a small model's training uses two
cores 1.4 times as well as one, and two sets twice as well. That all sets take less than an hour on two cores is a goal:
the table ends with the seconds they took. Times of a set are those of its core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import distil, harness, retrieval, tasks, tuned_retrieval
from benchmarks.evidence_sets import FACTS, SETS, block_of
from pipelines.actions.views import comparison
from pipelines.errors import BadInput
from pipelines.settings import Settings, checkout
from pipelines.workspace import Workspace

Json = Mapping[str, Any]
EMBEDDER = "xquad_embedder"
SINGLE = ("handbook", "geography_questions", "banking77", "geography_queries", "instructions", EMBEDDER)
JOBS = (FACTS, *((name,) for name in SINGLE))
"""Sets that share a home, the longest about first; FACTS share the replies of the arms that are not trained."""
COLUMNS = (
    "set", "arm", "n", "metric", "value (95 %)", "minus base", "minus rag", "besides", "tokens in", "p50 s",
    "training s (CPU s)",
)  # fmt: skip
SHOWN = ("format_valid", "token_recall", "citation_precision", "hallucination")


def prepare(home: Path, names: tuple[str, ...], arms: tuple[str, ...], *, quick: bool) -> Settings:
    """An ASSAY_HOME whose params file has one corpus a set."""
    home.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load((checkout() / "params.yaml").read_text(encoding="utf-8"))
    raw["corpora"] = {}
    for name in names:
        block = block_of(home, name, quick=quick)
        known = distil.ARMS if name == "instructions" else arms
        block["answer"]["arms"] = [arm for arm in arms if arm in known]
        raw["corpora"][name] = block
    (home / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    os.environ |= {"ASSAY_HOME": str(home), "ASSAY_PARAMS": str(home / "params.yaml")}
    for name in ("ASSAY_OBJECTS_URI", "ASSAY_MILVUS_URI", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    return Settings.from_env()


def shown(metric: Json | None) -> str:
    if metric is None:
        return "–"
    return f"{metric['value']:.3f} [{metric['low']:.2f}, {metric['high']:.2f}]"


def primary_of(settings: Settings, name: str) -> str:
    block = yaml.safe_load((settings.workspace(name) / "params.yaml").read_text(encoding="utf-8"))
    return str(block["judge"]["primary"]).partition(".")[2]


def rows_of(settings: Settings, name: str, spent: Mapping[str, harness.Cost]) -> list[dict[str, Any]]:
    """A row per arm: its primary metric, its difference to rag, form and made-up answers, tokens, and the training."""
    workspace = Workspace(settings.workspace(name), name)
    found, costs = workspace.receipt("score_answers"), workspace.measured("score_answers")
    if "skipped" in found:
        raise BadInput(f"{name}: no arm was asked: {found['skipped']}")
    primary, out = primary_of(settings, name), []
    for arm, metrics in found["arms"].items():
        if arm not in tasks.ARMS:
            continue
        differences = found["differences"]
        train = spent["train"] if arm in ("tuned", "both") else None
        others = [f"{n} {shown(metrics[n])}" for n in SHOWN if n in metrics and n != primary]
        cells = (
            name,
            arm,
            metrics[primary]["n"],
            primary,
            shown(metrics[primary]),
            shown((differences.get(f"{arm} - base") or {}).get(primary)),
            shown((differences.get(f"{arm} - rag") or {}).get(primary)),
            ", ".join(others),
            float(costs["arms"][arm]["tokens_in"]["value"]),
            float(costs["arms"][arm]["latency_p50"]["value"]),
            f"{train.wall:.0f} ({train.cpu:.0f})" if train else "–",
        )
        out.append(dict(zip(COLUMNS, cells, strict=True)))
    return out


def said(settings: Settings, name: str) -> str:
    """Hypothesis and recommendation of one set, in two lines."""
    result = comparison(settings, name)
    primary = primary_of(settings, name)
    from pipelines.core.hypothesis import verdict

    claim = verdict(result["differences"], primary)
    held = (
        f"{claim['statement']} on {primary}: {claim['verdict']}" if claim else "both, rag and tuned were not all asked"
    )
    return f"{name}: {held}\n{' ' * len(name)}  recommended: {result['recommendation']}"


def ratios_of(settings: Settings, names: tuple[str, ...], spent: Mapping[str, Mapping[str, harness.Cost]]) -> Any:
    """The arms' primary metrics as numbers, both less rag with the interval's lower end, and seconds of each set."""
    out: dict[str, float] = {}
    for name in names:
        found, primary = Workspace(settings.workspace(name), name).receipt("score_answers"), primary_of(settings, name)
        out |= {f"{name}, {arm}": metrics[primary]["value"] for arm, metrics in found["arms"].items()}
        if "both - rag" in found["differences"]:
            out[f"{name}, both less rag, at worst"] = found["differences"]["both - rag"][primary]["low"]
        out[f"{name}, wall s in all"] = sum(cost.wall for cost in spent[name].values())
        out[f"{name}, CPU s in all"] = sum(cost.cpu for cost in spent[name].values())
    return out


def embedder_found(home: Path, *, quick: bool) -> dict[str, Any]:
    """What `arms_found` gives, of XQuAD's own embedder and the one that it was tuned from: nDCG@10 instead of replies,
    by `benchmarks.tuned_retrieval`."""
    over: Json = tuned_retrieval.QUICK if quick else {}
    with harness.metered() as cost:
        settings = retrieval.prepare(home, ["xquad_en"])
        (row,) = tuned_retrieval.of_set(settings, "xquad_en", kinds=["embedder"], over=over, quick=quick)
    shared = {"set": EMBEDDER, "n": row["tested on"], "metric": "nDCG@10"}
    difference = f"{row['difference']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
    tuned = {"minus base": difference, "besides": f"the gate {row['gate']} it"}
    training = {"training s (CPU s)": f"({row['tuning CPU-s']:.0f})"}
    cells: list[Json] = [
        {**shared, "arm": "base", "value (95 %)": f"{row['base']:.3f}"},
        {**shared, "arm": "tuned", "value (95 %)": f"{row['nDCG@10']:.3f}", **tuned, **training},
    ]
    rows = [{column: of_arm.get(column, "–") for column in COLUMNS} for of_arm in cells]
    ratios = {f"{EMBEDDER}, tuned less base, at worst": row["low"]}
    ratios |= {f"{EMBEDDER}, wall s in all": cost.wall, f"{EMBEDDER}, CPU s in all": cost.cpu}
    return {"rows": rows, "ratios": ratios, "said": [{"set": EMBEDDER, "said": f"{EMBEDDER}: {tuned['besides']}"}]}


def arms_found(home: Path, names: tuple[str, ...], arms: tuple[str, ...], *, quick: bool) -> dict[str, Any]:
    """Rows of the table, ratios, and what is said below it, of sets that run one after the other in one home."""
    settings = prepare(home, names, arms, quick=quick)
    spent = {name: tasks.measured(settings, name) for name in names}
    rows = [row for name in names for row in rows_of(settings, name, spent[name])]
    claims = [{"set": name, "said": said(settings, name)} for name in names]
    return {"rows": rows, "ratios": ratios_of(settings, names, spent), "said": claims}


def one_job(home: Path, names: tuple[str, ...], arms: tuple[str, ...], flags: Any) -> None:
    """The sets of one job on core `flags.core`; what is found goes to `flags.json`."""
    os.sched_setaffinity(0, {flags.core})
    quick = flags.quick
    found = embedder_found(home, quick=quick) if EMBEDDER in names else arms_found(home, names, arms, quick=quick)
    (flags.json or home / "found.json").write_text(json.dumps(found), encoding="utf-8")


def side_by_side(home: Path, names: tuple[str, ...], flags: Any) -> list[dict[str, Any]]:
    """What each job found, a job a core at a time; SystemExit with its code when one fails, and then all are ended."""
    chosen = [mine for job in JOBS if (mine := [name for name in job if name in names])]
    files = [home / f"{mine[0]}.json" for mine in chosen]
    waiting = list(zip(chosen, files, strict=True))
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            for core in os.sched_getaffinity(0):
                if core not in running and waiting:
                    mine, file = waiting.pop(0)
                    line = [sys.executable, "-m", "benchmarks.evidence", "--core", str(core), "--arms", flags.arms]
                    line += ["--home", str(home / mine[0]), "--sets", ",".join(mine)]
                    line += ["--json", str(file), *(["--quick"] if flags.quick else [])]
                    running[core] = subprocess.Popen(line)
            time.sleep(0.5)
            for core, job in list(running.items()):
                if job.poll():
                    sys.exit(job.returncode)
                if job.returncode == 0:
                    del running[core]
    finally:
        for job in running.values():
            job.terminate()
            job.wait()
    return [json.loads(found.read_text(encoding="utf-8")) for found in files]


def shown_together(found: Sequence[Json], names: tuple[str, ...], seconds: float, flags: Any) -> None:
    """One table of all jobs, in the order of `names`, and what is said of each set."""
    rows = sorted((row for job in found for row in job["rows"]), key=lambda row: names.index(row["set"]))
    ratios = {key: value for job in found for key, value in job["ratios"].items()}
    ratios["all sets, CPU s"] = sum(ratios[f"{name}, CPU s in all"] for name in names)
    ratios["all sets, wall s"] = seconds
    title = "RAG, fine-tuning, or both?" + (" (--quick: no measurement)" if flags.quick else "")
    harness.show(title, rows, ratios=ratios, json_file=flags.json)
    claims = {claim["set"]: claim["said"] for job in found for claim in job["said"]}
    for name in names:
        print(claims[name], file=sys.stderr, flush=True)


def main() -> None:
    flags = harness.arguments(
        __doc__,
        home={"type": Path, "help": "keep what is made here, and go on from it (default: a temporary folder)"},
        sets={"default": ",".join((*SETS, EMBEDDER)), "help": "which sets, by commas"},
        arms={"default": ",".join(tasks.ARMS), "help": "which arms, by commas"},
        core={"type": int, "help": "run them one after the other on this core"},
    )
    names = tasks.chosen(flags.sets, (*SETS, EMBEDDER), "sets")
    arms = tasks.chosen(flags.arms, tasks.ARMS, "arms")
    home = (flags.home or Path(tempfile.mkdtemp(prefix="assay-evidence-"))).resolve()
    home.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        if flags.core is not None:
            one_job(home, names, arms, flags)
        else:
            shown_together(side_by_side(home, names, flags), names, time.monotonic() - began, flags)
    finally:
        if flags.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    harness.run_plainly(main)
