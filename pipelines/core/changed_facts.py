"""Facts changed in the documents, to see how soon an answer follows. No I/O: documents in, documents out.

A gold answer that stands verbatim in a quote that its document holds is replaced there by a value that stands nowhere
in the corpus: a number by another number, words by an invented name. So a reply that holds the new value can only have
it from the changed document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.digests import digest_text
from pipelines.core.prompts import normalised

Question = Mapping[str, Any]
_SYLLABLES = (
    "ba",
    "der",
    "fo",
    "gan",
    "kel",
    "lu",
    "mor",
    "nis",
    "pra",
    "rud",
    "sol",
    "tev",
    "vok",
    "wim",
    "zan",
    "yr",
)


@dataclass(frozen=True)
class Change:
    """One changed fact. `old` and `new` are the answer as the document words it, before and after."""

    question: str
    id: str
    old: str
    new: str
    documents: tuple[str, ...]


def altered(old: str, *, key: str) -> str:
    """A value of the same kind: other digits where there are digits, else an invented name of three syllables."""
    drawn = digest_text(f"change:{key}")
    if re.search(r"\d", old):
        shift = 1 + int(drawn[:4], 16) % 8
        return re.sub(r"\d", lambda digit: str((int(digit.group()) - 1 + shift) % 9 + 1), old)
    name = "".join(_SYLLABLES[int(drawn[at], 16)] for at in range(3))
    return name.capitalize() if old[:1].isupper() else name


def _quotes(question: Question, old: str, texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """(document, quote) of the evidence that words the answer so; empty when some of it is not found verbatim."""
    found = []
    for entry in question["evidence"]:
        quote, text = entry.get("quote") or "", texts.get(entry["document"], "")
        if old in quote:
            if text.count(quote) != 1:
                return []
            found.append((entry["document"], quote))
        elif not quote and text.count(old) == 1:
            found.append((entry["document"], old))
    return found


def change(
    questions: Sequence[Question], texts: Mapping[str, str], *, most: int, seed: int
) -> tuple[list[Change], dict[str, str]]:
    """(what was changed, the whole new text of each changed document), of at most `most` questions in the order of a
    digest of their ids. A question is passed over when its answer cannot be changed in all of its evidence, or when
    its documents do not hold what an earlier change left. `texts`: document id -> text."""
    made: list[Change] = []
    now = dict(texts)
    whole = normalised(" ".join(texts.values()))
    for question in sorted(questions, key=lambda q: digest_text(f"{seed}:changed:{q['id']}")):
        if len(made) == most:
            break
        for old in sorted(question["answers"], key=len):
            new = altered(old, key=str(question["id"]))
            quotes = _quotes(question, old, now)
            if not quotes or not normalised(old) or f" {normalised(new)} " in f" {whole} ":
                continue
            for document, quote in quotes:
                now[document] = now[document].replace(quote, quote.replace(old, new))
            changed = tuple(dict.fromkeys(document for document, _ in quotes))
            made.append(Change(question["question"], str(question["id"]), old, new, changed))
            break
    return made, {document: text for document, text in now.items() if text != texts[document]}


def follows(reply: str, change: Change) -> bool:
    """Whether the reply holds the new value, both normalised, as whole words."""
    return f" {normalised(change.new)} " in f" {normalised(reply)} "
