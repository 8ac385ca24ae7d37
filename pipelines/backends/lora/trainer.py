"""transformers' Trainer as a LoRA is trained with it here: its arguments, its loss, the model with fresh weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.backends.lora.chats import collator

OnLog = Callable[[int, Mapping[str, float]], None]
"""Called with the step and `loss`, `learning_rate` and `step_tokens_per_second`, or `validation_loss`. Where a stopped
training is gone on from, its losses are replayed, then comes `resumed_from`."""
WHOLE = "whole"  # marker in a checkpoint, written last


@dataclass(frozen=True)
class Settings:
    """The numbers of one training. `steps` optimizer steps of `batch` examples."""

    steps: int
    batch: int
    rank: int
    learning_rate: float
    seed: int


def arguments(folder: Path, settings: Settings, recipe: Mapping[str, Any], *, evaluated: bool) -> Any:
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


def watcher(on_log: OnLog, *, tokens: Callable[[int], int], after_step: Callable[[], None]) -> Any:
    """A callback that reports losses and the speed of each step, and marks a checkpoint once all of it is written.
    `tokens` gives the useful tokens of a step, counted from 1."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        began = taken = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.taken = time.perf_counter() - self.began
            after_step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen = losses(logs or {})
            if "loss" in seen and self.taken:
                seen["step_tokens_per_second"] = tokens(state.global_step) / self.taken
            if seen:
                on_log(state.global_step, seen)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    return Watcher()


def losses(logs: Mapping[str, Any]) -> dict[str, float]:
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


def completion_trainer(model: Any, args: Any, tokenizer: Any, **datasets: Any) -> Any:
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

    trainer = CompletionTrainer(model=model, args=args, data_collator=collator(tokenizer.pad_token_id), **datasets)
    trainer.remove_callback(PrinterCallback)
    return trainer
