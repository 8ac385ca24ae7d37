"""What changed in a corpus of a million documents, and what it costs to get a corpus there: fetch, check, snapshot.

Change detection is paired with what a script would do: dictionaries of the same two columns, and hashing every text
anew. Each measurement runs in a process of its own, so its peak memory is its own; CPU includes the imports that the
step makes. The documents are synthetic: 60 words each, ids in random order.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.harness import arguments, metered, run_plainly, show, spread

SHARE = 0.01
"""Of the documents: so many are changed, so many added, so many deleted."""
ROUNDS = 3
STEPS = ("fetch", "check", "snapshot")


def versions(root: Path, documents: int) -> tuple[Path, Path]:
    """Two corpus folders with documents.parquet; the newer one is SHARE changed, SHARE added, SHARE deleted."""
    from pipelines.corpus_files import write_documents

    some = int(documents * SHARE)
    old, new = root / "old", root / "new"
    for folder, first, last in ((old, 0, documents), (new, some, documents + some)):
        folder.mkdir()
        write_documents(folder / "documents.parquet", _batches(first, last, changed=some if folder is new else 0))
    return old, new


def _batches(first: int, last: int, *, changed: int) -> Iterator[Any]:
    import pyarrow as pa

    from pipelines.core.nouns import Document
    from pipelines.corpus_files import document_row
    from pipelines.schemas import DOCUMENTS

    for start in range(first, last, 10_000):
        rows = []
        for n in range(start, min(start + 10_000, last)):
            text = f"The text of document {n}{', as it is now' if n < first + changed else ''}."
            rows.append(document_row(Document(f"{n:09d}", f"Document {n}", text, "text/plain", f"source/x.jsonl#{n}")))
        yield pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS)


def by_changes(old: Path, new: Path) -> tuple[int, int, int]:
    from pipelines.corpus_files import changes

    found = changes(old, new)
    return found.added, found.changed, found.gone


def by_dictionaries(old: Path, new: Path) -> tuple[int, int, int]:
    import pyarrow.parquet as pq

    def read(folder: Path) -> dict[str, str]:
        table = pq.read_table(folder / "documents.parquet", columns=["id", "digest"])
        return dict(zip(table["id"].to_pylist(), table["digest"].to_pylist(), strict=True))

    return _compared(read(old), read(new))


def by_hashing(old: Path, new: Path) -> tuple[int, int, int]:
    import pyarrow.parquet as pq

    def read(folder: Path) -> dict[str, str]:
        table = pq.read_table(folder / "documents.parquet", columns=["id", "text"])
        pairs = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
        return {key: hashlib.sha256(text.encode()).hexdigest() for key, text in pairs}

    return _compared(read(old), read(new))


def _compared(old: dict[str, str], new: dict[str, str]) -> tuple[int, int, int]:
    changed = sum(1 for key in new.keys() & old.keys() if new[key] != old[key])
    return len(new.keys() - old.keys()), changed, len(old.keys() - new.keys())


def write_lines(file: Path, documents: int) -> None:
    """JSON lines, one document each, ids in random order."""
    pick = random.Random(7)  # noqa: S311 the same documents on every run
    words = [f"word{n}" for n in range(5000)]
    with file.open("w", encoding="utf-8") as out:
        for n in range(documents):
            key = f"{pick.getrandbits(40):010x}-{n}"
            row = {"_id": key, "title": f"Document {n}", "text": " ".join(pick.choices(words, k=60)), "year": n % 50}
            out.write(json.dumps(row) + "\n")


def step(name: str, root: Path, source: Path) -> str:
    """Run a node of the corpus DAG on a home of its own below `root`; its summary."""
    import importlib

    from pipelines import params
    from pipelines.settings import Settings, checkout
    from pipelines.wiring import Wiring

    shipped = params.load_corpus(checkout() / "params.yaml", "handbook")
    mine = shipped.model_copy(update={"source": params.Source(documents=str(source))})
    wiring = Wiring(Settings(root, checkout() / "params.yaml", "local[1]"), "bench", mine)
    if name == "check":
        from pipelines.stages import check

        return check.run(mine, wiring.workspace, ports=wiring).summary
    _, summary = importlib.import_module(f"pipelines.actions.{name}").run(mine, wiring.workspace, ports=wiring)
    return str(summary)


def _measured(act: Callable[..., Any], *given: Any) -> tuple[Any, float, float, float]:
    with metered(every=0.02) as cost:
        result = act(*given)
    return result, cost.cpu, cost.wall, cost.peak


def apart(act: Callable[..., Any], *given: Any) -> tuple[Any, float, float, float]:
    """(result, CPU seconds, wall seconds, peak MiB) of `act(*given)` in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, act, *given).result()


