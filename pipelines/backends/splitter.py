"""Texts to spans of at most so many of the embedder's tokens, on semantic-text-splitter. It decides nothing else.

Markdown is cut on headings, blocks and sentences; other text on paragraphs and sentences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_LONGEST = 8_000
"""Characters of one span. A run of letters without spaces may be a single token, however long it is."""


_REMEMBERED = 100_000
"""Words whose tokens are known, at most; some 10 MB."""
_WORD = 64
"""Characters of a word that is remembered; a longer one hardly comes again."""


class _WordTokens(dict[str, int]):
    """Tokens of a word, counted when first asked for."""

    def __init__(self, count: Callable[[str], int]) -> None:
        super().__init__()
        self._count = count

    def __missing__(self, word: str) -> int:
        tokens = self._count(word)
        if len(word) <= _WORD:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[word] = tokens
        return tokens


def _spaces_part(tokenizer: str) -> bool:
    """Whether a space always ends a token and is in none, so that the tokens of a text are those of its words."""
    parts = json.loads(tokenizer)
    added = any(" " in token["content"] for token in parts.get("added_tokens") or [])
    kinds = [(parts.get(part) or {}).get("type") for part in ("pre_tokenizer", "normalizer")]
    return kinds[0] == "BertPreTokenizer" and kinds[1] in (None, "BertNormalizer") and not added


def token_counter(tokenizer: str) -> Callable[[str], int]:
    """How many tokens a text has, special ones aside, by a tokenizer (JSON of the tokenizers library).

    Ours, because a splitter asks for the size of the same words some ten times, and to encode them anew each time is
    nine tenths of its time. Where a space parts words, each is encoded once; other tokenizers read the whole text.
    """
    from tokenizers import Tokenizer

    encode = Tokenizer.from_str(tokenizer).encode

    def whole(text: str) -> int:
        return len(encode(text, add_special_tokens=False))

    if not _spaces_part(tokenizer):
        return whole
    of_word = _WordTokens(whole).__getitem__
    return lambda text: sum(map(of_word, text.split(" ")))


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

        self.special_tokens = int(Tokenizer.from_str(tokenizer).num_special_tokens_to_add(False))
        size, self._tokens = (min_tokens, max_tokens), token_counter(tokenizer)
        self._markdown = MarkdownSplitter.from_callback(self._tokens, size, overlap=overlap)
        self._plain = TextSplitter.from_callback(self._tokens, size, overlap=overlap)
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
        return [Span(start, start + len(piece), piece, self._tokens(piece)) for start, piece in found]

    def _fits(self, text: str) -> bool:
        return len(text) <= _LONGEST and self._tokens(text) <= self._max_tokens

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
