"""Which chats a training set consists of: examples with and without context, none of them a test question. No I/O.

An example is {"id", "prompt", "completion", "evidence"} or {"id", "messages", "evidence"}. Examples with `messages`
are taken as they are. The others become chats of the very form in which the model is asked later (`core.prompts`).
Every choice is a digest of the example's id, so that adding an example changes no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.digests import digest_json
from pipelines.core.prompts import Passage, chat, normalised, parse_reply
from pipelines.core.splits import documents_of, fraction

Item = Mapping[str, Any]


@dataclass(frozen=True)
class Style:
    """How prompts look and replies are read: the parts of params that mixing needs."""

    system: str
    refusal: str
    structured: bool
    context_share: float
    distractors: int
    seed: int


def with_id(example: Item) -> dict[str, Any]:
    """The example itself, named by a digest of its content when it has no id."""
    if "id" in example:
        return dict(example)
    content = [example.get(key) for key in ("prompt", "completion", "messages")]
    return {"id": f"x{digest_json(content)[:16]}", **example}


def from_question(question: Item, *, structured: bool, refusal: str) -> dict[str, Any]:
    """A gold question as a training example: its first answer, or the refusal when the corpus has none.

    `structured`: the completion is the JSON object {"answer", "citations"}. A question may carry `context`, which
    then is its evidence's text (`quote`) where that has none.
    """
    answer = question["answers"][0] if question["answers"] else refusal
    completion = answer
    if structured:
        reply = {"answer": answer, "citations": list(documents_of(question))}
        completion = json.dumps(reply, ensure_ascii=False)
    context = question.get("context")
    evidence = [
        {**entry, "quote": entry.get("quote") or (context if isinstance(context, str) else "")}
        for entry in question["evidence"]
    ]
    own = {"split": question["split"]} if "split" in question else {}
    return {"id": question["id"], "prompt": question["question"], "completion": completion, "evidence": evidence, **own}


def prompt_of(example: Item) -> str:
    """What the user says in an example: the prompt, or the last user message."""
    if "messages" not in example:
        return str(example["prompt"])
    said = [m["content"] for m in example["messages"] if m["role"] == "user"]
    return str(said[-1]) if said else ""


def completion_of(example: Item) -> str:
    """What the model shall learn to say."""
    return str(example["messages"][-1]["content"] if "messages" in example else example["completion"])


def quotes(examples: Iterable[Item]) -> list[tuple[str, str]]:
    """Distinct (document, quote) of the examples' evidence, sorted: where distractors are taken from."""
    found = {
        (entry["document"], entry["quote"].strip())
        for example in examples
        for entry in example.get("evidence") or ()
        if (entry.get("quote") or "").strip()
    }
    return sorted(found)


def _distractors(example: Item, pool: Sequence[tuple[str, str]], *, count: int, seed: int) -> list[Passage]:
    """`count` quotes of other documents, drawn from the pool by digests of (seed, example, draw)."""
    own, out = set(documents_of(example)), []
    taken: set[int] = set()
    for draw in range(min(len(pool), count + len(own) + 16) if count else 0):
        index = int(fraction(f"{example['id']}:{draw}", seed=seed) * len(pool))
        if index in taken or pool[index][0] in own:
            continue
        taken.add(index)
        out.append(Passage(*pool[index]))
        if len(out) == count:
            break
    return out


def _passages(example: Item, pool: Sequence[tuple[str, str]], *, style: Style) -> list[Passage]:
    """The passages an example is shown with; none when it is one of those without context.

    A refusal is shown distractors only. Another example without a quote has nothing to be shown with.
    """
    if fraction(f"context:{example['id']}", seed=style.seed) >= style.context_share:
        return []
    own = [Passage(document, quote) for document, quote in quotes([example])]
    reply = parse_reply(completion_of(example), refusal=style.refusal, structured=style.structured)
    if not own and not (reply.refused and not documents_of(example)):
        return []
    shown = own + _distractors(example, pool, count=style.distractors, seed=style.seed)
    return sorted(shown, key=lambda p: digest_json([style.seed, example["id"], p.document, p.text]))


def as_chat(example: Item, pool: Sequence[tuple[str, str]], *, style: Style) -> list[dict[str, str]]:
    """The example as chat messages that end with the assistant's."""
    if "messages" in example:
        return [{"role": m["role"], "content": m["content"]} for m in example["messages"]]
    asked = chat(example["prompt"], _passages(example, pool, style=style), system=style.system)
    return [*asked, {"role": "assistant", "content": str(example["completion"]).strip()}]


def without_repeats(examples: Iterable[Item]) -> tuple[list[Item], int]:
    """Examples with distinct (prompt, completion), normalised, the first of each; and how many were dropped."""
    kept: dict[tuple[str, str], Item] = {}
    total = 0
    for example in examples:
        total += 1
        kept.setdefault((normalised(prompt_of(example)), completion_of(example).strip()), example)
    return list(kept.values()), total - len(kept)


def uncontaminated(examples: Iterable[Item], test_questions: Iterable[str]) -> tuple[list[Item], int]:
    """Examples whose prompt is no test question, both normalised; and how many were dropped."""
    asked = {normalised(text) for text in test_questions}
    kept, dropped = [], 0
    for example in examples:
        if normalised(prompt_of(example)) in asked:
            dropped += 1
        else:
            kept.append(example)
    return kept, dropped
