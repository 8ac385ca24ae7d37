"""Cross-encoders on OpenVINO: transformers' own torch module, exported once, behind `ports.Reranker`.

A model is a folder as sentence-transformers' CrossEncoder saves it, with one label: question and text are read together
and scored. It is exported in a process of its own (`python -m pipelines.backends.reranker`); a query loads openvino and
tokenizers only. Scores are logits: a sigmoid would make equal in float32 what the model tells apart.

A score depends on its pair alone: only pairs of the same token count share a batch, so nothing is padded. A text that
does not fit beside the question is read up to the window; what is returned is always the whole passage.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import exports
from pipelines.core.batches import same_length
from pipelines.core.digests import digest_json
from pipelines.definitions import hub_folder, package_folder, read_yaml, sha256_file
from pipelines.errors import BadConfig, BadInput, MissingTool
from pipelines.params import resolve
from pipelines.tokens import whole_tokenizer
from pipelines.tuned import base_of

DEFINITION_FORM = "one of package, path or hub; and optionally window; or tuned: true and base"
_FILES = ("model.xml", "model.bin", "tokenizer.json")
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
_BATCH_TOKENS = 4096
"""Most tokens of one inference."""


@dataclass(frozen=True)
class Definition:
    """A file of models/rerankers, with its model found on disk. `window`: tokens of question and text together."""

    name: str
    folder: Path
    window: int


def _folder(file: Path, raw: Mapping[str, Any], home: Path) -> Path:
    """Where the model's files are; MissingTool when this machine does not have them."""
    name = file.stem
    if "package" in raw:
        package = str(raw["package"])
        install = f"pip install {package.replace('_', '-')}"
        folder = package_folder(package, what=f"reranker {name}", install=install)
    elif "path" in raw:
        folder = resolve(str(raw["path"]), file=file, home=home)
    else:
        folder = hub_folder(str(raw["hub"]), what=f"reranker {name}")
    for needed in _NEEDED:
        if not (folder / needed).is_file():
            form = "it must be a folder that sentence-transformers' CrossEncoder saved"
            raise MissingTool(f"reranker {name}: no {needed} in {folder}; {form}")
    return folder


def _raw(file: Path, tuned: Path | None) -> Any:
    """What the definition says; of a tuned one, that its path is `tuned`."""
    raw = read_yaml(file, folder="models/rerankers", key="retrieve.rerank.model")
    if base_of(file) is None:
        return raw
    if tuned is None:
        raise BadConfig(f"reranker {file.stem} is each corpus's own; here a model that all share is needed")
    return {"path": str(tuned)}


def read_definition(file: Path, *, home: Path, tuned: Path | None = None) -> Definition:
    """Parse strictly and find the model; `$ASSAY_HOME/` in a path is `home`, and of a definition that says
    `tuned: true` the model is the folder `tuned`. BadConfig shows the valid form."""
    raw = _raw(file, tuned)
    sources = {"package", "path", "hub"}
    if not isinstance(raw, dict) or set(raw) - sources - {"window"} or len(sources & set(raw)) != 1:
        raise BadConfig(f"models/rerankers/{file.name}: its keys are {DEFINITION_FORM}")
    folder = _folder(file, raw, home)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if len(config.get("id2label", ())) != 1:
        raise BadConfig(f"models/rerankers/{file.name}: {folder} does not score with one label, so it ranks nothing")
    said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("model_max_length")
    limits = [int(x) for x in (said, config.get("max_position_embeddings")) if x and x < 10**6]
    window = raw.get("window") or min(limits, default=None)
    if not isinstance(window, int) or isinstance(window, bool) or window < 8:
        raise BadConfig(f"models/rerankers/{file.name}: the model does not say its window; add `window: TOKENS`")
    return Definition(file.stem, folder, window)


