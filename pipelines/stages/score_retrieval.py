"""Score the index on the gold questions: nDCG@10, recall at 1, 5 and 10, MRR@10; and the champion's on the same.

Questions whose evidence has quotes are scored on chunks, the others on documents, which rank by their best chunk.
Measures are ir-measures'. A precision below fp32 is measured against fp32 of the same model on pooled passages, and a
tuned embedder against its base. Where a tuned model searches, questions that it was trained on are left out. It judges
nothing: the gate reads the rows that are left here, one per question.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines import pooling, tuned
from pipelines.builds import build_facts, build_rows, require_embedder
from pipelines.core.bootstrap import mean_interval
from pipelines.core.digests import digest_json
from pipelines.core.evidence import Labels, Piece, labels
from pipelines.core.manifest import reranker_digest
from pipelines.core.nouns import Report
from pipelines.errors import BadInput, IntegrityError, NotFound
from pipelines.params import CorpusParams, Retrieve
from pipelines.ports import Embedder, Hit, ObjectStore, Ports, Reranker
from pipelines.released import embedder_of, reranker_of
from pipelines.retrieval import search
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.workspace import Workspace

NAMES = {"ndcg@10": "nDCG@10", "recall@1": "R@1", "recall@5": "R@5", "recall@10": "R@10", "mrr": "RR@10"}
"""Our name -> ir-measures' name."""
CUTOFF = 10
CHUNKS_FOR_DOCUMENTS = 50
"""Chunks fetched where documents are ranked, so that ten different documents are among them."""
TIMED = 30

Json = Mapping[str, Any]
Metrics = dict[str, dict[str, float]]


def ranked(hits: Sequence[Hit], level: str) -> list[str]:
    """The ten best chunk keys, or the ten best documents by their best chunk, in the engine's order."""
    keys = (hit.chunk if level == "chunk" else hit.document for hit in hits)
    return list(dict.fromkeys(keys))[:CUTOFF]


def measure(gold: Mapping[str, Labels], runs: Mapping[str, Sequence[str]]) -> Metrics:
    """Question id -> metric -> value, every question of `gold`; one that found nothing scores 0.

    The engine's order is what counts: the score given to ir-measures is the negated rank, so that its rule for ties
    (by id) never decides.
    """
    import ir_measures

    measures = {ir_measures.parse_measure(theirs): ours for ours, theirs in NAMES.items()}
    qrels = {question: dict(found.grades) for question, found in gold.items()}
    run = {question: {key: -float(n) for n, key in enumerate(runs[question])} for question in gold}
    out: Metrics = {question: dict.fromkeys(NAMES, 0.0) for question in gold}
    for value in ir_measures.iter_calc(list(measures), qrels, run):
        out[value.query_id][measures[value.measure]] = float(value.value)
    return out


