"""Which chats a training set consists of: examples with and without context, and why an example is left out. No I/O.

An example is {"id", "prompt", "completion", "evidence"} or {"id", "messages", "evidence"}. Examples with `messages`
are taken as they are. The others become chats of the very form in which the model is asked later (`core.prompts`).
Every choice is a digest of the example's id, so that adding an example changes no other.

With `oracle_share` below 1 the chats with context are those of RAFT (Zhang et al. 2024, "RAFT: Adapting Language Model
to Domain Specific RAG"): in the rest of them distractors stand in the place of the evidence, and the reply stays.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.digests import digest_json
from pipelines.core.gold import evidence_text
from pipelines.core.prompts import Passage, chat, normalised, parse_reply
from pipelines.core.splits import documents_of, fraction

Item = Mapping[str, Any]
DROPPED = (
    *("restricted", "repeated", "test_question", "contaminated", "format"),
    *("near_duplicate", "sensitive", "too_long"),
)
"""Reasons for which an example is left out, in the order in which they are looked for."""


@dataclass(frozen=True)
class Style:
    """How prompts look and replies are read: the parts of params that mixing needs."""

    system: str
    refusal: str
    structured: bool
    context_share: float
    distractors: int
    seed: int
    oracle_share: float = 1.0


@dataclass(frozen=True)
class Remark:
    """Why an example was left out; or, not `dropped`, what is to be known about one that stayed."""

    id: str
    reason: str
    because: str
    dropped: bool = True


@dataclass
class Account:
    """What was left out of a training set, what was found in it (findings of sensitive text by kind), and how many of
    its chats show passages."""

    remarks: list[Remark] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)
    shown: int = 0

    def say(self, example: Item, reason: str, because: str, *, dropped: bool = True) -> None:
        self.remarks.append(Remark(str(example["id"]), reason, because, dropped))

    def sieve(self, examples: Sequence[Item], why: Iterable[str | None], *, reason: str) -> list[Item]:
        """The examples for which `why` says None; of the others it is said why they are left out."""
        kept = []
        for example, because in zip(examples, why, strict=True):
            if because is None:
                kept.append(example)
            else:
                self.say(example, reason, because)
        return kept

    def dropped(self) -> dict[str, int]:
        """How many examples were left out, for each of DROPPED."""
        counted = Counter(remark.reason for remark in self.remarks if remark.dropped)
        return {reason: counted[reason] for reason in DROPPED}


def with_id(example: Item) -> dict[str, Any]:
    """The example itself, named by a digest of its content when it has no id."""
    if "id" in example:
        return dict(example)
    content = [example.get(key) for key in ("prompt", "completion", "messages")]
    return {"id": f"x{digest_json(content)[:16]}", **example}


def from_question(question: Item, *, structured: bool, refusal: str) -> dict[str, Any]:
    """A gold question as a training example: its first answer, or the refusal when the corpus has none.

    `structured`: the completion is the JSON object {"answer", "citations"}. Evidence without a quote is quoted by the
    passage that stands for it (`core.gold.evidence_text`).
    """
    answer = question["answers"][0] if question["answers"] else refusal
    completion = answer
    if structured:
        reply = {"answer": answer, "citations": list(documents_of(question))}
        completion = json.dumps(reply, ensure_ascii=False)
    evidence = [{**entry, "quote": evidence_text(question, entry)} for entry in question["evidence"]]
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


def passages(example: Item, pool: Sequence[tuple[str, str]], *, style: Style) -> list[Passage]:
    """The passages an example is shown with; none when it is one of those without context, or has `messages`.

    A refusal is shown distractors only. Another example without a quote has nothing to be shown with. Where the
    evidence is left out, as many more distractors are shown: how many passages there are tells nothing.
    """
    if "messages" in example or fraction(f"context:{example['id']}", seed=style.seed) >= style.context_share:
        return []
    own = [Passage(document, quote) for document, quote in quotes([example])]
    reply = parse_reply(completion_of(example), refusal=style.refusal, structured=style.structured)
    if not own and not (reply.refused and not documents_of(example)):
        return []
    count = style.distractors
    if own and fraction(f"oracle:{example['id']}", seed=style.seed) >= style.oracle_share:
        own, count = [], count + len(own)
    shown = own + _distractors(example, pool, count=count, seed=style.seed)
    return sorted(shown, key=lambda p: digest_json([style.seed, example["id"], p.document, p.text]))


def as_chat(example: Item, shown: Sequence[Passage], *, system: str) -> list[dict[str, str]]:
    """The example with its `passages` as chat messages that end with the assistant's."""
    if "messages" in example:
        return [{"role": m["role"], "content": m["content"]} for m in example["messages"]]
    asked = chat(example["prompt"], shown, system=system)
    return [*asked, {"role": "assistant", "content": str(example["completion"]).strip()}]


def texts_of(example: Item) -> list[str]:
    """Every text of an example that a chat may hold: all messages, or prompt and completion; and the quotes."""
    said = (
        [str(m["content"]) for m in example["messages"]]
        if "messages" in example
        else [str(example["prompt"]), str(example["completion"])]
    )
    return said + [quote for _, quote in quotes([example])]


def spoken(messages: Iterable[Mapping[str, str]]) -> list[str]:
    """What is said in a chat, the system's part aside."""
    return [m["content"] for m in messages if m["role"] != "system"]


def in_order(examples: Iterable[Item]) -> list[Item]:
    """By id, and by what is said where ids are equal: nothing depends on the order in which examples came."""
    return sorted(examples, key=lambda e: (str(e["id"]), prompt_of(e), completion_of(e)))


def repeats(examples: Iterable[Item]) -> Iterator[str | None]:
    """For each example the earlier one with the same prompt and completion, both normalised."""
    first: dict[tuple[str, str], Item] = {}
    for example in examples:
        said = (normalised(prompt_of(example)), completion_of(example).strip())
        earlier = first.setdefault(said, example)
        yield None if earlier is example else f"as {earlier['id']}"


def asked_in_test(examples: Iterable[Item], tested: Iterable[Item]) -> Iterator[str | None]:
    """For each example the test question that its prompt is, both normalised."""
    asked = {normalised(q["question"]): str(q["id"]) for q in tested}
    for example in examples:
        found = asked.get(normalised(prompt_of(example)))
        yield None if found is None else f"is {found}"
