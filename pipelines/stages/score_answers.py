"""Ask the arms base, prompt, rag, tuned and both the same test questions, and score every reply; the champion's too.

Test questions are those of documents that training never saw (`core.splits`), and unanswerable ones by their own id.
It judges nothing: the gate reads the rows that are left here, one per question and arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import adapters, answer_records
from pipelines.answering import prompts, replies, served_prompt, spent
from pipelines.builds import require_embedder
from pipelines.core import costs, splits
from pipelines.core.digests import digest_json, digest_text
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.names import PUBLIC
from pipelines.core.nouns import Report
from pipelines.core.prompts import ARMS, PROMPTED, RETRIEVING, TUNED
from pipelines.errors import BadInput, IntegrityError, NotFound
from pipelines.few_shot import long_prompt
from pipelines.params import Answer, CorpusParams, Generate, Prices, Retrieve
from pipelines.ports import Completion, Generator, Hit, Paid, Ports
from pipelines.released import adapter_folder, embedder_of, longer_of, reranker_of
from pipelines.retrieval import search
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.scoring import Scorer, scorer
from pipelines.tasks import labels_of
from pipelines.workspace import Workspace

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """One arm as it is asked: which generator, which passages, which prompt, and how its replies are scored."""

    name: str
    arm: str
    generator: Generator
    hits: Sequence[Sequence[Hit]]
    generate: Generate
    scorer: Scorer
    longer: LongPrompt | None
    options: Sequence[str] | None


def chosen(questions: Sequence[Json], params: CorpusParams) -> list[Json]:
    """The test questions to ask, by id: those with an answer and the unanswerable, at most `answer.max_questions`,
    taken in the order of a digest of their ids so that a larger cap only adds."""
    how = params.split.model_dump()
    asked = [q for q in questions if q["answers"] or not q["evidence"]]
    tested = [q for q in asked if splits.split_of(q, **how) == splits.TEST]
    tested.sort(key=lambda q: digest_text(f"{params.split.seed}:{q['id']}"))
    return sorted(tested[: params.answer.max_questions], key=lambda q: str(q["id"]))


def _ask(asked: Asked, questions: Sequence[Json], ports: Ports, answer: Answer) -> tuple[list[dict[str, Any]], int]:
    """(a row per question, replies generated now)."""
    texts = [q["question"] for q in questions]
    how: dict[str, Any] = {"arm": asked.arm, "generate": asked.generate, "longer": asked.longer}
    shown, chats = prompts(texts, asked.hits, asked.generator, **how)
    completions, made = replies(
        ports.objects,
        asked.generator,
        chats,
        max_new_tokens=asked.generate.max_new_tokens,
        batch=answer.batch,
        options=asked.options,
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
                "kind": question.get("kind"),
                "documents": splits.documents_of(question),
                "reply": completion.text,
                "answer": scored.answer,
                "citations": scored.citations,
                "passages": [_passage(hit) for hit in hits] if asked.arm in RETRIEVING else [],
                "metrics": scored.metrics,
                **_cost(completion, asked.generator, answer.prices),
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
        **({} if hit.access == PUBLIC else {"access": hit.access}),
    }


def _cost(completion: Completion, generator: Generator, prices: Prices) -> dict[str, Any]:
    """Tokens, milliseconds, CPU-seconds and price of one reply; null where not measured or not known."""
    spent: dict[str, Any] = {"tokens_in": completion.tokens_in, "tokens_out": completion.tokens_out}
    paid = generator.cost(**spent) if isinstance(generator, Paid) else None
    cpu = completion.cpu_seconds
    price = costs.of_reply(cpu_seconds=cpu, cpu_hour=prices.cpu_hour, paid=paid, currency=prices.currency)
    return {**spent, "ms": round(completion.seconds * 1000, 1), "cpu_seconds": cpu, "cost": price}


def _arms(
    params: CorpusParams,
    workspace: Workspace,
    ports: Ports,
    questions: Sequence[Json],
    *,
    base: Generator,
    longer: LongPrompt | None,
    options: Sequence[str] | None,
) -> Any:
    """(the arms to ask, arm -> why it is missing)."""
    train, build = workspace.receipt("train"), workspace.receipt("index")
    require_embedder(build, ports.embedder)
    texts = [q["question"] for q in questions]
    how: dict[str, Any] = {"retrieve": params.retrieve, "reranker": ports.reranker, "labels": None}
    hits = search(ports.store, ports.embedder, build["collection"], texts, **how)
    score = scorer(params.generate, ports)
    tuned = None
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
            asked.append(Asked(arm, arm, generator, hits, params.generate, score, longer, options))
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
        how: dict[str, Any] = {"retrieve": retrieve, "reranker": reranker_of(champion, theirs), "labels": None}
        texts = [q["question"] for q in questions]
        hits = search(ports.store, embedder, champion["index"]["collection"], texts, **how)
        longer, options = longer_of(champion), champion["prompt"].get("labels")
        score = scorer(generate, ports)
    except (NotFound, BadInput, IntegrityError) as exc:
        return None, str(exc)
    return Asked("champion", champion["arm"], generator, hits, generate, score, longer, options), None


def _skipped(workspace: Workspace, reason: str) -> Report:
    write_jsonl(workspace.scores("answers"), [])
    return Report("score_answers", {"skipped": reason, "arms": {}, "questions": 0}, f"skipped: {reason}")


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """corpus/questions.jsonl -> scores/answers.jsonl, and the arms' means and differences with intervals. Without test
    questions that have an answer nothing is asked, and the receipt says so."""
    file, examples = workspace.versioned / "questions.jsonl", workspace.versioned / "examples.jsonl"
    gold = list(read_jsonl(file)) if file.is_file() else []
    questions = chosen(gold, params)
    if not any(q["answers"] for q in questions):
        return _skipped(workspace, f"{workspace.corpus} has no test question with an answer")
    base, longer = ports.generator(), None
    if PROMPTED in params.answer.arms:
        longer = long_prompt(params, workspace, base, questions=gold, ports=ports)
    options = labels_of(params, gold, list(read_jsonl(examples)) if examples.is_file() else [], ports=ports)
    asked, missing = _arms(params, workspace, ports, questions, base=base, longer=longer, options=options)
    if not asked:
        return _skipped(workspace, f"no arm can be asked: {'; '.join(missing.values())}")
    champion, unscored = _champion(workspace, ports, questions)
    by_arm: dict[str, list[dict[str, Any]]] = {}
    made = 0
    for one in [*asked, *([champion] if champion else [])]:
        by_arm[one.name], fresh = _ask(one, questions, ports, params.answer)
        made += fresh
    rows = [row for found in by_arm.values() for row in found]
    write_jsonl(workspace.scores("answers"), rows)
    facts: dict[str, Any] = {
        "questions": len(questions),
        "questions_digest": digest_json(questions),
        "collection": workspace.receipt("index")["collection"],
        "reranker": {"name": ports.reranker.name, "digest": ports.reranker.digest} if ports.reranker else None,
        "adapter": workspace.receipt("train").get("digest"),
        "base": base.name,
        "base_digest": base.base_digest,
        "prompt_digest": served_prompt(params.generate, longer),
        "long_prompt": longer.to_json() if longer else None,
        "labels": options,
        **answer_records.scores(by_arm, asked[0].scorer.metrics),
        "missing": missing,
        "champion_unscored": unscored,
    }
    measured = {"generated": made, "currency": params.answer.prices.currency, **answer_records.costs(by_arm)}
    said = _summary(facts, made)
    if (cost := spent(one.generator for one in [*asked, *([champion] if champion else [])])) is not None:
        measured["cost"], said = cost.to_json(), f"{said}; {cost}"
    run_id = answer_records.record(ports, workspace.corpus, facts=facts, measured=measured, rows=rows)
    return Report("score_answers", facts, said, {**measured, "run_id": run_id})


def _summary(facts: Json, made: int) -> str:
    """One line: the arms by token recall, or by the first metric of a task that has none."""
    arms = facts["arms"]
    name = next(n for n in ("token_recall", *next(iter(arms.values()))) if all(n in found for found in arms.values()))
    shown = ", ".join(f"{arm} {found[name]['value']:.3f}" for arm, found in arms.items())
    return f"{name.replace('_', ' ')} on {facts['questions']} questions: {shown} ({made} replies generated)"
