"""Tune a corpus's own embedder or cross-encoder on its gold questions, track it in MLflow, and put it in whole.

It reads the questions of the training split (those of the validation split choose, those of the test are not read) and
the passages of the newest index. `pipelines.tuning` trains; what was trained before is not trained again. It judges
nothing: an index made by the new embedder is judged as any candidate is, against the model it was tuned from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import training, tuned, tuning, tuning_rows
from pipelines.builds import require_embedder
from pipelines.core.tuning import by_split
from pipelines.locks import exclusive
from pipelines.loss_log import Progress, curve
from pipelines.ports import RunLog
from pipelines.report import describe_tuned
from pipelines.schemas import read_jsonl
from pipelines.settings import Settings
from pipelines.training_checks import guard_of
from pipelines.wiring import Wiring

Row = Mapping[str, Any]
_USE = {
    "embedder": "embed: {model: tuned}",
    "reranker": "retrieve: {rerank: {model: tuned, depth: 20}}",
}


def _losses(history: Sequence[Row]) -> dict[str, float]:
    """First and last training loss, each a mean over a tenth of the steps; first and best validation loss."""
    train = [entry["loss"] for entry in history if "loss" in entry]
    held_out = [entry["validation_loss"] for entry in history if "validation_loss" in entry]
    tenth = max(1, len(train) // 10)
    out = {"loss_first": sum(train[:tenth]) / tenth, "loss_last": sum(train[-tenth:]) / tenth}
    if held_out:
        out |= {"validation_loss_first": held_out[0], "validation_loss_best": min(held_out[1:] or held_out)}
    return {name: round(value, 4) for name, value in out.items()}


def _track(log: RunLog, wiring: Wiring, facts: Row) -> None:
    """Data set, params, losses, what it took and the card into the run; the model itself stays below ASSAY_HOME."""
    losses, took = _losses(facts["history"]), training.took(facts, wiring.params.answer.prices)
    log.params({"kind": facts["kind"], "base": facts["base"], "recipe": facts["recipe"], "split": facts["split"]})
    log.params({"digest": facts["digest"], "steps": facts["steps"], "libraries": facts["libraries"]})
    log.dataset(
        f"{wiring.corpus} tuning {facts['kind']}",
        digest=facts["rows"]["digest"],
        source=str(wiring.workspace.versioned / "questions.jsonl"),
        context="training",
        profile={"rows": facts["rows"], "questions": facts["questions"], "contaminated": facts["contaminated"]},
    )
    log.metrics({**losses, **{name: value for name, value in took.items() if isinstance(value, int | float)}})
    log.metrics({f"contaminated.{what}": float(n) for what, n in facts["contaminated"].items()})
    log.figure("loss", curve(facts["history"], unit="loss"))
    log.text("model_card.md", describe_tuned({"corpus": wiring.corpus, "facts": facts, "losses": losses, "took": took}))
    log.tags({"assay.digest": facts["digest"]})


def _said(corpus: str, facts: Row, *, again: bool) -> str:
    kind, losses = facts["kind"], _losses(facts["history"])
    held = ""
    if "validation_loss_best" in losses:
        held = f", validation loss {losses['validation_loss_first']:.3f} to {losses['validation_loss_best']:.3f}"
    made = "was tuned before, nothing to do" if again else f"tuned in {facts['took']['cpu_seconds']:.0f} CPU-seconds"
    lost = facts["contaminated"]
    if any(lost.values()):
        held += f"; left out, for texts of an evaluation set: {lost['questions']} questions, {lost['rows']} rows"
    return (
        f"{corpus}: {kind} {facts['digest'][:12]} {made}: {facts['questions']['train']} questions, "
        f"{facts['rows']['train']} rows, {facts['steps']} steps, loss {losses['loss_first']:.3f} to "
        f"{losses['loss_last']:.3f}{held}; use it by `{_USE[kind]}`, then: assay run {corpus}"
    )


def tune(wiring: Wiring, kind: str, *, recipe: Row, questions: Sequence[Row]) -> tuple[bool, dict[str, Any]]:
    """Train on `questions` by `recipe` and make the model the corpus's newest: (False when it was there, its facts).

    NotFound before the stage `index` is done; IntegrityError when params name another embedder than the index's;
    BadInput on too few questions.
    """
    settings, corpus, params = wiring.settings, wiring.corpus, wiring.params
    build = wiring.workspace.receipt("index")
    require_embedder(build, wiring.embedder)
    split = params.split.model_dump()
    asked, guard = by_split(questions, **split), guard_of(params, questions)
    rows = tuning_rows.material(wiring, build, asked, guard=guard, kind=kind, recipe=recipe, params=params)
    plan = tuning.planned(kind, recipe, rows, split)
    tags = {"assay.key": f"tune:{plan.key}", "assay.tune": kind}
    lock = settings.cache / "locks" / f"tune-{corpus}-{kind}"
    with (
        exclusive(lock, patience=7200, what=f"tuning the {kind} of {corpus}"),
        wiring.registry.run(corpus, f"tune {kind}", tags=tags) as log,
    ):
        facts = tuned.known(settings.home, corpus, kind, plan.key)
        again = facts is not None
        if facts is None:
            made, facts = tuning.train(
                plan, rows, settings, on_log=Progress("tune", lambda step, values: log.metrics(values, step=step))
            )
            tuned.publish(settings.home, corpus, kind, made, facts)
        _track(log, wiring, facts)
        moved = tuned.point(settings.home, corpus, kind, facts["digest"])
        tuning.tidy(settings, plan)
    return moved or not again, facts


def tune_corpus(settings: Settings, corpus: str, kind: str) -> str:
    """`assay tune`: by the recipe models/recipes/KIND.yaml on the corpus's gold questions; returns one line."""
    wiring = Wiring.of(settings, corpus)
    wiring.workspace.receipt("index")  # said first: reading the recipe imports torch
    recipe, file = tuning.read_recipe(kind), wiring.workspace.versioned / "questions.jsonl"
    try:
        changed, facts = tune(wiring, kind, recipe=recipe, questions=list(read_jsonl(file)) if file.is_file() else [])
    finally:
        if "store" in wiring.__dict__:
            wiring.store.close()  # type: ignore[attr-defined]
    return _said(corpus, facts, again=not changed)
