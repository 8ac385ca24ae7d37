"""What transformers' Trainers leave while they train, whatever is trained: their losses by our names, and checkpoints
of which only those that were wholly written are gone on from. Their own resumption takes the newest folder as it is,
half-written or not.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import BackendError

_WHOLE = "whole"  # marker in a checkpoint, written last


def losses(logs: Mapping[str, Any]) -> dict[str, float]:
    """`loss`, `learning_rate` and `validation_loss` of an entry of a Trainer's log, those that it has."""
    names = {"loss": "loss", "learning_rate": "learning_rate", "eval_loss": "validation_loss"}
    return {ours: float(logs[theirs]) for theirs, ours in names.items() if theirs in logs}


def history_of(log: Sequence[Mapping[str, Any]], *, lower: str) -> list[dict[str, float]]:
    """The losses by step, in order. BackendError when one is not a number; `lower` is the key to lower then."""
    history = [{"step": entry["step"], **seen} for entry in log if (seen := losses(entry))]
    if not all(math.isfinite(value) for entry in history for value in entry.values()):
        raise BackendError(f"training diverged: the loss is not a number; lower {lower}")
    return history


def mark_whole(folder: Path, step: int) -> None:
    """Say that the checkpoint of `step` is all there."""
    (folder / f"checkpoint-{step}" / _WHOLE).touch()


def newest_whole(folder: Path, *, tidy: bool = True) -> Path | None:
    """The newest checkpoint that was wholly written, None without one; with `tidy` those that were not are removed."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / _WHOLE).is_file():
            whole.append(checkpoint)
        elif tidy:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def replay(checkpoint: Path, on_log: Callable[[int, int, Mapping[str, float]], None]) -> bool:
    """Report the losses before a checkpoint by step and number of all steps, then `resumed_from`. True when the
    training had ended there by its validation loss: gone on from, transformers would train a part more."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    for entry in state["log_history"]:
        if seen := losses(entry):
            on_log(entry["step"], state["max_steps"], seen)
    on_log(state["global_step"], state["max_steps"], {"resumed_from": state["global_step"]})
    stopping = state["stateful_callbacks"].get("EarlyStoppingCallback")
    if stopping is None:
        return False
    patience = stopping["args"]["early_stopping_patience"]
    return bool(stopping["attributes"]["early_stopping_patience_counter"] >= patience)
