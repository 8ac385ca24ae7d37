"""Everything that a manifest must bind is in it, and is what was judged; made by `promote` of receipts by hand."""

import hashlib
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from pipelines import released
from pipelines.actions.promote import candidate_manifest
from pipelines.code_version import code_version
from pipelines.core.nouns import Corpus
from pipelines.settings import checkout
from pipelines.stages.judge import decide
from pipelines.workspace import Workspace
from tests import release_kit as kit
from tests.unit.test_judge import ADAPTER, INDEX, params_of

VALID = 30
APPROVAL = {"by": "Ada", "at": "2026-01-02T03:04:05+00:00", "how": "by hand"}
BOUND = {
    "corpus revision": ("revision.tag", "r1"),
    "corpus digest": ("revision.digest", "c" * 64),
    "chunk params": ("chunk.max_tokens", 254),
    "embedder name": ("embedder.name", "minilm"),
    "embedder digest": ("embedder.digest", "e" * 64),
    "physical collection": ("index.collection", INDEX["collection"]),
    "row count": ("index.rows", 3),
    "content digest": ("index.digest", "d" * 64),
    "index's MLflow version": ("evaluation.versions.index", 4),
    "adapter digest": ("adapter.digest", "a" * 64),
    "adapter's MLflow version": ("evaluation.versions.adapter", 2),
    "base digest": ("base.digest", "b" * 64),
    "tokenizer digest": ("base.tokenizer", "k" * 64),
    "prompt template, its digest": ("prompt.digest", None),
    "prompt, its system text": ("params.generate.system", params_of().generate.system),
    "arm": ("arm", "rag"),
    "evaluation run": ("evaluation.runs.judge", "run of judge"),
    "verdict": ("verdict.passed", True),
    "code version": ("code.version", "0.1.0"),
    "code digest": ("code.sources", None),
    "lock digest": ("code.lock", hashlib.sha256((checkout() / "requirements.lock").read_bytes()).hexdigest()),
    "previous generation": ("previous", 6),
    "time": ("created", "2026-01-02T03:04:05+00:00"),
    "approval": ("approval", APPROVAL),
    "expiry": ("expires", "2026-02-01T03:04:05+00:00"),
}  # fmt: skip


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(released, "now", lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    wiring = SimpleNamespace(workspace=Workspace(tmp_path, "tiny"), params=params_of(promote={"valid_days": VALID}))
    kit.scored(wiring, INDEX, adapter=ADAPTER)
    for stage, version in (("index", 4), ("train", 2)):
        wiring.workspace.write_receipt(stage, wiring.workspace.receipt(stage), {"version": version}, "")
    wiring.workspace.write_receipt("judge", decide(wiring.params, wiring.workspace), {"run_id": "run of judge"}, "")
    corpus = Corpus(name="tiny", revision="r1", commit="0" * 40, digest="c" * 64, documents=3)
    ports = SimpleNamespace(
        reranker=None,
        versioner=SimpleNamespace(current=lambda: corpus),
        generator=lambda: SimpleNamespace(name="smollm2", base_digest="b" * 64, tokenizer_digest="k" * 64),
    )
    return candidate_manifest(wiring.params, wiring.workspace, ports, generation=7, approval=APPROVAL)


@pytest.mark.parametrize("what", BOUND)
def test_it_binds(manifest, what):
    path, wanted = BOUND[what]
    found = manifest
    for key in path.split("."):
        found = found[key]
    if wanted is None:
        assert re.fullmatch("[0-9a-f]{16,64}", found), (path, found)
    else:
        assert found == wanted, path


def test_the_code_is_named_by_its_commit_and_by_its_bytes(monkeypatch, tmp_path):
    found = code_version()
    assert found["commit"] is None or re.fullmatch("[0-9a-f]{40}", found["commit"])  # None where there is no .git
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert code_version() == {**found, "commit": None}
