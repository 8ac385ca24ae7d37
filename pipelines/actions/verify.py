"""Check a release against what it binds: signature, embedder, reranker, rows in Milvus, Parquet, generator, adapter.

Every digest is computed again from the bytes; nothing is believed because a marker says so. It repairs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.builds import held, parquet_digest
from pipelines.errors import IntegrityError, NotFound
from pipelines.released import adapter_folder, embedder_of, generator_of, longer_of, require_valid, reranker_of
from pipelines.settings import Settings
from pipelines.signing import key_id, public_file, read_public_key
from pipelines.wiring import Wiring

Json = Mapping[str, Any]


def _agree(what: str, found: tuple[int, str], index: Json) -> str:
    if found != (index["rows"], index["digest"]):
        raise IntegrityError(
            f"{what} holds {found[0]} rows of digest {found[1][:12]}, "
            f"the release binds {index['rows']} of {index['digest'][:12]}"
        )
    return f"{what}: {found[0]:,} rows, content {found[1][:16]}"


def verify_release(
    settings: Settings, corpus: str, generation: int | None = None, *, generator: bool = True
) -> Iterator[str]:
    """A line per thing found right. IntegrityError on the first that is not; NotFound for an unknown release;
    Expired. Without `generator` what only answers need is left out: it is compared when the first is asked for."""
    log = Wiring.of(settings, corpus).releases
    manifest = log.read(corpus, generation)
    signer = key_id(read_public_key(public_file(settings.signing_key)))
    yield f"signature: {corpus} generation {manifest['generation']}, signed by key {signer[:16]}"
    require_valid(manifest)
    if manifest.get("expires"):
        yield f"valid: until {manifest['expires']}"
    ports = Wiring.released(settings, manifest)
    embedder = embedder_of(manifest, ports)
    yield f"embedder: {embedder.name} {embedder.digest[:16]}"
    if (reranker := reranker_of(manifest, ports)) is not None:
        yield f"reranker: {reranker.name} {reranker.digest[:16]}"
    if (longer := longer_of(manifest)) is not None:
        yield f"prompt: {len(longer.shots) // 2} examples {longer.digest[:16]}"
    index = manifest["index"]
    try:
        yield _agree(f"parquet {index['key']}", parquet_digest(ports.objects, index), index)
        yield _agree(f"milvus {index['collection']}", held(ports.store, index["collection"]), index)
    except NotFound as exc:
        raise IntegrityError(f"the release binds what is gone: {exc}") from exc
    if generator:
        base = generator_of(manifest, ports)
        yield f"generator: {base.name} {base.base_digest[:16]}"
    if manifest["adapter"]:
        adapter_folder(manifest, ports)
        yield f"adapter: {manifest['adapter']['digest'][:16]}"
