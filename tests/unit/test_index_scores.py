"""Retrieval measures against values derived by hand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.core.evidence import Labels
from pipelines.errors import IntegrityError
from pipelines.ports import Hit
from pipelines.stages import score_retrieval
from pipelines.stages.score_retrieval import NAMES, measure, ranked
from pipelines.workspace import Workspace
from tests.index_kit import params_of, write_corpus


def test_measures_by_hand() -> None:
    gold = {
        "q1": Labels("chunk", {"a": 1, "b": 1}, []),
        "q2": Labels("document", {"c": 2, "missing:1:d": 1}, ["d"]),
        "q3": Labels("chunk", {"e": 1}, []),
    }
    runs = {"q1": ["x", "a", "y", "z", "w", "b"], "q2": ["c"], "q3": []}
    found = measure(gold, runs)
    # q1: relevant at ranks 2 and 6. DCG 1/log2(3) + 1/log2(7) over the ideal 1 + 1/log2(3).
    ideal = 1 + 1 / math.log2(3)
    assert found["q1"]["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(7)) / ideal)
    assert [found["q1"][name] for name in ("recall@1", "recall@5", "recall@10", "mrr")] == [0, 0.5, 1, 0.5]
    # q2: grade 2 at rank 1; what the build does not hold counts as not found: 2 over 2 + 1/log2(3).
    assert found["q2"]["ndcg@10"] == pytest.approx(2 / (2 + 1 / math.log2(3)))
    assert [found["q2"][name] for name in ("recall@1", "recall@10", "mrr")] == [0.5, 0.5, 1]
    assert found["q3"] == dict.fromkeys(NAMES, 0.0)


def test_the_engines_order_decides_also_between_equal_scores() -> None:
    # By id "z" would come before "a" among ties; the engine said a first.
    gold = {"q": Labels("chunk", {"a": 1}, [])}
    assert measure(gold, {"q": ["a", "z"]})["q"]["recall@1"] == 1
    assert measure(gold, {"q": ["z", "a"]})["q"]["recall@1"] == 0


def hit(chunk: str, document: str) -> Hit:
    return Hit(chunk, document, "", 0, 1, "", 1.0)


def test_documents_rank_by_their_best_chunk() -> None:
    hits = [hit("1", "a"), hit("2", "a"), hit("3", "b"), hit("4", "a"), hit("5", "c")]
    assert ranked(hits, "document") == ["a", "b", "c"]
    assert ranked(hits, "chunk") == ["1", "2", "3", "4", "5"]
    assert len(ranked([hit(str(n), str(n)) for n in range(30)], "document")) == 10


def workspace_of(tmp_path: Path, questions: list[dict]) -> Workspace:
    workspace = Workspace(tmp_path / "tiny", "tiny")
    write_corpus(workspace, [], questions)
    workspace.write_receipt("index", {"collection": "b_tiny_0", "embedder_digest": "old"}, {}, "")
    return workspace


def test_without_questions_nothing_is_scored_and_it_says_so(tmp_path: Path) -> None:
    unanswerable = {"id": "q", "question": "?", "answers": [], "evidence": []}
    for questions in ([], [unanswerable]):
        report = score_retrieval.run(params_of(), workspace_of(tmp_path, questions), ports=SimpleNamespace())  # type: ignore[arg-type]
        assert report.facts["skipped"] == "tiny has no questions with evidence"
        assert (report.facts["questions"], report.facts["metrics"], report.facts["stale_labels"]) == (0, {}, [])


def test_another_embedder_than_the_builds_is_refused(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, [{"id": "q", "question": "?", "evidence": [{"document": "a"}]}])
    ports = SimpleNamespace(embedder=SimpleNamespace(digest="new"))
    with pytest.raises(IntegrityError, match=r"was embedded by old, but embed.model and embed.precision are new now"):
        score_retrieval.run(params_of(), workspace, ports=ports)  # type: ignore[arg-type]
