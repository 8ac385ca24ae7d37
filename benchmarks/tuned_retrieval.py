"""What `assay tune` gains: nDCG@10 of embedder and reranker, tuned and not, on questions held out of training.

Each set is fetched, chunked, embedded and indexed by the stages, and tuned by the product's own action and recipes, in
an ASSAY_HOME of the benchmark's own. Training sees the questions of the training split, rows are of the test split: by
document on XQuAD (params `split`), by query on Cranfield and Vaswani, where a query has many relevant documents, so
that there the documents of a test query may have answered a training query. The intervals are the gate's.

Embedders rank the whole index by inner product, the tuned one with every passage embedded anew. The cross-encoder is
put behind hybrid search of the base's index and compared with that search alone.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.retrieval import DEPTH, SETS, index, prepare, ways
from pipelines import tuned, tuning
from pipelines.actions.tune import tune
from pipelines.builds import build_rows
from pipelines.core import gates
from pipelines.core.digests import digest_text
from pipelines.core.evidence import Labels, labels
from pipelines.core.splits import TEST, split_of, split_of_key
from pipelines.pooling import nearest
from pipelines.schemas import read_jsonl
from pipelines.settings import Settings, checkout
from pipelines.stages.score_retrieval import measure, pieces_of, ranked
from pipelines.wiring import Wiring

Json = Mapping[str, Any]
Runs = Mapping[str, Sequence[str]]
RERANKED = 100
"""Test questions, chosen by digest, on which the cross-encoder is measured: it reads 20 passages for each."""
QUICK = {"max_steps": 2, "evaluations": 1, "validation_rows": 4}


def questions_of(wiring: Wiring) -> list[dict[str, Any]]:
    """The gold questions by id, each with the split that it is in."""
    shares = wiring.params.split.model_dump()
    rows = sorted(read_jsonl(wiring.workspace.versioned / "questions.jsonl"), key=lambda row: row["id"])
    many = max(len(row["evidence"]) for row in rows) > 1
    where = {
        row["id"]: split_of_key(f"item:{row['id']}", **shares) if many else split_of(row, **shares) for row in rows
    }
    return [{**row, "split": where[row["id"]]} for row in rows]


def tuned_folder(wiring: Wiring, kind: str, questions: Sequence[Json], over: Json) -> tuple[Path, dict[str, Any]]:
    """The model that the product's action makes of these questions, and its facts; its progress goes to stderr. `over`
    replaces keys of the recipe."""
    recipe = {**tuning.read_recipe(kind), **over}
    with contextlib.redirect_stdout(sys.stderr):
        _, facts = tune(wiring, kind, recipe=recipe, questions=questions)
    return tuned.folder_of(wiring.settings.home, wiring.corpus, kind, facts["digest"]), facts


def gold_of(wiring: Wiring, questions: Sequence[Json]) -> dict[str, Labels]:
    build = wiring.workspace.receipt("index")
    pieces = pieces_of(wiring.objects, build, {entry["document"] for row in questions for entry in row["evidence"]})
    return {row["id"]: labels(row["evidence"], pieces) for row in questions}


def by_vector(wiring: Wiring, other: Any, questions: Sequence[Json], gold: Mapping[str, Labels]) -> tuple[Runs, Runs]:
    """What the index's own embedder and `other` rank first, of all passages."""
    import pyarrow as pa

    columns = ["key", "document", "text", "vector"]
    table = pa.Table.from_batches(
        list(build_rows(wiring.objects, wiring.workspace.receipt("index"), columns=columns))
    ).sort_by("key")
    own = np.stack(table["vector"].to_numpy()).astype(np.float32)
    texts, ids = [row["question"] for row in questions], [row["id"] for row in questions]
    levels = [gold[name].level for name in ids]
    theirs = other.embed_batch(table["text"].to_pylist())
    base = nearest(table, own, wiring.embedder.embed_batch(texts), levels)
    changed = nearest(table, theirs, other.embed_batch(texts), levels)
    return dict(zip(ids, base, strict=True)), dict(zip(ids, changed, strict=True))


