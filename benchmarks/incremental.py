"""What a build costs against the share of documents that changed: chunk and embed, in CPU-seconds.

A corpus is built whole, then with 0, 0.1, 1 and 10 % of its documents changed, added or deleted (a third each), always
from the same first build. Every build is processes of its own, as Airflow runs it. Start-up (Python, imports, opening
the model) is the cost of the same two stages on a corpus of two documents, and is shown apart. The model is exported
before anything is measured, as one export serves all builds of a home. Two documents start no JVM: where a build starts
a Spark session (some 8 CPU-seconds), it counts as work. With --home the first build is kept, and later runs start from
it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.corpora import CHUNKS_PER_DOCUMENT, edited, in_process, ports_of, write_documents
from benchmarks.harness import arguments, finish_plot, run_plainly, show
from pipelines.workspace import Workspace, write_whole

SHARES = (0.0, 0.001, 0.01, 0.1)
STAGES = ("chunk", "embed")


def _build(home: Path, embedder: str, documents: Any) -> dict[str, Any]:
    """Write the corpus and export the model where there is no export yet (neither is measured), run both stages; CPU
    and wall seconds of each, texts cut and embedded."""
    ports = ports_of(home, embedder=embedder)
    write_documents(ports.workspace, documents)
    assert ports.embedder.digest
    said = in_process(home, embedder, *STAGES)
    row = {f"{name}_cpu": said[name]["cpu"] for name in STAGES}
    chunk, embed = said["chunk"], said["embed"]
    return {
        **row,
        "cpu": sum(row.values()),
        "wall": chunk["wall"] + embed["wall"],
        "rows": embed["facts"]["rows"],
        "cut": chunk["measured"]["cut"],
        "embedded": embed["measured"]["embedded"],
    }


def _receipts(workspace: Workspace) -> dict[str, Any]:
    return {name: workspace.receipt(name) for name in STAGES}


def _first(home: Path, embedder: str, documents: int) -> dict[str, Any]:
    """The full build, once per home: its cost and its receipts."""
    kept = home / "full.json"
    if kept.is_file():
        full: dict[str, Any] = json.loads(kept.read_text())
        if (full["documents"], full["embedder"]) == (documents, embedder):
            return full
        raise SystemExit(f"{home} holds {full['documents']} documents by {full['embedder']}; give another --home")
    if home.exists() and any(home.glob("objects/embeddings/*/*/part-*")):
        raise SystemExit(f"{home} holds a full build that was stopped, so its cost is not known; give another --home")
    cost = _build(home, embedder, edited(documents, share=0.0, round_=0))
    receipts = _receipts(ports_of(home, embedder=embedder).workspace)
    full = {"documents": documents, "embedder": embedder, "cost": cost, "receipts": receipts, "rounds": 0}
    write_whole(kept, json.dumps(full))
    return full


def measure(home: Path, *, embedder: str, documents: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of the table, and the ratios full / share of the work (start-up taken off both)."""
    start = _build(home / "start", embedder, edited(2, share=0.0, round_=0))["cpu"]
    full = _first(home, embedder, documents)
    workspace = ports_of(home, embedder=embedder).workspace
    measured = {1.0: full["cost"]}
    for share in SHARES:
        full["rounds"] += 1
        write_whole(home / "full.json", json.dumps(full))
        for name, facts in full["receipts"].items():
            workspace.write_receipt(name, facts, {}, "")
        measured[share] = _build(home, embedder, edited(documents, share=share, round_=full["rounds"]))
    rows, ratios = [], {}
    whole = full["cost"]["cpu"] - start
    for share, cost in measured.items():
        work = max(cost["cpu"] - start, 0.0)
        shown = {"changed": f"{share:.1%}", "chunks": cost["rows"], "cut": cost["cut"], "embedded": cost["embedded"]}
        seconds = {"chunk CPU-s": cost["chunk_cpu"], "embed CPU-s": cost["embed_cpu"], "wall s": cost["wall"]}
        rows.append({**shown, **seconds, "start-up CPU-s": min(start, cost["cpu"]), "work CPU-s": work})
        if share < 1.0:
            ratios[f"full / {share:.1%} changed, work"] = whole / max(work, 0.01)
            ratios[f"full / {share:.1%} changed, start-up included"] = full["cost"]["cpu"] / cost["cpu"]
    return rows, ratios


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Work in CPU-seconds against the share changed, both on logarithmic scales, beside what proportion would cost."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points = sorted((float(row["changed"].rstrip("%")), row["work CPU-s"]) for row in rows)
    points = [(share, work) for share, work in points if share > 0 and work > 0]
    figure, axes = plt.subplots(figsize=(7, 4.5))
    axes.loglog(*zip(*points, strict=True), marker="o", label="measured")
    axes.loglog(
        [share for share, _ in points],
        [points[-1][1] * share / 100 for share, _ in points],
        "--",
        label="in proportion",
    )
    axes.set(xlabel="documents changed, added or deleted (%)", ylabel="CPU-seconds of chunk + embed, start-up aside")
    axes.set_title(f"{rows[0]['chunks']:,} chunks")
    finish_plot(figure, (axes,), file)


def main() -> None:
    args = arguments(
        __doc__,
        chunks={"type": int, "default": 100_000, "help": "size of the corpus"},
        embedder={"default": "minilm", "help": "a file of models/embedders, or hash: a cheap one"},
        home={"type": Path, "help": "keep the builds in this folder, and go on from what is there"},
        plot={"type": Path, "help": "write the curve to this PNG file"},
    )
    chunks, embedder = (2_000, "hash") if args.quick else (args.chunks, args.embedder)
    home = args.home or Path(tempfile.mkdtemp(prefix="assay-incremental-"))
    try:
        rows, ratios = measure(home.resolve(), embedder=embedder, documents=max(3, chunks // CHUNKS_PER_DOCUMENT))
    finally:
        if args.home is None:
            shutil.rmtree(home)
    show(f"Incremental builds, {embedder}", rows, ratios=ratios, json_file=args.json)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    run_plainly(main)
