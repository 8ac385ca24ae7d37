"""The files of models/recipes: how an adapter is trained, parsed strictly, and held against the machine. It trains
nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.definitions import arithmetic, read_yaml
from pipelines.errors import BadConfig, MissingTool


@dataclass(frozen=True)
class _Form:
    """What a key may hold, and how an error says it."""

    takes: Callable[[Any], bool]
    said: str


def _among(*allowed: str | None) -> _Form:
    return _Form(lambda value: value in allowed, ", ".join("null" if name is None else name for name in allowed))


def _whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_TEXT = _Form(lambda value: isinstance(value, str), "a text as in sft.yaml")
_NUMBER = _Form(lambda v: isinstance(v, int | float) and not isinstance(v, bool), "a number as in sft.yaml")
_COUNT = _Form(_whole, "a whole number above 0")
RECIPE_KEYS: Mapping[str, _Form] = {
    "method": _among("lora"),
    "quantize": _among(None, "nf4"),
    "target_modules": _TEXT,
    "alpha_per_rank": _NUMBER,
    "dropout": _NUMBER,
    "optimizer": _TEXT,
    "schedule": _TEXT,
    "warmup_share": _NUMBER,
    "weight_decay": _NUMBER,
    "max_grad_norm": _NUMBER,
    "precision": _among("auto", "bfloat16", "float32"),
    "devices": _Form(lambda value: value == "auto" or _whole(value), "auto or a whole number above 0"),
    "gradient_accumulation": _COUNT,
    "evaluations": _COUNT,
    "validation_examples": _Form(lambda value: _whole(value, 0), "a whole number"),
    "early_stopping": _Form(lambda value: value is None or _whole(value), "null or a whole number above 0"),
    "checkpoints": _COUNT,
}


def read_recipe(file: Path, *, device: str = "cpu") -> dict[str, Any]:
    """A file of models/recipes, with `precision` and `devices` (a number) resolved for `device`: cpu, cuda or cuda:N.

    BadConfig shows the valid form, or names what this device cannot do; MissingTool when torch does not see the GPU.
    """
    raw = read_yaml(file, folder="models/recipes", key="train.recipe")
    name = f"models/recipes/{file.name}"
    if not isinstance(raw, dict) or set(raw) != set(RECIPE_KEYS):
        raise BadConfig(f"{name}: its keys are exactly {', '.join(RECIPE_KEYS)}")
    for key, form in RECIPE_KEYS.items():
        if not form.takes(raw[key]):
            raise BadConfig(f"{name}: {key} is {raw[key]!r}; valid is {form.said}")
    if raw["early_stopping"] is not None and raw["early_stopping"] >= raw["evaluations"]:
        raise BadConfig(f"{name}: early_stopping must be below evaluations ({raw['evaluations']}), or it stops nothing")
    _require_quantizable(raw, device=device, name=name)
    precision = arithmetic(raw["precision"]) if device == "cpu" else _on_gpu(raw["precision"])
    return {**raw, "precision": precision, "devices": _devices(raw["devices"], device=device, name=name)}


def _require_quantizable(raw: Mapping[str, Any], *, device: str, name: str) -> None:
    if raw["quantize"] is None:
        return
    if device == "cpu":
        raise BadConfig(f"{name}: quantize nf4 needs a GPU; set ASSAY_DEVICE to cuda, or quantize to null")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadConfig(f"{name}: quantize nf4 needs bitsandbytes; install it with: pip install bitsandbytes")


def _on_gpu(precision: str) -> str:
    if precision != "auto":
        return precision
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"


def _devices(asked: str | int, *, device: str, name: str) -> int:
    """How many processes train. On a CPU one: auto means that, and more are refused."""
    if device == "cpu":
        if asked not in ("auto", 1):
            raise BadConfig(f"{name}: devices is {asked}, but a CPU trains in one process; set ASSAY_DEVICE to cuda")
        return 1
    import torch

    seen, _, number = torch.cuda.device_count(), *device.partition(":")[1:]
    if seen <= int(number or 0):
        raise MissingTool(f"ASSAY_DEVICE is {device}, but torch {torch.__version__} sees {seen} GPUs")
    able = 1 if number else seen
    if asked == "auto":
        return able
    if int(asked) > able:
        raise BadConfig(f"{name}: devices is {asked}, but with ASSAY_DEVICE {device} there is no more than {able}")
    return int(asked)


def micro_batch(batch: int, recipe: Mapping[str, Any]) -> int:
    """How many of a step's `batch` examples one process takes at once. BadConfig when they cannot be dealt alike."""
    hands = recipe["devices"] * recipe["gradient_accumulation"]
    if batch % hands:
        raise BadConfig(
            f"train.batch is {batch}, which {recipe['devices']} devices in {recipe['gradient_accumulation']} parts "
            f"each cannot share alike; it must be a multiple of {hands}"
        )
    return batch // hands


def libraries() -> dict[str, str]:
    """Versions of what the weights depend on."""
    return {name: version(name) for name in ("torch", "transformers", "peft")}
