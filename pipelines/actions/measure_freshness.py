"""Freshness: facts change in the documents; how many seconds later does each arm answer by them?

The corpus is copied beside the workspace and indexed once. Then answers of test questions are changed in its documents
(`core.changed_facts`), and the copy goes through fetch, check, snapshot, chunk, embed and index as `assay stage` runs
them: what that takes is the arms' with retrieval. `tuned` is trained anew with the changed questions and answers added,
the best case for it: it is then asked what it was trained on. What answers without either (`base`, `prompt`, the
candidate's own adapter) is held against the new values as well, from the replies that it gave.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipelines import params as params_module
from pipelines.core import changed_facts, gold, mixing
from pipelines.core.bootstrap import mean_interval
from pipelines.core.changed_facts import Change
from pipelines.core.prompts import ARMS
from pipelines.corpus_files import document_batches
from pipelines.errors import BackendError, NotMeasurable
from pipelines.ports import Completion, Generator, Hit
from pipelines.probes import Subject
from pipelines.retrieval import search
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.settings import Settings
from pipelines.workspace import Workspace

NODES = ("fetch", "check", "snapshot", "chunk", "embed", "index")
MOST = 24
"""Facts changed at once."""
_SEED = 7
_OWN = ("ASSAY_MILVUS_URI", "ASSAY_MILVUS_BULK", "ASSAY_DVC_REMOTE_URI", "MLFLOW_TRACKING_URI")
"""Places of services that the copy does not use: it has its own below its home."""


class _Copy:
    """A corpus of the same name in an ASSAY_HOME of its own, below the cache; embeddings are shared with the corpus."""

    def __init__(self, settings: Settings, corpus: str) -> None:
        self.home = settings.cache / "freshness" / corpus
        self.corpus = corpus
        shutil.rmtree(self.home, ignore_errors=True)
        self.documents = self.home / "landing" / "documents.jsonl"
        self.documents.parent.mkdir(parents=True)
        raw = params_module.read_raw(settings.params_file)
        block = params_module.corpus_block(raw, corpus) | {
            "source": {"documents": str(self.documents)},
            "schedule": None,
        }
        raw["corpora"] = {corpus: block}
        (self.home / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        self._env = {k: v for k, v in os.environ.items() if k not in _OWN} | {
            "ASSAY_HOME": str(self.home),
            "ASSAY_PARAMS": str(self.home / "params.yaml"),
            "ASSAY_OBJECTS_URI": settings.objects_uri,
        }

    def land(self, rows: Sequence[Mapping[str, str]]) -> None:
        write_jsonl(self.documents, rows)

    def update(self) -> dict[str, float]:
        """Seconds of each node. BackendError with the last line of one that failed."""
        out = {}
        for node in NODES:
            begun = time.monotonic()
            command = [sys.executable, "-m", "pipelines.cli", "stage", self.corpus, node]
            done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise BackendError(f"freshness: {node} of the copy failed: {last[:300]}")
            out[node] = round(time.monotonic() - begun, 2)
            print(f"measure: freshness: {node} of the copy {out[node]:.1f} s", flush=True)
        return out

    def passages(self, subject: Subject, questions: Sequence[str]) -> list[list[Hit]]:
        from pipelines.backends.milvus import MilvusStore

        store = MilvusStore(str(self.home / "milvus" / "lite.db"))
        build = Workspace(self.home / "workspaces" / self.corpus, self.corpus).receipt("index")
        how: dict[str, Any] = {"retrieve": subject.params.retrieve, "reranker": subject.ports.reranker, "labels": None}
        return search(store, subject.ports.embedder, build["collection"], questions, **how)


def _documents(workspace: Workspace) -> list[dict[str, str]]:
    names = ["id", "title", "text", "access"]
    batches = document_batches(workspace.versioned, names)
    return [{name: str(row[name]) for name in names} for batch in batches for row in batch.to_pylist()]


def _landed(rows: Sequence[Mapping[str, str]], texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{**row, "text": texts.get(row["id"], row["text"])} for row in rows]


def _changes(subject: Subject, rows: Sequence[Mapping[str, str]]) -> tuple[list[Change], dict[str, str]]:
    """NotMeasurable when no answer stands word for word in its document."""
    allowed = subject.params.mix.labels  # an adapter is trained on the changed facts
    asked = [q for q in subject.questions if q["answers"] and q["evidence"] and not gold.restricted(q, allowed)]
    texts = {row["id"]: row["text"] for row in rows}
    made, changed = changed_facts.change(asked, texts, most=MOST, seed=_SEED)
    if not made:
        raise NotMeasurable(f"{subject.workspace.corpus}: no test question's answer stands verbatim in its document")
    return made, changed


def _retrained(subject: Subject, made: Sequence[Change]) -> tuple[Generator, float]:
    """An adapter trained on the candidate's set with the changed questions and their new answers added."""
    generate = subject.params.generate
    known = {str(q["id"]): q for q in subject.questions}
    rows = subject.rows("train")
    for change in made:
        question = {**known[change.id], "answers": [change.new]}
        how: dict[str, Any] = {"structured": generate.reply_schema is not None, "refusal": generate.refusal}
        example = mixing.from_question(question, **how)
        rows.append(subject.example(f"changed-{change.id}", example["prompt"], example["completion"]))
    return subject.trained_on(rows, what="freshness")


