"""Embedding by a hosted model, behind `ports.Embedder`.

A server that cuts a text it finds too long says nothing, so two things are held against each other: the tokens that
the definition's tokenizer counts here, and those that the server says it has read. It must say so (`usage`), and they
must agree: else nothing is kept. Vectors are brought to unit length here, whatever the server does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from pipelines.backends.endpoint.client import Client
from pipelines.core.costs import Spent
from pipelines.core.digests import digest_json, digest_text
from pipelines.endpoints import HostedEmbedder
from pipelines.errors import IntegrityError
from pipelines.tokens import TextReader

_REQUEST = "1"  # part of the digest: raise it when `_ask` would ask otherwise


class EndpointEmbedder(TextReader):
    """A `ports.Embedder`, and `ports.Paid`. Nothing is connected to before the first digest or text.

    Pickled, it is its definition, address, tokenizer, and the model that its digest is of; the key is read again from
    the environment of the process that embeds, and the limits hold for each process. As for `EndpointGenerator`, the
    digest covers what is known of the weights (base URL, model asked for, model that answers), with width, window,
    prefix and tokenizer.
    """

    def __init__(
        self, hosted: HostedEmbedder, *, name: str, url: str, tokenizer: str, answers: str | None = None
    ) -> None:
        """`tokenizer` is the text of a tokenizer.json; `answers` the model that must answer, once that is known."""
        super().__init__(tokenizer, name=name, prefix=hosted.prefix, window=hosted.window)
        self._hosted, self._url, self._given = hosted, url, tokenizer
        self._client = Client(hosted, what=f"embedder {name}", url=url, model=answers)

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (self._hosted, self.name, self._url, self._given, self._client.model)

    @cached_property
    def digest(self) -> str:
        if self._client.model is None:
            self.embed_batch(["a"])
        known = {"endpoint": self._url, "model": self._hosted.model, "answers": self._client.model}
        shape = {"dim": self.dim, "window": self._hosted.window, "prefix": self._hosted.prefix}
        return digest_json({**known, **shape, "tokenizer": digest_text(self.tokenizer), "request": _REQUEST})

    @property
    def dim(self) -> int:
        return self._hosted.dim

    def cost(self, tokens_in: int, tokens_out: int = 0) -> Spent:
        return self._hosted.cost(tokens_in, tokens_out)

    def spent(self) -> Spent:
        return self._client.spent()

    def embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, dim), rows of L2 norm 1, in the order of `texts`; BadInput on a text above the window."""
        return self.embed_counted(texts)[0]

    def embed_counted(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of `embed_batch`, and int32 (texts,): tokens of each, special ones and prefix aside, by the
        definition's tokenizer. IntegrityError when the server has read another number in all, or when a vector is not
        `dim` finite numbers."""
        ids, read = self.read(texts)
        asked, size = [self._hosted.prefix + text for text in texts], self._hosted.batch
        parts = [slice(start, start + size) for start in range(0, len(texts), size)]
        made = self._client.each(lambda part: self._ask(asked[part], sum(map(len, ids[part]))), parts)
        return np.concatenate(made) if made else np.empty((0, self.dim), dtype=np.float32), read

    def _ask(self, texts: list[str], tokens: int) -> np.ndarray:
        """One request. `tokens` are those of `texts`, special ones included."""
        asked = {"model": self._hosted.model, "input": texts}
        said, _ = self._client.ask(lambda client: client.embeddings.with_raw_response.create(**asked))
        try:
            by_place = {item.index: item.embedding for item in said.data}
            rows = [by_place[place] for place in range(len(texts))]
            read = said.usage.prompt_tokens
        except (AttributeError, KeyError, TypeError) as exc:
            raise self._client.malformed("embeddings without index, embedding or usage.prompt_tokens") from exc
        if not isinstance(read, int):
            raise self._client.malformed("usage.prompt_tokens is no number")
        self._client.count(read)
        self._client.answered(getattr(said, "model", None))
        least = tokens - int(self._tokenizer.num_special_tokens_to_add(False)) * len(texts)
        if not least <= read <= tokens:
            raise IntegrityError(
                f"embedder {self.name}: the server read {read} tokens of texts that have {least} to {tokens} by "
                f"tokenizer {self._hosted.tokenizer}: it cuts texts, or its tokenizer is another"
            )
        return self._unit(rows)

    def _unit(self, rows: list[Any]) -> np.ndarray:
        """float32 (rows, dim) of L2 norm 1; IntegrityError on another width, and on what has no direction."""
        for row in rows:
            if not isinstance(row, list) or len(row) != self.dim:
                width = len(row) if isinstance(row, list) else type(row).__name__
                raise IntegrityError(f"embedder {self.name}: a vector of width {width}, its definition says {self.dim}")
        try:
            vectors = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError) as exc:
            raise IntegrityError(f"embedder {self.name}: a vector that is not numbers") from exc
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise IntegrityError(f"embedder {self.name}: a vector that is zero or not finite; nothing was kept")
        return (vectors / norms).astype(np.float32)


@lru_cache(maxsize=4)
def reopen(hosted: HostedEmbedder, name: str, url: str, tokenizer: str, answers: str | None) -> EndpointEmbedder:
    """The embedder of a definition, opened once per process."""
    return EndpointEmbedder(hosted, name=name, url=url, tokenizer=tokenizer, answers=answers)
