"""Judge the candidate: floors, no regression against the champion, gain over the base model, data checks.

It reads receipts and score rows, lets `core.gates` decide, and records the verdict in its receipt and in an MLflow
run. It publishes nothing: a rejected candidate is a result. What was not scored fails; it is never passed unjudged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.answering import served_prompt
from pipelines.core import gates, recommend
from pipelines.core.digests import digest_json
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.manifest import reranker_digest
from pipelines.core.nouns import Adapter, Candidate, Check, IndexBuild, Metric, Report, Verdict
from pipelines.core.prompts import ARMS, PROMPTED
from pipelines.core.scores import answer_scores, retrieval_scores
from pipelines.params import CorpusParams, Retrieve
from pipelines.ports import Ports
from pipelines.schemas import read_jsonl
from pipelines.tuned import digests
from pipelines.workspace import Workspace

Facts = Mapping[str, Any]


def _metrics(prefix: str, found: Facts) -> dict[str, Metric]:
    return {f"{prefix}{name}": Metric(m["value"], m["low"], m["high"], m["n"]) for name, m in found.items()}


def _evidence(params: CorpusParams, workspace: Workspace, arm: str | None, *, tried: Sequence[str]) -> gates.Evidence:
    """Everything measured about the arm that would serve, about the champion on the same questions, and about the
    arms that it was the best of."""
    retrieval, answers = workspace.receipt("score_retrieval"), workspace.receipt("score_answers")
    champion = workspace.champion()
    metrics = _metrics("retrieval.", retrieval.get("metrics", {}))
    metrics |= _metrics("answers.", answers.get("arms", {}).get(arm, {}))
    retrieval_rows = _rows(workspace, "retrieval")
    answer_rows = _rows(workspace, "answers")
    ours: dict[str, Mapping[str, float]] = {}
    theirs: dict[str, Mapping[str, float]] = {}
    for name in {*params.judge.max_regression, params.judge.primary}:
        family, _, metric = name.partition(".")
        if family == "retrieval":
            ours[name], theirs[name] = retrieval_scores(retrieval_rows, metric)
        else:
            by_arm = answer_scores(answer_rows, metric)
            ours[name], theirs[name] = by_arm.get(arm or "", {}), by_arm.get("champion", {})
    primary = answer_scores(answer_rows, params.judge.primary.partition(".")[2])
    same_index = champion.get("index", {}).get("collection") == workspace.receipt("index")["collection"]
    was = champion.get("params", {}).get("retrieve")
    same_search = (
        was is not None
        and Retrieve.model_validate(was) == params.retrieve
        and reranker_digest(champion) == reranker_digest(retrieval)
    )
    same = ("retrieval",) if same_index and same_search else ()
    rivals = {name: primary[name] for name in tried if name in primary}
    return gates.Evidence(metrics, ours, theirs, primary.get("base", {}), bool(champion), same, rivals)


def _rows(workspace: Workspace, kind: str) -> list[dict[str, Any]]:
    file = workspace.scores(kind)
    return list(read_jsonl(file)) if file.is_file() else []


def _longer(answers: Facts) -> LongPrompt | None:
    """What the arm `prompt` was asked with; None when it was not asked."""
    return LongPrompt.of(answers["long_prompt"]) if answers.get("long_prompt") else None


def _data_checks(params: CorpusParams, workspace: Workspace) -> list[Check]:
    """What must hold of the data before any metric means something."""
    index, train = workspace.receipt("index"), workspace.receipt("train")
    retrieval, answers = workspace.receipt("score_retrieval"), workspace.receipt("score_answers")
    least, match = params.judge.min_questions, gates.match_check
    prompt = served_prompt(params.generate, _longer(answers))
    checks = [
        gates.count_check("data retrieval questions", retrieval.get("questions", 0), at_least=least),
        gates.count_check("data answer questions", answers.get("questions", 0), at_least=least),
        gates.none_check(
            "data labels", retrieval.get("stale_labels"), what="gold quotes that the corpus no longer holds"
        ),
        match("data rows", index["rows"], workspace.receipt("chunk")["rows"], what="rows of the index and chunks"),
        match("data prompt", answers.get("prompt_digest"), prompt, what="prompt asked and prompt to be served"),
    ]
    scored, asked = reranker_digest(retrieval), reranker_digest(answers)
    if scored or asked:
        checks.append(match("data reranker", asked, scored, what="reranker of the arms asked and of the index scored"))
    if "skipped" not in train:
        mixed = workspace.receipt("mix").get("digest")
        checks.append(match("data training", train["training_digest"], mixed, what="adapter and training set"))
    return checks


def precision_checks(params: CorpusParams, workspace: Workspace) -> list[Check]:
    """A reduced precision must have been measured against fp32; fp32 has nothing to lose."""
    if params.embed.precision == "fp32":
        return []
    found = workspace.receipt("score_retrieval").get("precision_loss")
    loss = _metrics("", {"loss": found})["loss"] if found else None
    judge = params.judge
    return [gates.precision_check(judge.max_precision_loss, loss, min_questions=judge.min_questions)]


def _tuned_checks(params: CorpusParams, workspace: Workspace, bootstrap: gates.Bootstrap) -> list[Check]:
    """A tuned embedder must have been measured against its base, and a tuned reranker against the search without it, on
    questions that they were not trained on."""
    checks = []
    for kind in digests(params.model_dump()):
        name = f"tuned_{kind}"
        pairs = {row["id"]: row[name] for row in _rows(workspace, "retrieval") if name in row}
        own, base = ({question: pair[side] for question, pair in pairs.items()} for side in ("own", "base"))
        least = params.judge.min_questions
        checks.append(gates.tuned_check(kind, own, base, min_questions=least, bootstrap=bootstrap))
    return checks


def _model(workspace: Workspace, arm: str | None) -> Facts | None:
    """{"name", "digest"} of the model that the arm was asked of; None when no arm would serve."""
    found: Facts | None = workspace.receipt("score_answers").get("models", {}).get(arm)
    return found


def _candidate(params: CorpusParams, workspace: Workspace, arm: str, prompt: str) -> Candidate:
    """What readers would be served. How passages are searched for shapes a prompt as its wording does, and so does the
    model that reads it."""
    index, train = workspace.receipt("index"), workspace.receipt("train")
    build = IndexBuild(
        corpus=workspace.corpus,
        revision=index.get("revision", ""),
        **{name: index[name] for name in _INDEX if name not in ("key", "parts")},
    )
    adapter = None
    if "skipped" not in train:
        kept = {name: train[name] for name in ("base", "base_digest", "training_digest", "digest")}
        adapter = Adapter(corpus=workspace.corpus, uri=f"adapters/{train['key']}", **kept)
    reranker, model = workspace.receipt("score_retrieval").get("reranker"), _model(workspace, arm)
    shaped = digest_json([prompt, params.retrieve.model_dump(), reranker, model])
    return Candidate(workspace.corpus, build, adapter, arm, shaped)


_INDEX = (
    "collection",
    "rows",
    "tokens",
    "digest",
    "key",
    "parts",
    "dim",
    "embedder",
    "embedder_digest",
    "corpus_digest",
)
_ADAPTER = ("digest", "key", "base", "base_digest", "training_digest")


def _recommended(params: CorpusParams, workspace: Workspace, among: Sequence[str]) -> tuple[str, str] | None:
    """(arm, reason): which of `among` the comparison recommends by the primary metric; None where it is too thin."""
    primary = params.judge.primary.partition(".")[2]
    scores = answer_scores(_rows(workspace, "answers"), primary)
    margin = params.judge.margins.get(primary, recommend.MARGIN)
    scored = {arm: scores[arm] for arm in among if arm in scores}
    if len({frozenset(found) for found in scored.values()}) != 1:  # not the same questions
        return None
    choice = recommend.choose("all", primary, scored, margin=margin)
    return (choice.arm, choice.reason) if choice and choice.arm else None


def decide(params: CorpusParams, workspace: Workspace) -> dict[str, Any]:
    """The judge's receipt, from the other stages' receipts and score rows."""
    answers = workspace.receipt("score_answers")
    primary = params.judge.primary.partition(".")[2]
    means = {
        arm: found[primary]["value"]
        for arm, found in answers.get("arms", {}).items()
        if arm in ARMS and primary in found
    }
    judge = params.judge
    scored = {arm: _metrics("", answers["arms"][arm]) for arm in means}
    unfit = gates.unfit_arms(scored, judge.floors)
    simpler = _recommended(params, workspace, [arm for arm in means if arm not in unfit] or list(means))
    arm, arm_reason = gates.choose_arm(means, wanted=params.promote.arm, unfit=unfit, recommended=simpler)
    tried = gates.tried_arms(scored, judge.floors, primary=judge.primary, wanted=params.promote.arm)
    bootstrap = gates.Bootstrap(judge.confidence, judge.resamples, judge.seed)
    longer = _longer(answers) if arm == PROMPTED else None
    prompt = served_prompt(params.generate, longer)
    checks = _data_checks(params, workspace)
    checks.append(Check("arm", None, None, arm is not None, arm_reason))
    checks += gates.judge(
        arm,
        _evidence(params, workspace, arm, tried=tried),
        floors=judge.floors,
        max_regression=judge.max_regression,
        primary=judge.primary,
        min_gain=None if params.promote.arm == "base" else judge.min_gain,
        min_questions=judge.min_questions,
        bootstrap=bootstrap,
    )
    checks += precision_checks(params, workspace) + _tuned_checks(params, workspace, bootstrap)
    if reason := _nothing_judged(workspace):
        checks.insert(0, Check("judged", None, None, False, reason))
    verdict = Verdict(_candidate(params, workspace, arm or "none", prompt).digest, checks)
    index, train = workspace.receipt("index"), workspace.receipt("train")
    return {
        "candidate": verdict.candidate,
        "arm": arm,
        "arm_reason": arm_reason,
        "passed": verdict.passed,
        "checks": [asdict(check) for check in checks],
        "index": {name: index[name] for name in _INDEX},
        "reranker": workspace.receipt("score_retrieval").get("reranker"),
        "adapter": None if "skipped" in train else {name: train[name] for name in _ADAPTER},
        "model": _model(workspace, arm),
        "primary": judge.primary,
        "prompt_digest": prompt,
        "long_prompt": longer.to_json() if longer else None,
        "labels": answers.get("labels"),
        "against": workspace.champion().get("generation", 0),
    }


def _nothing_judged(workspace: Workspace) -> str:
    """Why nothing could be judged, or an empty text."""
    skipped = [workspace.receipt(stage).get("skipped") for stage in ("score_retrieval", "score_answers")]
    return f"no questions: {skipped[0] or skipped[1]}" if any(skipped) else ""


def _kinds(params: CorpusParams, workspace: Workspace) -> list[dict[str, Any]]:
    """What the figures recommend for each kind of question, as rows of a table."""
    how: dict[str, Any] = {"primary": params.judge.primary.partition(".")[2], "margins": params.judge.margins}
    formed = params.generate.reply_schema is not None
    choices = recommend.recommend(_rows(workspace, "answers"), formed=formed, **how)
    shown = ("kind", "metric", "n", "best", "arm", "verdict", "reason")
    return [{**{name: getattr(choice, name) for name in shown}, **choice.means} for choice in choices]


def _record(ports: Ports, corpus: str, facts: Facts, kinds: Sequence[Facts]) -> str:
    """The MLflow run of this verdict; returns its id."""
    word = "passed" if facts["passed"] else "rejected"
    tags = {
        "assay.key": f"judge:{digest_json(facts)}",
        "assay.stage": "judge",
        "assay.candidate": facts["candidate"],
        "assay.verdict": word,
        "assay.arm": str(facts["arm"]),
        "assay.reasons": "; ".join(c["reason"] for c in facts["checks"] if not c["passed"]),
    }
    with ports.registry.run(corpus, f"judge {word}", tags=tags) as log:
        log.params({"primary": facts["primary"], "against_generation": facts["against"], "arm": facts["arm"]})
        log.table("checks", facts["checks"])
        if kinds:
            log.table("recommendation", kinds)
        log.metrics({"passed": float(facts["passed"])})
        log.metrics({f"check.{c['name']}": c["value"] for c in facts["checks"] if c["value"] is not None})
    return str(log.run_id)


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """Decide, record. The receipt is the verdict; a rejected candidate is a normal end."""
    facts = decide(params, workspace)
    run_id = _record(ports, workspace.corpus, facts, _kinds(params, workspace))
    failed = [c["reason"] for c in facts["checks"] if not c["passed"]]
    summary = f"passed, arm {facts['arm']} ({facts['arm_reason']})"
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        summary = f"rejected: {failed[0]}{more}"
    return Report("judge", facts, summary, measured={"run_id": run_id})
