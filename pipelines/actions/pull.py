"""Copy a verified release into a folder: signed manifest, public key, index rows, adapter, embedder, reranker.

The folder appears whole or not at all: it is written beside its place, verified there, and renamed. It starts nothing.

| in the folder | is |
|---|---|
| release.json | the signed envelope, as published |
| release.pub.pem | the public key that it verifies against |
| index/part-*.parquet | the rows of the build, with texts and vectors |
| adapter/ | LoRA weights and what they are bound to; absent when the release has none |
| embedder/ | the exported embedder: model and tokenizer; absent when it is hosted |
| reranker/ | the exported cross-encoder; absent when passages are not reranked |
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import adapters
from pipelines.actions.verify import parquet_digest
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.openvino import reopen
from pipelines.builds import build_rows
from pipelines.erasures import log_of
from pipelines.errors import BadInput, IntegrityError
from pipelines.exports import opened
from pipelines.ports import Paid, Ports
from pipelines.released import adapter_folder, embedder_of, require_valid, reranker_of
from pipelines.settings import Settings
from pipelines.signing import public_file, read_public_key, unseal
from pipelines.wiring import Wiring

Json = Mapping[str, Any]


def _check_target(to: Path) -> None:
    if to.is_dir() and not to.is_symlink() and not any(to.iterdir()):
        return
    if to.exists() or to.is_symlink():
        what = "a folder that is not empty" if to.is_dir() else "not a folder"
        raise BadInput(f"--to {to} is {what}; name an empty or absent folder")


def _require_none_erased(ports: Ports, manifest: Json) -> None:
    """IntegrityError when the build still holds a document that was erased: a copy of it is not made."""
    corpus, index = manifest["corpus"], manifest["index"]
    gone = log_of(ports).erased(corpus).keys()
    batches = build_rows(ports.objects, index, columns=["document"]) if gone else ()
    held = {document for batch in batches for document in batch["document"].to_pylist() if document in gone}
    if held:
        raise IntegrityError(
            f"{corpus}@{manifest['generation']} holds {len(held)} erased document{'s' if len(held) > 1 else ''} and is "
            f"not copied; release a newer generation: assay run {corpus}"
        )


def _copy_index(ports: Ports, index: Json, folder: Path) -> None:
    """The build's Parquet, whose copied rows must be the release's."""
    folder.mkdir()
    for part in index["parts"]:
        try:
            (folder / part).write_bytes(ports.objects.get(f"{index['key']}/{part}"))
        except KeyError as exc:
            raise IntegrityError(f"the release binds {index['key']}/{part}, which is gone") from exc
    found = parquet_digest(ObstoreObjects(str(folder.parent)), {**index, "key": folder.name})
    if found != (index["rows"], index["digest"]):
        raise IntegrityError(f"{index['key']} is not what the release binds: {found[0]} rows of {found[1][:12]}")


def _copy_models(ports: Ports, manifest: Json, folder: Path) -> None:
    """The exports of embedder and reranker, verified once more in their copies; the adapter, its digest taken again."""
    embedder = embedder_of(manifest, ports)
    if not isinstance(embedder, Paid):
        shutil.copytree(ports.settings.cache / "embedders" / embedder.digest, folder / "embedder")
        embed = manifest["params"]["embed"]
        reopen(str(folder / "embedder"), embedder.name, embed["precision"], embed["batch_tokens"], 1)
    if (reranker := reranker_of(manifest, ports)) is not None:
        shutil.copytree(ports.settings.cache / "rerankers" / reranker.digest, folder / "reranker")
        opened(folder / "reranker")
    if manifest["adapter"]:
        shutil.copytree(adapter_folder(manifest, ports), folder / "adapter")
        if adapters.digest(folder / "adapter") != manifest["adapter"]["digest"]:
            raise IntegrityError("the copied adapter is not what the release binds")


def pull_release(settings: Settings, corpus: str, generation: int | None = None, *, to: Path) -> str:
    """Copy a release (the newest by default) to `to`; returns one line.

    BadInput unless `to` is empty or absent; NotFound for an unknown release; Expired; IntegrityError when anything is
    not what the manifest binds, and then `to` is as it was.
    """
    _check_target(to)
    log = Wiring.of(settings, corpus).releases
    manifest = log.read(corpus, generation)
    require_valid(manifest)
    name = f"{corpus}@{manifest['generation']}"
    key_file = public_file(settings.signing_key)
    ports = Wiring.released(settings, manifest)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as temporary:
            folder = Path(temporary) / "release"
            folder.mkdir()
            (folder / "release.json").write_bytes(log.envelope(corpus, manifest["generation"]))
            shutil.copyfile(key_file, folder / "release.pub.pem")
            unseal((folder / "release.json").read_bytes(), read_public_key(folder / "release.pub.pem"), subject=name)
            _require_none_erased(ports, manifest)
            _copy_index(ports, manifest["index"], folder / "index")
            _copy_models(ports, manifest, folder)
            folder.replace(to)
    except OSError as exc:
        raise BadInput(f"cannot write {to}: {exc.strerror or exc}") from exc
    return f"{name}: {manifest['index']['rows']:,} rows, arm {manifest['arm']}, verified, in {to}"
