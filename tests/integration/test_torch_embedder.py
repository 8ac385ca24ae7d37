"""The torch engine on this machine's CPU against OpenVINO's; on a GPU where there is one."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.backends.openvino import load_embedder
from pipelines.errors import BadConfig, BadInput, MissingTool
from pipelines.settings import checkout
from tests.index_kit import TEXTS, exports, params_of, ports_of

pytestmark = pytest.mark.integration
WORDS = [f"{text[:length]} {n}" for n, text in enumerate(TEXTS.values()) for length in (30, 200, 500)]


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ASSAY_DEVICE", "torch-cpu")
    yield


def test_it_agrees_with_openvino_in_vectors_and_counts_but_not_in_digest(tmp_path: Path) -> None:
    torch_one = ports_of(tmp_path, params_of()).embedder
    openvino = load_embedder(checkout() / "models/embedders/minilm.yaml", cache=exports())
    assert type(torch_one).__name__ == "TorchEmbedder"
    (ours, counted), (theirs, read) = torch_one.embed_counted(WORDS), openvino.embed_counted(WORDS)
    assert (ours.dtype, ours.shape) == (np.float32, theirs.shape)
    assert np.einsum("ij,ij->i", ours, theirs).min() >= 0.9999
    assert counted.tolist() == read.tolist()
    assert (torch_one.window, torch_one.dim) == (openvino.window, openvino.dim)
    assert torch_one.tokenizer == openvino.tokenizer
    assert torch_one.digest != openvino.digest
    again = pickle.loads(pickle.dumps(torch_one))  # noqa: S301 -- our own bytes
    assert again.digest == torch_one.digest
    assert np.array_equal(again.embed_batch(WORDS[::-1])[::-1], ours)
    assert torch_one.embed_batch([]).shape == (0, 384)
    with pytest.raises(BadInput, match=r"has 257 tokens; embedder minilm takes 256"):
        torch_one.embed_batch(["fine", "word " * 255])


def test_what_this_engine_or_machine_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match="random weights"):
        _ = ports_of(tmp_path, params_of(embed={"model": "random"})).embedder
    monkeypatch.setenv("ASSAY_DEVICE", f"cuda:{torch.cuda.device_count()}")
    planning = ports_of(tmp_path, params_of()).embedder  # as a driver does, whose executors have the GPUs
    assert planning.window == 256 and planning.digest
    with pytest.raises(MissingTool, match=r"ASSAY_DEVICE is cuda:\d+, but torch .* sees \d+ GPUs"):
        planning.embed_batch(["a"])
    monkeypatch.setenv("ASSAY_DEVICE", "gpu")
    with pytest.raises(BadConfig, match="one of cpu, cuda, cuda:N, torch-cpu"):
        _ = ports_of(tmp_path, params_of()).embedder


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.995)])
def test_a_gpu_agrees_with_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, least: float
) -> None:
    exact = ports_of(tmp_path, params_of()).embedder
    monkeypatch.setenv("ASSAY_DEVICE", "cuda")
    params = params_of()
    embed = params.embed.model_copy(update={"precision": precision})
    gpu = ports_of(tmp_path, params.model_copy(update={"embed": embed})).embedder
    ours = gpu.embed_batch(WORDS)
    assert np.einsum("ij,ij->i", ours, exact.embed_batch(WORDS)).min() >= least
    assert (gpu.digest == exact.digest) == (precision == "fp32")
