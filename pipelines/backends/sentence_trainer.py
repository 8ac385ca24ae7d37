"""Embedders and cross-encoders trained by sentence-transformers' own trainers: rows in, a model's folder out.

| made by | loss | trained | the folder |
|---|---|---|---|
| `tune_embedder` | multiple negatives ranking, cached above `mini_batch` | LoRA | the base's, weights merged |
| `tune_reranker` | binary cross-entropy of one logit | all weights, a fresh head | as CrossEncoder saves it |

The best state by validation loss is the model, and training stops when that loss does not fall any more. Deterministic
on one machine by `seed`. Checkpoints hold what is trained, so a killed training goes on from its last whole one. It
knows no corpora and no tracking. torch and sentence-transformers are imported on first use.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.checkpoints import history_of, newest_whole, replay
from pipelines.core.tuning import steps_of
from pipelines.spent import Account
from pipelines.trainer_watch import watcher

Recipe = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
OnLog = Callable[[int, int, Mapping[str, float]], None]
"""Called with the step, the number of all steps, and `loss`, `learning_rate` and `step_tokens_per_second`, or
`validation_loss`. Where a stopped training is gone on from, its losses are replayed, then comes `resumed_from`."""

_STATE = "trained.safetensors"


@dataclass(frozen=True)
class Tuned:
    """What came out. `history` holds {"step", "loss"} and {"step", "validation_loss"} entries, in order; `steps` are
    those done. `tokens` are those of the rows trained on, each time that they were, padding aside; `seconds` (wall) and
    `cpu_seconds` are of all parts of a training that was killed and gone on with, evaluating included."""

    history: list[dict[str, float]]
    steps: int
    tokens: int
    seconds: float
    cpu_seconds: float


def libraries() -> dict[str, str]:
    """Versions of what the weights depend on."""
    return {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "peft")}


def _schedule(rows: int, recipe: Recipe) -> tuple[int, int]:
    """(steps, steps between two evaluations): the last step is evaluated too."""
    steps = steps_of(rows, batch=recipe["batch"], epochs=recipe["epochs"], most=recipe["max_steps"])
    every = max(1, steps // recipe["evaluations"])
    return steps // every * every, every


def _arguments(kind: Any, folder: Path, recipe: Recipe, *, rows: int, evaluated: bool) -> Any:
    """The trainer's arguments; `kind` is their class."""
    steps, every = _schedule(rows, recipe)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
    # How many evaluations in a row were no better must outlive a kill.
    best["restore_callback_states_from_checkpoint"] = True
    return kind(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=recipe["batch"],
        per_device_eval_batch_size=recipe["batch"],
        learning_rate=recipe["learning_rate"],
        lr_scheduler_type=recipe["schedule"],
        warmup_steps=math.ceil(recipe["warmup_share"] * steps),
        weight_decay=recipe["weight_decay"],
        max_grad_norm=recipe["max_grad_norm"],
        bf16=recipe["precision"] == "bfloat16",
        use_cpu=True,
        seed=recipe["seed"],
        data_seed=recipe["seed"],
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=every,
        eval_on_start=evaluated,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        **(best if evaluated else {}),
        **({"batch_sampler": "no_duplicates"} if "mini_batch" in recipe else {}),
    )


def _callbacks(recipe: Recipe, on_log: OnLog, account: Account, *, evaluated: bool) -> list[Any]:
    """What reports, counts time and marks whole checkpoints; and what stops early."""
    from transformers import EarlyStoppingCallback

    watched = watcher(
        lambda state, seen: on_log(state.global_step, state.max_steps, seen),
        tokens=lambda state: int(state.num_input_tokens_seen),
        after_step=account.keep,
    )
    stopping = [EarlyStoppingCallback(early_stopping_patience=recipe["patience"])] if evaluated else []
    return [watched, *stopping]


def _kept_small(trainer: Any) -> Any:
    """The trainer class with checkpoints of the trained weights alone: those of the base are not kept again."""

    class Trainer(trainer):  # type: ignore[misc]
        def add_model_card_callback(self, default_args_dict: Any) -> None:
            """No README: what a model was made of stands beside it."""

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            from safetensors.torch import save_file

            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            trained = {name: p.detach().contiguous() for name, p in self.model.named_parameters() if p.requires_grad}
            save_file(trained, folder / _STATE)

        def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
            import torch
            from safetensors.torch import load_file

            kept = load_file(Path(checkpoint_path) / _STATE)
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    if parameter.requires_grad:
                        parameter.copy_(kept[name])

    return Trainer


def _taught(trainer: Any, checkpoints: Path, on_log: OnLog) -> None:
    """Train to the end, from the newest whole checkpoint where there is one. Of a training that had stopped early when
    it was killed the best weights are loaded, and that is all."""
    from transformers import TrainerState

    newest = newest_whole(checkpoints)
    if newest is None:
        trainer.train()
        return
    trainer.args.eval_on_start = False
    if not replay(newest, on_log):
        trainer.train(resume_from_checkpoint=str(newest))
        return
    trainer.state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
    trainer._load_from_checkpoint(trainer.state.best_model_checkpoint)


