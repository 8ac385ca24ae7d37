"""What the release tests share: a corpus in an ASSAY_HOME of its own, with a real build (embedder, Parquet,
milvus-lite) and scores written by hand, so that what the gate and the log do with them can be read off.

Chunking, Spark, training and scoring are left out: a document is one chunk, the adapter is skipped or made up.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import yaml

from pipelines import adapters
from pipelines.answering import served_prompt
from pipelines.builds import load_build
from pipelines.core.digests import digest_json, digest_row, digest_set
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.names import PUBLIC
from pipelines.core.nouns import Chunk, Document, labelled
from pipelines.corpus_files import CorpusFiles, content_digest, document_row, write_files
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace

CORPUS = "tiny"
TEXTS = {
    "refunds": "Refunds are paid within 30 days of delivery. Opened goods carry a restocking fee.",
    "shipping": "Standard shipping costs 4.90 euros and takes 3 to 5 business days.",
    "warranty": "Tents carry a warranty of five years; boots carry a warranty of one year.",
}
NEWER = {**TEXTS, "refunds": "Refunds are paid within 60 days of delivery. There is no restocking fee."}
QUESTIONS = [f"q{n:02}" for n in range(30)]
ARMS = {"base": 0.1, "rag": 0.5}


def shared_cache() -> Path:
    """Where test runs keep exported embedders, converted generators and an empty database of MLflow's."""
    return Path(os.environ.get("ASSAY_TEST_CACHE") or Path(sys.prefix) / ".assay-test-cache")


def _migrated() -> Path:
    """MLflow's database as its registry makes it: 68 migrations, 2 CPU-seconds, once for each version of MLflow."""
    from pipelines.backends.mlflow import _made_whole

    kept = shared_cache() / "mlflow" / f"{version('mlflow')}.db"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=kept.parent) as building:
            _made_whole(Path(building) / "mlflow.db")
            (Path(building) / "mlflow.db").replace(kept)
    return kept


def home(folder: Path, **sections: Any) -> Settings:
    """As `bare_home`, with MLflow's database as the first thing that is logged would leave it."""
    settings = bare_home(folder, **sections)
    database = settings.home / "mlflow" / "mlflow.db"
    if not database.exists():
        database.parent.mkdir(exist_ok=True)
        shutil.copyfile(_migrated(), database)
    return settings


def bare_home(folder: Path, **sections: Any) -> Settings:
    """An ASSAY_HOME at `folder` with one corpus in its own params file; what MLflow keeps is not made yet."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load((checkout() / "params.yaml").read_text())
    raw["corpora"] = {CORPUS: {"source": {"documents": "documents"}, **sections}}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    (folder / "cache").mkdir(exist_ok=True)
    for kind in ("embedders", "generators"):
        (shared_cache() / kind).mkdir(parents=True, exist_ok=True)
        if not (folder / "cache" / kind).exists():
            (folder / "cache" / kind).symlink_to(shared_cache() / kind)
    return Settings(folder, folder / "params.yaml", "local[1]")


def environment(settings: Settings) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ASSAY_", "MLFLOW_"))}
    return {**kept, "ASSAY_HOME": str(settings.home), "ASSAY_PARAMS": str(settings.params_file)}


def metric(value: float, n: int = len(QUESTIONS)) -> dict[str, float | int]:
    return {"value": value, "low": value, "high": value, "n": n}


def build(
    wiring: Wiring,
    texts: Mapping[str, str],
    *,
    access: Mapping[str, str] | None = None,
    questions: Sequence[Mapping[str, Any]] = (),
    examples: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Version the texts, with gold questions and examples; embed each text as one chunk, write Parquet and marker, load
    Milvus; the embed stage's facts. `access`: labels of those texts that are not public."""
    access = {**dict.fromkeys(texts, PUBLIC), **(access or {})}
    documents = [
        Document(key, key.title(), text, "text/plain", key, access=access[key]) for key, text in sorted(texts.items())
    ]
    rows = [document_row(document) for document in documents]
    write_files(wiring.workspace.versioned, CorpusFiles(rows, questions, examples, []))
    block = yaml.safe_dump(wiring.params.model_dump(mode="json"))
    (wiring.workspace.root / "params.yaml").write_text(block, encoding="utf-8")
    wiring.versioner.snapshot("Land the documents")
    facts = embedded(wiring, documents)
    load_build(wiring.store, wiring.objects, facts)
    wiring.store.close()
    return facts