def detection(root: Path, documents: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The ways to find what changed, on the same two files, in interleaved rounds."""
    old, new = versions(root, documents)
    ways = {
        "changes (DuckDB)": by_changes,
        "dictionaries of stored digests": by_dictionaries,
        "hash every text": by_hashing,
    }
    runs: dict[str, list[tuple[Any, float, float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            runs[name].append(apart(way, old, new))
    some = int(documents * SHARE)
    wrong = {name: run[0] for name, found in runs.items() for run in found if run[0] != (some, some, some)}
    if wrong:
        raise SystemExit(f"changes: expected {some} added, changed and gone, found {wrong}")
    cpu = {name: statistics.median(run[1] for run in found) for name, found in runs.items()}
    rows = [
        {
            "what": f"detect: {name}",
            "documents": documents,
            "CPU s": spread([run[1] for run in found]),
            "CPU ms per 1,000": 1e6 * cpu[name] / documents,
            "wall s": statistics.median(run[2] for run in found),
            "peak MiB": max(run[3] for run in found),
        }
        for name, found in runs.items()
    ]
    ours = cpu["changes (DuckDB)"]
    return rows, {f"detect: {name} / changes": value / ours for name, value in cpu.items() if value != ours}


def growth(root: Path, sizes: list[int]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """fetch, check and snapshot at each size; how CPU beyond the smallest size and peak memory grow."""
    rows, cpu, peak = [], {}, {}
    for size in sizes:
        home, source = root / f"home{size}", root / f"{size}.jsonl"
        write_lines(source, size)
        for name in STEPS:
            _, cpu[name, size], wall, peak[name, size] = apart(step, name, home, source)
            rows.append(
                {
                    "what": name,
                    "documents": size,
                    "CPU s": f"{cpu[name, size]:.3g}",
                    "CPU ms per 1,000": 1e6 * cpu[name, size] / size,
                    "wall s": wall,
                    "peak MiB": peak[name, size],
                }
            )
    ratios = {}
    for small, large in pairwise(sizes):
        for name in STEPS:
            ratios[f"{name}: CPU of {large:,} / {small:,}"] = cpu[name, large] / cpu[name, small]
            ratios[f"{name}: peak memory of {large:,} / {small:,}"] = peak[name, large] / peak[name, small]
    return rows, ratios


def main() -> None:
    given = arguments(
        __doc__,
        million={"action": "store_true", "help": "fetch, check and snapshot a million documents, too (2 GB of disk)"},
        folder={"type": Path, "help": "where to put the data meanwhile; the system's temporary folder by default"},
    )
    sizes = [1_000, 5_000] if given.quick else [10_000, 100_000, *([1_000_000] if given.million else [])]
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="changes-") as folder:
        found, ratios = detection(Path(folder), 20_000 if given.quick else 1_000_000)
        steps, grown = growth(Path(folder), sizes)
    show("Changes of a corpus", [*found, *steps], ratios={**ratios, **grown}, json_file=given.json)


if __name__ == "__main__":
    run_plainly(main)
