"""One tuning of an embedder or a cross-encoder: its recipe, the rows that it is trained on, and the training itself,
done at most once. It tracks and judges nothing.

A tuning is known by the digest of all that decides its result; the model's folder carries it (`pipelines.tuned`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from pipelines import tuned
from pipelines.builds import build_rows
from pipelines.core import gold, tuning
from pipelines.core.digests import digest_json
from pipelines.core.evidence import Piece, labels
from pipelines.core.splits import TRAIN, VALIDATION, split_of_key
from pipelines.definitions import arithmetic, read_yaml, sha256_file
from pipelines.embedders import Definition, embedder_digest, read_definition
from pipelines.errors import BadConfig, BadInput
from pipelines.params import CorpusParams, Count, Section, Share
from pipelines.ports import Hit, Ports
from pipelines.retrieval import search
from pipelines.settings import Settings, checkout

Row = Mapping[str, Any]
Rows = Sequence[Row]
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
class Held:
    """Chunks by document, and vectors by chunk key."""

    pieces: Mapping[str, list[Piece]]
    vectors: Mapping[str, np.ndarray]


def _held(ports: Ports, build: Row, documents: set[str]) -> Held:
    """What the build holds of these documents."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pieces: dict[str, list[Piece]] = {}
    vectors: dict[str, np.ndarray] = {}
    wanted = pa.array(sorted(documents), type=pa.string())
    columns = ["key", "document", "start", "end", "text", "vector"]
    for batch in build_rows(ports.objects, build, columns=columns):
        for row in batch.filter(pc.is_in(batch.column("document"), wanted)).to_pylist():
            vectors[row["key"]] = np.asarray(row.pop("vector"), dtype=np.float32)
            pieces.setdefault(row.pop("document"), []).append(Piece(**row))
    return Held(pieces, vectors)


def _asked(row: Row, vector: np.ndarray, hits: Sequence[Hit], held: Held, shares: Mapping[str, Any]) -> tuning.Asked:
    """One question: its passages are those that hold the quotes, or of a document without a quote the nearest one, the
    most relevant and then the nearest first. What else was found of training documents is beside them."""
    found = labels(row["evidence"], held.pieces)
    pieces = [piece for entry in row["evidence"] for piece in held.pieces.get(entry["document"], ())]
    scored = {piece.key: (piece.text, float(held.vectors[piece.key] @ vector)) for piece in pieces}
    right = {key: grade for key, grade in found.grades.items() if key in scored}
    if found.level == "document":
        by_document = {name: grade for name, grade in found.grades.items() if name in held.pieces}
        nearest = {d: max((p.key for p in held.pieces[d]), key=lambda key: (scored[key][1], key)) for d in by_document}
        right = {nearest[name]: grade for name, grade in by_document.items()}
    order = sorted(right, key=lambda key: (-right[key], -scored[key][1], key))
    others = [
        (hit.text, hit.score)
        for hit in hits
        if not {hit.chunk, hit.document} & found.grades.keys() and split_of_key(hit.document, **shares) == TRAIN
    ]
    return tuning.Asked(row["question"], [scored[key] for key in order], others)


def mined(ports: Ports, build: Row, questions: Rows, *, depth: int, params: CorpusParams) -> list[tuning.Asked]:
    """The questions with their passages and what the index finds beside them, by the build's own vectors. A question
    whose evidence the build does not hold is left out, and so is what rests on documents whose access label
    `mix.labels` does not allow: nor are their passages shown as wrong answers, since all of it goes into weights."""
    questions = [row for row in questions if not gold.restricted(row, params.mix.labels)]
    if not questions:
        return []
    held = _held(ports, build, {entry["document"] for row in questions for entry in row["evidence"]})
    texts = [row["question"] for row in questions]
    dense = params.retrieve.model_copy(update={"mode": "dense", "rerank": None, "per_document": None})
    how: dict[str, Any] = {"retrieve": dense, "reranker": None, "labels": params.mix.labels}
    hits = search(ports.store, ports.embedder, build["collection"], texts, k=depth, **how)
    vectors, shares = ports.embedder.embed_batch(texts), params.split.model_dump()
    found = [_asked(row, v, h, held, shares) for row, v, h in zip(questions, vectors, hits, strict=True)]
    return [asked for asked in found if asked.positives]


@dataclass(frozen=True)
class Material:
    """The rows of one training, with what was asked. `seen`: the words of every question, as `unseen` compares them."""

    training: Rows
    validation: Rows
    questions: Mapping[str, int]
    seen: Sequence[str]

    @property
    def digest(self) -> str:
        """64 hex digits over the rows."""
        return digest_json([list(self.training), list(self.validation)])


def material(
    ports: Ports, build: Row, by_split: Mapping[str, Rows], *, kind: str, recipe: Row, params: CorpusParams
) -> Material:
    """The rows of `kind` from the questions of the splits train and validation. BadInput when training questions are
    too few to learn from."""
    least = recipe["min_questions"]
    asked = {name: mined(ports, build, by_split[name], depth=recipe["depth"], params=params) for name in by_split}
    if len(asked[TRAIN]) < least:
        raise BadInput(
            f"{len(asked[TRAIN])} gold questions of the training split have evidence in the index, at least {least} "
            f"are needed to tune (min_questions in models/recipes/{kind}.yaml; `split` says what is training)"
        )
    how = {name: recipe[name] for name in ("negatives", "positives", "margin")}
    make: Callable[..., Rows] = tuning.triplets if kind == "embedder" else tuning.pairs
    training, validation = (make(asked[name], **how) for name in (TRAIN, VALIDATION))
    if not training:
        raise BadInput("the index finds no passage that could be a wrong answer; the corpus is too small to tune on")
    every = max(1, len(validation) // recipe["validation_rows"])
    seen = sorted({tuning.seen_as(row["question"]) for rows in by_split.values() for row in rows})
    counts = {name: len(found) for name, found in asked.items()}
    return Material(training, validation[::every][: recipe["validation_rows"]], counts, seen)


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
        "seconds": round(done.seconds, 1),
        "cpu_seconds": round(done.cpu_seconds, 1),
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
