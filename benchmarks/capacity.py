"""The capacity model's predictions beside one measured run: chunks, tokens, CPU, bytes, rows.

The model is told only what a planner knows: how many documents, how many tokens some of them have, and
the engine's tokens per CPU-second from a short calibration. A ratio of 1 is a right prediction. Milvus's memory is
held against a server by benchmarks.milvus_memory; GPU-hours and money are not: there is no GPU.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import arguments, metered, run_plainly, shared_data, show
from pipelines.builds import held, load_build
from pipelines.core.capacity import Load, Rates, object_bytes
from pipelines.core.capacity import cpu_seconds as predicted_cpu
from pipelines.core.nouns import Document
from pipelines.corpus_files import CorpusFiles, document_row, write_files
from pipelines.ports import Embedder
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring

SAMPLE = 40
"""Documents that the planner looks at, and texts of the calibration."""


def documents_of(name: str, most: int | None) -> list[Document]:
    """Documents of a set of the evaluation data in the BEIR form, or of scale/peps.jsonl."""
    file = shared_data("scale/peps.jsonl") if name == "peps" else shared_data(name) / "corpus.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = rows if most is None else random.Random(7).sample(rows, min(most, len(rows)))  # noqa: S311 -- a fixed sample
    named = ((str(row.get("_id") or row.get("id")), row) for row in rows)
    return [Document(key, row.get("title") or key, row["text"], "text/plain", key) for key, row in named if row["text"]]


def wiring_in(home: Path, documents: Sequence[Document]) -> Wiring:
    """A corpus of these documents below `home`, with the defaults of params.yaml and the embedder exported."""
    raw = yaml.safe_load((checkout() / "params.yaml").read_text())
    raw["corpora"] = {"plan": {"source": {"documents": "nowhere"}}}
    (home / "params.yaml").write_text(yaml.safe_dump(raw))
    os.environ["ASSAY_HOME"], os.environ["ASSAY_PARAMS"] = str(home), str(home / "params.yaml")
    for name in ("ASSAY_OBJECTS_URI", "ASSAY_MILVUS_URI"):
        os.environ.pop(name, None)
    wiring = Wiring.of(Settings.from_env(), "plan")
    write_files(wiring.workspace.versioned, CorpusFiles([document_row(d) for d in documents], [], [], []))
    return wiring


def calibrated(embedder: Embedder, texts: Sequence[str]) -> float:
    """Tokens per CPU-second of the engine alone, on one thread as in a Spark worker, warm."""
    import pickle

    single = pickle.loads(pickle.dumps(embedder))  # noqa: S301 -- our own bytes: the copy that a worker would have
    single.embed_batch(texts[:4])
    began = time.process_time()
    _, read = single.embed_counted(texts)
    return float(read.sum() / (time.process_time() - began))


def planned(documents: Sequence[Document], wiring: Wiring) -> tuple[Load, Rates]:
    """What the planner tells the model; nothing of the run that is measured afterwards."""
    from tokenizers import Tokenizer

    tokenizer, chunk = Tokenizer.from_str(wiring.embedder.tokenizer), wiring.params.chunk
    seen = random.Random(11).sample(list(documents), min(SAMPLE, len(documents)))  # noqa: S311 -- a fixed sample
    lengths = [len(tokenizer.encode(d.text, add_special_tokens=False).ids) for d in seen]
    spans = [tokenizer.encode(d.text, add_special_tokens=False).offsets for d in seen]
    pieces = [d.text[: offsets[min(200, len(offsets) - 1)][1]] for d, offsets in zip(seen, spans, strict=True)]
    rates = Rates(
        tokens_per_cpu_second={wiring.params.embed.precision: calibrated(wiring.embedder, pieces)},
        dim=wiring.embedder.dim,
    )
    load = Load(
        documents=len(documents),
        sample=tuple(map(float, lengths)),
        max_tokens=chunk.max_tokens,
        chunk_tokens=(chunk.min_tokens + chunk.max_tokens) / 2,
        overlap=chunk.overlap,
        characters_per_token=sum(len(d.text.encode()) for d in seen) / sum(lengths),
    )
    return load, rates


def built(wiring: Wiring) -> dict[str, float]:
    """chunk, embed and the load of a milvus-lite folder, measured: CPU of all processes, bytes."""
    with metered() as cost:
        for name in ("chunk", "embed"):
            report = importlib.import_module(f"pipelines.stages.{name}").run(
                wiring.params, wiring.workspace, ports=wiring
            )
            wiring.workspace.write_receipt(name, report.facts, report.measured, report.summary)
        load_build(wiring.store, wiring.objects, report.facts)
    objects = Path(wiring.settings.objects_uri)
    return {
        "chunks": report.facts["rows"],
        "tokens": report.facts["tokens"],
        "CPU-seconds": cost.cpu,
        "object bytes": sum(file.stat().st_size for file in objects.rglob("*") if file.is_file()),
        "rows in Milvus": held(wiring.store, report.facts["collection"])[0],
    }


def main() -> None:
    flags: dict[str, dict[str, Any]] = {
        "corpus": {"default": "xquad_en", "help": "xquad_en, cranfield, vaswani_npl or peps"},
        "documents": {"type": int, "default": None, "help": "at most so many of them, drawn at random"},
    }
    options = arguments(__doc__, **flags)
    most = 60 if options.quick else options.documents
    with tempfile.TemporaryDirectory(prefix="assay-capacity-") as temporary:
        wiring = wiring_in(Path(temporary), documents := documents_of(options.corpus, most))
        load, rates = planned(documents, wiring)
        found = built(wiring)
        precision = wiring.params.embed.precision
    model = {
        "chunks": load.chunks,
        "tokens": load.tokens,
        "CPU-seconds": predicted_cpu(load, rates, precision=precision),
        "object bytes": object_bytes(load, rates),
        "rows in Milvus": load.chunks,
    }
    rows = [
        {"quantity": name, "predicted": model[name], "measured": float(value), "ratio": model[name] / value}
        for name, value in found.items()
    ]
    title = f"Capacity: {len(documents):,} documents of {options.corpus}, {precision}"
    show(title, rows, ratios={str(row["quantity"]): row["ratio"] for row in rows}, json_file=options.json)


if __name__ == "__main__":
    run_plainly(main)
