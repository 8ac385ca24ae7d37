"""LoRA training with peft and transformers' Trainer: chats in, an adapter folder out. Loss on the completion only.

The logits are computed for the completions alone: chats are padded on the left, so these are the last columns. (TRL's
SFTTrainer computes the same loss in tiles over the vocabulary, which took a CPU longer than the model itself.)

Deterministic on one machine: the order of the examples is laid out before the training starts (shuffled epochs, and
within eight batches by length, so that little is padded), there is no dropout, and the arithmetic is seeded. The
state is checkpointed, so a killed training goes on from its last whole checkpoint and ends with the same weights
(`tests/faults/test_train_kill.py`). On GPUs it trains in processes of its own, one a GPU (`processes`). It knows no
corpora, no object store and no tracking.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.backends.lora.chats import Chat, encode, layout
from pipelines.backends.lora.recipe import micro_batch
from pipelines.backends.lora.trainer import (
    OnLog,
    Settings,
    arguments,
    completion_trainer,
    fresh_model,
)
from pipelines.checkpoints import history_of, newest_whole, replay
from pipelines.errors import BadConfig
from pipelines.spent import Account
from pipelines.trainer_watch import watcher


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and where what comes of it goes. `recipe` is that of `read_recipe`."""

    base: Path
    destination: Path
    base_name: str
    training: Sequence[Chat]
    validation: Sequence[Chat]
    recipe: Mapping[str, Any]
    settings: Settings
    checkpoints: Path
    device: str


@dataclass(frozen=True)
class Trained:
    """What came out. `history` holds {"step", "loss"} and {"step", "validation_loss"} entries, in order; `steps` is the
    last step, `kept_step` the one whose weights are kept.

    `tokens` are those of the chats trained on, prompt and completion, each time that they were, padding aside;
    `seconds` (wall) and `cpu_seconds` are of all parts of a training that was killed and gone on with, loading the
    model and evaluating included. `device` is cpu or cuda, `gpus` how many.
    """

    folder: Path
    history: list[dict[str, float]]
    steps: int
    kept_step: int
    tokens: int
    seconds: float
    cpu_seconds: float
    device: str
    gpus: int


@dataclass(frozen=True)
class _Lesson:
    """The chats as tokens, in the order in which they are trained on."""

    rows: Sequence[Mapping[str, list[int]]]
    held_out: Sequence[Mapping[str, list[int]]]
    batch: int

    def tokens(self, first: int, last: int) -> int:
        """Useful tokens of the steps from `first` to `last`, counted from 1."""
        return sum(len(row["input_ids"]) for row in self.rows[(first - 1) * self.batch : last * self.batch])


def _lesson(job: Job, tokenizer: Any) -> _Lesson:
    """BadConfig when the training is to stop by a validation loss that nothing measures."""
    numbers, held_out = job.settings, job.validation[: job.recipe["validation_examples"]]
    if job.recipe["early_stopping"] is not None and not held_out:
        raise BadConfig(
            "the recipe's early_stopping goes by the validation loss, but no chat is held out: raise split.validation "
            "or validation_examples, or set early_stopping to null"
        )
    rows = [encode(tokenizer, chat) for chat in job.training]
    lengths = [len(row["input_ids"]) for row in rows]
    order = layout(lengths, batch=numbers.batch, steps=numbers.steps, seed=numbers.seed)
    return _Lesson([rows[i] for i in order], [encode(tokenizer, chat) for chat in held_out], numbers.batch)


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


def _taught(trainer: Any, checkpoints: Path, on_log: OnLog, *, first: bool) -> None:
    """Train to the end, from the newest whole checkpoint where there is one. A training that had stopped early when it
    was killed would be given one more step by transformers: of it the best weights are loaded, and that is all."""
    from transformers import TrainerState

    resume = newest_whole(checkpoints, tidy=first)
    if resume is not None:
        trainer.args.eval_on_start = False
        if replay(resume, lambda step, steps, values: on_log(step, values) if first else None):
            trainer.state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
            trainer.model.load_adapter(trainer.state.best_model_checkpoint, "default")
            return
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def run(job: Job, on_log: OnLog) -> Trained:
    """A training in this process; under torchrun in one of several, of which the first reports and writes."""
    from transformers import EarlyStoppingCallback, PreTrainedTokenizerFast

    _quiet()
    rank = int(os.environ.get("RANK", "0"))
    account = Account(job.checkpoints, rank=rank)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(job.base))
    lesson, recipe = _lesson(job, tokenizer), job.recipe
    trainer = completion_trainer(
        fresh_model(job.base, recipe, rank=job.settings.rank, seed=job.settings.seed),
        arguments(job.checkpoints, job.settings, recipe, evaluated=bool(lesson.held_out), device=job.device),
        tokenizer,
        train_dataset=lesson.rows,
        eval_dataset=lesson.held_out or None,
    )
    if recipe["early_stopping"] is not None:
        trainer.add_callback(EarlyStoppingCallback(recipe["early_stopping"]))
    watched = watcher(
        lambda state, seen: on_log(state.global_step, seen),
        tokens=lambda state: lesson.tokens(1, state.global_step),
        after_step=account.keep,
    )
    trainer.add_callback(watched)
    _taught(trainer, job.checkpoints, on_log, first=rank == 0)
    state = trainer.state
    history = history_of(state.log_history, lower="train.learning_rate")
    if rank == 0:
        _write_adapter(trainer, job.destination, base_name=job.base_name)
    account.keep()
    return Trained(
        folder=job.destination,
        history=history,
        steps=state.global_step,
        kept_step=state.best_global_step if recipe["early_stopping"] is not None else state.global_step,
        tokens=lesson.tokens(1, state.global_step),
        seconds=account.seconds,
        cpu_seconds=account.cpu_seconds(),
        device=job.device.partition(":")[0],
        gpus=0 if job.device == "cpu" else recipe["devices"],
    )


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
    device: str = "cpu",
) -> Trained:
    """Train on `training` and write adapter_model.safetensors and adapter_config.json into `destination`.

    `checkpoints` is a folder that belongs to exactly this training: what a killed run left there is gone on from.
    `validation` may be empty. `device` is cpu, cuda or cuda:N. BackendError when the loss is not a number; BadConfig
    for a batch that `devices` and `gradient_accumulation` cannot share alike, and for early stopping without
    `validation`.
    """
    job = Job(base, destination, base_name, training, validation, recipe, settings, checkpoints, device)
    micro_batch(settings.batch, recipe)
    if device == "cpu" and recipe["devices"] == 1:
        return run(job, on_log)
    from pipelines.backends.lora.processes import launch

    return launch(job, on_log)
