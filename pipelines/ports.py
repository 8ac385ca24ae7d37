"""What the stages and actions need of the outside, as protocols of few methods. No vendor is named here.

`Ports` is the bundle that a stage receives. Its fields are factories' results, made on first use by
`pipelines.wiring`, so a stage pays only for what it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pipelines.core.costs import Spent
from pipelines.core.names import PUBLIC
from pipelines.core.nouns import Corpus
from pipelines.settings import Settings

if TYPE_CHECKING:
    import numpy as np

Messages = Sequence[Mapping[str, str]]
"""One chat: [{"role": "system" | "user" | "assistant", "content": ...}, ...]."""


@dataclass(frozen=True)
class Hit:
    """One passage found: ids, span (characters), text, the engine's score (higher is better), and access label."""

    chunk: str
    document: str
    title: str
    start: int
    end: int
    text: str
    score: float
    access: str = PUBLIC


@dataclass(frozen=True)
class Completion:
    """A generated reply with its cost: token counts, seconds (the batch's wall time over its size) and CPU-seconds of
    this machine, shared alike; None where another machine generated it."""

    text: str
    tokens_in: int
    tokens_out: int
    seconds: float
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Choice:
    """How likely each option is as the whole reply to one chat: the sums of the log-probabilities of its tokens (nats),
    its end marker included, so not normalised by length. `tokens_out` are those of the most likely option."""

    scores: tuple[float, ...]
    tokens_in: int
    tokens_out: int
    seconds: float
    cpu_seconds: float | None = None

    @property
    def best(self) -> int:
        """Index of the most likely option; of equals the first."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)


class Embedder(Protocol):
    """Texts to unit vectors. `digest` covers weights, tokenizer, prefix, pooling, normalisation, window, precision."""

    name: str

    @property
    def digest(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def window(self) -> int:
        """Most tokens of text (special tokens included) that are embedded; longer text is a caller's error."""
        ...

    @property
    def tokenizer(self) -> str:
        """JSON of the tokenizers library, without truncation and padding: what chunks are cut by."""
        ...

    def embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dim), rows of L2 norm 1, in the order of `texts`."""
        ...

    def embed_counted(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`embed_batch`'s vectors, and int32 (len(texts),): the tokens of each text that the model has read, special
        tokens and prefix aside. What a build compares with its chunks' tokens, so that none is lost."""
        ...


@runtime_checkable
class OnDisk(Protocol):
    """What an `Embedder` whose model is a folder of this machine can say beside: where it is. It never changes."""

    @property
    def folder(self) -> Path: ...


class Reranker(Protocol):
    """Scores how well a text answers a question, both read together. `digest` covers weights, tokenizer, architecture,
    window, precision."""

    name: str
    digest: str

    def score(self, question: str, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts),), higher is better; comparable between the texts of one question."""
        ...


class Generator(Protocol):
    """Chats to replies with a causal language model, greedy. `digest` covers weights, tokenizer, adapter, precision.

    `base_digest` covers the base model's files alone, `tokenizer_digest` those of its tokenizer; `folder` holds them,
    and is what training starts from: NotTrainable where they are not on this machine. `licence` is what the definition
    says of it.
    """

    name: str
    licence: str | None

    @property
    def digest(self) -> str: ...
    @property
    def base_digest(self) -> str: ...
    @property
    def tokenizer_digest(self) -> str: ...
    @property
    def folder(self) -> Path: ...

    def trim(self, text: str, *, tokens: int) -> str:
        """The longest prefix of `text` that is at most `tokens` whole tokens."""
        ...

    def count(self, chat: Messages) -> int:
        """Tokens of a whole chat as the model reads it."""
        ...

    def reply(self, chats: Sequence[Messages], *, max_new_tokens: int) -> list[Completion]:
        """One completion per chat, in order."""
        ...

    def choose(self, chats: Sequence[Messages], options: Sequence[str]) -> list[Choice]:
        """One choice per chat, in order: `reply` held to the options (distinct texts, at least one). BadConfig from a
        generator that cannot tell how likely a given text is."""
        ...


@runtime_checkable
class Paid(Protocol):
    """What a hosted `Generator` or `Embedder` can say beside: what it costs."""

    def cost(self, tokens_in: int, tokens_out: int = 0) -> Spent:
        """So many tokens at the definition's price."""
        ...

    def spent(self) -> Spent:
        """What was asked through this object, since it was made, at the definition's price."""
        ...


class VectorStore(Protocol):
    """Dense + BM25 collections. A collection is written once, then only read. It may be pickled."""

    @property
    def shared(self) -> bool:
        """True when several processes may load one collection at once: a server that says so, never a folder."""
        ...

    def load(
        self, collection: str, rows: Iterable[Any], *, dim: int, index_type: str = "FLAT", finish: bool = True
    ) -> int:
        """Create if needed (FLAT or HNSW) and upsert Arrow record batches (columns of `schemas.VECTORS`); returns rows
        held. With `finish=False` rows written: one of several loads at once, which a later call flushes and counts. A
        store that imports takes the rows for the whole collection, and replaces it."""
        ...

    def rows(self, collection: str) -> Iterator[tuple[str, str, bytes]]:
        """(key, text digest, vector bytes as little-endian float32) of every row, read back from the store; the text
        digest is `core.nouns.labelled`."""
        ...

    def search(
        self,
        collection: str,
        questions: Sequence[str],
        vectors: np.ndarray,
        *,
        k: int,
        mode: str,
        filters: Mapping[str, str | Sequence[str]] | None = None,
        labels: Sequence[str] | None = (),
    ) -> list[list[Hit]]:
        """The k best of each question; `mode` is dense, bm25 or hybrid (reciprocal rank fusion). `filters` keeps
        passages whose `document` or `title` is the value given, or one of those given. `labels` are the reader's: it
        gets what is public and what bears one of them, never anything else; None, for stages that judge the whole
        index, restricts nothing. Documents that were erased are never found."""
        ...

    def point(self, alias: str, collection: str) -> None:
        """Move an alias: a projection for people, never what a reader of releases resolves by."""
        ...

    def drop(self, collection: str) -> None:
        """Remove a collection by its physical name; an alias is refused."""
        ...


