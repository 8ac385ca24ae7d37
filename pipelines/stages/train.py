"""Train the LoRA adapter, seal it in the object store, and track it in MLflow while it is made.

`pipelines.training` trains, and knows what was trained before. Where mix made no training set, the receipt says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipelines import adapters, training
from pipelines.core.nouns import Report
from pipelines.errors import NotTrainable
from pipelines.loss_log import Progress, curve
from pipelines.params import CorpusParams
from pipelines.ports import Generator, Ports, RunLog
from pipelines.report import describe_adapter
from pipelines.schemas import read_jsonl
from pipelines.workspace import Workspace

Record = Mapping[str, Any]


def code_of(workspace: Workspace) -> str:
    """The digest of this stage's code, as the workspace's code.yaml holds it."""
    file = workspace.root / "code.yaml"
    known = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return str(known.get("train", ""))


def _losses(history: Sequence[Record], *, kept: int | None = None) -> dict[str, float]:
    """First and last losses, rounded; the training losses as means over a tenth of the steps at either end. `kept`, the
    step whose weights are kept, adds the validation loss there where that is not the last."""
    train = [entry["loss"] for entry in history if "loss" in entry]
    held_out = [entry["validation_loss"] for entry in history if "validation_loss" in entry]
    tenth = max(1, len(train) // 10)
    out = {"loss_first": sum(train[:tenth]) / tenth, "loss_last": sum(train[-tenth:]) / tenth}
    if held_out:
        out |= {"validation_loss_first": held_out[0], "validation_loss_last": held_out[-1]}
    at = [entry for entry in history if entry["step"] == kept and "validation_loss" in entry]
    if kept is not None and at and kept != history[-1]["step"]:
        out["validation_loss_kept"] = at[-1]["validation_loss"]
    return {name: round(value, 4) for name, value in out.items()}


def _mixed(mix: Record) -> dict[str, float]:
    """The counts of mix's receipt as metrics: what the set holds, what was left out and what was found."""
    counts = {"mix.train": mix["train"], "mix.validation": mix["validation"]}
    counts |= {f"mix.dropped.{reason}": n for reason, n in mix["dropped"].items()}
    counts["mix.sensitive_found"] = sum(mix["screened"]["found"].values())
    if "synthetic" in mix:
        counts |= {f"mix.synthetic.{name}": mix["synthetic"][name] for name in ("asked", "kept")}
    if "teacher" in mix:
        counts |= {f"mix.teacher.{name}": mix["teacher"][name] for name in ("asked", "kept")}
    return {name: float(value) for name, value in counts.items()}


def _card(
    params: CorpusParams, workspace: Workspace, plan: training.Plan, *, facts: Record, took: Record, licence: str | None
) -> str:
    """The model card: what the adapter is, what it was made of, and what that took."""
    how = {"corpus": workspace.corpus, "task": params.generate.task, "licence": licence}
    recipe, numbers = {"name": plan.recipe_name, **plan.recipe}, plan.numbers
    return describe_adapter(
        {**how, "recipe": recipe, "train": numbers, "facts": facts, "mix": workspace.receipt("mix"), "took": took}
    )


def _track(
    params: CorpusParams,
    workspace: Workspace,
    ports: Ports,
    log: RunLog,
    *,
    facts: Record,
    history: Sequence[Record],
    took: Record,
    card: str,
) -> int:
    """Data set, params, plots, model card and the adapter's folder into the run; the registered model's version, which
    the card describes."""
    log.params({"train": params.train.model_dump(), "base": facts["base"], "base_digest": facts["base_digest"]})
    mix = workspace.receipt("mix")
    log.metrics(_mixed(mix))
    log.dataset(
        f"{workspace.corpus} training",
        digest=facts["training_digest"],
        source=str(workspace.training),
        context="training",
        profile={"chats": facts["examples"], "from": mix["source"], "left out": mix["dropped"]},
    )
    log.metrics({name: value for name, value in facts.items() if "loss" in name})
    log.metrics({name: value for name, value in took.items() if isinstance(value, int | float)})
    log.figure("loss", curve(history, unit="loss per completion token (nats)"))
    log.text("model_card.md", card)
    folder = adapters.fetch(ports.objects, facts["key"], cache=ports.settings.cache)
    log.folder(folder, name="adapter")
    return ports.registry.register(
        f"{workspace.corpus}-adapter",
        run_id=log.run_id,
        path="adapter",
        description=card,
        tags={"assay.digest": facts["digest"], "assay.training": facts["training_digest"]},
    )


def _facts(params: CorpusParams, base: Generator, mix: Record, record: Record) -> dict[str, Any]:
    """What the receipt says of a training: nothing of it depends on the machine's speed."""
    return {
        "digest": record["digest"],
        "key": record["key"],
        "base": base.name,
        "base_digest": base.base_digest,
        "training_digest": mix["digest"],
        "steps": record.get("steps", params.train.steps),
        "examples": mix["train"],
        **({"kept_step": record["kept_step"]} if record.get("kept_step") not in (None, record.get("steps")) else {}),
        **_losses(record["history"], kept=record.get("kept_step")),
    }


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """Facts: digest, key, base, base_digest, training_digest, steps, examples and losses; or `skipped`, also where the
    generator is one that cannot be trained. Measured is what it took (`training.took`).

    MissingTool and BadConfig when model or recipe are not there; BackendError when the loss diverges.
    """
    mix = workspace.receipt("mix")
    if "skipped" in mix:
        return Report("train", {"skipped": mix["skipped"]}, f"skipped: {mix['skipped']}")
    base = ports.base_generator()
    try:
        _ = base.folder
    except NotTrainable as exc:
        return Report("train", {"skipped": str(exc)}, f"skipped: {exc}")
    plan = training.planned(params.train, base, mix["digest"], code=code_of(workspace), device=ports.settings.device)
    parts = {name: list(read_jsonl(workspace.training / f"{name}.jsonl")) for name in ("train", "validation")}
    tags = {"assay.key": f"train:{plan.key}", "assay.stage": "train", "assay.training": mix["digest"]}
    with (
        training.alone(ports.settings, plan),
        ports.registry.run(workspace.corpus, "train", tags=tags) as log,
    ):
        record = training.known(ports, plan)
        if record is None:
            progress = Progress("train", lambda step, values: log.metrics(values, step=step))
            steps = params.train.steps
            record = training.train(
                plan, base, ports, **parts, on_log=lambda step, values: progress(step, steps, values)
            )
        else:
            for entry in record["history"]:
                log.metrics({n: v for n, v in entry.items() if n != "step"}, step=int(entry["step"]))
        facts, took = _facts(params, base, mix, record), training.took(record, params.answer.prices)
        card = _card(params, workspace, plan, facts=facts, took=took, licence=base.licence)
        version = _track(params, workspace, ports, log, facts=facts, history=record["history"], took=took, card=card)
        training.tidy(ports.settings, plan)
    summary = f"adapter {facts['digest'][:12]}, loss {facts['loss_first']:.2f} to {facts['loss_last']:.2f}"
    if "kept_step" in facts:
        summary += f", ended at step {facts['steps']}, weights of step {facts['kept_step']}"
    return Report("train", facts, summary, {"run_id": log.run_id, "version": version, **took})
