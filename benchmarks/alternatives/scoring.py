"""What came of a pipeline, seen from outside: which source tokens it never embedded, and its nDCG@10.

All systems are judged by the same two functions, from what their stores hold and from what they found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.evidence import Labels
from pipelines.errors import IntegrityError
from pipelines.stages.score_retrieval import CUTOFF, measure


@dataclass(frozen=True)
class Reader:
    """How the embedder reads: its tokenizer (of the tokenizers library, untruncated), and the tokens of text that fit
    its window."""

    tokenizer: Any
    room: int

    @classmethod
    def of(cls, definition: Path) -> Reader:
        """The reader of a file of models/embedders; MissingTool when the model is not on this machine."""
        from tokenizers import Tokenizer

        from pipelines.embedders import read_definition

        found = read_definition(definition)
        tokenizer = Tokenizer.from_file(str(found.folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, found.window - int(tokenizer.num_special_tokens_to_add(False)))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """(start, end) in characters of every token of a text, special ones aside."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).offsets)

    def read(self, text: str) -> int:
        """How many characters of a chunk the embedder reads before its window cuts it off."""
        ends = self.offsets(text)
        return len(text) if len(ends) <= self.room else ends[self.room - 1][1]


def place(text: str, chunk: Mapping[str, Any]) -> int:
    """Offset of a chunk in its document. What the store recorded may be missing or off; the text itself decides.

    IntegrityError when the document does not hold the chunk's text.
    """
    start = chunk["start"]
    if start is not None and start >= 0 and text.startswith(chunk["text"], start):
        return int(start)
    if (found := text.find(chunk["text"])) < 0:
        raise IntegrityError(f"document {chunk['document']} does not hold its chunk {chunk['text'][:40]!r}")
    return found


def tokens_lost(
    documents: Mapping[str, str], chunks: Iterable[Mapping[str, Any]], *, reader: Reader
) -> tuple[int, int]:
    """(tokens of the documents, those of them that no chunk's vector has read).

    `documents` is id -> text; a chunk has `document`, `start` and `text`. A source token counts once, however many
    chunks repeat it, and as read when its first character lies in what the embedder read of any chunk.
    """
    seen = {key: np.zeros(len(text), dtype=bool) for key, text in documents.items()}
    for chunk in chunks:
        start = place(documents[chunk["document"]], chunk)
        seen[chunk["document"]][start : start + reader.read(chunk["text"])] = True
    total = lost = 0
    for key, text in documents.items():
        starts = [start for start, _ in reader.offsets(text)]
        total += len(starts)
        lost += len(starts) - int(seen[key][starts].sum())
    return total, lost


def best_documents(hits: Sequence[str]) -> list[str]:
    """The ten best documents by their best chunk, from the documents of the chunks found, best first."""
    return list(dict.fromkeys(hits))[:CUTOFF]


def ndcg(questions: Iterable[Mapping[str, Any]], run: Iterable[Mapping[str, Any]]) -> float:
    """Mean nDCG@10 over all questions, by ir-measures as the gate has it; a question that is not in the run scores 0.

    A question has `id` and `evidence` (graded documents); a row of the run `id` and `documents` (one per chunk found,
    best first). IntegrityError without any question, and for a run that answers what was not asked.
    """
    gold = {
        row["id"]: Labels("document", {entry["document"]: entry["relevance"] for entry in row["evidence"]}, ())
        for row in questions
    }
    found = {row["id"]: best_documents(row["documents"]) for row in run}
    if not gold or set(found) - set(gold):
        raise IntegrityError(f"{len(gold)} questions were asked, and the run has {len(set(found) - set(gold))} others")
    scores = measure(gold, {key: found.get(key, []) for key in gold})
    return sum(row["ndcg@10"] for row in scores.values()) / len(scores)
