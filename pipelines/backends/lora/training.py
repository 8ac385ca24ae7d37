"""LoRA training with peft and transformers' Trainer: chats in, an adapter folder out. Loss on the completion only.

The logits are computed for the completions alone: chats are padded on the left, so these are the last columns. (TRL's
SFTTrainer computes the same loss in tiles over the vocabulary, which took a CPU longer than the model itself.)

Deterministic on one machine: the order of the examples is laid out before the training starts (shuffled epochs, and
within eight batches by length, so that little is padded), there is no dropout, and the arithmetic is seeded. The
state is checkpointed, so a killed training goes on from its last whole checkpoint and ends with the same weights
(`tests/faults/test_train_kill.py`). It knows no corpora, no object store and no tracking.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.backends.lora.chats import Chat, encode, layout
from pipelines.backends.lora.spent import Account
from pipelines.backends.lora.trainer import (
    WHOLE,
    OnLog,
    Settings,
    arguments,
    completion_trainer,
    fresh_model,
    losses,
    watcher,
)
from pipelines.errors import BackendError


@dataclass(frozen=True)
class Trained:
    """What came out. `history` holds {"step", "loss"} and {"step", "validation_loss"} entries, in order.

    `tokens` are those of the chats trained on, prompt and completion, each time that they were, padding aside;
    `seconds` (wall) and `cpu_seconds` are of all parts of a training that was killed and gone on with, loading the
    model and evaluating included. `device` is cpu or cuda, `gpus` how many.
    """

    folder: Path
    history: list[dict[str, float]]
    steps: int
    tokens: int
    seconds: float
    cpu_seconds: float
    device: str = "cpu"
    gpus: int = 0


def _newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that was finished; those that were not are removed."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / WHOLE).is_file():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _write_adapter(trainer: Any, destination: Path, *, base_name: str) -> None:
    """The adapter's two files, free of paths and of the order in which Python holds a set."""
    shutil.rmtree(destination, ignore_errors=True)
    trainer.model.save_pretrained(str(destination), safe_serialization=True)
    for extra in destination.iterdir():
        if extra.name not in ("adapter_model.safetensors", "adapter_config.json"):
            extra.unlink()
    file = destination / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def train(
    base: Path,
    destination: Path,
    *,
    base_name: str,
    training: Sequence[Chat],
    validation: Sequence[Chat],
    recipe: Mapping[str, Any],
    settings: Settings,
    checkpoints: Path,
    on_log: OnLog,
) -> Trained:
    """Train on `training` and write adapter_model.safetensors and adapter_config.json into `destination`.

    `checkpoints` is a folder that belongs to exactly this training: what a killed
    run left there is gone on from. `validation` may be empty. BackendError when the loss is not a number.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    account = Account(checkpoints / "spent.json")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
    rows = [encode(tokenizer, chat) for chat in training]
    held_out = validation[: recipe["validation_examples"]]
    lengths = [len(row["input_ids"]) for row in rows]
    order = layout(lengths, batch=settings.batch, steps=settings.steps, seed=settings.seed)

    def tokens(first: int, last: int) -> int:
        """Useful tokens of the steps from `first` to `last`, counted from 1."""
        return sum(lengths[index] for index in order[(first - 1) * settings.batch : last * settings.batch])

    trainer = completion_trainer(
        fresh_model(base, recipe, rank=settings.rank, seed=settings.seed),
        arguments(checkpoints, settings, recipe, evaluated=bool(held_out)),
        tokenizer,
        train_dataset=[rows[index] for index in order],
        eval_dataset=[encode(tokenizer, chat) for chat in held_out] or None,
    )
    resume = _newest_whole(checkpoints) if checkpoints.is_dir() else None
    if resume is not None:
        resumed_from = int(resume.name.rpartition("-")[2])
        trainer.args.eval_on_start = False
        for entry in json.loads((resume / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]:
            if seen := losses(entry):
                on_log(entry["step"], seen)
        on_log(resumed_from, {"resumed_from": resumed_from})
    trainer.add_callback(watcher(on_log, tokens=lambda step: tokens(step, step), after_step=account.keep))
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    history = [{"step": e["step"], **seen} for e in trainer.state.log_history if (seen := losses(e))]
    if not all(math.isfinite(value) for entry in history for value in entry.values()):
        raise BackendError("training diverged: the loss is not a number; lower train.learning_rate")
    _write_adapter(trainer, destination, base_name=base_name)
    account.keep()
    steps = trainer.state.global_step
    return Trained(destination, history, steps, tokens(1, steps), account.seconds, account.cpu_seconds)
