"""What a model reads of a text: the ids of the tokenizers library, never cut and never padded.

One reader for every engine, so that all count and refuse alike. It does not batch and does not infer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import BadInput


def whole_tokenizer(source: Path | str, *, parallel: bool = True) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json (a file or its text), without the truncation and padding that it
    may set.

    `parallel` False keeps this process's tokenizers on one thread: a worker stands beside as many as there are cores.
    """
    from tokenizers import Tokenizer

    if not parallel:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_str(source) if isinstance(source, str) else Tokenizer.from_file(str(source))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class TextReader:
    """Texts to token ids, as one embedder reads them: prefix before, lower case where its definition says so.

    Embedders are such readers: what chunks are cut by (`tokenizer`, `window`) is what `read` reads by.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        name: str,
        prefix: str = "",
        lower: bool = False,
        window: int,
        parallel: bool = True,
    ) -> None:
        """`source`: tokenizer.json, a file or its text; `name`: the embedder, for errors; `window`: most tokens,
        special ones included."""
        self.name, self._tokenizer_source, self._parallel = name, source, parallel
        self._prefix, self._lower, self._model_window = prefix, lower, window

    @cached_property
    def _tokenizer(self) -> Any:
        return whole_tokenizer(self._tokenizer_source, parallel=self._parallel)

    @cached_property
    def tokenizer(self) -> str:
        """The tokenizer as JSON of the tokenizers library, without its truncation and padding."""
        return str(self._tokenizer.to_str())

    @cached_property
    def window(self) -> int:
        """Most tokens of text, special tokens included; what the prefix takes is already subtracted."""
        taken = len(self._tokenizer.encode(self._prefix, add_special_tokens=False).ids) if self._prefix else 0
        return self._model_window - taken

    def read(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Ids of each text, and int32 (texts,): tokens read of each, special ones and prefix aside.

        BadInput on a text above the window.
        """
        given = [self._prefix + (text.lower() if self._lower else text) for text in texts]
        ids = [item.ids for item in self._tokenizer.encode_batch_fast(given)]
        for text, read in zip(texts, ids, strict=True):
            if len(read) > self._model_window:
                begins = " ".join(text.split())[:40]
                most = self._model_window
                raise BadInput(f"{begins!r}... has {len(read)} tokens; embedder {self.name} takes {most}")
        around = int(self._tokenizer.num_special_tokens_to_add(False)) + self._model_window - self.window
        return ids, np.array([len(read) for read in ids], dtype=np.int32) - around
