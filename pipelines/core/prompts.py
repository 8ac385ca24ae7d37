"""What the model is shown in each arm, and how its reply is read. No I/O, no tokenizer: callers trim passages.

| arm | long instructions and few-shot examples | passages in the prompt | adapter |
|---|---|---|---|
| base | no | no | no |
| prompt | yes | no | no |
| rag | no | yes | no |
| tuned | no | no | yes |
| both | no | yes | yes |
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pipelines.core.digests import digest_json

ARMS = ("base", "prompt", "rag", "tuned", "both")
"""In the order of what they cost to build and to keep."""
PROMPTED = "prompt"
RETRIEVING = ("rag", "both")
TUNED = ("tuned", "both")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Passage:
    """One passage of a prompt: the id of its document, and text already cut to the allowed length."""

    document: str
    text: str


@dataclass(frozen=True)
class Reply:
    """A reply as read. `answer` is what is scored; `fields` is the JSON object, when there was one."""

    answer: str
    citations: tuple[str, ...]
    refused: bool
    fields: Mapping[str, Any] | None = None


def chat(
    question: str, passages: Sequence[Passage] = (), *, system: str, shots: Sequence[Mapping[str, str]] = ()
) -> list[dict[str, str]]:
    """Chat messages that ask `question`; passages are numbered from 1 and headed by their document's id. `shots` are
    turns shown before it, user and assistant by turns."""
    shown = "".join(f"[{n}] {p.document}\n{p.text.strip()}\n\n" for n, p in enumerate(passages, 1))
    user = (f"Passages:\n{shown}" if passages else "") + f"Question: {question.strip()}"
    messages = [{"role": "system", "content": system.strip()}] if system.strip() else []
    return [*messages, *map(dict, shots), {"role": "user", "content": user}]


def pairs(arms: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(`"B - A"`, B, A) of every two arms, A the one that comes first in `arms`."""
    for first, second in combinations(arms, 2):
        yield f"{second} - {first}", second, first


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces: `normalize_answer` of SQuAD's evaluation script."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object that stands whole in the text, or None."""
    return next(_objects(text), None)


def refuses(answer: str, *, refusal: str) -> bool:
    """True when the answer is empty or holds the refusal sentence, both normalised."""
    said, wanted = normalised(answer), normalised(refusal)
    return not said or (bool(wanted) and wanted in said)


def _named(text: str, passages: Sequence[Passage]) -> tuple[str, ...]:
    """Documents of the passages that a plain text names by id or by number."""
    return tuple(
        dict.fromkeys(
            p.document
            for n, p in enumerate(passages, 1)
            if f"[{n}]" in text or re.search(rf"(?<!\w){re.escape(p.document)}(?!\w)", text)
        )
    )


def parse_reply(text: str, passages: Sequence[Passage] = (), *, refusal: str, structured: bool) -> Reply:
    """Read a reply. `structured`: replies are JSON objects; the first one in the text counts, its `answer` is scored
    and its `citations` are document ids. A reply without such an object, and every reply that is not structured, is
    plain text: the whole text is the answer; it cites the passages' documents that it names by id or number, else,
    as it was written from the passages, the document of the first one. A refusal in plain text cites nothing.
    """
    fields = first_object(text) if structured else None
    if fields is not None and isinstance(fields.get("answer"), str):
        cited = fields.get("citations")
        ids = [entry.strip() for entry in cited if isinstance(entry, str)] if isinstance(cited, list) else []
        answer = fields["answer"].strip()
        return Reply(answer, tuple(dict.fromkeys(ids)), refuses(answer, refusal=refusal), fields)
    answer = text.strip()
    refused = refuses(answer, refusal=refusal)
    first = () if structured else tuple(p.document for p in passages[:1])
    return Reply(answer, () if refused else _named(answer, passages) or first, refused)


def prompt_digest(
    *,
    model: str | Sequence[str],
    system: str,
    refusal: str,
    structured: bool,
    max_new_tokens: int,
    passage_tokens: int,
    longer: Sequence[Any] | None = None,
) -> str:
    """Hex digest of all that shapes a prompt and the reading of its reply, the templates included: a prompt with and
    one without passages, as rendered, are part of it. `model` names the model, or the trained one and the one of the
    arms without an adapter. `longer` is what the arm `prompt` adds to it: the knobs, and the digest of the instructions
    and examples that they chose."""
    passages = [Passage("DOCUMENT", "TEXT"), Passage("OTHER", "TEXT")]
    templates = [chat("QUESTION", system=system), chat("QUESTION", passages, system=system)]
    parts: list[Any] = [templates, model, refusal, structured, max_new_tokens, passage_tokens]
    return digest_json(parts if longer is None else [*parts, *longer])
