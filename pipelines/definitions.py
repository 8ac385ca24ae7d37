"""What the definitions in models/ have in common: reading the YAML, a model from a package or the local hub cache, a
file's digest, and the arithmetic that `precision: auto` means here. Which keys are valid is each backend's own
business.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import BadConfig, MissingTool


def read_yaml(file: Path, *, folder: str, key: str) -> Any:
    """The content of a definition in `folder` (`models/recipes`), which the params name under `key`.

    BadConfig names the known ones when there is no such file, and the reason when it is not readable YAML.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        known = ", ".join(sorted(other.stem for other in file.parent.glob("*.yaml"))) or "none"
        raise BadConfig(f"{key} is {file.stem!r}, but there is no {folder}/{file.name}; known: {known}") from exc
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise BadConfig(f"{folder}/{file.name} is not readable YAML: {exc}") from exc


def hub_folder(hub: str, *, what: str) -> Path:
    """The folder of a Hugging Face id that is on this machine already; MissingTool, which `what` begins, when not."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub, local_files_only=True))
    except Exception as exc:  # the hub's errors for "not on disk" share no base class
        raise MissingTool(f"{what}: {hub} is not in the local Hugging Face cache") from exc


def package_folder(package: str, *, what: str, install: str) -> Path:
    """The model folder that an installed package carries (`get_model_path()`); MissingTool, which `what` begins, says
    that `install` brings it."""
    try:
        return Path(importlib.import_module(package).get_model_path())
    except ImportError as exc:
        raise MissingTool(f"{what}: package {package.replace('_', '-')} is not installed; {install}") from exc


def sha256_file(file: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def arithmetic(precision: str) -> str:
    """bfloat16 or float32: `precision` itself, or for auto what this CPU multiplies natively (AVX512-BF16, AMX).

    Without, bfloat16 is ten times slower than float32. auto imports torch.
    """
    if precision != "auto":
        return precision
    import torch

    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
