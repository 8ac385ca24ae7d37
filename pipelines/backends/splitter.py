"""Texts to spans of at most so many of the embedder's tokens, on semantic-text-splitter. It decides nothing else.

Markdown is cut on headings, blocks and sentences; other text on paragraphs and sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_LONGEST = 8_000
"""Characters of one span. A run of letters without spaces may be a single token, however long it is."""


@dataclass(frozen=True)
class Span:
    """`text == document[start:end]`, offsets in characters; `tokens` without the special ones."""

    start: int
    end: int
    text: str
    tokens: int


class TokenSplitter:
    """A splitter for one tokenizer (JSON of the tokenizers library, without truncation) and one size."""

    def __init__(self, tokenizer: str, *, min_tokens: int, max_tokens: int, overlap: int) -> None:
        """A span is closed at the best boundary between `min_tokens` and `max_tokens`; `overlap` tokens at most are
        repeated from the span before, where a boundary allows it."""
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(tokenizer)
        self.special_tokens = int(self._tokenizer.num_special_tokens_to_add(False))
        size = (min_tokens, max_tokens)
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(self._tokenizer, size, overlap=overlap)
        self._plain = TextSplitter.from_huggingface_tokenizer(self._tokenizer, size, overlap=overlap)
        self._characters = TextSplitter(_LONGEST)
        self._max_tokens = max_tokens

    def split(self, text: str, *, markdown: bool) -> list[Span]:
        """Spans in order; a blank text has none, and a text that fits is one span, white space around it aside."""
        whole = text.strip()
        if not whole:
            return []
        if self._fits(whole):
            found = [(len(text) - len(text.lstrip()), whole)]
        else:
            found = list(self._bounded((self._markdown if markdown else self._plain).chunk_indices(text)))
        encoded = self._tokenizer.encode_batch([piece for _, piece in found], add_special_tokens=False)
        return [
            Span(start, start + len(piece), piece, len(item.ids))
            for (start, piece), item in zip(found, encoded, strict=True)
        ]

    def _fits(self, text: str) -> bool:
        return len(text) <= _LONGEST and len(self._tokenizer.encode(text, add_special_tokens=False)) <= self._max_tokens

    def _bounded(self, spans: Any) -> Iterator[tuple[int, str]]:
        for start, piece in spans:
            if len(piece) <= _LONGEST:
                yield start, piece
            else:
                for offset, part in self._characters.chunk_indices(piece):
                    yield start + offset, part


def version() -> str:
    """The library's version: it takes part in where the boundaries fall."""
    from importlib.metadata import version as installed

    return f"semantic-text-splitter {installed('semantic-text-splitter')}"