def _share(said: Sequence[str], made: Sequence[Change]) -> dict[str, Any]:
    """How many of the changed facts the replies hold."""
    return mean_interval([float(changed_facts.follows(*pair)) for pair in zip(said, made, strict=True)]).to_json()


def _kept(subject: Subject, made: Sequence[Change]) -> dict[str, Any]:
    """The arms that nothing was done for, by the replies that they gave before."""
    replies = {(row["arm"], row["id"]): row["reply"] for row in read_jsonl(subject.workspace.scores("answers"))}
    out = {}
    for arm in (a for a in ARMS if a in ("base", "prompt")):
        said = [replies.get((arm, change.id)) for change in made]
        if all(reply is not None for reply in said):
            out[arm] = {"share": _share([str(reply) for reply in said], made), "seconds": None, "by": "nothing"}
    return out


def _texts(completions: Sequence[Completion]) -> list[str]:
    return [completion.text for completion in completions]


def measure(subject: Subject) -> dict[str, Any]:
    """{"changed", "retrieved": share of the changed facts whose passages hold the new value, "stages": seconds by node,
    "arms": {arm: {"share", "seconds", "by"}}}: seconds until the arm answers by the changed documents, null for never,
    and the share of the changed facts that it then answers by. NotMeasurable when there is no fact to change."""
    rows = _documents(subject.workspace)
    made, changed = _changes(subject, rows)
    copy = _Copy(subject.ports.settings, subject.workspace.corpus)
    copy.land(rows)
    copy.update()
    copy.land(_landed(rows, changed))
    stages = copy.update()
    indexed = round(sum(stages.values()), 1)
    asked = [change.question for change in made]
    hits = copy.passages(subject, asked)
    found = [" ".join(hit.text for hit in of) for of in hits]
    arms = _kept(subject, made)
    said = _texts(subject.ask(subject.untuned, "rag", asked, hits, what="freshness: rag"))
    arms["rag"] = {"share": _share(said, made), "seconds": indexed, "by": "index"}
    if subject.tuned is not None:
        nothing: list[list[Hit]] = [[] for _ in asked]
        retrained, seconds = _retrained(subject, made)
        said = _texts(subject.ask(retrained, "tuned", asked, nothing, what="freshness: tuned"))
        arms["tuned"] = {"share": _share(said, made), "seconds": seconds, "by": "training"}
        said = _texts(subject.ask(subject.tuned, "both", asked, hits, what="freshness: both"))
        arms["both"] = {"share": _share(said, made), "seconds": indexed, "by": "index"}
    shutil.rmtree(copy.home, ignore_errors=True)
    return {
        "changed": len(made),
        "documents": len(changed),
        "retrieved": _share(found, made),
        "stages": stages,
        "arms": {arm: arms[arm] for arm in ARMS if arm in arms},
    }
