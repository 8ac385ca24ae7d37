"""The export of an embedder to OpenVINO, a process that `backends.openvino` starts: the torch module to a graph in
fp32 and, for int8, that graph quantised by NNCF. It reads a sentence-transformers folder and writes one folder.

int8 is post-training quantisation of weights and activations: the ranges of activations are observed on the texts of
models/embedders/calibration.jsonl (96 passages of up to 254 tokens and 32 questions of the handbook). Weights keep to
half of their range (NNCF's overflow fix): a CPU without VNNI adds pairs of products in 16 bits, which would saturate.
So one file is right on every CPU. The same input gives the same bytes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def graph(source: str, seed: int | None) -> Any:
    """Every module of the sentence-transformers model as one OpenVINO model with fp32 weights; with a `seed`, weights
    are drawn anew. Its only input is token ids, (batch, tokens) int64, without padding."""
    import openvino
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(source, device="cpu", local_files_only=True).eval()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:  # BERT's own initialisation: normal of 0.02; norms are 1, biases 0
                weight.data.normal_(0.0, 0.02, generator=generator)
            else:
                weight.data.fill_(1.0 if name.endswith("weight") else 0.0)

    class Chain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.nn.ModuleList(list(model))

        def forward(self, input_ids: Any) -> Any:
            first, *rest = self.steps
            features = first({"input_ids": input_ids})
            features["attention_mask"] = torch.ones_like(input_ids)  # pooling counts tokens by it
            for step in rest:
                features = step(features)
            return torch.nn.functional.normalize(features["sentence_embedding"], dim=-1)

    with torch.no_grad():
        return openvino.convert_model(Chain(), example_input={"input_ids": torch.ones(2, 8, dtype=torch.long)})


def quantised(model: Any, tokenizer: Any, texts: Sequence[str], *, float_layers: Sequence[str]) -> Any:
    """The graph with int8 matrix products, but for those that a regular expression of `float_layers` matches whole, and
    attention, which is a twelfth of the work. Source: NNCF's post-training quantisation for transformers, with
    SmoothQuant (Xiao et al., 2023) and fast bias correction.

    The exponent 0.75 is measured on all-MiniLM-L6-v2: mean cosine 0.982, 0.995, 0.9955 and 0.989 at 0.5, 0.7, 0.75 and
    0.95 (NNCF's default), since weights of half range leave less room for what is moved from activations to them.
    """
    import nncf
    import numpy as np
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    def item(text: str) -> dict[str, Any]:
        return {"input_ids": np.array([tokenizer.encode(text).ids], dtype=np.int64)}

    return nncf.quantize(
        model,
        nncf.Dataset(texts, item),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(texts),
        ignored_scope=nncf.IgnoredScope(types=["ScaledDotProductAttention"], patterns=list(float_layers)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=0.75),
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        ),
    )


def main(asked: Mapping[str, Any], destination: str) -> None:
    """Write model.xml, model.bin and tokenizer.json below `destination`; in int8 when `calibration` names its texts."""
    import openvino
    from tokenizers import Tokenizer

    folder = Path(destination)
    (folder / "tokenizer.json").write_bytes((Path(asked["source"]) / "tokenizer.json").read_bytes())
    model = graph(asked["source"], asked["seed"])
    if asked["calibration"]:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(asked["window"])
        rows = Path(asked["calibration"]).read_text(encoding="utf-8").splitlines()
        texts = [asked["prefix"] + json.loads(row)["text"] for row in rows]
        texts = [text.lower() if asked["lower"] else text for text in texts]
        model = quantised(model, tokenizer, texts, float_layers=asked["float_layers"])
    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(json.loads(sys.argv[1]), sys.argv[2])
