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

from pipelines.core import costs, recommend, tradeoffs
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


def _on_gpus(workspace: Workspace, gpu_hour: float | None) -> float | None:
    """The price of the last training's GPU-hours; None when it is not known."""
    hours = float(workspace.measured("train").get("gpu_hours", 0.0))
    if not hours:
        return 0.0
    return None if gpu_hour is None else hours * gpu_hour


def _facts(workspace: Workspace, params: CorpusParams, arms: Mapping[str, Any]) -> tradeoffs.Facts:
    chunk, index, train = (workspace.receipt(name) for name in ("chunk", "index", "train"))
    embed, prices = workspace.measured("embed"), params.answer.prices
    training = None
    if "skipped" not in train:
        training = {
            "base": train["base"],
            "examples": train["examples"],
            "cpu_seconds": _cpu_seconds(workspace, *_TRAINING),
            "paid": _on_gpus(workspace, prices.gpu_hour),
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
            "embedded": int(embed.get("embedded", 0)),
            "cpu_seconds": _cpu_seconds(workspace, *_INDEXING),
            "paid": costs.in_currency(embed.get("cost"), prices.currency),
        },
        training=training,
        models={arm: asked[arm]["name"] for arm in arms},
        cpu_hour=prices.cpu_hour,
        currency=prices.currency,
        traffic=params.compare.traffic,
        refreshes=params.compare.refreshes,
        measured=held(workspace),
    )


def params_of(workspace: Workspace) -> CorpusParams:
    """The params that the corpus's last run had."""
    return CorpusParams.model_validate(yaml.safe_load((workspace.root / "params.yaml").read_text(encoding="utf-8")))


def evidence(workspace: Workspace, arms: Mapping[str, Any]) -> Json:
    """`kinds`: a recommendation for each kind of question, `recommendation` in one sentence, the `rules` it follows;
    the comparison `table`; `break_even` of the arms' costs; `models`, arm -> the model asked; `measured`, the long
    measurements. `arms` as `views.comparison` has them, with what they spent."""
    params = params_of(workspace)
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

    corpus = str(result["corpus"])
    file = settings.reports / corpus / "compare" / "index.html"
    write_whole(file, render(result, read_jsonl(Workspace(settings.workspace(corpus), corpus).scores("answers"))))
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