def pieces_of(objects: ObjectStore, build: Json, documents: set[str]) -> dict[str, list[Piece]]:
    """Document id -> its chunks in a build, for the documents asked for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    out: dict[str, list[Piece]] = {}
    wanted = pa.array(sorted(documents), type=pa.string())
    for batch in build_rows(objects, build, columns=["key", "document", "start", "end", "text"]):
        for row in batch.filter(pc.is_in(batch.column("document"), wanted)).to_pylist():
            out.setdefault(row.pop("document"), []).append(Piece(**row))
    return out


def score_build(
    ports: Ports,
    embedder: Embedder,
    build: Json,
    questions: Sequence[Json],
    *,
    retrieve: Retrieve,
    reranker: Reranker | None,
) -> tuple[dict[str, Labels], dict[str, list[str]], Metrics]:
    """Labels, retrieved ids and metrics by question id. Evidence that the build does not hold counts as not found."""
    documents = {entry["document"] for row in questions for entry in row["evidence"]}
    pieces = pieces_of(ports.objects, build, documents)
    gold = {row["id"]: labels(row["evidence"], pieces) for row in questions}
    by_document = any(found.level == "document" for found in gold.values())
    k = max(retrieve.k, CHUNKS_FOR_DOCUMENTS if by_document else CUTOFF)
    texts = [row["question"] for row in questions]
    how: dict[str, Any] = {"retrieve": retrieve, "reranker": reranker, "labels": None}
    hits = search(ports.store, embedder, build["collection"], texts, k=k, **how)
    runs = {row["id"]: ranked(found, gold[row["id"]].level) for row, found in zip(questions, hits, strict=True)}
    return gold, runs, measure(gold, runs)


def latency(ports: Ports, collection: str, questions: Sequence[Json], retrieve: Retrieve) -> dict[str, float]:
    """Milliseconds of one question asked alone, as a release is asked (embed, search, rerank), of up to 30."""
    taken = []
    for row in questions[:TIMED]:
        started = time.perf_counter()
        asked = [row["question"]]
        how: dict[str, Any] = {"retrieve": retrieve, "reranker": ports.reranker, "labels": None}
        search(ports.store, ports.embedder, collection, asked, **how)
        taken.append((time.perf_counter() - started) * 1000)
    p50, p99 = np.percentile(taken, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def same_retrieval(champion: Json, params: CorpusParams, build: Json, reranker: Reranker | None) -> bool:
    """True when the champion finds what the candidate finds: same build, same params of search, same reranker."""
    return (
        champion["index"]["collection"] == build["collection"]
        and Retrieve.model_validate(champion["params"]["retrieve"]) == params.retrieve
        and reranker_digest(champion) == (reranker.digest if reranker else None)
    )


def score_champion(champion: Json, params: CorpusParams, ports: Ports, build: Json, questions: Sequence[Json]) -> Any:
    """(metrics by question id, reason why there are none). There is nothing to compare when nothing differs."""
    if not champion:
        return {}, None
    if same_retrieval(champion, params, build, ports.reranker):
        return {}, "the candidate is the champion's index"
    try:
        theirs = build_facts(ports.objects, champion["index"]["key"])
        served = ports.as_released(champion)
        same = champion["embedder"]["digest"] == ports.embedder.digest
        embedder = ports.embedder if same else embedder_of(champion, served)
        retrieve, reranker = Retrieve.model_validate(champion["params"]["retrieve"]), reranker_of(champion, served)
        _, _, metrics = score_build(ports, embedder, theirs, questions, retrieve=retrieve, reranker=reranker)
    except (NotFound, BadInput, IntegrityError) as exc:
        return {}, str(exc)
    return metrics, None


def paired(
    ports: Ports,
    other: Embedder,
    build: Json,
    questions: Sequence[Json],
    *,
    gold: Mapping[str, Labels],
    retrieve: Retrieve,
    name: str,
) -> dict[str, dict[str, float]]:
    """Question id -> nDCG@10 by `own`, the build's vectors, and by `name`, those of `other`, on one pool of passages
    and at most 200 questions (`pipelines.pooling`)."""
    asked = pooling.chosen(questions)
    held = {row["id"]: gold[row["id"]] for row in asked}
    own, theirs = pooling.both_ways(ports, other, build, asked, gold=gold, retrieve=retrieve)
    sides = {name: measure(held, theirs), "own": measure(held, own)}
    return {question: {side: found[question]["ndcg@10"] for side, found in sides.items()} for question in held}


def difference(pairs: Mapping[str, Mapping[str, float]], *, of: str, less: str) -> dict[str, float | int]:
    """Mean nDCG@10 by which the one side is better, with its interval over the questions."""
    return mean_interval([pair[of] - pair[less] for pair in pairs.values()]).to_json()


def compared(
    params: CorpusParams,
    ports: Ports,
    build: Json,
    questions: Sequence[Json],
    gold: Mapping[str, Labels],
    ours: Metrics,
) -> dict[str, dict[str, dict[str, float]]]:
    """Of two sides nDCG@10 by question. `precision`: a precision below fp32 against fp32. `tuned_embedder`: against the
    one that it was tuned from, in the same precision. `tuned_reranker`: `ours` against the same search without it. What
    does not apply is left out."""
    how: dict[str, Any] = {"gold": gold, "retrieve": params.retrieve}
    out = {}
    if params.embed.precision != "fp32":
        out["precision"] = paired(ports, ports.embedder_at("fp32"), build, questions, **how, name="fp32")
    if params.embed.tuned is not None:
        out["tuned_embedder"] = paired(ports, ports.base_embedder(), build, questions, **how, name="base")
    if params.retrieve.rerank is not None and params.retrieve.rerank.tuned is not None:
        plain = params.retrieve.model_copy(update={"rerank": None})
        _, _, base = score_build(ports, ports.embedder, build, questions, retrieve=plain, reranker=None)
        out["tuned_reranker"] = {
            name: {"base": base[name]["ndcg@10"], "own": found["ndcg@10"]} for name, found in ours.items()
        }
    return out


def figure(ours: Json, theirs: Metrics) -> Any:
    """Bars of the means with their intervals; the champion's beside them where it was scored."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 3.5), layout="constrained")
    axes = drawn.subplots()
    sides = {"candidate": ours}
    if theirs:
        sides["champion"] = _means(theirs.values())
    width = 0.8 / len(sides)
    for number, (side, metrics) in enumerate(sides.items()):
        values = np.array([[m["value"], m["low"], m["high"]] for m in metrics.values()])
        errors = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
        axes.bar(np.arange(len(values)) + number * width, values[:, 0], width, yerr=errors, capsize=3, label=side)
    axes.set_xticks(np.arange(len(NAMES)) + width * (len(sides) - 1) / 2, list(NAMES))
    axes.set(ylim=(0, 1), ylabel="mean, 95 % interval", title="Retrieval on the gold questions")
    axes.legend()
    return drawn


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float | int]]:
    held = list(rows)
    return {name: mean_interval([row[name] for row in held]).to_json() for name in NAMES}


