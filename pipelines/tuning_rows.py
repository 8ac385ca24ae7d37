"""What one tuning of an embedder or a cross-encoder is trained on: rows from gold questions and the passages that an
index holds and finds, without those that hold texts of an evaluation set. It trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pipelines.builds import build_rows
from pipelines.core import gold, tuning
from pipelines.core.contamination import Guard
from pipelines.core.digests import digest_json
from pipelines.core.evidence import Piece, labels
from pipelines.core.splits import TRAIN, VALIDATION, split_of_key
from pipelines.errors import BadInput
from pipelines.params import CorpusParams
from pipelines.ports import Hit, Ports
from pipelines.retrieval import search

Row = Mapping[str, Any]
Rows = Sequence[Row]


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
    """The rows of one training, with what was asked. `seen`: the words of every question, as `unseen` compares them.
    `contaminated`: how many "questions" and "rows" were left out, since they hold texts of an evaluation set."""

    training: Rows
    validation: Rows
    questions: Mapping[str, int]
    seen: Sequence[str]
    contaminated: Mapping[str, int]

    @property
    def digest(self) -> str:
        """64 hex digits over the rows."""
        return digest_json([list(self.training), list(self.validation)])


def material(
    ports: Ports,
    build: Row,
    by_split: Mapping[str, Rows],
    *,
    guard: Guard,
    kind: str,
    recipe: Row,
    params: CorpusParams,
) -> Material:
    """The rows of `kind` from the questions of the splits train and validation, without those in which `guard` finds
    texts of an evaluation set. BadInput when training questions are too few to learn from."""

    @cache
    def clean(text: str, split: str) -> bool:
        return guard.overlap([text], split) is None

    least = recipe["min_questions"]
    found = {name: mined(ports, build, by_split[name], depth=recipe["depth"], params=params) for name in by_split}
    asked = {name: [a for a in of if clean(a.question, name)] for name, of in found.items()}
    if len(asked[TRAIN]) < least:
        raise BadInput(
            f"{len(asked[TRAIN])} gold questions of the training split have evidence in the index and hold no text of "
            f"an evaluation set, at least {least} are needed to tune (min_questions in models/recipes/{kind}.yaml; "
            "`split` says what is training)"
        )
    how = {name: recipe[name] for name in ("negatives", "positives", "margin")}
    make: Callable[..., Rows] = tuning.triplets if kind == "embedder" else tuning.pairs
    made = {name: make(asked[name], **how) for name in (TRAIN, VALIDATION)}
    kept = {
        name: [row for row in rows if all(clean(text, name) for text in row.values() if isinstance(text, str))]
        for name, rows in made.items()
    }
    training, validation = kept[TRAIN], kept[VALIDATION]
    if not training:
        raise BadInput("the index finds no passage that could be a wrong answer; the corpus is too small to tune on")
    every = max(1, len(validation) // recipe["validation_rows"])
    seen = sorted({tuning.seen_as(row["question"]) for rows in by_split.values() for row in rows})
    counts = {name: len(found) for name, found in asked.items()}
    lost = {
        "questions": sum(len(of) for of in found.values()) - sum(counts.values()),
        "rows": sum(len(rows) for rows in made.values()) - sum(len(rows) for rows in kept.values()),
    }
    return Material(training, validation[::every][: recipe["validation_rows"]], counts, seen, lost)
