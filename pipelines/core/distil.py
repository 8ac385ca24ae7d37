"""A long prompt distilled into weights: who is asked what, which replies teach, and what it saved. No I/O.

The teacher is the base model with long instructions and few-shot examples, the student the same model that is to reply
so without them: context distillation (Askell et al. 2021, "A General Language Assistant as a Laboratory for
Alignment"; Snell et al. 2022, "Learning by Distilling Context").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.core.long_prompt import LongPrompt
from pipelines.core.prompts import chat, first_object, parse_reply

Item = Mapping[str, Any]
Json = Mapping[str, Any]
DROPPED = ("empty", "unfinished", "format", "refusal", "sensitive")
"""Reasons for which a teacher's reply is not learned from."""
PAIR = "tuned - prompt"
_QUALITY = ("execution_accuracy", "label_accuracy", "token_f1")
"""What is compared where no primary metric was judged by."""


def _system(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": text.strip()}] if text.strip() else []


def _turns(example: Item) -> list[dict[str, str]]:
    """What is asked in an example, without a system message: its last turn is the user's."""
    if "messages" not in example:
        return chat(str(example["prompt"]), system="")
    said = [{"role": m["role"], "content": m["content"]} for m in example["messages"] if m["role"] != "system"]
    return said[:-1]


def asking(example: Item, longer: LongPrompt) -> list[dict[str, str]]:
    """The chat that asks the teacher: that of the arm `prompt`."""
    return [*_system(longer.system), *map(dict, longer.shots), *_turns(example)]


def taught(example: Item, reply: str, *, system: str) -> dict[str, Any]:
    """The example as the student learns it: the short system prompt, what is asked, the teacher's reply. What it rests
    on and its split stay."""
    kept = {name: value for name, value in example.items() if name not in ("prompt", "completion", "messages")}
    answer = {"role": "assistant", "content": reply.strip()}
    return {**kept, "messages": [*_system(system), *_turns(example), answer]}


def unfit(text: str, *, refusal: str, obeys: Callable[[Any], bool] | None, cut: bool) -> str | None:
    """Why a reply teaches nothing, one of DROPPED; None when it does. `obeys` says whether a JSON object has the form
    of a reply (None: plain text), `cut` that the reply used up its tokens: plain text is then unfinished."""
    if not text.strip():
        return "empty"
    if obeys is not None and not obeys(first_object(text)):
        return "format"
    if obeys is None and cut:
        return "unfinished"
    refused = parse_reply(text, refusal=refusal, structured=obeys is not None).refused
    return "refusal" if refused else None


def gained(arms: Mapping[str, Json], differences: Mapping[str, Json], metric: str) -> dict[str, Any] | None:
    """What `tuned` reads less than `prompt`, in tokens a request and as a share, and what that costs in `metric`, with
    a sentence that says so; None when one of the two arms was not asked. A negative share is a saving."""
    found = differences.get(PAIR, {})
    name = next((name for name in (metric, *_QUALITY) if name in found), None)
    if name is None or "tokens_in" not in found:
        return None
    more, read = found["tokens_in"]["value"], arms["prompt"]["tokens_in"]["value"]
    out = {"tokens_in": more, "share": more / read if read else 0.0, "metric": name, "difference": found[name]}
    return {**out, "sentence": _sentence(out)}


def _sentence(found: Json) -> str:
    more, kind = found["tokens_in"], "fewer" if found["tokens_in"] <= 0 else "more"
    value, low, high = (f"{found['difference'][end]:.2f}" for end in ("value", "low", "high"))
    said = (
        f"Distilled: tuned reads {abs(more):,.0f} tokens {kind} per request than prompt ({found['share']:+.0%}), "
        f"{found['metric']} tuned - prompt {value} [{low}, {high}]"
    )
    return said.replace("%)", " %)").replace(" -", " −").replace("(-", "(−").replace("[-", "[−")


def summary(facts: Json) -> str:
    """`108 asked, 12 replies dropped (3 empty, 9 format)`."""
    lost = [f"{n} {reason}" for reason, n in facts["dropped"].items() if n]
    dropped = f"{sum(facts['dropped'].values())} replies dropped ({', '.join(lost)})" if lost else "every reply kept"
    return f"teacher: {facts['asked']} asked, {dropped}"


def reasons(found: Sequence[str | None]) -> dict[str, int]:
    """How many replies were dropped, for each of DROPPED."""
    return {reason: sum(one == reason for one in found) for reason in DROPPED}