def reranker_digest(definition: Definition) -> str:
    """64 hex digits over weights, tokenizer, architecture, window and precision; names do not count."""
    folder = definition.folder
    return digest_json(
        {
            "weights": sha256_file(folder / "model.safetensors"),
            "tokenizer": sha256_file(folder / "tokenizer.json"),
            "architecture": sha256_file(folder / "config.json"),
            "window": definition.window,
            "precision": "fp32",
        }
    )


class OpenVinoReranker:
    """An export, opened: a `ports.Reranker`. Compiled on first use."""

    def __init__(self, folder: Path, *, name: str, threads: int = 0) -> None:
        """Verify the export below `folder`; IntegrityError when a file is not what was recorded."""
        facts = exports.opened(folder)
        self._folder, self._threads = folder, threads
        self._window = int(facts["window"])
        self.name, self.digest = name, str(facts["digest"])

    @cached_property
    def _tokenizer(self) -> Any:
        return whole_tokenizer(self._folder / "tokenizer.json")

    @cached_property
    def _compiled(self) -> Any:
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": "f32",  # else bf16 where the machine has AMX
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        return openvino.Core().compile_model(str(self._folder / "model.xml"), "CPU", options)

    def score(self, question: str, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts,), logits, higher is better. BadInput on a question that leaves a text no room."""
        asked = len(self._tokenizer.encode(question, add_special_tokens=False).ids)
        around = int(self._tokenizer.num_special_tokens_to_add(True))
        room = self._window - around - asked
        if room < self._window // 4:
            begins = " ".join(question.split())[:40]
            raise BadInput(
                f"question {begins!r}... has {asked} tokens; reranker {self.name} takes "
                f"{self._window - around - self._window // 4}"
            )
        self._tokenizer.enable_truncation(self._window, strategy="only_second")
        encoded = self._tokenizer.encode_batch([(question, text) for text in texts])
        self._tokenizer.no_truncation()
        out = np.empty(len(texts), dtype=np.float32)
        wanted = {port.get_any_name() for port in self._compiled.inputs}
        for batch in same_length([len(item.ids) for item in encoded], tokens=_BATCH_TOKENS):
            ids = np.array([encoded[p].ids for p in batch], dtype=np.int64)
            given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            if "token_type_ids" in wanted:
                given["token_type_ids"] = np.array([encoded[p].type_ids for p in batch], dtype=np.int64)
            out[batch] = self._compiled(given)[0][:, 0]
        return out


def load_reranker(
    definition: Path, *, cache: Path, home: Path, threads: int = 0, tuned: Path | None = None
) -> OpenVinoReranker:
    """The cross-encoder of a definition file (`read_definition`), exported below `cache` on first use.

    BadConfig on a bad definition, MissingTool when the model is not on this machine, IntegrityError when the export was
    altered.
    """
    parsed = read_definition(definition, home=home, tuned=tuned)
    digest = reranker_digest(parsed)
    folder = cache / "rerankers" / digest
    if not (folder / exports.FACTS).is_file():
        facts = {"digest": digest, "window": parsed.window}
        what = f"reranker {parsed.name}"
        exports.make(folder, __name__, [str(parsed.folder)], files=_FILES, facts=facts, what=what)
    return OpenVinoReranker(folder, name=parsed.name, threads=threads)


def _convert(source: str, destination: str) -> None:
    """The export itself: the classifier with its one logit in an OpenVINO graph, fp32 weights."""
    import openvino
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        source, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    typed = "token_type_ids" in AutoTokenizer.from_pretrained(source, local_files_only=True).model_input_names

    class Logit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **given).logits

    example = torch.ones(2, 8, dtype=torch.long)
    inputs = {"input_ids": example, "attention_mask": example, **({"token_type_ids": example} if typed else {})}
    with torch.no_grad():
        graph = openvino.convert_model(Logit(), example_input=inputs)
    openvino.save_model(graph, str(Path(destination) / "model.xml"), compress_to_fp16=False)
    (Path(destination) / "tokenizer.json").write_bytes((Path(source) / "tokenizer.json").read_bytes())


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    _convert(*sys.argv[1:3])
