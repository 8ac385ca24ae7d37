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
import random
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.definitions import arithmetic, read_yaml
from pipelines.errors import BackendError, BadConfig

Chat = Sequence[Mapping[str, str]]
OnLog = Callable[[int, Mapping[str, float]], None]
"""Called with the step and `loss`, `learning_rate` or `validation_loss`. Where a stopped training is gone on from, its
losses are replayed, then comes `resumed_from`."""

_WINDOW = 8  # batches that are sorted by length together
_WHOLE = "whole"  # marker in a checkpoint, written last
RECIPE_KEYS = {
    "method": {"lora"},
    "target_modules": str,
    "alpha_per_rank": (int, float),
    "dropout": (int, float),
    "optimizer": str,
    "schedule": str,
    "warmup_share": (int, float),
    "weight_decay": (int, float),
    "max_grad_norm": (int, float),
    "precision": {"auto", "bfloat16", "float32"},
    "evaluations": int,
    "validation_examples": int,
    "checkpoints": int,
}


@dataclass(frozen=True)
class Settings:
    """The numbers of one training. `steps` optimizer steps of `batch` examples."""

    steps: int
    batch: int
    rank: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Trained:
    """What came out. `history` holds {"step", "loss"} and {"step", "validation_loss"} entries, in order."""

    folder: Path
    history: list[dict[str, float]]
    seconds: float


def read_recipe(file: Path) -> dict[str, Any]:
    """A file of models/recipes, with `precision` resolved for this CPU. BadConfig shows the valid form."""
    raw = read_yaml(file, folder="models/recipes", key="train.recipe")
    if not isinstance(raw, dict) or set(raw) != set(RECIPE_KEYS):
        raise BadConfig(f"models/recipes/{file.name}: its keys are exactly {', '.join(RECIPE_KEYS)}")
    for key, allowed in RECIPE_KEYS.items():
        value = raw[key]
        good = value in allowed if isinstance(allowed, set) else isinstance(value, allowed)  # type: ignore[arg-type]
        if not good:
            form = ", ".join(sorted(allowed)) if isinstance(allowed, set) else "a number or text as in sft.yaml"
            raise BadConfig(f"models/recipes/{file.name}: {key} is {value!r}; valid is {form}")
    return {**raw, "precision": arithmetic(raw["precision"])}


def libraries() -> dict[str, str]:
    """Versions of what the weights depend on."""
    return {name: version(name) for name in ("torch", "transformers", "peft")}


def layout(lengths: Sequence[int], *, batch: int, steps: int, seed: int) -> list[int]:
    """Indices of the examples in the order of training, `steps * batch` of them.

    Whole shuffled epochs one after the other; then, in windows of eight batches, sorted by length and the batches
    shuffled, so that a batch holds examples of like length.
    """
    rng = random.Random(seed)  # noqa: S311  # an order, not a secret
    stream: list[int] = []
    while len(stream) < steps * batch:
        epoch = list(range(len(lengths)))
        rng.shuffle(epoch)
        stream += epoch
    out: list[int] = []
    for start in range(0, steps * batch, batch * _WINDOW):
        window = stream[start : min(start + batch * _WINDOW, steps * batch)]
        window.sort(key=lambda index: (lengths[index], index))
        batches = [window[at : at + batch] for at in range(0, len(window), batch)]
        rng.shuffle(batches)
        out += [index for members in batches for index in members]
    return out


