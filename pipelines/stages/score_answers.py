"""Ask the arms base, rag, tuned and both the same test questions, and score every reply; the champion's arm as well.

Test questions are those of documents that training never saw (`core.splits`), and unanswerable ones by their own id.
It judges nothing: the gate reads the rows that are left here, one per question and arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import adapters
from pipelines.answering import prompts, replies, served_prompt
from pipelines.builds import require_embedder
from pipelines.core import answers as scoring
from pipelines.core import splits
from pipelines.core.bootstrap import mean_interval
from pipelines.core.digests import digest_json, digest_text
from pipelines.core.nouns import Report
from pipelines.core.prompts import ARMS, RETRIEVING, TUNED
from pipelines.errors import BadInput, IntegrityError, NotFound
from pipelines.params import CorpusParams, Generate, Retrieve
from pipelines.ports import Completion, Generator, Hit, Ports
from pipelines.released import adapter_folder, embedder_of, reranker_of
from pipelines.retrieval import search
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.scoring import Scorer, scorer
from pipelines.workspace import Workspace

Json = Mapping[str, Any]
BOOTSTRAP: dict[str, Any] = {"confidence": 0.95, "resamples": 2000, "seed": 7}


@dataclass(frozen=True)
class Asked:
    """One arm as it is asked: which generator, which passages, which prompt, and how its replies are scored."""

    name: str
    arm: str
    generator: Generator
    hits: Sequence[Sequence[Hit]]
    generate: Generate
    scorer: Scorer


def chosen(questions: Sequence[Json], params: CorpusParams) -> list[Json]:
    """The test questions to ask, by id: those with an answer and the unanswerable, at most `answer.max_questions`,
    taken in the order of a digest of their ids so that a larger cap only adds."""
    how = params.split.model_dump()
    asked = [q for q in questions if q["answers"] or not q["evidence"]]
    tested = [q for q in asked if splits.split_of(q, **how) == splits.TEST]
    tested.sort(key=lambda q: digest_text(f"{params.split.seed}:{q['id']}"))
    return sorted(tested[: params.answer.max_questions], key=lambda q: str(q["id"]))


def _ask(asked: Asked, questions: Sequence[Json], ports: Ports, *, batch: int) -> tuple[list[dict[str, Any]], int]:
    """(a row per question, replies generated now)."""
    generate = asked.generate
    texts = [q["question"] for q in questions]
    shown, chats = prompts(texts, asked.hits, asked.generator, arm=asked.arm, generate=generate)
    completions, made = replies(
        ports.objects,
        asked.generator,
        chats,
        max_new_tokens=generate.max_new_tokens,
        batch=batch,
        say=lambda ready, wanted: print(f"score_answers: {asked.name} {ready} of {wanted}", flush=True),
    )
    rows = []
    for question, hits, passages, completion in zip(questions, asked.hits, shown, completions, strict=True):
        scored = asked.scorer.score(completion.text, question, passages)
        rows.append(
            {
                "id": question["id"],
                "question": question["question"],
                "arm": asked.name,
                "gold": question["answers"],
                "documents": splits.documents_of(question),
                "reply": completion.text,
                "answer": scored.answer,
                "citations": scored.citations,
                "passages": [_passage(hit) for hit in hits] if asked.arm in RETRIEVING else [],
                "metrics": scored.metrics,
                **_cost(completion),
            }
        )
    return rows, made


def _passage(hit: Hit) -> dict[str, Any]:
    return {
        "document": hit.document,
        "chunk": hit.chunk,
        "start": hit.start,
        "end": hit.end,
        "score": round(float(hit.score), 6),
    }


def _cost(completion: Completion) -> dict[str, Any]:
    return {
        "tokens_in": completion.tokens_in,
        "tokens_out": completion.tokens_out,
        "ms": round(completion.seconds * 1000, 1),
    }


def _arms(params: CorpusParams, workspace: Workspace, ports: Ports, questions: Sequence[Json]) -> Any:
    """(the arms to ask, arm -> why it is missing)."""
    train, build = workspace.receipt("train"), workspace.receipt("index")
    require_embedder(build, ports.embedder)
    texts = [q["question"] for q in questions]
    how: dict[str, Any] = {"retrieve": params.retrieve, "reranker": ports.reranker}
    hits = search(ports.store, ports.embedder, build["collection"], texts, **how)
    score = scorer(params.generate, ports)
    base, tuned = ports.generator(), None
    if "skipped" not in train:
        tuned = ports.generator(adapters.fetch(ports.objects, train["key"], cache=ports.settings.cache))
    asked, missing = [], {}
    for arm in ARMS:
        generator = tuned if arm in TUNED else base
        if arm not in params.answer.arms:
            missing[arm] = "not among answer.arms"
        elif generator is None:
            missing[arm] = f"no adapter: {train['skipped']}"
        else:
            asked.append(Asked(arm, arm, generator, hits, params.generate, score))
    return asked, missing


def _champion(workspace: Workspace, ports: Ports, questions: Sequence[Json]) -> Any:
    """(the champion as one more arm, with its own index, embedder, generator and prompt, or None; why it cannot be
    asked, or None)."""
    champion = workspace.champion()
    if not champion:
        return None, None
    try:
        theirs = ports.as_released(champion)
        embedder = embedder_of(champion, theirs)
        folder = adapter_folder(champion, theirs) if champion["arm"] in TUNED else None
        generator = theirs.generator(folder)
        if generator.base_digest != champion["base"]["digest"]:
            was = champion["base"]["digest"][:12]
            raise IntegrityError(f"generator {generator.name} is no longer the champion's {was}")
        generate = Generate.model_validate(champion["params"]["generate"])
        retrieve = Retrieve.model_validate(champion["params"]["retrieve"])
        how: dict[str, Any] = {"retrieve": retrieve, "reranker": reranker_of(champion, theirs)}
        texts = [q["question"] for q in questions]
        hits = search(ports.store, embedder, champion["index"]["collection"], texts, **how)
    except (NotFound, BadInput, IntegrityError) as exc:
        return None, str(exc)
    return Asked("champion", champion["arm"], generator, hits, generate, scorer(generate, ports)), None


def _figure(arms: Mapping[str, Json]) -> Any:
    """Bars by arm with their intervals, one group a metric."""
    import numpy as np
    from matplotlib.figure import Figure

    names = ("token_f1", "token_recall", "contains_answer", "format_valid", "citation_precision", "correct_refusal")
    drawn = Figure(figsize=(10, 4), layout="constrained")
    axes = drawn.subplots()
    width = 0.8 / len(arms)
    for number, (arm, metrics) in enumerate(arms.items()):
        values = np.array([[metrics[n][end] for end in ("value", "low", "high")] for n in names])
        errors = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
        axes.bar(np.arange(len(names)) + number * width, values[:, 0], width, yerr=errors, capsize=2, label=arm)
    axes.set_xticks(np.arange(len(names)) + width * (len(arms) - 1) / 2, names)
    axes.set(ylim=(0, 1), ylabel="mean, 95 % interval", title="The arms on the same questions")
    axes.legend(ncols=len(arms))
    return drawn


def _record(ports: Ports, corpus: str, facts: Json, rows: Sequence[Json]) -> str:
    """The MLflow run of this comparison; returns its id."""
    tags = {
        "assay.key": f"score_answers:{digest_json([facts, [[r['id'], r['arm'], r['reply']] for r in rows]])}",
        "assay.stage": "score_answers",
        "assay.collection": facts["collection"],
        "assay.adapter": str(facts["adapter"]),
    }
    with ports.registry.run(corpus, f"answers {facts['collection']}", tags=tags) as log:
        log.params({name: facts[name] for name in ("questions", "base", "adapter", "collection", "prompt_digest")})
        flat = {f"{arm}.{name}": m for arm, metrics in facts["arms"].items() for name, m in metrics.items()}
        log.metrics({name: metric["value"] for name, metric in flat.items()})
        log.table("arms", [{"metric": name, **metric} for name, metric in flat.items()])
        log.dataset(
            f"{corpus} test questions",
            digest=facts["questions_digest"],
            source="corpus/questions.jsonl",
            context="evaluation",
            profile={"questions": facts["questions"]},
        )
        shown = ("id", "arm", "question", "gold", "answer", "citations", "tokens_in", "tokens_out", "ms")
        log.table("answers", [{**{k: _flat(row[k]) for k in shown}, **row["metrics"]} for row in rows])
        log.figure("arms", _figure(facts["arms"]))
    return str(log.run_id)


def _flat(value: Any) -> Any:
    return " | ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _skipped(workspace: Workspace, reason: str) -> Report:
    write_jsonl(workspace.scores("answers"), [])
    return Report("score_answers", {"skipped": reason, "arms": {}, "questions": 0}, f"skipped: {reason}")


def _costs(rows: Sequence[Json]) -> dict[str, Any]:
    """Latency and tokens of one arm's replies."""
    spent = {
        name: mean_interval([r[name] for r in rows], **BOOTSTRAP).to_json() for name in ("tokens_in", "tokens_out")
    }
    return {**scoring.latency([r["ms"] / 1000 for r in rows]), **spent}


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """corpus/questions.jsonl -> scores/answers.jsonl and the arms' means with intervals. Without test questions that
    have an answer nothing is asked, and the receipt says so."""
    file = workspace.versioned / "questions.jsonl"
    questions = chosen(list(read_jsonl(file)) if file.is_file() else [], params)
    if not any(q["answers"] for q in questions):
        return _skipped(workspace, f"{workspace.corpus} has no test question with an answer")
    asked, missing = _arms(params, workspace, ports, questions)
    if not asked:
        return _skipped(workspace, f"no arm can be asked: {'; '.join(missing.values())}")
    champion, unscored = _champion(workspace, ports, questions)
    by_arm: dict[str, list[dict[str, Any]]] = {}
    made = 0
    for one in [*asked, *([champion] if champion else [])]:
        by_arm[one.name], fresh = _ask(one, questions, ports, batch=params.answer.batch)
        made += fresh
    rows = [row for found in by_arm.values() for row in found]
    write_jsonl(workspace.scores("answers"), rows)
    metrics = {arm: [row["metrics"] for row in found] for arm, found in by_arm.items()}
    names = asked[0].scorer.metrics
    base = ports.generator()
    facts: dict[str, Any] = {
        "questions": len(questions),
        "questions_digest": digest_json(questions),
        "collection": workspace.receipt("index")["collection"],
        "reranker": {"name": ports.reranker.name, "digest": ports.reranker.digest} if ports.reranker else None,
        "adapter": workspace.receipt("train").get("digest"),
        "base": base.name,
        "base_digest": base.base_digest,
        "prompt_digest": served_prompt(params.generate),
        "arms": {arm: _json(scoring.summarise(found, names, **BOOTSTRAP)) for arm, found in metrics.items()},
        "differences": {
            arm: _json(scoring.differences(found, metrics["base"], names, **BOOTSTRAP))
            for arm, found in metrics.items()
            if arm != "base" and "base" in metrics
        },
        "missing": missing,
        "champion_unscored": unscored,
    }
    measured: dict[str, Any] = {"generated": made, "arms": {arm: _costs(found) for arm, found in by_arm.items()}}
    measured["run_id"] = _record(ports, workspace.corpus, facts, rows)
    shown = ", ".join(f"{arm} {facts['arms'][arm]['token_recall']['value']:.3f}" for arm in facts["arms"])
    said = f"token recall on {len(questions)} questions: {shown} ({made} replies generated)"
    return Report("score_answers", facts, said, measured)


def _json(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in metrics.items()}
