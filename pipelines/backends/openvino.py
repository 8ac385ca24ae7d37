"""Sentence embedders on OpenVINO: the sentence-transformers' own torch module, exported once, behind `ports.Embedder`.

The export runs in a process of its own (`backends.openvino_export`), since torch and sentence-transformers cost 20
CPU-seconds to import; afterwards only openvino and tokenizers are loaded. An export is a folder
`cache/embedders/DIGEST/` (`pipelines.exports`), whose files' digests are verified whenever it is opened.

| embed.precision | weights and arithmetic |
|---|---|
| fp32 | as the model came |
| bf16 | fp32 weights, computed in bf16; refused on a CPU that does not multiply bf16 natively |
| int8 | quantised by NNCF; what stays outside is computed in bf16 where the CPU can, else in fp32: two digests |

A vector depends on its text alone: only texts of the same token count share a batch, so nothing is padded. Padding
changes the last bits, and then a build's digest would depend on what happened to be in the cache before.
Nothing is truncated: a text longer than the window is refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import exports
from pipelines.core.batches import same_length
from pipelines.embedders import PRECISIONS, Definition, calibration, embedder_digest, read_definition
from pipelines.errors import BadConfig
from pipelines.shipping import arrived
from pipelines.tokens import TextReader

_FILES = ("model.xml", "model.bin", "tokenizer.json")


def inference_type(precision: str) -> str:
    """OpenVINO's name of the type that a precision is computed in on this CPU; BadConfig when this CPU cannot.

    OpenVINO itself would compute bf16 in fp32 without a word.
    """
    if precision not in PRECISIONS:
        raise BadConfig(f"embed.precision is {precision!r}; one of {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return "f32"
    import openvino

    native = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in native:
        return "bf16"
    if precision == "bf16":
        raise BadConfig("embed.precision is 'bf16', but this CPU does not multiply bf16 natively; here: fp32, int8")
    return "f32"


def computed_in(precision: str, recorded: str | None) -> str:
    """The type that an export is computed in here: the one `recorded` when it was made, whatever this CPU would take by
    itself. BadConfig when this CPU cannot. None: by a version that recorded nothing."""
    here = inference_type(precision)
    if recorded == "bf16" and here != "bf16":
        raise BadConfig(
            f"embed.precision is {precision!r} and the export computes in bf16 what is not quantised, but this CPU "
            "does not multiply bf16 natively: its vectors would be others; run on a CPU that does, or embed anew here"
        )
    return recorded or here


def _export(definition: Definition, precision: str, digest: str, destination: Path) -> None:
    """Convert in a process of its own; see `exports.make`."""
    asked = {
        "source": str(definition.folder),
        "seed": definition.random_seed,
        "calibration": str(calibration()) if precision == "int8" else None,
        "prefix": definition.prefix,
        "lower": definition.lower,
        "window": definition.window,
        "float_layers": definition.float_layers,
    }
    told = {name: asked[name] for name in ("prefix", "lower", "window")}
    facts = {"digest": digest, **told, "computed_in": inference_type(precision)}
    module, what = "pipelines.backends.openvino_export", f"embedder {definition.name}"
    exports.make(destination, module, [json.dumps(asked)], files=_FILES, facts=facts, what=what)


class OpenVinoEmbedder(TextReader):
    """An export, opened: a `ports.Embedder`. Compiled on first use.

    Pickled, it is its address: the copy in a worker process opens the export again, once per process, and infers on
    one thread, since there is a worker for each core.
    """

    def __init__(self, folder: Path, *, name: str, precision: str, batch_tokens: int, threads: int) -> None:
        """Verify the export below `folder`; IntegrityError when a file is not what was recorded."""
        facts = exports.opened(folder)
        self.folder, self._precision, self._computed_in = folder, precision, facts.get("computed_in")
        self._batch_tokens, self._threads = batch_tokens, threads
        self.digest = str(facts["digest"])
        super().__init__(
            folder / "tokenizer.json",
            name=name,
            prefix=str(facts["prefix"]),
            lower=bool(facts["lower"]),
            window=int(facts["window"]),
            parallel=threads != 1,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (str(self.folder), self.name, self._precision, self._batch_tokens, 1)

    @cached_property
    def _compiled(self) -> Any:
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": computed_in(self._precision, self._computed_in),  # else bf16 where there is AMX
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else every single-threaded worker is pinned to the same first core
        }
        return openvino.Core().compile_model(str(self.folder / "model.xml"), "CPU", options)

    @cached_property
    def _requests(self) -> threading.local:
        return threading.local()

    @property
    def _infer(self) -> Any:
        """This thread's own request: one request serves one thread at a time."""
        if not hasattr(self._requests, "infer"):
            self._requests.infer = self._compiled.create_infer_request().infer
        return self._requests.infer

    @cached_property
    def dim(self) -> int:
        return int(self._compiled.output(0).partial_shape[1].get_length())

    def embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, dim), rows of L2 norm 1, in the order of `texts`; BadInput on a text above the window."""
        return self.embed_counted(texts)[0]

    def embed_counted(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of `embed_batch`, and int32 (texts,): tokens read of each, special ones and prefix aside."""
        ids, read = self.read(texts)
        out, infer = np.empty((len(texts), self.dim), dtype=np.float32), self._infer
        for batch in same_length([len(one) for one in ids], tokens=self._batch_tokens):
            out[batch] = infer([np.array([ids[p] for p in batch], dtype=np.int64)], share_inputs=True)[0]
        return out, read


@lru_cache(maxsize=4)
def reopen(folder: str, name: str, precision: str, batch_tokens: int, threads: int) -> OpenVinoEmbedder:
    """The embedder of an export, opened once per process."""
    found = arrived(folder, name=Path(folder).name)
    return OpenVinoEmbedder(found, name=name, precision=precision, batch_tokens=batch_tokens, threads=threads)


def load_embedder(
    definition: Path,
    *,
    cache: Path,
    precision: str = "fp32",
    batch_tokens: int = 1024,
    threads: int = 0,
    tuned: Path | None = None,
) -> OpenVinoEmbedder:
    """The embedder of a definition file, exported below `cache` on first use.

    `batch_tokens` is the most tokens of one inference; `threads` 0 means all cores; `tuned` is the folder of the model
    where the definition says `tuned: true`. BadConfig on a bad definition or a
    precision that this CPU lacks, MissingTool when the model is not on this machine, IntegrityError when the export
    was altered.
    """
    rest = inference_type(precision)
    parsed = read_definition(definition, tuned=tuned)
    digest = embedder_digest(parsed, precision, rest=rest)
    folder = cache / "embedders" / digest
    if not (folder / exports.FACTS).is_file():
        _export(parsed, precision, digest, folder)
    return reopen(str(folder.resolve()), parsed.name, precision, batch_tokens, threads)
