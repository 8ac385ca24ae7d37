"""An adapter as a sealed folder: bound to its base and training set by `assay.json`, kept in the object store.

An adapter folder holds adapter_model.safetensors, adapter_config.json and assay.json; its digest is over these three.
In the store it is `adapters/DIGEST/` with `sealed.json` written last. Nothing here trains or loads a model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core.digests import digest_bytes, digest_json
from pipelines.errors import IntegrityError, NotFound
from pipelines.ports import ObjectStore

FILES = ("adapter_config.json", "adapter_model.safetensors", "assay.json")
_SEAL = "sealed.json"


def bind(folder: Path, facts: Mapping[str, Any]) -> str:
    """Write assay.json into an adapter folder; returns the folder's digest (64 hex).

    `facts` name base, base_digest, tokenizer_digest, training_digest, recipe and the numbers of the training.
    """
    (folder / "assay.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return digest(folder)


def digest(folder: Path) -> str:
    """64 hex digits over the three files."""
    return digest_json({name: digest_bytes((folder / name).read_bytes()) for name in FILES})


def seal(objects: ObjectStore, folder: Path) -> str:
    """Copy an adapter folder into the store; returns its key `adapters/DIGEST`. The same adapter is written once; what
    the store lost or damaged of it since is written again."""
    key = f"adapters/{digest(folder)}"
    contents = {name: (folder / name).read_bytes() for name in FILES}
    sealed = {name: digest_bytes(data) for name, data in contents.items()}
    contents[_SEAL] = (json.dumps(sealed, indent=1) + "\n").encode()
    there = set(objects.list(f"{key}/"))
    for name, data in contents.items():
        if f"{key}/{name}" not in there or objects.get(f"{key}/{name}") != data:
            objects.put(f"{key}/{name}", data)
    return key


def fetch(objects: ObjectStore, key: str, *, cache: Path) -> Path:
    """A sealed adapter as a local folder below `cache`, checked file by file.

    NotFound without a seal; IntegrityError when a file is not what was sealed.
    """
    try:
        sealed: dict[str, str] = json.loads(objects.get(f"{key}/{_SEAL}"))
    except KeyError as exc:
        raise NotFound(f"no adapter {key} in the object store; run the stage train") from exc
    folder = cache / key
    if folder.is_dir():
        if all((folder / n).is_file() and digest_bytes((folder / n).read_bytes()) == d for n, d in sealed.items()):
            return folder
        shutil.rmtree(folder)
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, expected in sealed.items():
        try:
            data = objects.get(f"{key}/{name}")
        except KeyError as exc:
            raise IntegrityError(f"adapter {key}: {name} is missing from the object store") from exc
        if digest_bytes(data) != expected:
            raise IntegrityError(f"adapter {key}: {name} is not what was sealed")
        (unfinished / name).write_bytes(data)
    unfinished.rename(folder)
    return folder
