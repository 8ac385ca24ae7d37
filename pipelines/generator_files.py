"""The definitions in models/generators: what a model is made of, and where it lies on this machine.

Parsed strictly and found without importing anything of the model's: a package is located, not imported. Nothing is
loaded or converted here. Those whose model is hosted are `pipelines.endpoints`'.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.definitions import hub_folder, read_yaml
from pipelines.errors import BadConfig, MissingTool

DEFINITION_FORM = "package and file, or path, or hub, or endpoint; and optionally install, precision, licence"
PRECISIONS = ("auto", "bfloat16", "float32")


@dataclass(frozen=True)
class Definition:
    """A file of models/generators: exactly one of `model` (a file in a package) and `folder` is set."""

    name: str
    model: Path | None
    folder: Path | None
    precision: str
    licence: str | None = None


def _in_package(name: str, raw: Mapping[str, Any]) -> Path:
    """The model file inside an installed package, found without importing it."""
    package = str(raw["package"])
    hint = raw.get("install") or f"pip install {package.replace('_', '-')}"
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or []) if found else []
    if not places:
        raise MissingTool(f"generator {name}: package {package} is not installed; install it with: {hint}")
    file = Path(places[0]) / str(raw["file"])
    if not file.is_file():
        raise MissingTool(f"generator {name}: package {package} holds no {raw['file']}; install it with: {hint}")
    return file


def _on_disk(name: str, raw: Mapping[str, Any]) -> Path:
    """A model folder: a path, or a Hugging Face id that is already in the local cache."""
    if "path" in raw:
        folder = Path(str(raw["path"])).expanduser()
    else:
        folder = hub_folder(str(raw["hub"]), what=f"generator {name}")
    if not folder.is_dir():
        raise MissingTool(f"generator {name}: there is no model folder {folder}")
    if not [*folder.glob("*.safetensors")]:
        raise MissingTool(f"generator {name}: no *.safetensors in {folder}; other forms of weights are not read")
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise MissingTool(f"generator {name}: no {needed} in {folder}; it must be a transformers model folder")
    return folder


def read_definition(file: Path) -> Definition:
    """Parse strictly and find the model. BadConfig shows the valid form; MissingTool names what is not there."""
    name = file.stem
    raw = read_yaml(file, folder="models/generators", key="generate.model or generate.untuned")
    if isinstance(raw, dict) and "endpoint" in raw:
        raise BadConfig(f"generator {name} is an endpoint; here a model on this machine is needed")
    sources = {"package", "path", "hub"}
    allowed = sources | {"file", "install", "precision", "licence"}
    if (
        not isinstance(raw, dict)
        or set(raw) - allowed
        or len(sources & set(raw)) != 1
        or (("package" in raw) != ("file" in raw))
    ):
        raise BadConfig(f"models/generators/{file.name}: its keys are {DEFINITION_FORM}")
    precision = raw.get("precision", "auto")
    if precision not in PRECISIONS:
        raise BadConfig(f"models/generators/{file.name}: precision is {precision!r}; one of {', '.join(PRECISIONS)}")
    licence = str(raw["licence"]) if raw.get("licence") else None
    if "package" in raw:
        return Definition(name, _in_package(name, raw), None, precision, licence)
    return Definition(name, None, _on_disk(name, raw), precision, licence)
