"""Sentence embedders on OpenVINO: the sentence-transformers' own torch module, exported once, behind `ports.Embedder`.

The export runs in a process of its own (`python -m pipelines.backends.openvino`), since torch and
sentence-transformers cost 20 CPU-seconds to import; afterwards only openvino and tokenizers are loaded. An export is a
folder `cache/embedders/DIGEST/`, written aside and renamed, whose files' digests are verified whenever it is opened.

A vector depends on its text alone: only texts of the same token count share a batch, so nothing is padded. Padding
changes the last bits, and then a build's digest would depend on what happened to be in the cache before.
Nothing is truncated: a text longer than the window is refused.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.digests import digest_json
from pipelines.definitions import hub_folder, read_yaml, sha256_file
from pipelines.errors import BackendError, BadConfig, BadInput, IntegrityError, MissingTool
from pipelines.shipping import arrived

DEFINITION_FORM = "one of package, path or hub; and optionally prefix, window, random_seed"
_FILES = ("model.xml", "model.bin", "tokenizer.json")
_PRECISIONS = {"fp32": "f32"}


@dataclass(frozen=True)
class Definition:
    """A file of models/embedders, with its model found on disk. `folder` is of the sentence-transformers form."""

    name: str
    folder: Path
    prefix: str
    window: int
    lower: bool
    random_seed: int | None


def _folder(name: str, raw: Mapping[str, Any]) -> Path:
    """Where the model's files are; MissingTool when this machine does not have them."""
    if "package" in raw:
        try:
            folder = Path(importlib.import_module(str(raw["package"])).get_model_path())
        except ImportError as exc:
            package = str(raw["package"]).replace("_", "-")
            raise MissingTool(f"embedder {name}: package {package} is not installed; run: make setup") from exc
    elif "path" in raw:
        folder = Path(raw["path"]).expanduser()
    else:
        folder = hub_folder(str(raw["hub"]), what=f"embedder {name}")
    for needed in ("modules.json", "tokenizer.json", "config.json"):
        if not (folder / needed).is_file():
            raise MissingTool(f"embedder {name}: no {needed} in {folder}; it must be a sentence-transformers folder")
    return folder


def read_definition(file: Path) -> Definition:
    """Parse strictly and find the model. BadConfig shows the valid form; MissingTool names what is not there."""
    name = file.stem
    raw = read_yaml(file, folder="models/embedders", key="embed.model")
    sources = {"package", "path", "hub"}
    allowed = sources | {"prefix", "window", "random_seed"}
    if not isinstance(raw, dict) or set(raw) - allowed or len(sources & set(raw)) != 1:
        raise BadConfig(f"models/embedders/{file.name}: its keys are {DEFINITION_FORM}")
    folder = _folder(name, raw)
    own = folder / "sentence_bert_config.json"
    config = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    window = raw.get("window") or config.get("max_seq_length")
    if not isinstance(window, int):
        raise BadConfig(f"models/embedders/{file.name}: the model does not say its window; add `window: TOKENS`")
    lower = bool(config.get("do_lower_case", False))
    return Definition(name, folder, raw.get("prefix") or "", window, lower, raw.get("random_seed"))


def embedder_digest(definition: Definition, precision: str) -> str:
    """64 hex digits over weights, tokenizer, prefix, pooling, normalisation, window and precision.

    Pooling and normalisation are the modules of the sentence-transformers folder with their configurations; names
    of files, folders and of the definition do not count.
    """
    folder = definition.folder
    weights = sorted(
        [*folder.glob("*.safetensors"), *(() if [*folder.glob("*.safetensors")] else folder.glob("*.bin"))]
    )
    if definition.random_seed is None and not weights:
        raise MissingTool(f"embedder {definition.name}: no weights (*.safetensors or *.bin) in {folder}")
    modules = []
    for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        config = folder / module["path"] / "config.json"
        modules.append([module["type"].rsplit(".", 1)[-1], sha256_file(config) if config.is_file() else None])
    drawn = definition.random_seed
    return digest_json(
        {
            "weights": [sha256_file(file) for file in weights] if drawn is None else f"random {drawn}",
            "modules": modules,
            "tokenizer": sha256_file(folder / "tokenizer.json"),
            "prefix": definition.prefix,
            "lower": definition.lower,
            "window": definition.window,
            "precision": precision,
        }
    )


