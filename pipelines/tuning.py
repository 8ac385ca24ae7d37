"""One tuning of an embedder or a cross-encoder: its recipe and the training itself, done at most once, on the rows of
`pipelines.tuning_rows`. It tracks and judges nothing.

A tuning is known by the digest of all that decides its result; the model's folder carries it (`pipelines.tuned`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipelines import tuned
from pipelines.core.digests import digest_json
from pipelines.definitions import arithmetic, read_yaml, sha256_file
from pipelines.embedders import Definition, embedder_digest, read_definition
from pipelines.errors import BadConfig, BadInput
from pipelines.params import Count, Section, Share
from pipelines.settings import Settings, checkout
from pipelines.tuning_rows import Material, Rows

Row = Mapping[str, Any]
Positive = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]


class Recipe(Section):
    """What both recipes say; models/recipes/embedder.yaml and reranker.yaml explain each key."""

    learning_rate: Positive
    schedule: str
    warmup_share: Share
    weight_decay: AtLeastZero
    max_grad_norm: Positive
    epochs: Positive
    max_steps: Count
    batch: Annotated[int, Field(ge=2)]
    precision: Literal["auto", "bfloat16", "float32"]
    negatives: Annotated[int, Field(ge=1, le=10)]
    positives: Count
    depth: Annotated[int, Field(ge=1, le=200)]
    margin: Share
    min_questions: Count
    validation_rows: Count
    evaluations: Count
    patience: Count
    seed: int


class EmbedderRecipe(Recipe):
    """LoRA and the ranking loss."""

    target_modules: str | tuple[str, ...]
    rank: Count
    alpha_per_rank: Positive
    dropout: Share
    mini_batch: Count
    scale: Positive


class RerankerRecipe(Recipe):
    """The tokens that a cross-encoder reads."""

    window: Annotated[int, Field(ge=16)]


_FORMS: dict[str, type[Recipe]] = {"embedder": EmbedderRecipe, "reranker": RerankerRecipe}


def read_recipe(kind: str, file: Path | None = None) -> dict[str, Any]:
    """models/recipes/KIND.yaml, with `precision` resolved for this CPU. BadInput on another kind; BadConfig shows the
    valid form."""
    if kind not in _FORMS:
        raise BadInput(f"{kind!r} is no recipe that tunes; there are: {', '.join(_FORMS)}")
    file = file or checkout() / "models" / "recipes" / f"{kind}.yaml"
    raw = read_yaml(file, folder="models/recipes", key="the recipe")
    try:
        recipe = _FORMS[kind].model_validate(raw)
    except ValidationError as exc:
        first = exc.errors()[0]
        key, valid = ".".join(map(str, first["loc"])), ", ".join(_FORMS[kind].model_fields)
        raise BadConfig(f"models/recipes/{file.name}: {key}: {first['msg']}; its keys are {valid}") from exc
    return {**recipe.model_dump(mode="json"), "precision": arithmetic(recipe.precision)}


def base_definition(kind: str) -> Definition:
    """What models/KINDs/tuned.yaml is tuned from, found on disk. BadConfig when its weights are drawn at random."""
    file = checkout() / "models" / f"{kind}s" / "tuned.yaml"
    base = tuned.base_of(file)
    if base is None:
        raise BadConfig(f"models/{kind}s/tuned.yaml is not there or no tuned definition; its keys are {tuned.FORM}")
    definition = read_definition(base)
    if definition.random_seed is not None:
        raise BadConfig(
            f"models/{kind}s/tuned.yaml: base {definition.name} has random weights; nothing is tuned from it"
        )
    return definition


@dataclass(frozen=True)
class Plan:
    """What decides the weights."""

    kind: str
    base: Definition
    base_digest: str
    recipe: Mapping[str, Any]
    rows: str
    split: Mapping[str, Any]
    libraries: Mapping[str, str]
    code: str

    @property
    def key(self) -> str:
        """32 hex digits over all of it."""
        decides = [self.kind, self.base_digest, self.base.prefix, self.base.window, self.recipe, self.rows, self.split]
        return digest_json([*decides, self.libraries, self.code])[:32]


def planned(kind: str, recipe: Row, rows: Material, split: Row) -> Plan:
    """The training of `rows`, chosen by the params `split`, from the base that models/KINDs/tuned.yaml names."""
    from pipelines.backends import sentence_trainer

    base = base_definition(kind)
    code = sha256_file(Path(str(sentence_trainer.__file__)))
    digest = embedder_digest(base, "fp32")
    return Plan(kind, base, digest, recipe, rows.digest, split, sentence_trainer.libraries(), code)


def _read(base: Definition, rows: Rows) -> list[dict[str, Any]]:
    """The rows as the embedder reads texts: with its prefix, in lower case where it is one of that kind."""
    texts = [{name: base.prefix + text for name, text in row.items()} for row in rows]
    return [{name: text.lower() for name, text in row.items()} for row in texts] if base.lower else texts


def _digest(kind: str, base: Definition, folder: Path) -> str:
    """What names the model: its digest in fp32, as of any embedder or reranker."""
    if kind == "embedder":
        return embedder_digest(replace(base, folder=folder), "fp32")
    from pipelines.backends import reranker

    file = checkout() / "models" / "rerankers" / "tuned.yaml"
    return reranker.reranker_digest(reranker.read_definition(file, home=folder, tuned=folder))


def train(
    plan: Plan, rows: Material, settings: Settings, *, on_log: Callable[..., None]
) -> tuple[Path, dict[str, Any]]:
    """Train; the model's folder below the cache and its facts. What a killed run left is gone on from. BackendError
    when the loss diverges."""
    from pipelines.backends import sentence_trainer as trainer

    scratch, base = work_folder(settings, plan), plan.base
    how: dict[str, Any] = {"recipe": plan.recipe, "checkpoints": scratch / "checkpoints", "on_log": on_log}
    if plan.kind == "embedder":
        how |= {"training": _read(base, rows.training), "validation": _read(base, rows.validation)}
        done = trainer.tune_embedder(base.folder, scratch / "model", window=base.window, **how)
    else:
        how |= {"training": rows.training, "validation": rows.validation}
        done = trainer.tune_reranker(base.folder, scratch / "model", **how)
    facts = {
        "kind": plan.kind,
        "digest": _digest(plan.kind, base, scratch / "model"),
        "key": plan.key,
        "base": {"name": base.name, "digest": plan.base_digest},
        "rows": {"train": len(rows.training), "validation": len(rows.validation), "digest": plan.rows},
        "questions": dict(rows.questions),
        "split": dict(plan.split),
        "steps": done.steps,
        "contaminated": dict(rows.contaminated),
        "seconds": round(done.seconds, 1),
        "took": {"tokens": done.tokens, "cpu_seconds": round(done.cpu_seconds, 1), "device": "cpu", "gpus": 0},
        "recipe": dict(plan.recipe),
        "libraries": dict(plan.libraries),
        "history": done.history,
        "seen": list(rows.seen),
    }
    return scratch / "model", facts


def work_folder(settings: Settings, plan: Plan) -> Path:
    """Where this training keeps its checkpoints and its model until it is published."""
    return settings.cache / "tuning" / plan.key


def tidy(settings: Settings, plan: Plan) -> None:
    """Remove what a training that was published left below the cache."""
    shutil.rmtree(work_folder(settings, plan), ignore_errors=True)
