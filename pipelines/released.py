"""The newest release, and models and prompt of one, checked against what its manifest binds. It opens nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines import adapters
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.manifest import expired
from pipelines.core.prompts import TUNED
from pipelines.errors import Expired, IntegrityError, NotFound
from pipelines.ports import Embedder, Generator, Ports, ReleaseLog, Reranker

Manifest = Mapping[str, Any]


def now() -> datetime:
    """UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def require_valid(manifest: Manifest) -> None:
    """Expired once the time that the release names has come."""
    if expired(manifest, now()):
        corpus, generation = manifest["corpus"], manifest["generation"]
        raise Expired(
            f"{corpus}@{generation} expired at {manifest['expires']}; `assay promote {corpus}` renews the newest "
            f"release (assay rollback {corpus} --to {generation}: this one, where another candidate was judged since)"
        )


def newest_release(log: ReleaseLog, corpus: str) -> Manifest:
    """The verified manifest of the newest release; empty before the first. IntegrityError."""
    try:
        return log.read(corpus)
    except NotFound:
        return {}


def embedder_of(manifest: Manifest, ports: Ports) -> Embedder:
    """The embedder that the release's vectors were made by; IntegrityError when the one of that name is another now.

    `ports` are those of `Ports.as_released`.
    """
    embedder, wanted = ports.embedder, manifest["embedder"]
    if embedder.digest != wanted["digest"]:
        raise IntegrityError(
            f"{manifest['corpus']}@{manifest['generation']} was embedded by {wanted['name']} {wanted['digest'][:12]}, "
            f"but {embedder.name} is {embedder.digest[:12]} here; their vectors cannot be compared"
        )
    return embedder


def reranker_of(manifest: Manifest, ports: Ports) -> Reranker | None:
    """The cross-encoder that the release was judged with, None when it was judged without; IntegrityError when the
    one of that name is another now. `ports` are those of `Ports.as_released`."""
    wanted = manifest.get("reranker")
    if wanted is None:
        return None
    reranker = ports.reranker
    if reranker is None or reranker.digest != wanted["digest"]:
        found = f"{reranker.name} is {reranker.digest[:12]} here" if reranker else "its params name none"
        raise IntegrityError(
            f"{manifest['corpus']}@{manifest['generation']} was judged with reranker {wanted['name']} "
            f"{wanted['digest'][:12]}, but {found}; it would order passages otherwise"
        )
    return reranker


def adapter_folder(manifest: Manifest, ports: Ports) -> Path:
    """The release's adapter as a local folder; IntegrityError when it is not the one that the manifest binds."""
    wanted = manifest["adapter"]["digest"]
    folder = adapters.fetch(ports.objects, f"adapters/{wanted}", cache=ports.settings.cache)
    if adapters.digest(folder) != wanted:
        raise IntegrityError(f"adapter {folder.name[:12]} is not what the release binds: {wanted[:12]}")
    return folder


def generator_of(manifest: Manifest, ports: Ports) -> Generator:
    """The generator that the release was judged with, its adapter merged where the arm has one; IntegrityError when the
    base of that name, its tokenizer or the adapter is another now. `ports` are those of `Ports.as_released`."""
    folder = adapter_folder(manifest, ports) if manifest["arm"] in TUNED else None
    generator, wanted = ports.generator(folder), manifest["base"]
    for what, found, bound in (
        ("generator", generator.base_digest, wanted["digest"]),
        ("tokenizer of generator", generator.tokenizer_digest, wanted["tokenizer"]),
    ):
        if found != bound:
            raise IntegrityError(
                f"{manifest['corpus']}@{manifest['generation']} was judged with {what} {wanted['name']} "
                f"{str(bound)[:12]}, but {generator.name} has {found[:12]} here; it would answer otherwise"
            )
    return generator


def longer_of(manifest: Manifest) -> LongPrompt | None:
    """The instructions and examples that the arm `prompt` was judged with; None where another arm serves.
    IntegrityError when they are not those of the digest beside them."""
    found = manifest["prompt"].get("longer")
    try:
        return LongPrompt.of(found) if found else None
    except ValueError as exc:
        raise IntegrityError(f"{manifest['corpus']}@{manifest['generation']}: {exc}") from exc
