"""How well passages are found: BM25, dense, both fused by rank, both fused by weights, and reranked, on real questions.

Each set runs through the product: its BEIR folder is fetched, checked, versioned, chunked, embedded and indexed by the
stages into an ASSAY_HOME of the benchmark's own, searched by `pipelines.retrieval`, measured by score_retrieval.
The cross-encoder is tuned by the product's recipe on the questions of 150 XQuAD passages; so that nothing is tested on
what was trained, XQuAD's rows are of the other passages' questions alone. On the other sets it is a stranger.
Why alpha is what it is by default: docs/decisions/0007.

A published figure stands beside the row that it can be compared with (`PUBLISHED`). For that, dense search of XQuAD
has a row over all 1,190 questions: no passage trains the embedder. For the other two sets no figure of this model was
found.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import harness
from pipelines.core.evidence import labels
from pipelines.core.splits import TRAIN, VALIDATION
from pipelines.params import Rerank, Retrieve
from pipelines.ports import Hit
from pipelines.retrieval import search
from pipelines.runner import run_node
from pipelines.schemas import read_jsonl
from pipelines.settings import Settings, checkout
from pipelines.stages.score_retrieval import CHUNKS_FOR_DOCUMENTS, measure, pieces_of, ranked
from pipelines.wiring import Wiring

Json = Mapping[str, Any]
SETS = ("xquad_en", "cranfield", "vaswani_npl")
TRAINED_ON = 150
"""Passages of XQuAD whose questions train the cross-encoder."""
ALPHAS = (0.5, 0.65, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Shares of the dense score in the fusion by weights."""
DEPTH = 20
"""Passages reranked; 10 are measured."""
ALL = "dense, all questions"
PUBLISHED = {("xquad_en", ALL): "0.944, MTEB"}
"""nDCG@10 of all-MiniLM-L6-v2 elsewhere. MTEB: task XQuADRetrieval, subset en, split validation, 0.94357 by mteb
1.12.75; github.com/embeddings-benchmark/results, file XQuADRetrieval.json of
results/sentence-transformers__all-MiniLM-L6-v2/8b3219a92973c328a8e22fadcfa821b5dc75636a. The same 240 passages, but
whole and cut off at the window, where here they are 265 chunks; 1,185 questions of the 1,190."""
Find = Callable[[Sequence[str]], list[list[Hit]]]


