"""`assay compare`: the evidence for "RAG, fine-tuning, or both?" of one corpus, read, written as a page, logged.

It gathers what stages and measurements left, lets `core.recommend` and `core.tradeoffs` make of it what can be said,
and writes `reports/NAME/compare/index.html`. It measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.core import recommend, tradeoffs
from pipelines.core.digests import digest_json
from pipelines.measurements import held
from pipelines.params import CorpusParams
from pipelines.schemas import read_jsonl
from pipelines.settings import Settings
from pipelines.workspace import Workspace, write_whole

Json = dict[str, Any]
_INDEXING = ("check", "chunk", "embed", "index")
_TRAINING = ("mix", "train")


def _cpu_seconds(workspace: Workspace, *stages: str) -> float | None:
    """Of the last time, a training's own, which is not made twice; None when a stage does not say it."""
    total = 0.0
    for stage in stages:
        measured = workspace.measured(stage)
        if "cpu_hours" in measured:
            total += float(measured["cpu_hours"]) * 3600
        elif "cpu_seconds" in measured:
            total += float(measured["cpu_seconds"])
        else:
            return None
    return total


def _facts(workspace: Workspace, params: CorpusParams, arms: Mapping[str, Any]) -> tradeoffs.Facts:
    chunk, index, train = (workspace.receipt(name) for name in ("chunk", "index", "train"))
    embedded = int(workspace.measured("embed").get("embedded", 0))
    training = None
    if "skipped" not in train:
        training = {
            "base": train["base"],
            "examples": train["examples"],
            "cpu_seconds": _cpu_seconds(workspace, *_TRAINING),
        }
    rows = [row for row in read_jsonl(workspace.scores("answers")) if row["arm"] in arms]
    asked = workspace.receipt("score_answers")["models"]
    return tradeoffs.Facts(
        arms=arms,
        rows=rows,
        primary=params.judge.primary.partition(".")[2],
        index={
            "rows": index["rows"],
            "documents": chunk["documents"],
            "embedded": embedded,
            "cpu_seconds": _cpu_seconds(workspace, *_INDEXING),
        },
        training=training,
        models={arm: asked[arm]["name"] for arm in arms},
        cpu_hour=params.answer.prices.cpu_hour,
        currency=params.answer.prices.currency,
        traffic=params.compare.traffic,
        refreshes=params.compare.refreshes,
        measured=held(workspace),
    )


def evidence(workspace: Workspace, arms: Mapping[str, Any]) -> Json:
    """`kinds`: a recommendation for each kind of question, `recommendation` in one sentence, the `rules` it follows;
    the comparison `table`; `break_even` of the arms' costs; `models`, arm -> the model asked; `measured`, the long
    measurements. `arms` as `views.comparison` has them, with what they spent."""
    params = CorpusParams.model_validate(yaml.safe_load((workspace.root / "params.yaml").read_text(encoding="utf-8")))
    facts = _facts(workspace, params, arms)
    formed = params.generate.reply_schema is not None
    choices = recommend.recommend(facts.rows, primary=facts.primary, formed=formed, margins=params.judge.margins)
    return {
        "kinds": [choice.to_json() for choice in choices],
        "recommendation": recommend.overall(choices),
        "rules": list(recommend.RULES),
        "table": [line.to_json() for line in tradeoffs.table(facts)],
        "break_even": tradeoffs.break_evens(facts),
        "costs": {arm: {"build": cost.build, "answer": cost.answer} for arm, cost in tradeoffs.running(facts).items()},
        "refreshes": facts.refreshes,
        "models": facts.models,
        "measured": facts.measured,
    }


def page_of(settings: Settings, result: Mapping[str, Any]) -> Path:
    """Write the page of a comparison that has arms; returns its path."""
    from pipelines.comparison_page import render

    file = settings.reports / str(result["corpus"]) / "compare" / "index.html"
    write_whole(file, render(result))
    return file


def log_once(settings: Settings, result: Mapping[str, Any], page: Path) -> None:
    """The comparison as an MLflow run of its own, with the page; what was logged already is not logged again."""
    from pipelines.wiring import Wiring

    corpus = str(result["corpus"])
    workspace = Workspace(settings.workspace(corpus), corpus)
    key = digest_json(result)
    marker = workspace.root / "measured" / "compared.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == {"key": key}:
        return
    tags = {"assay.key": f"compare:{key}", "assay.stage": "compare", "assay.recommendation": result["recommendation"]}
    with Wiring.of(settings, corpus).registry.run(corpus, "compare", tags=tags) as log:
        log.params({name: result[name] for name in ("questions", "primary", "arm", "models")})
        log.table("comparison", [{"row": r["title"], **r["cells"], "note": r["note"]} for r in result["table"]])
        log.table(
            "recommendation",
            [
                {name: k[name] for name in ("kind", "metric", "n", "best", "arm", "verdict", "reason")}
                for k in result["kinds"]
            ],
        )
        log.folder(page.parent, name="compare")
    write_whole(marker, json.dumps({"key": key}) + "\n")
