"""What it costs to answer by a long prompt that all questions share: transformers' generate as it is, against ours.

    python -m benchmarks.generation [--rounds N] [--threads N] [--json FILE]

The arm `prompt` in small: XQuAD's questions behind instructions and 0, 4 or 16 few-shot examples, in batches of 16,
greedy, the packaged model at its own precision. Plainly: `TransformersGenerator` told that no beginning is long enough
to share, which leaves one call of generate on padded prompts. Both answer the same chats, by turns, in one process.
In bfloat16 the last bits of a product depend on a batch's form, so now and then a reply differs: the share is shown.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from benchmarks.harness import arguments, run_plainly, shared_data, show, spread
from pipelines.backends import transformers
from pipelines.core.prompts import chat
from pipelines.ports import Completion
from pipelines.schemas import read_jsonl
from pipelines.settings import checkout

BRIEF = "Answer the question in a few words. Say nothing else, and do not repeat the question."
BATCH, NEW = 16, 16
SHOTS = (0, 4, 16)


def chats_of(questions: list[str], shots: int) -> list[Any]:
    """The questions behind `shots` others, each answered in the form that is wanted."""
    others = questions[-max(SHOTS) :]
    shown = [
        {"role": role, "content": text}
        for other in others[:shots]
        for role, text in (("user", f"Question: {other}"), ("assistant", "I could not find this."))
    ]
    return [chat(question, system=BRIEF, shots=shown) for question in questions[: -len(others)]]


def timed(generator: Any, chats: list[Any], shared: int) -> tuple[float, list[Completion]]:
    """CPU-seconds of a reply, and the replies."""
    with mock.patch.object(transformers, "_SHARED", shared):
        began = time.process_time()
        made = generator.reply(chats, max_new_tokens=NEW)
    return (time.process_time() - began) / len(chats), made


def main() -> None:
    options = arguments(
        __doc__,
        rounds={"type": int, "default": 3},
        threads={"type": int, "default": 1, "help": "torch's; one, so that CPU-seconds are work"},
    )
    import torch

    torch.set_num_threads(options.threads)
    asked = [row["text"] for row in read_jsonl(shared_data("xquad_en/queries.jsonl"))]
    questions = asked[: max(SHOTS) + (BATCH if options.quick else 4 * BATCH)]
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as cache:
        definition = checkout() / "models" / "generators" / "smollm2.yaml"
        generator = transformers.load_generator(definition, cache=Path(cache), batch=BATCH)
        for shots in SHOTS:
            chats = chats_of(questions, shots)
            timed(generator, chats[:BATCH], transformers._SHARED)  # the first use of a shape
            plainly, ours, alike = [], [], 0.0
            for _ in range(1 if options.quick else options.rounds):
                spent, once = timed(generator, chats, transformers._SHARED)
                whole, replies = timed(generator, chats, 10**9)
                ours.append(spent)
                plainly.append(whole)
                alike = sum(a.text == b.text for a, b in zip(once, replies, strict=True)) / len(chats)
            ratios[f"{shots} examples"] = median(plainly) / median(ours)
            rows.append(
                {
                    "examples": str(shots),
                    "tokens in": sum(reply.tokens_in for reply in once) / len(chats),
                    "plainly, CPU-s a reply": spread(plainly),
                    "ours": spread(ours),
                    "ratio": ratios[f"{shots} examples"],
                    "same reply": alike,
                }
            )
    show(
        f"{len(chats)} replies of at most {NEW} tokens, {generator.precision}",
        rows,
        ratios=ratios,
        json_file=options.json,
    )


if __name__ == "__main__":
    run_plainly(main)
