"""One training of an adapter: planned, done at most once, sealed in the object store. It tracks and judges nothing.

A training is known by the digest of all that decides its result; its record `training-runs/DIGEST.json` is written
after the adapter is sealed. A killed training goes on from its checkpoints below the cache; one with a record is not
done again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import adapters
from pipelines.core import costs
from pipelines.core.digests import digest_json
from pipelines.locks import exclusive
from pipelines.params import Prices, Train
from pipelines.ports import Generator, Ports
from pipelines.settings import Settings, checkout
from pipelines.tombstones import claim

Row = Mapping[str, Any]
OnLog = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Plan:
    """What decides the weights. `numbers` are the params of `train`, `code` a digest of the code that trains,
    `libraries` the versions of what it trains with, `device` cpu, cuda or cuda:N."""

    base_digest: str
    training_digest: str
    recipe_name: str
    recipe: Mapping[str, Any]
    numbers: Mapping[str, Any]
    libraries: Mapping[str, str]
    code: str
    device: str = "cpu"

    @property
    def key(self) -> str:
        """32 hex digits over all of it."""
        decides = [self.base_digest, self.training_digest, self.recipe, {"recipe": self.recipe_name, **self.numbers}]
        return digest_json([*decides, self.libraries, self.code, self.device.partition(":")[0]])[:32]


def planned(params: Train, base: Generator, training_digest: str, *, code: str, device: str) -> Plan:
    """`device` is `Settings.device`: what embeds. BadConfig when the recipe is not there or not valid, or asks for what
    the device or `train.batch` cannot do; MissingTool when torch does not see the GPU."""
    from pipelines.backends import lora

    device = "cpu" if device == "torch-cpu" else device
    recipe = lora.read_recipe(checkout() / "models" / "recipes" / f"{params.recipe}.yaml", device=device)
    lora.micro_batch(params.batch, recipe)
    return Plan(
        base_digest=base.base_digest,
        training_digest=training_digest,
        recipe_name=params.recipe,
        recipe=recipe,
        numbers=params.model_dump(exclude={"recipe", "max_tokens"}),
        libraries=lora.libraries(),
        code=code,
        device=device,
    )


def alone(settings: Settings, plan: Plan) -> AbstractContextManager[Any]:
    """The right to do this training: another process that wants it waits."""
    return exclusive(settings.cache / "locks" / f"train-{plan.key}", patience=7200, what="this training")


def known(ports: Ports, plan: Plan) -> dict[str, Any] | None:
    """The record of a training that was done before and whose adapter is still sealed."""
    objects = ports.objects
    try:
        record: dict[str, Any] = json.loads(objects.get(f"training-runs/{plan.key}.json"))
        claim(objects, record["key"], settings=ports.settings)
        objects.get(f"{record['key']}/sealed.json")
    except KeyError:
        return None
    return record


def _folder(settings: Settings, plan: Plan) -> Path:
    return settings.cache / "training-runs" / plan.key


def train(
    plan: Plan, base: Generator, ports: Ports, *, train: Sequence[Row], validation: Sequence[Row], on_log: OnLog
) -> dict[str, Any]:
    """Train on the `messages` of the rows, seal, record. Returns the record: digest and key of the adapter, history of
    losses, steps, seconds, and under `took` what it cost. BackendError when the loss diverges."""
    from pipelines.backends import lora

    folder = _folder(ports.settings, plan)
    done = lora.train(
        base.folder,
        folder / "adapter",
        base_name=base.name,
        training=[row["messages"] for row in train],
        validation=[row["messages"] for row in validation],
        recipe=plan.recipe,
        settings=lora.Settings(**plan.numbers),
        checkpoints=folder / "checkpoints",
        on_log=on_log,
        device=plan.device,
    )
    bound = {
        "base": base.name,
        "base_digest": plan.base_digest,
        "tokenizer_digest": base.tokenizer_digest,
        "training_digest": plan.training_digest,
        "recipe": {"name": plan.recipe_name, **plan.recipe},
        "train": plan.numbers,
    }
    digest = adapters.bind(done.folder, bound)
    claim(ports.objects, f"adapters/{digest}", settings=ports.settings)
    stored = adapters.seal(ports.objects, done.folder)
    record: dict[str, Any] = {"digest": digest, "key": stored, "history": done.history}
    record |= {"steps": done.steps, "kept_step": done.kept_step}
    record |= {
        "seconds": round(done.seconds, 1),
        "took": {
            "tokens": done.tokens,
            "cpu_seconds": round(done.cpu_seconds, 1),
            "device": done.device,
            "gpus": done.gpus,
        },
    }
    ports.objects.put(f"training-runs/{plan.key}.json", (json.dumps(record) + "\n").encode())
    return record


def took(record: Mapping[str, Any], prices: Prices) -> dict[str, Any]:
    """What a training or a tuning took, as its record says: `seconds`, `tokens`, `device`, and the figures of
    `core.costs.of_training`. A record that is older than these has its seconds alone."""
    known, seconds = record.get("took"), record["seconds"]
    if known is None:
        return {"seconds": seconds}
    spent = costs.of_training(
        tokens=known["tokens"],
        seconds=seconds,
        cpu_seconds=known["cpu_seconds"],
        gpus=known["gpus"],
        cpu_hour=prices.cpu_hour,
        gpu_hour=prices.gpu_hour,
    )
    priced = {"currency": prices.currency} if "cost" in spent else {}
    return {"seconds": seconds, "tokens": known["tokens"], "device": known["device"], **spent, **priced}


def tidy(settings: Settings, plan: Plan) -> None:
    """Remove what a training that has a record left below the cache."""
    shutil.rmtree(_folder(settings, plan), ignore_errors=True)
