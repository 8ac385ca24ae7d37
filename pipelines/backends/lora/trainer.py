"""transformers' Trainer as a LoRA is trained with it here: its arguments, its loss, the model with fresh weights."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.backends.lora.chats import collator
from pipelines.backends.lora.recipe import micro_batch

OnLog = Callable[[int, Mapping[str, float]], None]
"""Called with the step and `loss`, `learning_rate` and `step_tokens_per_second`, or `validation_loss`. Where a stopped
training is gone on from, its losses are replayed, then comes `resumed_from`."""


@dataclass(frozen=True)
class Settings:
    """The numbers of one training. `steps` optimizer steps of `batch` examples."""

    steps: int
    batch: int
    rank: int
    learning_rate: float
    seed: int


def arguments(
    folder: Path, settings: Settings, recipe: Mapping[str, Any], *, evaluated: bool, device: str = "cpu"
) -> Any:
    """transformers' arguments. With `early_stopping` every evaluation is a checkpoint, since any may be the best."""
    from transformers import TrainingArguments

    share = micro_batch(settings.batch, recipe)
    evaluate_every = max(1, math.ceil(settings.steps / recipe["evaluations"]))
    save_every = max(1, math.ceil(settings.steps / recipe["checkpoints"]))
    stops: dict[str, Any] = {}
    if recipe["early_stopping"] is not None:
        save_every = evaluate_every
        stops = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
        # How many evaluations in a row were no better must outlive a kill.
        stops["restore_callback_states_from_checkpoint"] = True
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=share,
        per_device_eval_batch_size=share,
        gradient_accumulation_steps=recipe["gradient_accumulation"],
        learning_rate=settings.learning_rate,
        lr_scheduler_type=recipe["schedule"],
        warmup_steps=math.ceil(recipe["warmup_share"] * settings.steps),
        optim=recipe["optimizer"],
        weight_decay=recipe["weight_decay"],
        max_grad_norm=recipe["max_grad_norm"],
        train_sampling_strategy="sequential",
        bf16=recipe["precision"] == "bfloat16",
        use_cpu=device == "cpu",
        seed=settings.seed,
        data_seed=settings.seed,
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=evaluate_every,
        eval_on_start=evaluated,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=3 if stops else 2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        **stops,
    )


def _base(base: Path, recipe: Mapping[str, Any]) -> Any:
    """The base in float32 (autocast does the rest); quantised, in NF4 with doubly quantised constants, as QLoRA has it
    (Dettmers et al. 2023), on this process's GPU."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    if recipe["quantize"] is None:
        return AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32, **how)
    from peft import prepare_model_for_kbit_training

    computing = getattr(torch, recipe["precision"])
    how["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computing,
    )
    place = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=computing, device_map=place, **how)
    return prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})


def fresh_model(base: Path, recipe: Mapping[str, Any], *, rank: int, seed: int) -> Any:
    """The base with fresh LoRA weights, seeded before the first random number."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(seed)
    model = _base(base, recipe)
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
    """A Trainer whose loss is the mean over the completion tokens of a whole step, however many parts or processes the
    step is taken in."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import PrinterCallback, Trainer

    class CompletionTrainer(Trainer):
        loss_is_scaled_for_ga = True

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
            """A step's batches, and the completion tokens of the step in all processes."""
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            shown = torch.tensor(sum(int((batch["labels"] != -100).sum()) for batch in batches), device=device)
            return batches, int(self.accelerator.gather(shown).sum())

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: int | None = None
        ) -> Any:
            """Mean cross-entropy (nats) over the batch's completion tokens; while training, the batch's share of that
            over the step's (`num_items_in_batch`). Gradients of several processes are averaged: hence their number."""
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
            if num_items_in_batch is not None:
                loss = loss * (int(shown.sum()) * self.accelerator.num_processes / num_items_in_batch)
            return (loss, outputs) if return_outputs else loss

    trainer = CompletionTrainer(model=model, args=args, data_collator=collator(tokenizer.pad_token_id), **datasets)
    trainer.remove_callback(PrinterCallback)
    return trainer
