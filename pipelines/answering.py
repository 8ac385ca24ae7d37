"""Asking a generator with retrieved passages, and keeping its replies by content. No metrics, no release log.

Decoding is greedy, so a reply is a function of (generator digest, chat, length): it is kept in the object store under
their digests and never generated twice. A new corpus revision costs only the prompts whose passages changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from pipelines.core.costs import Spent, total
from pipelines.core.digests import digest_json
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.prompts import PROMPTED, RETRIEVING, Passage, chat, prompt_digest
from pipelines.params import Generate
from pipelines.ports import Completion, Generator, Hit, Messages, ObjectStore, Paid

Say = Callable[[int, int], None]
"""Called with (replies ready, replies wanted)."""


def served_prompt(generate: Generate, longer: LongPrompt | None = None) -> str:
    """Digest of the prompt that these params ask with; with `longer`, of the arm `prompt`'s as well."""
    added = None if longer is None else [generate.prompt.model_dump(), longer.digest]
    models = generate.model if generate.untuned is None else [generate.model, generate.untuned]
    return prompt_digest(
        model=models,
        system=generate.system,
        refusal=generate.refusal,
        structured=generate.reply_schema is not None,
        max_new_tokens=generate.max_new_tokens,
        passage_tokens=generate.passage_tokens,
        longer=added,
    )


def passages_of(hits: Sequence[Hit], generator: Generator, *, tokens: int) -> list[Passage]:
    """Hits as a prompt shows them, each cut to at most `tokens` of the generator's own tokens."""
    return [Passage(hit.document, generator.trim(hit.text, tokens=tokens)) for hit in hits]


def prompts(
    questions: Sequence[str],
    hits: Sequence[Sequence[Hit]],
    generator: Generator,
    *,
    arm: str,
    generate: Generate,
    longer: LongPrompt | None = None,
) -> tuple[list[list[Passage]], list[list[dict[str, str]]]]:
    """(passages shown, chat) of every question: a release asks in the very way in which its arm was judged.

    Arms without retrieval show none. `longer` is the arm `prompt`'s own; ValueError when that arm has none.
    """
    tokens = generate.passage_tokens
    shown = [passages_of(found, generator, tokens=tokens) if arm in RETRIEVING else [] for found in hits]
    if arm != PROMPTED:
        longer = LongPrompt(generate.system, ())
    elif longer is None:
        raise ValueError(f"the arm {arm} asks with instructions and examples, which are missing")
    asked = zip(questions, shown, strict=True)
    return shown, [chat(q, passages, system=longer.system, shots=longer.shots) for q, passages in asked]


def speak(
    generator: Generator, chats: Sequence[Messages], *, max_new_tokens: int, options: Sequence[str] | None
) -> list[Completion]:
    """One completion per chat: what the model writes, or with `options` the likeliest of them."""
    if options is None:
        return generator.reply(chats, max_new_tokens=max_new_tokens)
    return [
        Completion(options[choice.best], choice.tokens_in, choice.tokens_out, choice.seconds, choice.cpu_seconds)
        for choice in generator.choose(chats, options)
    ]


def spent(generators: Iterable[Generator]) -> Spent | None:
    """What was paid for the replies that hosted generators gave in this process; None when none of them is hosted."""
    paid = {id(generator): generator for generator in generators if isinstance(generator, Paid)}
    return total(generator.spent() for generator in paid.values()) if paid else None


def replies(
    objects: ObjectStore,
    generator: Generator,
    chats: Sequence[Messages],
    *,
    max_new_tokens: int,
    batch: int,
    options: Sequence[str] | None = None,
    say: Say = lambda ready, wanted: None,
) -> tuple[list[Completion], int]:
    """(one completion per chat in order, how many were generated now). Each batch is kept as soon as it is made, so
    a killed run loses one batch at most. With `options` a reply is the likeliest of them. `seconds` of a kept reply
    are those of its first generation."""
    held = max_new_tokens if options is None else list(options)
    keys = [f"answers/{generator.digest}/{digest_json([list(chat), held])}.json" for chat in chats]
    known = set(objects.list(f"answers/{generator.digest}/"))
    missing = [i for i, key in enumerate(keys) if key not in known]
    # Long prompts first, like lengths together: the generator pads a batch to its longest.
    missing.sort(key=lambda i: (-sum(len(message["content"]) for message in chats[i]), i))
    out = {i: Completion(**json.loads(objects.get(key))) for i, key in enumerate(keys) if key in known}
    say(len(out), len(chats))
    for start in range(0, len(missing), batch):
        members = missing[start : start + batch]
        made = speak(generator, [chats[i] for i in members], max_new_tokens=max_new_tokens, options=options)
        for i, completion in zip(members, made, strict=True):
            objects.put(keys[i], json.dumps(asdict(completion)).encode())
            out[i] = completion
        say(len(out), len(chats))
    return [out[i] for i in range(len(chats))], len(missing)
