"""LoRA training: ours beside the transformers Trainer as it comes, in useful tokens per CPU-second.

Same chats, base model, LoRA, optimiser steps, batch, rate and seed, on one core. The Trainer as it comes: fp32, batches
in random order, each padded on the right to its longest row, logits for every position, labels of the prompt masked.
Ours is `pipelines.backends.lora`, as the stage train calls it. Useful tokens are those of the chats, padding aside.
Both load the model within what is measured, neither evaluates; afterwards the mean loss per completion token of chats
that neither has seen is measured for both adapters in one way. Rounds alternate; CPU-seconds are of this process.

    python -m benchmarks.finetune [--epochs N] [--rounds N] [--set handbook | geography] [--quick]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from pipelines.backends import lora
from pipelines.backends.transformers import load_generator
from pipelines.core import mixing
from pipelines.params import read_raw
from pipelines.settings import Settings, checkout

Chat = Sequence[Mapping[str, str]]
Train = Callable[[Path], None]
BATCH, RATE, RANK, SEED, HELD_OUT = 8, 5e-4, 16, 7, 24


def handbook() -> list[list[dict[str, str]]]:
    """The demo's examples as its training chats look: nine of ten with the quotes that they rest on."""
    folder = sorted((checkout() / "tests" / "fixtures" / "handbook").iterdir())[0] / "examples"
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    examples = [json.loads(line) for line in lines]
    generate = read_raw(checkout() / "params.yaml")["corpora"]["handbook"]["generate"]
    style = mixing.Style(generate["system"], generate["refusal"], True, 0.9, 0, SEED)
    pool = mixing.quotes(examples)
    return [mixing.as_chat(e, mixing.passages(e, pool, style=style), system=style.system) for e in examples]


def geography() -> list[list[dict[str, str]]]:
    """Questions and their SQL: short chats, which differ little in length."""
    file = harness.shared_data("finetune") / "text2sql_geography.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        [
            {"role": "system", "content": "Write the SQLite query."},
            {"role": "user", "content": f"Question: {row['question']}"},
            {"role": "assistant", "content": row["sql"]},
        ]
        for row in rows
    ]


def as_it_comes(base: Path, chats: Sequence[Chat], recipe: Mapping[str, Any], steps: int) -> Train:
    """The transformers Trainer with its defaults, on the same LoRA."""

    def train(destination: Path) -> None:
        from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, Trainer, TrainingArguments

        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
        rows = []
        for chat in chats:
            row = lora.encode(tokenizer, chat)
            asked = len(row["input_ids"]) - len(row["labels"])
            rows.append(
                {**row, "labels": [-100] * asked + row["labels"], "attention_mask": [1] * len(row["input_ids"])}
            )
        arguments = TrainingArguments(
            output_dir=str(destination / "scratch"),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            seed=SEED,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = lora.fresh_model(base, recipe, rank=RANK, seed=SEED)
        collate = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)
        trainer = Trainer(model=model, args=arguments, data_collator=collate, train_dataset=rows)
        trainer.train()
        model.save_pretrained(str(destination))

    return train


def ours(base: Path, chats: Sequence[Chat], recipe: Mapping[str, Any], steps: int) -> Train:
    def train(destination: Path) -> None:
        settings = lora.Settings(steps=steps, batch=BATCH, rank=RANK, learning_rate=RATE, seed=SEED)
        lora.train(
            base,
            destination,
            base_name="smollm2",
            training=chats,
            validation=[],
            recipe=recipe,
            settings=settings,
            checkpoints=destination.with_name(f"{destination.name}-state"),
            on_log=lambda step, values: None,
        )

    return train


def held_out_loss(base: Path, adapter: Path, chats: Sequence[Chat]) -> float:
    """Mean cross-entropy (nats) over the completion tokens of chats that were not trained on, one chat at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
    plain = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32, use_safetensors=True)
    model = PeftModel.from_pretrained(plain, str(adapter)).eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for chat in chats:
            row = lora.encode(tokenizer, chat)
            labels = torch.tensor(row["labels"])
            logits = model(torch.tensor([row["input_ids"]]), logits_to_keep=len(labels) + 1).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            tokens += len(labels)
    return total / tokens


def useful_tokens(base: Path, chats: Sequence[Chat], steps: int) -> int:
    """Tokens of `steps` batches: whole epochs are taken, so every order has the same."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
    each = sum(len(lora.encode(tokenizer, chat)["input_ids"]) for chat in chats)
    return each * steps * BATCH // len(chats)


def measure(
    base: Path, chats: Sequence[Chat], recipe: Mapping[str, Any], *, epochs: int, rounds: int, scratch: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of the table, and the ratio ours / as it comes. The last chats are held out, the others trained on."""
    held_out, learned = chats[-HELD_OUT:], chats[:-HELD_OUT]
    learned = learned[: len(learned) // BATCH * BATCH]
    steps = epochs * len(learned) // BATCH
    tokens = useful_tokens(base, learned, steps)
    systems = {
        "transformers Trainer as it comes": as_it_comes(base, learned, recipe, steps),
        "ours": ours(base, learned, recipe, steps),
    }
    taken: dict[str, list[float]] = {name: [] for name in systems}
    losses = {}
    for number in range(rounds):
        for name in systems if number % 2 == 0 else reversed(systems):
            print(f"finetune: round {number + 1} of {rounds}, {steps} steps: {name}", file=sys.stderr, flush=True)
            folder = scratch / f"{number}-{name.split()[0]}"
            began = time.process_time()
            systems[name](folder)
            taken[name].append(time.process_time() - began)
            if number == 0:
                losses[name] = held_out_loss(base, folder, held_out)
    rates = {name: [tokens / seconds for seconds in found] for name, found in taken.items()}
    rows = [
        {
            "training": name,
            "steps": steps,
            "tokens": tokens,
            "CPU-s": harness.spread(taken[name]),
            "useful tokens / CPU-s": harness.spread(rates[name]),
            "loss of held-out chats": losses[name],
        }
        for name in systems
    ]
    theirs, mine = (statistics.median(rates[name]) for name in systems)
    difference = losses["ours"] - losses["transformers Trainer as it comes"]
    return rows, {"useful tokens per CPU-second, ours / as it comes": mine / theirs, "loss, ours less its": difference}


def main() -> None:
    args = harness.arguments(
        __doc__,
        set={"choices": ("handbook", "geography"), "default": "handbook", "help": "which chats"},
        epochs={"type": int, "default": 1, "help": "times that each chat is trained on"},
        rounds={"type": int, "default": 2, "help": "interleaved rounds"},
    )
    import torch

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    chats = {"handbook": handbook, "geography": geography}[args.set]()
    settings = Settings.from_env()
    base = load_generator(checkout() / "models" / "generators" / "smollm2.yaml", cache=settings.cache).folder
    recipe = {**lora.read_recipe(checkout() / "models" / "recipes" / "sft.yaml"), "checkpoints": 1}
    chats = chats[: HELD_OUT + 3 * BATCH] if args.quick else chats
    with tempfile.TemporaryDirectory(prefix="assay-finetune-") as scratch:
        how: dict[str, Any] = {"epochs": args.epochs, "rounds": 1 if args.quick else args.rounds}
        rows, ratios = measure(base, chats, recipe, **how, scratch=Path(scratch))
    title = f"LoRA rank {RANK} on SmolLM2 135M, {args.set}, batches of {BATCH}, one core, ours in {recipe['precision']}"
    harness.show(title, rows, ratios=ratios, json_file=args.json)


if __name__ == "__main__":
    harness.run_plainly(main)