def _counted(trainer: Any) -> None:
    """Have the trainer's state, which a checkpoint keeps, count the tokens trained on, padding aside. What the cached
    loss reads twice counts once: where gradients are."""
    import torch

    def count(model: Any, inputs: Any) -> None:
        if model.training and torch.is_grad_enabled():
            trainer.state.num_input_tokens_seen += int(inputs[0]["attention_mask"].sum())

    trainer.model.register_forward_pre_hook(count)


def _run(trainer: Any, checkpoints: Path, on_log: OnLog, account: Account) -> Tuned:
    """Train to the end. BackendError when a loss is not a number."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    _counted(trainer)
    _taught(trainer, checkpoints, on_log)
    state = trainer.state
    history = history_of(state.log_history, lower="learning_rate in the recipe")
    account.keep()
    return Tuned(history, state.global_step, state.num_input_tokens_seen, account.seconds, account.cpu_seconds())


def _quiet(seed: int) -> None:
    """Seeds drawn, libraries silent."""
    from transformers import set_seed
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    set_seed(seed)


def _dataset(rows: Rows) -> Any:
    """A datasets.Dataset of the rows' own columns, in order; None for no rows."""
    from datasets import Dataset

    return Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]}) if rows else None


def _ranking_loss(model: Any, recipe: Recipe) -> Any:
    """The loss over a batch, its cosines in float32 whatever the model computes in."""
    import torch
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.util import cos_sim

    def similarity(a: Any, b: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return cos_sim(a.float(), b.float())

    how: dict[str, Any] = {"scale": recipe["scale"], "similarity_fct": similarity}
    if recipe["mini_batch"] < recipe["batch"]:
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=recipe["mini_batch"], **how)
    return losses.MultipleNegativesRankingLoss(model, **how)


def _write_merged(base: Path, merged: Any, folder: Path) -> None:
    """The base's folder with the merged weights in safetensors in place of its own; tokenizer and modules stay the
    very files, so chunks are cut alike."""
    own = ("*.safetensors*", "*.bin*", "onnx", "openvino", "README.md")

    def weights(at: str, names: list[str]) -> set[str]:
        return shutil.ignore_patterns(*own)(at, names) if Path(at) == base else set()

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, ignore=weights)
    merged.save_pretrained(str(folder / "merged"), safe_serialization=True)
    for file in (folder / "merged").glob("model*.safetensors*"):
        file.rename(folder / file.name)
    shutil.rmtree(folder / "merged")


def tune_embedder(
    base: Path,
    destination: Path,
    *,
    training: Rows,
    validation: Rows,
    window: int,
    recipe: Recipe,
    checkpoints: Path,
    on_log: OnLog,
) -> Tuned:
    """Train on rows {question, positive, negative} and write a sentence-transformers folder to `destination`.

    `window` is in tokens. `checkpoints` is a folder of exactly this training. `validation` may be empty.
    """
    account = Account(checkpoints)
    _quiet(recipe["seed"])
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    model = SentenceTransformer(str(base), device="cpu", local_files_only=True).float()
    model.max_seq_length = window
    lora = LoraConfig(
        r=recipe["rank"],
        lora_alpha=round(recipe["alpha_per_rank"] * recipe["rank"]),
        lora_dropout=recipe["dropout"],
        target_modules=recipe["target_modules"],
    )
    tuner = LoraModel(model[0].auto_model, lora, "default")  # in place: the model's own layers carry LoRA from here on
    known = dict.fromkeys(tuner.model.parameters())
    for parameter in model.parameters():  # modules behind the transformer stay as they are
        parameter.requires_grad_(parameter.requires_grad and parameter in known)
    evaluated = bool(validation)
    trainer = _kept_small(SentenceTransformerTrainer)(
        model=model,
        args=_arguments(
            SentenceTransformerTrainingArguments, checkpoints, recipe, rows=len(training), evaluated=evaluated
        ),
        train_dataset=_dataset(training),
        eval_dataset=_dataset(validation),
        loss=_ranking_loss(model, recipe),
        callbacks=_callbacks(recipe, on_log, account, evaluated=evaluated),
    )
    done = _run(trainer, checkpoints, on_log, account)
    _write_merged(base, tuner.merge_and_unload(safe_merge=True), destination)
    return done


def tune_reranker(
    base: Path, destination: Path, *, training: Rows, validation: Rows, recipe: Recipe, checkpoints: Path, on_log: OnLog
) -> Tuned:
    """Train on rows {question, passage, label} and write a CrossEncoder's folder to `destination`.

    `checkpoints` is a folder of exactly this training. `validation` may be empty.
    """
    account = Account(checkpoints)
    _quiet(recipe["seed"])
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    model = CrossEncoder(
        str(base), num_labels=1, max_length=recipe["window"], device="cpu", local_files_only=True
    ).float()
    evaluated = bool(validation)
    trainer = _kept_small(CrossEncoderTrainer)(
        model=model,
        args=_arguments(CrossEncoderTrainingArguments, checkpoints, recipe, rows=len(training), evaluated=evaluated),
        train_dataset=_dataset(training),
        eval_dataset=_dataset(validation),
        loss=BinaryCrossEntropyLoss(model),
        callbacks=_callbacks(recipe, on_log, account, evaluated=evaluated),
    )
    done = _run(trainer, checkpoints, on_log, account)
    shutil.rmtree(destination, ignore_errors=True)
    model.save_pretrained(str(destination), create_model_card=False)
    shutil.copyfile(base / "tokenizer.json", destination / "tokenizer.json")
    return done
