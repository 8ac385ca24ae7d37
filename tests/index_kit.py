"""What the index tests share: a small corpus in a workspace of its own, and ports over the real backends.

The registry is a recorder (MLflow has tests of its own); embedder, Spark, Milvus and object store are the real ones.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines import params as params_module
from pipelines.core.nouns import Document
from pipelines.corpus_files import CorpusFiles, document_row, write_files
from pipelines.params import CorpusParams
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace

XQUAD = checkout().parent / "shared" / "data" / "xquad_en"

SUBJECTS = ("tent", "stove", "boot", "pack", "jacket", "mat", "rope", "lamp")
TEXTS = {
    f"{subject}.md": f"# The {subject}\n\n"
    + "\n\n".join(
        f"## Rule {n} of the {subject}\n\n"
        + f"The {subject} of kind {n} is returned within {10 + n} days of delivery, unused and in its own bag. " * 4
        + f"A {subject} that was repaired {n} times is checked by the workshop, which may keep it for {n + 3} days."
        for n in range(1, 5)
    )
    for subject in SUBJECTS
}


@dataclass
class Recorder:
    """A `ports.Registry` that remembers: run name -> what was logged; registered versions."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @contextmanager
    def run(self, corpus: str, name: str, *, tags: Mapping[str, str]) -> Iterator[Any]:
        log = RecordedRun(f"run-{len(self.runs)}", {"tags": dict(tags), "corpus": corpus})
        self.runs[name] = log.seen
        yield log

    def register(self, name: str, **what: Any) -> int:
        self.versions.append((name, what))
        return len(self.versions)

    def alias(self, name: str, alias: str, version: int) -> None: ...


@dataclass
class RecordedRun:
    run_id: str
    seen: dict[str, Any]
    settled: bool = False

    def params(self, values: Mapping[str, Any]) -> None:
        self.seen.setdefault("params", {}).update(values)

    def metrics(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        self.seen.setdefault("metrics", {}).update(values)

    def dataset(self, name: str, **what: Any) -> None:
        self.seen.setdefault("datasets", {})[name] = what

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.seen.setdefault("tables", {})[name] = list(rows)

    def figure(self, name: str, figure: Any) -> None:
        self.seen.setdefault("figures", {})[name] = figure

    def text(self, name: str, text: str) -> None:
        self.seen.setdefault("texts", {})[name] = text

    def folder(self, path: Path, *, name: str) -> None:
        self.seen.setdefault("folders", {})[name] = sorted(file.name for file in path.iterdir())

    def tags(self, values: Mapping[str, str]) -> None:
        self.seen.setdefault("more_tags", {}).update(values)


class Ports(Wiring):
    """The real wiring with a recording registry."""

    def __init__(self, settings: Settings, corpus: str, params: CorpusParams) -> None:
        super().__init__(settings, corpus, params)
        self.registry = Recorder()  # type: ignore[assignment]


def rules(count: int) -> dict[str, str]:
    """Path -> Markdown of so many rule pages, nine clauses each: nine chunks of some 45 tokens."""
    return {
        f"{n:03d}.md": f"# Rule {n}\n\n"
        + "\n\n".join(
            f"Clause {n}.{m} says that item {n * 31 + m} is looked at by desk {n % 7}, which answers within {m + 2} "
            f"days. When it does not, the customer of item {n * 31 + m} is paid {m * 3 + 1} euros and told so by "
            "letter."
            for m in range(9)
        )
        for n in range(count)
    }


def documents_of(texts: Mapping[str, str]) -> list[Document]:
    return [
        Document(key, key.split(".")[0].title(), text, "text/plain" if key.endswith(".txt") else "text/markdown", key)
        for key, text in texts.items()
    ]


def xquad() -> tuple[list[Document], list[dict[str, Any]]]:
    """The 240 passages and 1,190 questions with document-level evidence; skips where the data is not mounted."""
    if not XQUAD.is_dir():
        pytest.skip("the XQuAD folder is not on this machine")
    rows = [json.loads(line) for line in (XQUAD / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    documents = [Document(row["_id"], row["title"], row["text"], "text/plain", row["_id"]) for row in rows]
    asked = [json.loads(line) for line in (XQUAD / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    questions = [
        {"id": q["_id"], "question": q["text"], "answers": q["answers"], "evidence": [{"document": q["doc"]}]}
        for q in asked
    ]
    return documents, questions


def write_corpus(workspace: Workspace, documents: Sequence[Document], questions: Sequence[dict[str, Any]] = ()) -> None:
    rows = [document_row(document) for document in documents]
    write_files(workspace.versioned, CorpusFiles(rows, list(questions), [], []))


def params_of(**sections: Mapping[str, Any]) -> CorpusParams:
    """The checkout's defaults with some keys replaced, e.g. `params_of(embed={"model": "random"})`."""
    raw = params_module.read_raw(checkout() / "params.yaml")
    raw["corpora"] = {"tiny": {"source": {"documents": "nowhere"}, **sections}}
    return CorpusParams.model_validate(params_module.corpus_block(raw, "tiny"))


def exports() -> Path:
    """Where test runs keep exported embedders from one run to the next; the export is verified at every opening."""
    return Path(os.environ.get("ASSAY_TEST_CACHE") or Path(sys.prefix) / ".assay-test-cache")


def ports_of(home: Path, params: CorpusParams, *, corpus: str = "tiny") -> Ports:
    """Ports below `home`, whose cache of exported embedders is shared between tests."""
    home.mkdir(parents=True, exist_ok=True)
    shared = exports() / "embedders"
    shared.mkdir(parents=True, exist_ok=True)
    (home / "cache").mkdir(exist_ok=True)
    if not (home / "cache" / "embedders").exists():
        (home / "cache" / "embedders").symlink_to(shared)
    return Ports(Settings(home, checkout() / "params.yaml", "local[2]"), corpus, params)


def run_stage(ports: Ports, name: str) -> Any:
    """Run one stage and write its receipt, as the runner does."""
    import importlib

    report = importlib.import_module(f"pipelines.stages.{name}").run(ports.params, ports.workspace, ports=ports)
    ports.workspace.write_receipt(name, report.facts, report.measured, report.summary)
    return report


def embed_here(ports: Ports) -> Any:
    """The embed stage in this process, however much there is to embed; Spark makes the same, to the last bit."""
    from pipelines.stages import embed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "SMALL", 10**6)
        return run_stage(ports, "embed")


def main(home: str, shape: str, *stages: str) -> None:
    """`python -m tests.index_kit HOME PARAMS STAGE...`: stages in a process that a test may kill."""
    os.environ["ASSAY_HOME"] = home
    ports = ports_of(Path(home), params_of(**json.loads(shape)))
    for stage in stages:
        run_stage(ports, stage)


if __name__ == "__main__":
    main(*sys.argv[1:])
