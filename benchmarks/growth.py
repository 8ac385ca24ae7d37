"""Memory and time as the corpus grows: chunk, embed and index at 10 thousand, 100 thousand and 1 million chunks.

The embedder is a cheap one (a vector drawn from the text's digest); everything else is real: the splitter, Spark, the
object store, MLflow, and Milvus as a server of its own (milvus-lite's), fresh for each size. Each stage is a process of
its own; shown is the highest resident memory of one process of each kind.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.corpora import CHUNKS_PER_DOCUMENT, edited, in_process, ports_of, write_documents
from benchmarks.harness import arguments, finish_plot, metered, run_plainly, show
from infra.local_milvus import lite_server, running

STAGES = ("chunk", "embed", "index")


@contextmanager
def milvus(home: Path) -> Iterator[int]:
    """A milvus-lite server with ASSAY_MILVUS_URI set to it, for the block; yields its process id."""
    with running(lite_server(home)) as server:
        os.environ["ASSAY_MILVUS_URI"] = server.uri
        try:
            yield server.pid
        finally:
            os.environ.pop("ASSAY_MILVUS_URI")


def highest(peaks: Mapping[str, float], *, driver: int) -> dict[str, float]:
    """Peak MiB of the stage's own process, of the JVM and of the largest other (a Python worker)."""
    found = {"driver": 0.0, "JVM": 0.0, "worker": 0.0}
    for label, peak in peaks.items():
        name, pid = label.rsplit(" ", 1)
        kind = "JVM" if name == "java" else "driver" if int(pid) == driver else "worker"
        found[kind] = max(found[kind], peak)
    return found


def grow(home: Path, chunks: int) -> list[dict[str, Any]]:
    """One row per stage at about so many chunks."""
    written = write_documents(
        ports_of(home, embedder="hash").workspace,
        edited(max(2, chunks // CHUNKS_PER_DOCUMENT), share=0.0, round_=0),
    )
    rows = []
    with milvus(home / "milvus-server") as server:
        for stage in STAGES:
            with metered(root=server) as store:
                said = in_process(home, "hash", stage)[stage]
            count = said["facts"]["rows"]
            peaks = highest(said["peak_mib"], driver=said["pid"])
            rows.append(
                {"chunks": count, "documents": written, "stage": stage}
                | {f"{kind} MiB": round(peak) for kind, peak in peaks.items()}
                | {"Milvus MiB": round(store.peak), "wall s": said["wall"]}
                | {"CPU ms/chunk": 1000 * (said["cpu"] + store.cpu) / count}
            )
    return rows


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Left: the highest peak of each kind of process; right: CPU per chunk of each stage; both against the size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sizes = sorted({row["chunks"] for row in rows})
    figure, (memory, cost) = plt.subplots(1, 2, figsize=(11, 4.5))
    for kind in ("driver MiB", "JVM MiB", "worker MiB", "Milvus MiB"):
        peaks = [max(row[kind] for row in rows if row["chunks"] == size) for size in sizes]
        memory.plot(sizes, peaks, marker="o", label=kind.removesuffix(" MiB"))
    for stage in STAGES:
        held = {row["chunks"]: row["CPU ms/chunk"] for row in rows if row["stage"] == stage}
        cost.plot(sizes, [held[size] for size in sizes], marker="o", label=stage)
    memory.set(xscale="log", ylim=(0, None), xlabel="chunks", ylabel="highest resident memory of one process (MiB)")
    cost.set(xscale="log", ylim=(0, None), xlabel="chunks", ylabel="CPU-milliseconds a chunk")
    finish_plot(figure, (memory, cost), file)


def main() -> None:
    args = arguments(
        __doc__,
        chunks={"type": int, "nargs": "+", "default": [10_000, 100_000, 1_000_000], "help": "sizes"},
        folder={"type": Path, "help": "where the corpora are built (1 million chunks: 15 GB), instead of the default"},
        plot={"type": Path, "help": "write memory and time to this PNG file"},
    )
    sizes = [500, 2_000] if args.quick else sorted(args.chunks)
    rows: list[dict[str, Any]] = []
    for size in sizes:
        home = Path(tempfile.mkdtemp(prefix="assay-growth-", dir=args.folder))
        try:
            rows += grow(home / "home", size)
        finally:
            shutil.rmtree(home)
    first, last = min(row["chunks"] for row in rows), max(row["chunks"] for row in rows)
    ratios = {"chunks, largest / smallest": last / first}
    for kind in ("driver MiB", "JVM MiB", "worker MiB", "Milvus MiB", "CPU ms/chunk"):
        ends = [max(row[kind] for row in rows if row["chunks"] == size) for size in (first, last)]
        ratios[f"{kind}, largest / smallest"] = ends[1] / max(ends[0], 0.01)
    show("Growth, cheap embedder", rows, ratios=ratios, json_file=args.json)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    run_plainly(main)
