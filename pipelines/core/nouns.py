"""The nouns of Assay as frozen dataclasses. No behaviour beyond identity; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.digests import digest_json, digest_text
from pipelines.core.names import PUBLIC


def marks(access: str) -> tuple[str, ...]:
    """What an access label adds to a digest: nothing where it is public, so that older digests stay as they are."""
    return () if access == PUBLIC else (access,)


def labelled(text_digest: str, access: str) -> str:
    """A text's digest together with its access label, `DIGEST@LABEL`: what rows are compared by. Without the label
    where it is public. Embeddings are cached by the digest alone."""
    return text_digest if access == PUBLIC else f"{text_digest}@{access}"


@dataclass(frozen=True)
class Document:
    """One source text. `id` is its path below the landed folder (`PATH#ID` for a line of JSON lines). `access` is its
    label: only readers who pass that label find its passages; `public` is for all."""

    id: str
    title: str
    text: str
    media_type: str
    uri: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    access: str = PUBLIC

    @property
    def digest(self) -> str:
        """sha256 (hex) of id, title, text and, where it is not public, access label: what a revision is compared by."""
        return digest_json([self.id, self.title, self.text, *marks(self.access)])


@dataclass(frozen=True)
class Corpus:
    """A named set of documents at one revision: `revision` is the git tag (`r2`), `commit` its git commit."""

    name: str
    revision: str
    digest: str
    commit: str
    documents: int


@dataclass(frozen=True)
class Chunk:
    """A span of a document: `text == document.text[start:end]`, offsets in characters."""

    document: str
    ordinal: int
    start: int
    end: int
    text: str
    tokens: int

    @property
    def id(self) -> str:
        """32 hex digits over (document id, ordinal, text): the same chunk has the same key in every build."""
        return digest_json([self.document, self.ordinal, self.text])[:32]

    @property
    def text_digest(self) -> str:
        """sha256 (hex) of the text: the embedding cache's key, together with the embedder digest."""
        return digest_text(self.text)


@dataclass(frozen=True)
class IndexBuild:
    """An immutable, sealed Milvus collection. `digest` is over (key, text digest, vector bytes), order-free;
    the text digest is `labelled`."""

    corpus: str
    revision: str
    corpus_digest: str
    collection: str
    embedder: str
    embedder_digest: str
    dim: int
    rows: int
    tokens: int
    digest: str


@dataclass(frozen=True)
class Adapter:
    """LoRA weights bound to the digests of their base model and training set. `digest` is over the weights' folder."""

    corpus: str
    base: str
    base_digest: str
    training_digest: str
    digest: str
    uri: str


@dataclass(frozen=True)
class Metric:
    """A mean with its 95 % interval and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True)
class Check:
    """One condition of the gate: `value` against `bound`, with the interval and n it rests on.

    A check of a difference also says what n could show: `detectable`, the smallest true difference found with
    probability 0.8, and `needed`, the number of questions that would decide (0: no number is known)."""

    name: str
    value: float | None
    bound: float | None
    passed: bool
    reason: str
    low: float | None = None
    high: float | None = None
    n: int = 0
    detectable: float | None = None
    needed: int = 0


@dataclass(frozen=True)
class Verdict:
    """All checks of one candidate together. It passes when it has checks and every one passed."""

    candidate: str
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Candidate:
    """What is judged: an index build, an adapter, or both, with the arm that would serve."""

    corpus: str
    index: IndexBuild | None
    adapter: Adapter | None
    arm: str
    prompt_digest: str

    @property
    def digest(self) -> str:
        """Hex digest over what readers would be served."""
        return digest_json(
            [
                self.corpus,
                self.index.collection if self.index else None,
                self.index.digest if self.index else None,
                self.adapter.digest if self.adapter else None,
                self.arm,
                self.prompt_digest,
            ]
        )


@dataclass(frozen=True)
class Report:
    """What a stage measured. `facts` is the receipt (deterministic where the stage is); `measured` is what
    varies from run to run (seconds, latency) and is kept out of the receipt; `summary` is one line for people."""

    stage: str
    facts: Mapping[str, Any]
    summary: str
    measured: Mapping[str, Any] = field(default_factory=dict)
