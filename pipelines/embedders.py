"""The embedders that models/embedders defines: a definition read strictly, its model found on disk, and the digest that
names its vectors. It loads and runs no model: `backends.openvino` does. Hosted ones are `pipelines.endpoints`'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.core.digests import digest_json
from pipelines.definitions import hub_folder, package_folder, read_yaml, sha256_file
from pipelines.errors import BadConfig, MissingTool
from pipelines.settings import checkout
from pipelines.tuned import base_of

DEFINITION_FORM = (
    "one of package, path, hub or endpoint; and optionally prefix, window, random_seed, float_layers; "
    "or tuned: true and base"
)
PRECISIONS = ("fp32", "bf16", "int8")
GRAPH = 2
"""Which form of graph `backends.openvino_export` makes; part of the digest."""


@dataclass(frozen=True)
class Definition:
    """A file of models/embedders, with its model found on disk. `folder` is of the sentence-transformers form."""

    name: str
    folder: Path
    prefix: str
    window: int
    lower: bool
    random_seed: int | None
    float_layers: tuple[str, ...] = ()
    """Regular expressions of the matrix products that int8 leaves in floating point."""


def _folder(name: str, raw: Mapping[str, Any]) -> Path:
    """Where the model's files are; MissingTool when this machine does not have them."""
    if "package" in raw:
        folder = package_folder(str(raw["package"]), what=f"embedder {name}", install="run: make setup")
    elif "path" in raw:
        folder = Path(raw["path"]).expanduser()
    else:
        folder = hub_folder(str(raw["hub"]), what=f"embedder {name}")
    for needed in ("modules.json", "tokenizer.json", "config.json"):
        if not (folder / needed).is_file():
            raise MissingTool(f"embedder {name}: no {needed} in {folder}; it must be a sentence-transformers folder")
    return folder


def _tuned(file: Path, base: Path, folder: Path | None) -> Definition:
    """As the base is, with the weights of `folder`."""
    if folder is None:
        raise BadConfig(f"embedder {file.stem} is each corpus's own; here a model that all share is needed")
    return replace(read_definition(base), name=file.stem, folder=folder, random_seed=None)


def read_definition(file: Path, *, tuned: Path | None = None) -> Definition:
    """Parse strictly and find the model; of a definition that says `tuned: true` it is the folder `tuned`. BadConfig
    shows the valid form; MissingTool names what is not there."""
    if (base := base_of(file)) is not None:
        return _tuned(file, base, tuned)
    name = file.stem
    raw = read_yaml(file, folder="models/embedders", key="embed.model")
    if isinstance(raw, dict) and "endpoint" in raw:
        raise BadConfig(f"embedder {name} is an endpoint; here a model on this machine is needed")
    sources = {"package", "path", "hub"}
    allowed = sources | {"prefix", "window", "random_seed", "float_layers"}
    if not isinstance(raw, dict) or set(raw) - allowed or len(sources & set(raw)) != 1:
        raise BadConfig(f"models/embedders/{file.name}: its keys are {DEFINITION_FORM}")
    folder = _folder(name, raw)
    own = folder / "sentence_bert_config.json"
    config = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    window = raw.get("window") or config.get("max_seq_length")
    if not isinstance(window, int):
        raise BadConfig(f"models/embedders/{file.name}: the model does not say its window; add `window: TOKENS`")
    lower = bool(config.get("do_lower_case", False))
    layers = tuple(map(str, raw.get("float_layers") or ()))
    return Definition(name, folder, raw.get("prefix") or "", window, lower, raw.get("random_seed"), layers)


def tokenizer_file(wanted: str, *, folder: Path) -> Path:
    """The tokenizer.json that a hosted embedder counts by: of the definition `wanted` in `folder`, or a path that ends
    in .json. BadConfig, MissingTool."""
    if not wanted.endswith(".json"):
        return read_definition(folder / f"{wanted}.yaml").folder / "tokenizer.json"
    file = Path(wanted).expanduser()
    if not file.is_file():
        raise MissingTool(f"tokenizer: there is no file {file}; it must be a tokenizer.json of the tokenizers library")
    return file


def _quantiser(definition: Definition, precision: str, rest: str | None) -> dict[str, Any]:
    """What int8 vectors depend on beside the model: calibration texts, layers left out, type of the rest, libraries."""
    if precision != "int8":
        return {}
    versions = {library: version(library) for library in ("nncf", "openvino")}
    kept = list(definition.float_layers)
    return {"quantiser": {"calibration": sha256_file(calibration()), "float_layers": kept, "rest": rest, **versions}}


def calibration() -> Path:
    """JSON lines with `text`, by which the ranges of activations are observed."""
    return checkout() / "models" / "embedders" / "calibration.jsonl"


def embedder_digest(definition: Definition, precision: str, *, rest: str | None = None) -> str:
    """64 hex digits over weights, tokenizer, prefix, pooling, normalisation, window and precision; for int8 also over
    calibration texts, quantiser, and `rest`: the type that this CPU computes in what is not quantised
    (`backends.openvino.inference_type`).

    Pooling and normalisation are the modules of the sentence-transformers folder with their configurations; names
    of files, folders and of the definition do not count.
    """
    folder = definition.folder
    weights = sorted(
        [*folder.glob("*.safetensors"), *(() if [*folder.glob("*.safetensors")] else folder.glob("*.bin"))]
    )
    if definition.random_seed is None and not weights:
        raise MissingTool(f"embedder {definition.name}: no weights (*.safetensors or *.bin) in {folder}")
    modules = []
    for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        config = folder / module["path"] / "config.json"
        modules.append([module["type"].rsplit(".", 1)[-1], sha256_file(config) if config.is_file() else None])
    drawn = definition.random_seed
    return digest_json(
        {
            "weights": [sha256_file(file) for file in weights] if drawn is None else f"random {drawn}",
            "modules": modules,
            "tokenizer": sha256_file(folder / "tokenizer.json"),
            "prefix": definition.prefix,
            "lower": definition.lower,
            "window": definition.window,
            "precision": precision,
            "graph": GRAPH,
            **_quantiser(definition, precision, rest),
        }
    )