def encode(tokenizer: Any, chat: Chat) -> dict[str, list[int]]:
    """`input_ids` of the whole chat, and as `labels` those of its last message (its end marker included)."""
    messages = [dict(message) for message in chat]
    asked = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(asked):
        raise BackendError("the chat template writes a prompt differently once it is answered; loss cannot be placed")
    prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
    completion = tokenizer(whole[len(asked) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
    return {"input_ids": prompt + completion, "labels": completion}


def _collator(pad: int) -> Callable[[Sequence[Mapping[str, list[int]]]], dict[str, Any]]:
    """Left-padded tensors of one batch; `labels` has as many columns as the longest completion."""
    import torch

    def collate(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
        width, last = (max(len(row[name]) for row in rows) for name in ("input_ids", "labels"))
        ids = torch.full((len(rows), width), pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        labels = torch.full((len(rows), last), -100)
        for number, row in enumerate(rows):
            ids[number, width - len(row["input_ids"]) :] = torch.tensor(row["input_ids"])
            mask[number, width - len(row["input_ids"]) :] = 1
            labels[number, last - len(row["labels"]) :] = torch.tensor(row["labels"])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return collate


def _newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that was finished; those that were not are removed."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / _WHOLE).is_file():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _arguments(folder: Path, settings: Settings, recipe: Mapping[str, Any], *, evaluated: bool) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=recipe["schedule"],
        warmup_steps=math.ceil(recipe["warmup_share"] * settings.steps),
        optim=recipe["optimizer"],
        weight_decay=recipe["weight_decay"],
        max_grad_norm=recipe["max_grad_norm"],
        train_sampling_strategy="sequential",
        bf16=recipe["precision"] == "bfloat16",
        use_cpu=True,
        seed=settings.seed,
        data_seed=settings.seed,
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=max(1, math.ceil(settings.steps / recipe["evaluations"])),
        eval_on_start=evaluated,
        save_strategy="steps",
        save_steps=max(1, math.ceil(settings.steps / recipe["checkpoints"])),
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
    )


def _watcher(on_log: OnLog) -> Any:
    """A callback that reports losses, and marks a checkpoint once all of it is written."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if seen := _losses(logs or {}):
                on_log(state.global_step, seen)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE).touch()

    return Watcher()


def _losses(logs: Mapping[str, Any]) -> dict[str, float]:
    names = {"loss": "loss", "learning_rate": "learning_rate", "eval_loss": "validation_loss"}
    return {ours: float(logs[theirs]) for theirs, ours in names.items() if theirs in logs}


def fresh_model(base: Path, recipe: Mapping[str, Any], *, rank: int, seed: int) -> Any:
    """The base in float32 (autocast does the rest) with fresh LoRA weights, seeded before the first random number."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    model.config.use_cache = False
    lora = LoraConfig(
        r=rank,
        lora_alpha=round(recipe["alpha_per_rank"] * rank),
        lora_dropout=recipe["dropout"],
        target_modules=recipe["target_modules"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def _trainer(model: Any, arguments: Any, tokenizer: Any, **datasets: Any) -> Any:
    from torch.nn.functional import cross_entropy
    from transformers import PrinterCallback, Trainer

    class CompletionTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """Mean cross-entropy (nats) over the batch's completion tokens."""
            labels = inputs["labels"]
            mask = inputs["attention_mask"]
            outputs = model(
                input_ids=inputs["input_ids"],
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                logits_to_keep=labels.shape[1] + 1,
            )
            shown = labels != -100
            loss = cross_entropy(outputs.logits[:, :-1][shown].float(), labels[shown])
            return (loss, outputs) if return_outputs else loss

    trainer = CompletionTrainer(
        model=model, args=arguments, data_collator=_collator(tokenizer.pad_token_id), **datasets
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


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
    start = time.perf_counter()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
    rows = [encode(tokenizer, chat) for chat in training]
    held_out = validation[: recipe["validation_examples"]]
    order = layout(
        [len(row["input_ids"]) for row in rows], batch=settings.batch, steps=settings.steps, seed=settings.seed
    )
    trainer = _trainer(
        fresh_model(base, recipe, rank=settings.rank, seed=settings.seed),
        _arguments(checkpoints, settings, recipe, evaluated=bool(held_out)),
        tokenizer,
        train_dataset=[rows[index] for index in order],
        eval_dataset=[encode(tokenizer, chat) for chat in held_out] or None,
    )
    resume = _newest_whole(checkpoints) if checkpoints.is_dir() else None
    if resume is not None:
        resumed_from = int(resume.name.rpartition("-")[2])
        trainer.args.eval_on_start = False
        for entry in json.loads((resume / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]:
            if seen := _losses(entry):
                on_log(entry["step"], seen)
        on_log(resumed_from, {"resumed_from": resumed_from})
    trainer.add_callback(_watcher(on_log))
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if held_out and not any("eval_loss" in e and e["step"] == settings.steps for e in trainer.state.log_history):
        trainer.evaluate()
    history = [{"step": e["step"], **seen} for e in trainer.state.log_history if (seen := _losses(e))]
    if not all(math.isfinite(value) for entry in history for value in entry.values()):
        raise BackendError("training diverged: the loss is not a number; lower train.learning_rate")
    _write_adapter(trainer, destination, base_name=base_name)
    return Trained(destination, history, time.perf_counter() - start)
