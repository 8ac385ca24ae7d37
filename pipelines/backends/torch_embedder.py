"""Sentence embedders on torch: the sentence-transformers model as it is, on a GPU, behind `ports.Embedder`.

On a CPU it serves what was embedded on a GPU (`ASSAY_DEVICE=torch-cpu`): engine and precision are part of the digest,
the device is not. Otherwise the OpenVINO engine is two to three times faster there. Only texts of one token count
share a batch, of at most `batch_tokens` tokens, so nothing is padded and nothing is truncated. On a GPU the last bits
of a vector may still follow the size of its batch, so a build from an empty cache may differ in them.

The model's folder travels to Spark's executors, and the GPU is looked for where the model is opened: a driver without
one may plan what its executors' GPUs embed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipelines.core.batches import same_length
from pipelines.core.digests import digest_json
from pipelines.errors import BadConfig, MissingTool
from pipelines.shipping import arrived
from pipelines.tokens import TextReader

PRECISIONS = ("fp32", "bf16")


class Definition(Protocol):
    """What is read of a file of models/embedders."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def prefix(self) -> str: ...
    @property
    def window(self) -> int: ...
    @property
    def lower(self) -> bool: ...
    @property
    def random_seed(self) -> int | None: ...


class TorchEmbedder(TextReader):
    """A sentence-transformers folder, opened on first use. Pickled, it is its address, as the other engines are."""

    def __init__(self, folder: str, *facts: Any) -> None:
        """`facts`: name, digest, prefix, lower, window, precision, batch_tokens, device."""
        self.folder, self._facts = Path(folder), facts
        self.digest = str(facts[1])
        super().__init__(
            self.folder / "tokenizer.json",
            name=str(facts[0]),
            prefix=str(facts[2]),
            lower=bool(facts[3]),
            window=int(facts[4]),
        )
        self._precision, self._batch_tokens, self._device = str(facts[5]), int(facts[6]), str(facts[7])

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (str(self.folder), *self._facts)

    @cached_property
    def _model(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        number, there = int(self._device.partition(":")[2] or 0), torch.cuda.device_count()
        if self._device.startswith("cuda") and number >= there:
            raise MissingTool(f"ASSAY_DEVICE is {self._device}, but torch {torch.__version__} sees {there} GPUs")
        return SentenceTransformer(str(self.folder), device=self._device, local_files_only=True).eval()

    @cached_property
    def dim(self) -> int:
        return int(self.embed_batch(["a"]).shape[1])

    def embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, dim), rows of L2 norm 1, in the order of `texts`; BadInput on a text above the window."""
        return self.embed_counted(texts)[0]

    def embed_counted(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of `embed_batch`, and int32 (texts,): tokens read of each, special ones and prefix aside."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32), np.empty(0, dtype=np.int32)
        ids, read = self.read(texts)
        found: dict[int, np.ndarray] = {}
        for batch in same_length([len(one) for one in ids], tokens=self._batch_tokens):
            vectors = self._forward(np.array([ids[p] for p in batch], dtype=np.int64))
            found.update(zip(batch, vectors, strict=True))
        return np.stack([found[position] for position in range(len(texts))]), read

    def _forward(self, ids: np.ndarray) -> np.ndarray:
        """int64 (texts, tokens) to float32 (texts, dim). Norms are taken in fp32 whatever the precision."""
        import torch

        model = self._model  # first of all: it says when there is no such GPU
        tokens = torch.from_numpy(ids).to(self._device)
        reduced = torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=self._precision == "bf16")
        with torch.inference_mode(), reduced:
            features = model({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        vectors = torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=-1)
        return np.asarray(vectors.cpu().numpy(), dtype=np.float32)


@lru_cache(maxsize=4)
def reopen(folder: str, *facts: Any) -> TorchEmbedder:
    """The embedder of a folder, opened once per process."""
    return TorchEmbedder(str(arrived(folder, name=str(facts[1]))), *facts)


def load_torch(definition: Definition, digest: str, *, precision: str, batch_tokens: int, device: str) -> TorchEmbedder:
    """The embedder of a definition on `cpu`, `cuda` or `cuda:N`. `digest` is the model's in this precision.

    BadConfig on a precision that this engine lacks. MissingTool when it first embeds and torch does not see the GPU.
    """
    if precision not in PRECISIONS:
        raise BadConfig(f"embed.precision is {precision!r}; on torch one of {', '.join(PRECISIONS)}")
    if definition.random_seed is not None:
        raise BadConfig(f"embedder {definition.name} has random weights, which are drawn on ASSAY_DEVICE=cpu only")
    own = digest_json({"model": digest, "engine": "torch"})
    facts = (definition.prefix, definition.lower, definition.window, precision, batch_tokens, device)
    return reopen(str(definition.folder), definition.name, own, *facts)