def prepare(home: Path, sets: Iterable[str], **sections: Mapping[str, Any]) -> Settings:
    """An ASSAY_HOME whose params file has one corpus a set, at the checkout's defaults but for the keys that `sections`
    (of params.yaml) names; exports are shared with it."""
    home.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load((checkout() / "params.yaml").read_text(encoding="utf-8"))
    raw["corpora"] = {name: {"source": {"documents": str(harness.shared_data(name))}, **sections} for name in sets}
    (home / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    os.environ |= {"ASSAY_HOME": str(home), "ASSAY_PARAMS": str(home / "params.yaml")}
    for name in ("ASSAY_OBJECTS_URI", "ASSAY_MILVUS_URI", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    return Settings.from_env()


def index(settings: Settings, name: str) -> Wiring:
    """The set as an index, by the product's own stages; what an earlier run left is not done again."""
    for node in ("fetch", "check", "snapshot", "chunk", "embed", "index"):
        print(f"{name}: {node}: {run_node(settings, name, node).summary}", file=sys.stderr, flush=True)
    return Wiring.of(settings, name)


def questions_of(wiring: Wiring, *, trained: bool, limit: int | None) -> list[dict[str, Any]]:
    """Questions with evidence, by id; of XQuAD those whose passages did (`trained`) or did not train."""
    rows = sorted(read_jsonl(wiring.workspace.versioned / "questions.jsonl"), key=lambda row: row["id"])
    rows = [row for row in rows if row["evidence"]]
    if wiring.corpus == "xquad_en":
        seen = {f"p{n}" for n in range(TRAINED_ON)}
        rows = [row for row in rows if (row["evidence"][0]["document"] in seen) == trained]
    return rows[:limit]


def ways(wiring: Wiring, reranker: Any) -> dict[str, Find]:
    """Name -> how the passages of questions are found, CHUNKS_FOR_DOCUMENTS of each."""
    collection = wiring.workspace.receipt("index")["collection"]

    def found(mode: str, alpha: float | None = None, rerank: Rerank | None = None) -> Find:
        how = Retrieve(mode=mode, alpha=alpha, k=10, rerank=rerank)  # type: ignore[arg-type]

        def run(asked: Sequence[str]) -> list[list[Hit]]:
            return search(
                wiring.store, wiring.embedder, collection, asked,
                retrieve=how, reranker=reranker if rerank else None, k=CHUNKS_FOR_DOCUMENTS,
            )  # fmt: skip

        return run

    out = {"bm25": found("bm25"), "dense": found("dense"), "hybrid (RRF)": found("hybrid")}
    out |= {f"hybrid, alpha {alpha}": found("hybrid", alpha) for alpha in ALPHAS}
    if reranker is not None:
        out[f"hybrid + reranker, {DEPTH}"] = found("hybrid", rerank=Rerank(model="tuned", depth=DEPTH))
    return out


def measured(wiring: Wiring, name: str, find: Find, questions: Sequence[Json]) -> dict[str, Any]:
    """One row: means of the stage's own measures over the questions, and CPU of one question."""
    build = wiring.workspace.receipt("index")
    pieces = pieces_of(wiring.objects, build, {entry["document"] for row in questions for entry in row["evidence"]})
    gold = {row["id"]: labels(row["evidence"], pieces) for row in questions}
    find(["to open the collection and compile the models"])
    before = harness.cpu_seconds()
    hits = find([row["question"] for row in questions])
    spent = harness.cpu_seconds() - before
    runs = {row["id"]: ranked(found, gold[row["id"]].level) for row, found in zip(questions, hits, strict=True)}
    scores = measure(gold, runs)
    mean = {metric: float(np.mean([row[metric] for row in scores.values()])) for metric in ("ndcg@10", "recall@10")}
    row = {"set": wiring.corpus, "found by": name, "questions": len(questions), "nDCG@10": mean["ndcg@10"]}
    row |= {"recall@10": mean["recall@10"], "CPU ms/question": 1000 * spent / len(questions)}
    return {**row, "published": PUBLISHED.get((wiring.corpus, name), "–")}


def cross_encoder(settings: Settings, wiring: Wiring, *, limit: int | None) -> Any:
    """What `assay tune NAME reranker` makes of the training passages' questions, behind the product's port: trained in
    `settings.home` when it is not there. The questions of every tenth passage choose, the others train."""
    from pipelines import tuned, tuning
    from pipelines.actions.tune import tune
    from pipelines.backends.reranker import load_reranker

    rows = questions_of(wiring, trained=True, limit=limit)
    named = [{**row, "split": VALIDATION if row["evidence"][0]["document"].endswith("9") else TRAIN} for row in rows]
    with contextlib.redirect_stdout(sys.stderr):
        _, facts = tune(wiring, "reranker", recipe=tuning.read_recipe("reranker"), questions=named)
    folder = tuned.folder_of(settings.home, wiring.corpus, "reranker", facts["digest"])
    definition = checkout() / "models" / "rerankers" / "tuned.yaml"
    return load_reranker(definition, cache=settings.cache, home=settings.home, tuned=folder)


def run(settings: Settings, sets: Sequence[str], *, limit: int | None, rerank: bool) -> list[dict[str, Any]]:
    """A row per set and way. The XQuAD index is made for training even where its rows are not asked for."""
    rows: list[dict[str, Any]] = []
    reranker = None
    for name in (["xquad_en"] if rerank else []) + [name for name in sets if name != "xquad_en" or not rerank]:
        wiring = index(settings, name)
        if rerank and reranker is None:
            reranker = cross_encoder(settings, wiring, limit=limit)
        if name in sets:
            questions = questions_of(wiring, trained=False, limit=limit)
            found = ways(wiring, reranker)
            asked = [(way, find, questions) for way, find in found.items()]
            if (name, ALL) in PUBLISHED:
                every = [*questions_of(wiring, trained=True, limit=limit), *questions]
                asked.append((ALL, found["dense"], every))
            for way, find, these in asked:
                rows.append(measured(wiring, way, find, these))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        wiring.store.close()  # type: ignore[attr-defined]
    return rows


def main() -> None:
    asked = harness.arguments(
        __doc__,
        sets={"nargs": "+", "choices": SETS, "default": list(SETS), "help": "which sets"},
        home={
            "type": Path,
            "help": "keep indices and cross-encoder in this folder; a further run goes on from there",
        },
        no_rerank={"action": "store_true", "help": "train and measure no cross-encoder"},
    )
    with tempfile.TemporaryDirectory(prefix="assay-retrieval-") as temporary:
        home = (asked.home or Path(temporary)).resolve()
        settings = prepare(home, dict.fromkeys([*asked.sets, *([] if asked.no_rerank else ["xquad_en"])]))
        rows = run(settings, asked.sets, limit=24 if asked.quick else None, rerank=not asked.no_rerank)
        same = [r for r in rows if r["found by"] != ALL]
        best = {name: max((r for r in same if r["set"] == name), key=lambda r: r["nDCG@10"]) for name in asked.sets}
        hybrid = {r["set"]: r["nDCG@10"] for r in rows if r["found by"] == "hybrid (RRF)"}
        ratios = {f"{name}: {r['found by']} over hybrid": r["nDCG@10"] / hybrid[name] for name, r in best.items()}
        harness.show("Retrieval on real questions", rows, ratios=ratios, json_file=asked.json)


if __name__ == "__main__":
    harness.run_plainly(main)