class Registry(Protocol):
    """Experiment tracking and the model registry."""

    def run(self, corpus: str, name: str, *, tags: Mapping[str, str]) -> AbstractContextManager[Any]:
        """A tracked run; yields a `RunLog`."""
        ...

    def register(self, name: str, *, run_id: str, path: str, description: str, tags: Mapping[str, str]) -> int:
        """Register the run's artifact folder `path` as the next version of model `name`; returns the version."""
        ...

    def alias(self, name: str, alias: str, version: int) -> None:
        """Point `name@alias` at a version."""
        ...

    def tags(self, name: str, version: int) -> dict[str, str]:
        """The tags of a version, as they are now. NotFound."""
        ...

    def tag(self, name: str, version: int, values: Mapping[str, str]) -> None:
        """Set tags of a version. NotFound."""
        ...


class RunLog(Protocol):
    """What can be written into a tracked run. `settled`: it was finished earlier, and writes are dropped."""

    run_id: str
    settled: bool

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], *, step: int | None = None) -> None: ...
    def dataset(self, name: str, *, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None: ...
    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def figure(self, name: str, figure: Any) -> None: ...
    def text(self, name: str, text: str) -> None: ...
    def folder(self, path: Path, *, name: str) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...


class Versioner(Protocol):
    """The corpus's workspace as a git + DVC repository."""

    def snapshot(self, message: str, *, content: Path | None = None) -> Corpus:
        """Put `content` in the place of `corpus/` when it differs, then track, commit, push and tag `rN`.
        When nothing changed: the current revision, nothing written."""
        ...

    def reproduce(self, stage: str, *, force: bool = False) -> bool:
        """Run one stage if it is stale; True when it ran."""
        ...

    def current(self) -> Corpus | None:
        """The newest revision, or None before the first snapshot."""
        ...

    def record(self, message: str, *, tag: str | None = None) -> None:
        """Commit receipts, dvc.lock and params as they are now; no-op when nothing changed."""
        ...


class ObjectStore(Protocol):
    """Keys to bytes; keys are POSIX paths."""

    def get(self, key: str) -> bytes:
        """The object; KeyError when there is none."""
        ...

    def reader(self, key: str) -> RawIOBase:
        """The object as a file, for reading: only what is read of it is fetched. KeyError when there is none."""
        ...

    def put(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> bool:
        """Exclusive create: False when the key already exists, and then nothing is written."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Keys below a prefix, sorted."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, one after the other in the order given; those that are gone already are no error."""
        ...

    def uri(self, key: str) -> str:
        """Where engines (Spark, Arrow) read and write this key: a local path or an object-store URI."""
        ...


class ReleaseLog(Protocol):
    """The numbered, signed manifests of one corpus: the only commit point."""

    def append(self, corpus: str, manifest: Mapping[str, Any], *, generation: int) -> None:
        """Publish as exactly that generation; PromotionConflict when it exists."""
        ...

    def read(self, corpus: str, generation: int | None = None) -> dict[str, Any]:
        """A verified manifest (the newest by default); NotFound, IntegrityError."""
        ...

    def envelope(self, corpus: str, generation: int) -> bytes:
        """The signed bytes of a generation, as published; NotFound."""
        ...

    def generations(self, corpus: str) -> list[int]:
        """Ascending."""
        ...


class Ports(Protocol):
    """The bundle a stage or action gets; each attribute is made when first read.

    With `corpus` params at hand: `embedder` is the index's own; `reranker` is that of `retrieve.rerank`, None when
    there is none; `generator()` is asked in the arms without an adapter (`generate.untuned`, else `generate.model`),
    `generator(adapter)` is `generate.model` with that LoRA folder merged.
    """

    @property
    def settings(self) -> Settings: ...
    @property
    def embedder(self) -> Embedder: ...
    @property
    def reranker(self) -> Reranker | None: ...
    @property
    def store(self) -> VectorStore: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def versioner(self) -> Versioner: ...
    @property
    def objects(self) -> ObjectStore: ...
    @property
    def releases(self) -> ReleaseLog: ...
    def embedder_at(self, precision: str) -> Embedder:
        """The embedder's model in another precision, e.g. to measure what the index's own loses."""
        ...

    def base_embedder(self) -> Embedder:
        """The model that `embedder` was tuned from, in the same precision. BadConfig where it is no tuned one."""
        ...

    def generator(self, adapter: Path | None = None) -> Generator: ...
    def base_generator(self) -> Generator:
        """`generate.model` without an adapter: what adapters are trained on."""
        ...

    def as_released(self, manifest: Mapping[str, Any]) -> Ports:
        """The same places with the params that a release carries: its embedder, its generator. BadConfig."""
        ...

    def path(self, text: str) -> Path:
        """A path written in params.yaml, absolute."""
        ...