def embedded(wiring: Wiring, documents: Sequence[Document]) -> dict[str, Any]:
    """Embed each document as one chunk, write Parquet and, last, the marker; the embed stage's facts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.schemas import VECTORS

    access = {document.id: document.access for document in documents}
    chunks = [Chunk(d.id, 0, 0, len(d.text), d.text, 20) for d in documents]
    vectors = wiring.embedder.embed_batch([chunk.text for chunk in chunks])
    table = pa.Table.from_pylist(
        [
            {
                "key": c.id, "document": c.document, "title": c.document.title(), "ordinal": 0, "start": c.start,
                "end": c.end, "tokens": c.tokens, "text": c.text, "text_digest": c.text_digest, "vector": v.tolist(),
                "access": access[c.document],
            }
            for c, v in zip(chunks, vectors, strict=True)
        ],
        schema=VECTORS,
    )  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    corpus_digest = content_digest({document.id: document.digest for document in documents})
    collection = f"b_{CORPUS}_{digest_json([corpus_digest, wiring.embedder.digest])[:16]}"
    marks = (
        digest_row(c.id.encode(), labelled(c.text_digest, access[c.document]).encode(), v.tobytes())
        for c, v in zip(chunks, vectors, strict=True)
    )
    facts = {
        "collection": collection, "key": f"builds/{collection}", "parts": ["part-00000.parquet"], "rows": len(chunks),
        "tokens": 20 * len(chunks), "digest": digest_set(marks), "embedder": wiring.embedder.name,
        "embedder_digest": wiring.embedder.digest, "dim": wiring.embedder.dim, "documents": len(documents),
        "corpus_digest": corpus_digest,
    }  # fmt: skip
    wiring.objects.put(f"{facts['key']}/part-00000.parquet", sink.getvalue())
    wiring.objects.put(f"{facts['key']}/embed.json", json.dumps(facts).encode())
    return facts


def made_up_adapter(wiring: Wiring) -> dict[str, Any]:
    """A sealed adapter folder whose weights are a few bytes: enough for everything but generating with it."""
    folder = wiring.settings.home / "made-up-adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    base = wiring.generator()
    bound = {"base": base.name, "base_digest": base.base_digest, "training_digest": "t" * 64}
    digest = adapters.bind(folder, {**bound, "tokenizer_digest": base.tokenizer_digest})
    return {"digest": digest, "key": adapters.seal(wiring.objects, folder), **bound}


def _models(wiring: Any, arms: Iterable[str]) -> dict[str, Any]:
    """What the arms are said to have been asked of: the corpus's model; without backends, one made up."""
    base = wiring.generator() if isinstance(wiring, Wiring) else SimpleNamespace(name="smollm2", base_digest="b" * 64)
    digest = base.base_digest
    return {arm: {"name": base.name, "digest": digest} for arm in arms}


def scored(
    wiring: Wiring,
    facts: Mapping[str, Any],
    *,
    arms: Mapping[str, float] = ARMS,
    ndcg: float = 0.8,
    adapter: Mapping[str, Any] | None = None,
    stale: Sequence[str] = (),
    longer: LongPrompt | None = None,
) -> None:
    """Receipts and rows as the scoring stages leave them: every question of an arm has the arm's F1, and against a
    champion, the champion's replies score 0.3 and its retrieval 0.8."""
    workspace, champion = wiring.workspace, wiring.workspace.champion()
    names = ("ndcg@10", "recall@1", "recall@5", "recall@10", "mrr")
    retrieval = [{"id": q, "metrics": dict.fromkeys(names, ndcg)} for q in QUESTIONS]
    said: dict[str, Any] = {"reply": "x", "citations": [], "passages": [], "tokens_in": 9, "tokens_out": 1, "ms": 5.0}
    asked = {"question": "What?", "gold": ["x"], "kind": None, **said}
    answers = [{"id": q, "arm": a, **asked, "metrics": {"token_f1": f1}} for a, f1 in arms.items() for q in QUESTIONS]
    if champion:
        retrieval = [{**row, "champion": dict.fromkeys(names, 0.8)} for row in retrieval]
        answers += [{"id": q, "arm": "champion", **asked, "metrics": {"token_f1": 0.3}} for q in QUESTIONS]
    for kind, rows in (("retrieval", retrieval), ("answers", answers)):
        workspace.scores(kind).parent.mkdir(parents=True, exist_ok=True)
        workspace.scores(kind).write_text("".join(json.dumps(row) + "\n" for row in rows))
    reranker = getattr(wiring, "reranker", None)
    ranked = {"reranker": reranker and {"name": reranker.name, "digest": reranker.digest}}
    receipts = {
        "chunk": {"rows": facts["rows"], "documents": facts["documents"], "window": 256},
        "embed": facts,
        "index": facts,
        "mix": {"digest": "t" * 64},
        "train": {**adapter, "examples": 20} if adapter else {"skipped": "no training examples"},
        "score_retrieval": {
            "metrics": dict.fromkeys(names, metric(ndcg)), "stale_labels": list(stale), "questions": len(QUESTIONS),
            **ranked,
        },
        "score_answers": {
            "arms": {arm: {"token_f1": metric(f1)} for arm, f1 in arms.items()}, "models": _models(wiring, arms),
            "questions": len(QUESTIONS), "prompt_digest": served_prompt(wiring.params.generate, longer), **ranked,
            "long_prompt": longer.to_json() if longer else None,
        },
    }  # fmt: skip
    for stage, receipt in receipts.items():
        workspace.write_receipt(stage, receipt, {}, f"{stage} by hand")


def write_champion(workspace: Workspace, manifest: Mapping[str, Any]) -> None:
    workspace.champion_file.write_text(json.dumps(manifest))


def judged(wiring: Wiring) -> dict[str, Any]:
    """Put the release to beat beside the scores, judge, and write the receipt, as the runner does; returns it."""
    from pipelines.stages.judge import decide

    facts = decide(wiring.params, wiring.workspace)
    wiring.workspace.write_receipt("judge", facts, {"run_id": "by hand"}, "judged by hand")
    return facts


def candidate(
    settings: Settings,
    texts: Mapping[str, str] = TEXTS,
    *,
    access: Mapping[str, str] | None = None,
    **scores: Any,
) -> dict[str, Any]:
    """A judged candidate made of `texts`, ready to be promoted; the judge's facts. `access` as in `build`."""
    from pipelines.runner import sync_champion

    wiring = Wiring.of(settings, CORPUS)
    facts = build(wiring, texts, access=access)
    wiring.workspace.write_receipt("index", facts, {}, "")
    sync_champion(wiring)
    scored(wiring, facts, **scores)
    return judged(wiring)


def run_promote(settings: Settings) -> tuple[bool, str]:
    """The graph's last node, as the runner calls it; its store is closed after it."""
    from pipelines.actions import promote

    wiring = Wiring.of(settings, CORPUS)
    try:
        return promote.run(wiring.params, wiring.workspace, ports=wiring)
    finally:
        wiring.store.close()
