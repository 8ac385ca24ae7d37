"""The prompt of the arm `prompt`: long instructions and few-shot examples, chosen so that they fit. No I/O.

Examples are drawn from the training split alone and never hold a test question. They are shown as chat turns in the
very form of training chats without passages. A release that serves this arm carries the whole text in its manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.digests import digest_json, digest_text
from pipelines.core.mixing import completion_of, prompt_of
from pipelines.core.prompts import chat, normalised
from pipelines.core.splits import TRAIN, split_of

Item = Mapping[str, Any]
Turns = Sequence[Mapping[str, str]]
_TRIED = 8
"""Candidates looked at for each example wanted: one too long for the room that is left is passed over."""


@dataclass(frozen=True)
class LongPrompt:
    """`system`: the instructions; `shots`: user and assistant by turns; `source`: digest of what they were drawn from,
    which shapes no prompt."""

    system: str
    shots: tuple[Mapping[str, str], ...]
    source: str = ""

    @property
    def digest(self) -> str:
        """Hex digest of what the model is shown."""
        return digest_json([self.system, [dict(turn) for turn in self.shots]])

    def to_json(self) -> dict[str, Any]:
        shots = [dict(turn) for turn in self.shots]
        return {"system": self.system, "shots": shots, "digest": self.digest, "source": self.source}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> LongPrompt:
        """From `to_json`'s form, as receipts and manifests hold it. ValueError when the digest is another's."""
        made = cls(found["system"], tuple(found["shots"]), found["source"])
        if made.digest != found["digest"]:
            raise ValueError(f"instructions and examples are {made.digest[:12]}, not {str(found['digest'])[:12]}")
        return made


def instructions(system: str, *, schema: str | None, refusal: str) -> str:
    """Instructions where the user wrote none: `system`, then what the params say anyway, spelled out: the form of a
    reply (`schema`: its JSON schema as text; None: plain text) and what to say when the answer is not known."""
    parts = [system.strip()]
    if schema is not None:
        parts.append(f"Reply with one JSON object and nothing else. It must obey this JSON schema: {schema}")
    if refusal.strip():
        parts.append(f"If you do not know the answer, the answer is: {refusal.strip()}")
    return "\n".join(part for part in parts if part)


def turns(example: Item) -> list[dict[str, str]]:
    """A training example as chat turns without a system message; empty when its turns are not user and assistant by
    turns, which not every chat template takes."""
    if "messages" not in example:
        answer = {"role": "assistant", "content": completion_of(example).strip()}
        return [*chat(prompt_of(example), system=""), answer]
    said = [{"role": m["role"], "content": m["content"]} for m in example["messages"] if m["role"] != "system"]
    roles = [turn["role"] for turn in said]
    return said if roles == ["user", "assistant"] * (len(said) // 2) else []


def candidates(examples: Sequence[Item], tested: Sequence[str], *, split: Mapping[str, Any]) -> list[Item]:
    """Examples of the training split, in the order of a digest of their ids, so that another example seldom moves
    those chosen; none asks what another does, or one of `tested`, the test questions (both normalised). `split` are
    the arguments of `split_of`."""
    taken, out = {normalised(question) for question in tested}, []
    learned = [example for example in examples if split_of(example, **split) == TRAIN]
    for example in sorted(learned, key=lambda e: digest_text(f"{split['seed']}:shot:{e['id']}")):
        asked = normalised(prompt_of(example))
        if asked not in taken:
            taken.add(asked)
            out.append(example)
    return out


def draw(
    system: str, found: Sequence[Item], *, shots: int, most: int, count: Callable[[Turns], int], source: str
) -> LongPrompt:
    """`system` with the first `shots` of `found` that fit into `most` tokens together with it; `count` gives a
    chat's tokens. Instructions are never cut: without room for an example there is none."""
    taken: list[dict[str, str]] = []
    first = [{"role": "system", "content": system}]
    left = shots
    for example in found[: shots * _TRIED]:
        if not left:
            break
        more = turns(example)
        if more and count([*first, *taken, *more]) <= most:
            taken += more
            left -= 1
    return LongPrompt(system, tuple(taken), source)