def _export(definition: Definition, digest: str, destination: Path) -> None:
    """Convert in a process of its own, record the files' digests, rename into place (the first one there wins)."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".export-") as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        seed = "" if definition.random_seed is None else str(definition.random_seed)
        command = [sys.executable, "-m", __name__, str(definition.folder), str(folder), seed]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if "No space left on device" in done.stderr:
                raise BadInput(f"no space left in {destination.parent}; free some, or set ASSAY_HOME")
            raise BackendError(f"embedder {definition.name}: export to OpenVINO failed: {last[:300]}")
        facts = {
            "digest": digest,
            "prefix": definition.prefix,
            "lower": definition.lower,
            "window": definition.window,
            "files": {name: sha256_file(folder / name) for name in _FILES},
        }
        (folder / "embedder.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        try:
            folder.rename(destination)
        except OSError as exc:
            if not (destination / "embedder.json").is_file():
                raise BackendError(f"embedder {definition.name}: cannot write {destination}: {exc}") from exc


class OpenVinoEmbedder:
    """An export, opened: a `ports.Embedder`. Compiled on first use.

    Pickled, it is its address: the copy in a worker process opens the export again, once per process, and infers on
    one thread, since there is a worker for each core.
    """

    def __init__(self, folder: Path, *, name: str, precision: str, batch_tokens: int, threads: int) -> None:
        """Verify the export below `folder`; IntegrityError when a file is not what was recorded."""
        facts = json.loads((folder / "embedder.json").read_text(encoding="utf-8"))
        for file, digest in facts["files"].items():
            if not (folder / file).is_file() or sha256_file(folder / file) != digest:
                raise IntegrityError(
                    f"{folder / file} is not the file that was exported; delete {folder} and run again"
                )
        self._folder, self._precision = folder, precision
        self._batch_tokens, self._threads = batch_tokens, threads
        self._prefix, self._lower = str(facts["prefix"]), bool(facts["lower"])
        self.name, self.digest = name, str(facts["digest"])
        self._model_window = int(facts["window"])

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (str(self._folder), self.name, self._precision, self._batch_tokens, 1)

    @cached_property
    def tokenizer(self) -> str:
        """The tokenizer as JSON of the tokenizers library, without its truncation and padding."""
        return str(self._tokenizer.to_str())

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def window(self) -> int:
        """Most tokens of text, special tokens included; what the prefix takes is already subtracted."""
        taken = len(self._tokenizer.encode(self._prefix, add_special_tokens=False).ids) if self._prefix else 0
        return self._model_window - taken

    @cached_property
    def _compiled(self) -> Any:
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[self._precision],  # else bf16 where the machine has AMX
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else every single-threaded worker is pinned to the same first core
        }
        return openvino.Core().compile_model(str(self._folder / "model.xml"), "CPU", options)

    @cached_property
    def dim(self) -> int:
        return int(self._compiled.output(0).partial_shape[1].get_length())

    def embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, dim), rows of L2 norm 1, in the order of `texts`; BadInput on a text above the window."""
        return self.embed_counted(texts)[0]

    def embed_counted(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of `embed_batch`, and int32 (texts,): tokens read of each, special ones and prefix aside."""
        encoded = self._tokenizer.encode_batch(
            [self._prefix + (text.lower() if self._lower else text) for text in texts]
        )
        by_length: dict[int, list[int]] = {}
        for position, item in enumerate(encoded):
            length = len(item.ids)
            if length > self._model_window:
                begins = " ".join(texts[position].split())[:40]
                raise BadInput(f"{begins!r}... has {length} tokens; embedder {self.name} takes {self._model_window}")
            by_length.setdefault(length, []).append(position)
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        around = int(self._tokenizer.num_special_tokens_to_add(False)) + self._model_window - self.window
        read = np.array([len(item.ids) - around for item in encoded], dtype=np.int32)
        for length, positions in sorted(by_length.items()):
            step = max(1, self._batch_tokens // length)
            for start in range(0, len(positions), step):
                batch = positions[start : start + step]
                ids = np.array([encoded[p].ids for p in batch], dtype=np.int64)
                out[batch] = self._compiled({"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        return out, read


@lru_cache(maxsize=4)
def reopen(folder: str, name: str, precision: str, batch_tokens: int, threads: int) -> OpenVinoEmbedder:
    """The embedder of an export, opened once per process."""
    return OpenVinoEmbedder(arrived(folder), name=name, precision=precision, batch_tokens=batch_tokens, threads=threads)


def load_embedder(
    definition: Path, *, cache: Path, precision: str = "fp32", batch_tokens: int = 2048, threads: int = 0
) -> OpenVinoEmbedder:
    """The embedder of a definition file, exported below `cache` on first use.

    `batch_tokens` is the most tokens of one inference; `threads` 0 means all cores. BadConfig on a bad definition,
    MissingTool when the model is not on this machine, IntegrityError when the export was altered.
    """
    if precision not in _PRECISIONS:
        raise BadConfig(f"embed.precision is {precision!r}; one of {', '.join(_PRECISIONS)}")
    parsed = read_definition(definition)
    digest = embedder_digest(parsed, precision)
    folder = cache / "embedders" / digest
    if not (folder / "embedder.json").is_file():
        _export(parsed, digest, folder)
    return reopen(str(folder.resolve()), parsed.name, precision, batch_tokens, threads)


def _convert(source: str, destination: str, seed: str) -> None:
    """The export itself: every module of the sentence-transformers model in one OpenVINO graph, fp32 weights."""
    import openvino
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(source, device="cpu", local_files_only=True).eval()
    if seed:
        generator = torch.Generator().manual_seed(int(seed))
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:  # BERT's own initialisation: normal of 0.02; norms are 1, biases 0
                weight.data.normal_(0.0, 0.02, generator=generator)
            else:
                weight.data.fill_(1.0 if name.endswith("weight") else 0.0)

    class Chain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.nn.ModuleList(list(model))

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            for step in self.steps:
                features = step(features)
            return torch.nn.functional.normalize(features["sentence_embedding"], dim=-1)

    example = torch.ones(2, 8, dtype=torch.long)
    with torch.no_grad():
        graph = openvino.convert_model(Chain(), example_input={"input_ids": example, "attention_mask": example})
    openvino.save_model(graph, str(Path(destination) / "model.xml"), compress_to_fp16=False)
    tokenizer = (Path(source) / "tokenizer.json").read_bytes()
    (Path(destination) / "tokenizer.json").write_bytes(tokenizer)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    _convert(*sys.argv[1:4])
