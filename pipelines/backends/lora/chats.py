"""Chats as what a trainer reads: tokens, their order, and left-padded batches. Nothing is trained here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.errors import BackendError

Chat = Sequence[Mapping[str, str]]
_WINDOW = 8  # batches that are sorted by length together


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


def collator(pad: int) -> Callable[[Sequence[Mapping[str, list[int]]]], dict[str, Any]]:
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