def _differences(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """The means of what `compared` found, for the receipt: what is lost to precision, what a tuned model gains."""
    out = {name: difference(found, of="own", less="base") for name, found in pairs.items() if name != "precision"}
    if "precision" in pairs:
        out["precision_loss"] = difference(pairs["precision"], of="fp32", less="own")
    return out


def _record(ports: Ports, corpus: str, facts: Json, rows: Sequence[Json], measured: Json, drawn: Any) -> str:
    """The MLflow run of these scores; returns its id."""
    tags = {
        "assay.key": f"score_retrieval:{digest_json([facts, rows])}",
        "assay.stage": "score_retrieval",
        "assay.collection": facts["collection"],
    }
    with ports.registry.run(corpus, f"retrieval {facts['collection']}", tags=tags) as log:
        log.params({name: facts[name] for name in ("collection", "mode", "k", "reranker", "questions", "champion")})
        log.metrics({name: metric["value"] for name, metric in facts["metrics"].items()})
        log.metrics({f"{name}.{end}": m[end] for name, m in facts["metrics"].items() for end in ("low", "high")})
        if loss := facts.get("precision_loss"):
            log.metrics({"precision_loss": loss["value"], "precision_loss.high": loss["high"]})
        gains = {name: facts[name] for name in ("tuned_embedder", "tuned_reranker") if name in facts}
        log.metrics({f"{name}.{end}": gain[end] for name, gain in gains.items() for end in ("value", "low", "high")})
        log.metrics({**measured, "stale_labels": len(facts["stale_labels"])})
        log.dataset(
            f"{corpus} questions",
            digest=facts["questions_digest"],
            source="corpus/questions.jsonl",
            context="evaluation",
            profile={"questions": facts["questions"]},
        )
        table = [
            {"id": row["id"], "question": row["question"], **row["metrics"], "retrieved": " ".join(row["retrieved"])}
            for row in rows
        ]
        log.table("questions", table)
        log.figure("retrieval", drawn)
    return str(log.run_id)


def _questions(workspace: Workspace) -> list[dict[str, Any]]:
    """Gold questions that the corpus can answer, by id: an unanswerable one has no evidence to find."""
    file = workspace.versioned / "questions.jsonl"
    rows = read_jsonl(file) if file.is_file() else []
    return sorted((row for row in rows if row.get("evidence")), key=lambda row: row["id"])


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """corpus/questions.jsonl -> scores/retrieval.jsonl and the means. Without questions nothing is scored, and the
    receipt says so. IntegrityError when the embedder is not the one that made the build's vectors."""
    build, every = workspace.receipt("index"), _questions(workspace)
    questions = tuned.held_out(every, params=params, workspace=workspace, ports=ports)
    retrieve = params.retrieve
    facts: dict[str, Any] = {"collection": build["collection"], "mode": retrieve.mode, "k": retrieve.k}
    facts |= {"reranker": None, "questions": len(questions)}
    if len(questions) < len(every):
        facts["left_out"] = len(every) - len(questions)
    if not questions:
        write_jsonl(workspace.scores("retrieval"), [])
        reason = f"{workspace.corpus} has no questions with evidence{' that were not trained on' if every else ''}"
        facts |= {"skipped": reason, "metrics": {}, "stale_labels": []}
        return Report("score_retrieval", facts, f"skipped: {reason}")
    require_embedder(build, ports.embedder)
    reranker = ports.reranker
    facts["reranker"] = {"name": reranker.name, "digest": reranker.digest} if reranker else None
    gold, runs, ours = score_build(ports, ports.embedder, build, questions, retrieve=retrieve, reranker=reranker)
    pairs = compared(params, ports, build, questions, gold, ours)
    theirs, unscored = score_champion(workspace.champion(), params, ports, build, questions)
    rows = [
        {
            "id": row["id"],
            "question": row["question"],
            "level": gold[row["id"]].level,
            "metrics": ours[row["id"]],
            "retrieved": runs[row["id"]],
            "relevant": sorted(gold[row["id"]].grades),
            **({"champion": theirs[row["id"]]} if theirs else {}),
            **{name: found[row["id"]] for name, found in pairs.items() if row["id"] in found},
        }
        for row in questions
    ]
    write_jsonl(workspace.scores("retrieval"), rows)
    facts |= {
        "questions_digest": digest_json(questions),
        "metrics": _means(ours.values()),
        "stale_labels": [question for question, found in gold.items() if found.stale],
        "champion": workspace.champion()["index"]["collection"] if theirs else None,
        "champion_unscored": unscored,
        **_differences(pairs),
    }
    measured: dict[str, Any] = latency(ports, build["collection"], questions, retrieve)
    measured["run_id"] = _record(ports, workspace.corpus, facts, rows, measured, figure(facts["metrics"], theirs))
    shown = facts["metrics"]
    said = (
        f"nDCG@10 {shown['ndcg@10']['value']:.3f}, recall@10 {shown['recall@10']['value']:.3f} on {len(rows)} questions"
    )
    return Report("score_retrieval", facts, said, measured)
