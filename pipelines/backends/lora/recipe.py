"""The files of models/recipes: how an adapter is trained, parsed strictly. It trains nothing."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.definitions import arithmetic, read_yaml
from pipelines.errors import BadConfig

RECIPE_KEYS = {
    "method": {"lora"},
    "target_modules": str,
    "alpha_per_rank": (int, float),
    "dropout": (int, float),
    "optimizer": str,
    "schedule": str,
    "warmup_share": (int, float),
    "weight_decay": (int, float),
    "max_grad_norm": (int, float),
    "precision": {"auto", "bfloat16", "float32"},
    "evaluations": int,
    "validation_examples": int,
    "checkpoints": int,
}


def read_recipe(file: Path) -> dict[str, Any]:
    """A file of models/recipes, with `precision` resolved for this CPU. BadConfig shows the valid form."""
    raw = read_yaml(file, folder="models/recipes", key="train.recipe")
    if not isinstance(raw, dict) or set(raw) != set(RECIPE_KEYS):
        raise BadConfig(f"models/recipes/{file.name}: its keys are exactly {', '.join(RECIPE_KEYS)}")
    for key, allowed in RECIPE_KEYS.items():
        value = raw[key]
        good = value in allowed if isinstance(allowed, set) else isinstance(value, allowed)  # type: ignore[arg-type]
        if not good:
            form = ", ".join(sorted(allowed)) if isinstance(allowed, set) else "a number or text as in sft.yaml"
            raise BadConfig(f"models/recipes/{file.name}: {key} is {value!r}; valid is {form}")
    return {**raw, "precision": arithmetic(raw["precision"])}


def libraries() -> dict[str, str]:
    """Versions of what the weights depend on."""
    return {name: version(name) for name in ("torch", "transformers", "peft")}
