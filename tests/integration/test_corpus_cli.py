"""The corpus DAG through the real command: exit codes, one line of reason, and what is left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.corpus_files import tree_digest
from pipelines.settings import checkout
from tests.corpus_kit import read_files
from tests.index_kit import rules

pytestmark = pytest.mark.integration
ASSAY = Path(sys.executable).parent / "assay"
HANDBOOK = checkout() / "tests" / "fixtures" / "handbook" / "2026-01-12" / "documents"
QUESTION = {"id": "q1", "question": "How long?", "answers": ["thirty days"]}


class Command:
    """The command in a home and with a parameter file of its own; corpus `demo` over `landing`."""

    def __init__(self, root: Path) -> None:
        self.home, self.params, self.landing = root / "home", root / "params.yaml", root / "landing"
        self.more: dict[str, str] = {}
        self.landing.mkdir()
        raw = yaml.safe_load((checkout() / "params.yaml").read_text())
        raw["corpora"] = {}
        self.params.write_text(yaml.safe_dump(raw))

    @property
    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(ASSAY.parent), os.environ["PATH"]])
        ours = {"PATH": path, "ASSAY_HOME": str(self.home), "ASSAY_PARAMS": str(self.params)}
        return {**os.environ, **ours, **self.more}

    @property
    def workspace(self) -> Path:
        return self.home / "workspaces" / "demo"

    def __call__(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [ASSAY, *arguments], env=self.env, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == expect, f"{done.stdout}\n{done.stderr}"
        return done

    def stage(self, name: str) -> dict:
        return json.loads(self("stage", "demo", name).stdout.splitlines()[-1])

    def refused(self, *arguments: str) -> str:
        """The one line of a command that exits with 2 and says nothing else on stderr."""
        lines = self(*arguments, expect=2).stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("assay: "), lines
        return lines[0]

    def change(self, **block) -> None:
        raw = yaml.safe_load(self.params.read_text())
        raw["corpora"]["demo"].update(block)
        self.params.write_text(yaml.safe_dump(raw))


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


def test_from_new_to_a_revision_and_what_is_refused_on_the_way(command):
    for name, text in (("a.md", "# A\n\nThe refund window is thirty days."), ("b.md", "# B\n\nWe are open on Sunday.")):
        (command.landing / name).write_text(text)
    (command.landing / "torn.pdf").write_bytes((HANDBOOK / "products" / "sleeping-bags.pdf").read_bytes()[:700])
    with (command.landing / "huge.txt").open("wb") as out:
        out.truncate(50_000_000)
    gold = command.landing.parent / "gold.jsonl"
    evidence = [{"document": "a.md", "quote": "refund window is thirty days"}]
    gold.write_text(json.dumps({**QUESTION, "evidence": evidence}))
    command("new", "demo", "--documents", str(command.landing), "--questions", str(gold))
    fetched = command.stage("fetch")
    assert fetched["changed"] and fetched["summary"].startswith(
        "2 documents, 1 questions, 0 examples; 1 converted anew; 2"
    )

    # 2 of 4 landed are in quarantine, above the default of 0.2: the corpus is refused by the stage that DVC runs
    said = command.refused("stage", "demo", "check")
    assert said.startswith(
        "assay: demo is refused: 0.500 is the share of quarantined, above check.max_quarantined = 0.2"
    )
    assert not (command.workspace / "staging" / "checked").exists()
    assert "nothing checked yet" in command.refused("stage", "demo", "snapshot")

    command.change(check={"max_quarantined": 0.5})
    assert command.stage("check")["summary"] == "2 documents passed, 2 in quarantine; 1 of 1 gold quotes found"
    first = command.stage("snapshot")
    assert first == {"stage": "snapshot", "changed": True, "summary": "r1: 2 documents (2 added, 0 changed, 0 gone)"}
    kept = {row["document"]: row["reason"] for row in read_files(command.workspace / "corpus").quarantine}
    assert sorted(kept) == ["huge.txt", "torn.pdf"]

    for name in ("fetch", "check", "snapshot"):
        assert command.stage(name)["changed"] is False
    assert command("stage", "demo", "snapshot", "--skip-code", "99", expect=99)

    before = tree_digest(command.workspace / "corpus")
    command.change(check={"min_documents": 3, "max_quarantined": 0.5})
    assert "2 documents that remain, below check.min_documents = 3" in command.refused("stage", "demo", "check")
    assert (command.workspace / "staging" / "checked" / "documents.parquet").is_file()
    assert tree_digest(command.workspace / "corpus") == before

    # The stage is DVC's own, too: run by hand in the workspace it does the same.
    command.change(check={"max_quarantined": 0.5})
    command.stage("fetch")  # brings the workspace's params up to date
    repro = ["dvc", "repro", "--single-item", "--force", "check"]
    done = subprocess.run(repro, cwd=command.workspace, env=command.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "2 documents passed, 2 in quarantine" in done.stdout, done.stderr


def test_bad_input_is_one_line_and_exit_2_and_leaves_nothing(command):
    command("new", "demo", "--documents", str(command.landing))
    assert "holds none; formats are md, " in command.refused("stage", "demo", "fetch")
    (command.landing / "a.md").write_text("# A\n\nThe refund window is thirty days.")
    gold = command.landing.parent / "gold.jsonl"
    gold.write_text(json.dumps({**QUESTION, "evidence": [{"document": "gone.md"}]}))
    command.change(source={"documents": str(command.landing), "questions": str(gold)})
    assert "question 'q1' names document 'gone.md'" in command.refused("stage", "demo", "fetch")
    assert not (command.workspace / "staging" / "fetched").exists()
    command.change(chunks={})
    assert "unknown key 'chunks'; valid keys there are schedule, source, " in command.refused("stage", "demo", "fetch")
    assert "no corpus 'other'" not in command.refused("stage", "other", "fetch")  # the file is refused first
    assert "does not exist" in command.refused("new", "more", "--documents", str(command.landing / "nowhere"))


def test_a_model_or_a_java_that_is_not_there_is_named_and_the_stage_leaves_nothing(command):
    for name, text in rules(40).items():  # enough to start Spark
        (command.landing / name).write_text(text)
    gold = command.landing.parent / "gold.jsonl"
    rows = [{**QUESTION, "id": f"q{n}", "question": f"How long {n}?", "evidence": []} for n in range(40)]
    gold.write_text("\n".join(json.dumps(row) for row in rows))
    command("new", "demo", "--documents", str(command.landing), "--questions", str(gold))
    # Pages of rules repeat words as stuffing does, and nobody is to review them here.
    command.change(chunk={"min_tokens": 24, "max_tokens": 48, "overlap": 4}, check={"suspicious": "off"})
    for name in ("fetch", "check", "snapshot"):
        command.stage(name)
    command.change(embed={"model": "nowhere"})
    assert "there is no models/embedders/nowhere.yaml; known: endpoint, minilm" in command.refused(
        "stage", "demo", "chunk"
    )
    assert not (command.workspace / "receipts" / "chunk.json").exists()
    command.change(embed={"model": "minilm"})
    assert command.stage("chunk")["changed"]
    command.more = {"JAVA_HOME": str(command.landing)}
    assert "openjdk-17-jre-headless" in command.refused("stage", "demo", "embed")
    assert not (command.workspace / "receipts" / "embed.json").exists()
    command.change(generate={"model": "nowhere"})
    assert "there is no models/generators/nowhere.yaml; known: endpoint, smollm2" in command.refused(
        "stage", "demo", "mix"
    )
    assert not (command.workspace / "receipts" / "mix.json").exists()
