"""What there is, read from receipts, scores and the release log as plain mappings: the `--json` of every command.

Nothing heavy is imported (no MLflow, Milvus, Arrow, torch): `assay status` must answer at once. It changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import params as params_module
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.releaselog import SignedReleaseLog
from pipelines.core import distil
from pipelines.core.hypothesis import verdict
from pipelines.core.prompts import ARMS, pairs
from pipelines.errors import AssayError, NotFound
from pipelines.released import require_valid
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Json = dict[str, Any]


def _rows(file: Path) -> list[Json]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _workspace(settings: Settings, corpus: str) -> Workspace:
    """The corpus's workspace; NotFound names the corpora of params.yaml when it is none of them."""
    workspace = Workspace(settings.workspace(corpus), corpus)
    if not workspace.root.is_dir():
        known = params_module.read_raw(settings.params_file)["corpora"]
        if corpus not in known:
            raise NotFound(f"no corpus {corpus!r}; there are: {', '.join(sorted(known)) or 'none'}")
    return workspace


def _log(settings: Settings) -> SignedReleaseLog:
    return SignedReleaseLog(ObstoreObjects(settings.objects_uri), key_file=settings.signing_key, seen=settings.seen)


def in_order(arms: Mapping[str, Any]) -> Json:
    """The arms in the order of `core.prompts.ARMS`, the champion's replies left out; receipts are sorted by name."""
    return {arm: arms[arm] for arm in ARMS if arm in arms}


def _metrics(*found: Mapping[str, Any]) -> Json:
    """Metrics of several mappings in one, each as {value, low, high, n}; null where a measure has no interval."""
    return {name: {k: m.get(k) for k in ("value", "low", "high", "n")} for each in found for name, m in each.items()}


def comparison(settings: Settings, corpus: str) -> Json:
    """The arms on the same questions, with intervals and n, and every paired difference between two of them.

    `arms` is {arm: {metric: {value, low, high, n}}} in the order of `ARMS`, `differences` {"B - A": the same}.
    `hypothesis` says whether both together beat either alone (`core.hypothesis`); null where that was not measured.
    `distilled` says what `tuned` saves over the prompt that was distilled into it (`core.distil`); null without one.
    What these figures recommend, and the comparison table, are `actions.compare.evidence`'s. Where the arms were
    skipped, `skipped` says why and `arms` is empty. NotFound before they were scored.
    """
    from pipelines.actions.compare import evidence, params_of

    workspace = _workspace(settings, corpus)
    facts = workspace.receipt("score_answers")
    judged = workspace.receipt("judge") if workspace.has("judge") else {}
    primary = judged.get("primary") or params_of(workspace).judge.primary
    out: Json = {"corpus": corpus, "questions": facts.get("questions", 0), "primary": primary}
    out |= {"arm": judged.get("arm"), "arms": {}, "differences": {}, "hypothesis": None, "distilled": None}
    if "skipped" in facts:
        return out | {"skipped": facts["skipped"]}
    measured = workspace.measured("score_answers")
    for kind, names in (("arms", ARMS), ("differences", [pair for pair, _, _ in pairs(ARMS)])):
        scored, spent = facts.get(kind, {}), measured.get(kind, {})
        out[kind] = {name: _metrics(scored[name], spent.get(name, {})) for name in names if name in scored}
    if workspace.has("mix") and "teacher" in workspace.receipt("mix"):
        out["distilled"] = distil.gained(out["arms"], out["differences"], out["primary"].partition(".")[2])
    out["hypothesis"] = verdict(out["differences"], out["primary"].partition(".")[2])
    return out | {"currency": measured.get("currency")} | evidence(workspace, out["arms"])


def _ordered(metrics: Json) -> Json:
    """Receipts are sorted by name; people read nDCG, recall by depth, MRR."""
    order = ("ndcg@10", "recall@1", "recall@5", "recall@10", "mrr")
    return {name: metrics[name] for name in (*order, *metrics) if name in metrics}


