"""The engine in each precision on the real model, and the gate that judges what a precision loses against fp32."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.backends.openvino import OpenVinoEmbedder, load_embedder
from pipelines.definitions import sha256_file
from pipelines.errors import BadConfig, IntegrityError
from pipelines.settings import checkout
from pipelines.stages.judge import decide
from tests import release_kit as kit
from tests.index_kit import Ports, exports, params_of, ports_of, run_stage

pytestmark = pytest.mark.integration

MINILM = checkout() / "models/embedders/minilm.yaml"
HANDBOOK = checkout() / "tests/fixtures/handbook/2026-01-12"


def engine(precision: str, **options: Any) -> OpenVinoEmbedder:
    return load_embedder(MINILM, cache=exports(), precision=precision, **options)


def passages() -> dict[str, str]:
    """Paragraphs of the Markdown on orders and services that fit the window, by FILE#NUMBER."""
    files = [file for kind in ("orders", "services") for file in sorted((HANDBOOK / "documents" / kind).glob("*.md"))]
    parts = {f"{file.stem}#{n}": p for file in files for n, p in enumerate(file.read_text().split("\n\n"))}
    return {key: text for key, text in parts.items() if 80 <= len(text) <= 900}


def questions(texts: dict[str, str]) -> list[dict[str, Any]]:
    """The gold questions whose first quote stands in exactly one of the passages, which is then their evidence."""
    lines = [
        line for file in sorted((HANDBOOK / "questions").glob("*.jsonl")) for line in file.read_text().splitlines()
    ]
    out = []
    for row in map(json.loads, lines):
        quote = row["evidence"][0].get("quote") if row["evidence"] else None
        holds = [key for key, text in texts.items() if quote and " ".join(quote.split()) in " ".join(text.split())]
        if len(holds) == 1:
            out.append({**row, "evidence": [{"document": holds[0]}]})
    return out


def test_int8_is_near_fp32_and_a_vector_depends_on_its_text_alone() -> None:
    texts = list(passages().values())
    exact, int8 = engine("fp32"), engine("int8", threads=1)
    assert exact.digest != int8.digest
    vectors = int8.embed_batch(texts)
    cosines = np.einsum("ij,ij->i", exact.embed_batch(texts), vectors)
    assert cosines.mean() >= 0.995
    assert cosines.min() >= 0.98
    few = slice(0, None, 7)
    small = engine("int8", batch_tokens=256, threads=1)
    assert np.array_equal(small.embed_batch(texts[few]), vectors[few])
    assert np.array_equal(np.concatenate([int8.embed_batch([text]) for text in texts[few]]), vectors[few])


def test_an_int8_export_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    held = exports() / "embedders" / engine("int8").digest
    made = tmp_path / "embedders" / load_embedder(MINILM, cache=tmp_path, precision="int8").digest
    assert made.name == held.name
    assert {f: sha256_file(made / f) for f in ("model.xml", "model.bin")} == {
        f: sha256_file(held / f) for f in ("model.xml", "model.bin")
    }


def test_bf16_is_computed_natively_or_refused() -> None:
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(BadConfig, match=r"embed.precision is 'bf16', but this CPU .* natively; here: fp32, int8"):
            engine("bf16")
        return
    texts = list(passages().values())[:40]
    cosines = np.einsum("ij,ij->i", engine("fp32").embed_batch(texts), engine("bf16").embed_batch(texts))
    assert 0.9999 <= cosines.min() < 1


WORKER = """
import pickle, psutil, sys
embedder = pickle.load(sys.stdin.buffer)
again = pickle.loads(pickle.dumps(embedder))
embedder.embed_batch(["word " * 200] * 24)
print(again is embedder)
print(*(t.user_time + t.system_time for t in psutil.Process().threads()))
"""


def test_a_worker_loads_the_model_once_and_infers_on_one_thread() -> None:
    """By the CPU time of the threads of a fresh process that got its embedder pickled, as a Spark worker does."""
    done = subprocess.run([sys.executable, "-c", WORKER], input=pickle.dumps(engine("fp32")), capture_output=True)
    same, times = done.stdout.decode().splitlines()
    busy = sorted(map(float, times.split()))
    assert same == "True"
    assert busy[-1] > 0.2
    assert sum(busy[:-1]) < 0.2 * busy[-1]


class Crude:
    """An engine that keeps too little: the signs of the first 24 dimensions."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.name, self.digest, self.dim, self.window = "crude", "c" * 64, inner.dim, inner.window

    def embed_batch(self, texts: Any) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        vectors[:, :24] = np.sign(self.inner.embed_batch(texts)[:, :24]) / np.sqrt(np.float32(24))
        return vectors


def scored(home: Path, crude: bool) -> tuple[Ports, dict[str, Any], Any]:
    """A corpus of the passages in int8, or in what `Crude` makes of it: ports, receipt of score_retrieval, check."""
    ports = ports_of(home, params_of(embed={"precision": "int8"}, retrieve={"mode": "dense"}))
    if crude:
        ports.__dict__["embedder"] = Crude(ports.embedder)
    texts = passages()
    facts = kit.build(ports, texts)
    kit.scored(ports, facts)
    asked = "".join(json.dumps(row) + "\n" for row in questions(texts))
    (ports.workspace.versioned / "questions.jsonl").write_text(asked)
    found = run_stage(ports, "score_retrieval").facts
    judged = {check["name"]: check for check in decide(ports.params, ports.workspace)["checks"]}
    return ports, found, judged["retrieval.precision_loss"]


def test_int8_passes_the_gate_and_is_searched_by_its_own_embedder_only(tmp_path: Path) -> None:
    ports, facts, check = scored(tmp_path, crude=False)
    rows = [json.loads(line) for line in ports.workspace.scores("retrieval").read_text().splitlines()]
    losses = [row["precision"]["fp32"] - row["precision"]["own"] for row in rows]
    assert facts["precision_loss"]["value"] == pytest.approx(np.mean(losses))
    assert facts["precision_loss"]["n"] == check["n"] == len(rows) >= 20
    # All passages are within depth of some question, so by the pool int8 ranks as it does by the whole index.
    assert all(row["precision"]["own"] == pytest.approx(row["metrics"]["ndcg@10"]) for row in rows)
    assert check["passed"], check["reason"]
    fp32 = Ports(ports.settings, "tiny", params_of(retrieve={"mode": "dense"}))
    fp32.__dict__["store"] = ports.store
    with pytest.raises(
        IntegrityError, match=r"was embedded by \w{12}, but embed.model and embed.precision are \w{12} now"
    ):
        run_stage(fp32, "score_retrieval")


def test_a_precision_that_loses_too_much_is_refused(tmp_path: Path) -> None:
    _, facts, check = scored(tmp_path, crude=True)
    assert facts["precision_loss"]["value"] > 0.05
    assert not check["passed"]
    assert check["reason"].endswith("below fp32, at most 0.005 may be lost to precision")
