"""Tunings that stop early, killed and gone on with: they stop where an undisturbed one does, with the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import tuning
from pipelines.backends import sentence_trainer
from pipelines.definitions import sha256_file

pytestmark = pytest.mark.integration
TEXTS = [f"{colour} {thing}" for colour in ("red", "blue", "green", "white") for thing in ("tent", "boot", "pack")]
SMALL = {"max_steps": 6, "batch": 4, "evaluations": 6, "precision": "float32", "patience": 2, "learning_rate": 0.001}


class Killed(Exception):
    """What ends a training in the middle, as a kill would."""


def rows(kind: str, *, right: bool) -> list[dict[str, Any]]:
    """Not `right`, the opposite is asked: the validation loss rises as the training loss falls."""
    pairs = [(text, TEXTS[(n + 5) % len(TEXTS)]) for n, text in enumerate(TEXTS)]
    if kind == "reranker":
        return [{"question": a, "passage": b, "label": float((b == a) == right)} for a, c in pairs for b in (a, c)]
    of = [(a, a, b) if right else (a, b, a) for a, b in pairs]
    return [dict(zip(("question", "positive", "negative"), row, strict=True)) for row in of]


def trained(kind: str, home: Path, on_log: Callable[..., None] = lambda *_: None) -> sentence_trainer.Tuned:
    """`cached`: an embedder whose gradients are cached, two rows at once."""
    kind, more = ("embedder", {"mini_batch": 2}) if kind == "cached" else (kind, {})
    base = tuning.base_definition(kind)
    recipe = {**tuning.read_recipe(kind), **SMALL, **more, "warmup_share": 0.0}
    how: dict[str, Any] = {
        "training": rows(kind, right=True), "validation": rows(kind, right=False)[:8], "recipe": recipe,
        "checkpoints": home / "checkpoints", "on_log": on_log,
    }  # fmt: skip
    if kind == "embedder":
        return sentence_trainer.tune_embedder(base.folder, home / "model", window=base.window, **how)
    return sentence_trainer.tune_reranker(base.folder, home / "model", **how)


def killed_at(step: int) -> Callable[..., None]:
    """Kills at the loss of `step`: the checkpoint of the step before is whole, its own is not there yet."""

    def log(at: int, steps: int, values: Any) -> None:
        if at == step and "loss" in values:
            raise Killed

    return log


@pytest.mark.parametrize("kind", ["embedder", "cached", "reranker"])
def test_patience_outlives_a_kill(tmp_path: Path, kind: str) -> None:
    seen: list[dict[str, float]] = []
    whole = trained(kind, tmp_path / "whole", lambda at, steps, values: seen.append(dict(values)))
    held_out = [entry["validation_loss"] for entry in whole.history if "validation_loss" in entry]
    best = 1 + held_out[1:].index(min(held_out[1:]))
    assert whole.steps == best + SMALL["patience"] < SMALL["max_steps"]
    # At most four rows a step: of three texts, each of two words and two marks, or of four words and three marks.
    row = 7 if kind == "reranker" else 12
    assert whole.tokens % row == 0 and 2 * row * whole.steps < whole.tokens <= 4 * row * whole.steps
    assert all(entry["step_tokens_per_second"] > 0 for entry in seen if "loss" in entry)

    parts = tmp_path / "parts"
    for step in (2, whole.steps):
        with pytest.raises(Killed):
            trained(kind, parts, killed_at(step))
    spent = json.loads((parts / "checkpoints" / "spent-0.json").read_text())
    resumed = trained(kind, parts)
    assert (resumed.steps, resumed.tokens) == (whole.steps, whole.tokens)
    assert resumed.history == whole.history
    assert resumed.seconds > spent["seconds"] and resumed.cpu_seconds > spent["cpu_seconds"]

    # Killed after it had stopped, before its model was written: nothing more is trained.
    before = sha256_file(parts / "model" / "model.safetensors")
    told: list[Any] = []
    again = trained(kind, parts, lambda at, steps, values: told.append(dict(values)))
    assert told[-1] == {"resumed_from": whole.steps}
    assert (again.steps, again.history, again.tokens) == (whole.steps, whole.history, whole.tokens)
    models = [folder / "model" / "model.safetensors" for folder in (parts, tmp_path / "whole")]
    assert [sha256_file(file) for file in models] == [before, before]