def candidate_report(settings: Settings, corpus: str) -> Json:
    """The last judged candidate: `candidate`, `retrieval` and `answers` metrics, `verdict`, and the page's path.

    `answers` are the served arm's metrics. NotFound before anything was judged.
    """
    workspace = _workspace(settings, corpus)
    judged = workspace.receipt("judge")
    retrieval = workspace.receipt("score_retrieval")
    answers = workspace.receipt("score_answers")
    index, adapter = judged["index"], judged["adapter"]
    page = settings.reports / corpus / "report.html"
    return {
        "corpus": corpus,
        "candidate": {
            "digest": judged["candidate"],
            "arm": judged["arm"],
            "arm_reason": judged["arm_reason"],
            "collection": index["collection"],
            "rows": index["rows"],
            "index_digest": index["digest"],
            "embedder": index["embedder"],
            "embedder_digest": index["embedder_digest"],
            "reranker": judged.get("reranker"),
            "model": judged.get("model"),
            "adapter": adapter["digest"] if adapter else None,
            "prompt_digest": judged["prompt_digest"],
            "judged_against": judged["against"],
        },
        "retrieval": _ordered(retrieval.get("metrics", {})),
        "answers": answers.get("arms", {}).get(judged["arm"], {}),
        "skipped": {
            name: facts["skipped"]
            for name, facts in (("retrieval", retrieval), ("answers", answers))
            if "skipped" in facts
        },
        "verdict": {"passed": judged["passed"], "checks": judged["checks"]},
        "html": str(page) if page.is_file() else None,
    }


def _release_row(manifest: Json, newest: int) -> Json:
    primary = manifest["evaluation"]["primary"]
    metric = manifest["evaluation"]["answers"].get(primary.partition(".")[2])
    return {
        "generation": manifest["generation"],
        "created": manifest["created"],
        "expires": manifest.get("expires"),
        "revision": manifest["revision"]["tag"],
        "arm": manifest["arm"],
        "collection": manifest["index"]["collection"],
        "adapter": manifest["adapter"]["digest"] if manifest["adapter"] else None,
        "candidate": manifest["candidate"],
        "primary": primary,
        "metric": metric,
        "restores": manifest.get("restores"),
        "champion": manifest["generation"] == newest,
    }


def release_list(settings: Settings, corpus: str) -> Json:
    """`releases`, newest first; empty before the first. NotFound for an unknown corpus."""
    _workspace(settings, corpus)
    log = _log(settings)
    known = log.generations(corpus)
    rows = [_release_row(log.read(corpus, generation), known[-1]) for generation in reversed(known)]
    return {"corpus": corpus, "releases": rows}


def release_manifest(settings: Settings, corpus: str, generation: int | None) -> Json:
    """A verified manifest, the newest by default. NotFound, IntegrityError."""
    _workspace(settings, corpus)
    return _log(settings).read(corpus, generation)


def _revision(workspace: Workspace) -> str | None:
    """The newest revision tag `rN` of the workspace's git repository, read from its refs without a subprocess."""
    git = workspace.root / ".git"
    names = [path.name for path in (git / "refs" / "tags").glob("r*")]
    packed = git / "packed-refs"
    if packed.is_file():
        names += [line.rsplit("/", 1)[-1] for line in packed.read_text().splitlines() if " refs/tags/r" in line]
    numbers = [int(name[1:]) for name in names if name[1:].isdigit()]
    return f"r{max(numbers)}" if numbers else None


def _status_row(settings: Settings, corpus: str) -> Json:
    workspace = Workspace(settings.workspace(corpus), corpus)
    row: Json = {"corpus": corpus, "revision": _revision(workspace), "documents": None, "candidate": None}
    row |= {"verdict": None, "generation": None, "arm": None, "problem": None}
    try:
        if workspace.has("chunk"):
            row["documents"] = workspace.receipt("chunk").get("documents")
        if workspace.has("judge"):
            judged = workspace.receipt("judge")
            row |= {"candidate": judged["candidate"], "verdict": judged["passed"]}
        log = _log(settings)
        if log.generations(corpus):
            newest = log.read(corpus)
            row |= {"generation": newest["generation"], "arm": newest["arm"]}
            require_valid(newest)
    except AssayError as exc:
        row["problem"] = str(exc)
    return row


def overview(settings: Settings) -> Json:
    """Every corpus of params.yaml: revision, candidate, verdict, release, and what is wrong with it, if anything."""
    corpora = params_module.read_raw(settings.params_file)["corpora"]
    return {
        "home": str(settings.home),
        "corpora": [_status_row(settings, corpus) for corpus in sorted(corpora)],
        "services": settings.services,
    }