def by_reading(
    wiring: Wiring, reranker: Any, questions: Sequence[Json], gold: Mapping[str, Labels]
) -> tuple[Runs, Runs]:
    """What hybrid search ranks first, and what the cross-encoder makes of its first passages."""
    found = ways(wiring, reranker)

    def runs(way: str) -> Runs:
        hits = found[way]([row["question"] for row in questions])
        return {row["id"]: ranked(one, gold[row["id"]].level) for row, one in zip(questions, hits, strict=True)}

    return runs("hybrid (RRF)"), runs(f"hybrid + reranker, {DEPTH}")


def compared(
    wiring: Wiring, what: str, facts: Json, questions: Sequence[Json], find: Callable[..., tuple[Runs, Runs]]
) -> dict[str, Any]:
    """One row: nDCG@10 without and with the tuned model, the paired difference, and what that cost."""
    gold = gold_of(wiring, questions)
    before = harness.cpu_seconds()
    sides = [measure(gold, runs) for runs in find(questions, gold)]
    spent = harness.cpu_seconds() - before
    base, ours = ({name: row["ndcg@10"] for name, row in side.items()} for side in sides)
    check = gates.tuned_check(what, ours, base, min_questions=1, bootstrap=gates.Bootstrap())
    return {
        "set": wiring.corpus,
        "tuned": what,
        "trained on": facts["questions"]["train"],
        "steps": facts["steps"],
        "tested on": len(questions),
        "base": float(np.mean(list(base.values()))),
        "nDCG@10": float(np.mean(list(ours.values()))),
        "difference": check.value,
        "low": check.low,
        "high": check.high,
        "gate": "passes" if check.passed else "rejects",
        "tuning CPU-s": facts["took"]["cpu_seconds"],
        "measuring CPU-s": spent,
    }


def of_set(settings: Settings, name: str, *, kinds: Sequence[str], over: Json, quick: bool) -> list[dict[str, Any]]:
    """The rows of one set."""
    from pipelines.backends.openvino import load_embedder
    from pipelines.backends.reranker import load_reranker

    wiring, models, rows = index(settings, name), checkout() / "models", []
    questions = questions_of(wiring)
    test = sorted((q for q in questions if q["split"] == TEST), key=lambda q: digest_text(q["id"]))
    test = test[:24] if quick else test
    for kind in kinds:
        folder, facts = tuned_folder(wiring, kind, questions, over)
        file = models / f"{kind}s" / "tuned.yaml"
        if kind == "embedder":
            other = load_embedder(file, cache=settings.cache, tuned=folder)
            found = compared(wiring, kind, facts, test, lambda q, gold, other=other: by_vector(wiring, other, q, gold))
        else:
            reader = load_reranker(file, cache=settings.cache, home=settings.home, tuned=folder)
            few = test[:RERANKED]
            found = compared(wiring, kind, facts, few, lambda q, gold, r=reader: by_reading(wiring, r, q, gold))
        print(json.dumps(found), file=sys.stderr, flush=True)
        rows.append(found)
    wiring.store.close()  # type: ignore[attr-defined]
    return rows


def main() -> None:
    asked = harness.arguments(
        __doc__,
        sets={"nargs": "+", "choices": SETS, "default": list(SETS), "help": "which sets"},
        kinds={"nargs": "+", "choices": tuple(tuned.KINDS), "default": list(tuned.KINDS), "help": "what is tuned"},
        max_steps={"type": int, "help": "at most so many steps in the place of the recipe's"},
        home={"type": Path, "help": "keep indices and models in this folder; a further run trains nothing again"},
    )
    with tempfile.TemporaryDirectory(prefix="assay-tuned-") as temporary:
        home = (asked.home or Path(temporary)).resolve()
        settings = prepare(home, asked.sets)
        over = {**({"max_steps": asked.max_steps} if asked.max_steps else {}), **(QUICK if asked.quick else {})}
        how = {"kinds": asked.kinds, "over": over, "quick": asked.quick}
        rows = [row for name in asked.sets for row in of_set(settings, name, **how)]
        ratios = {f"{row['set']}: {row['tuned']} over base": row["nDCG@10"] / row["base"] for row in rows}
        harness.show("Tuned on the corpus's own questions", rows, ratios=ratios, json_file=asked.json)


if __name__ == "__main__":
    harness.run_plainly(main)
