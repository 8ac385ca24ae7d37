"""What the benchmarks share: what a block cost this process and all below it, tables, and the JSON form.

CPU-seconds are of the whole process tree, ended children included, so that a JVM or a pool of workers hides nothing.
It measures; what is compared, and how often, each benchmark says itself.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipelines.errors import AssayError, MissingTool
from pipelines.settings import checkout


@dataclass
class Cost:
    """What a block cost: seconds of wall and of CPU (user + system, all processes), peak resident MiB by process."""

    wall: float = 0.0
    cpu: float = 0.0
    peak_mib: dict[str, float] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        """Sum of the processes' peaks, MiB: an upper bound of the tree's peak."""
        return sum(self.peak_mib.values())


def tree(root: int | None = None) -> list[psutil.Process]:
    """A process (this one by default) and all below it that live."""
    top = psutil.Process(root or os.getpid())
    return [top, *top.children(recursive=True)]


def cpu_seconds(root: int | None = None) -> float:
    """CPU of the tree so far. A child that has ended counts where it was waited for."""
    total = 0.0
    for process in tree(root):
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def _adopt() -> None:
    """Orphans below this process become its children (Linux): Spark kills the parent of its Python workers at the end
    of a session, and their CPU would be lost with it."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


@contextmanager
def metered(*, root: int | None = None, every: float = 0.1) -> Iterator[Cost]:
    """Fill a Cost with what the block cost. Memory is looked at every `every` seconds, per process (name and id); so is
    CPU, of which the larger of two counts holds: ended children where they were waited for, and what was last seen of
    each process. PySpark's daemon ignores SIGCHLD, so a worker that ends before its session is in the second alone."""
    cost, ended = Cost(), threading.Event()
    seen: dict[tuple[int, float], float] = {}
    _adopt()

    def look() -> None:
        for process in tree(root):
            try:
                label = f"{process.name()} {process.pid}"
                held = process.memory_info().rss / 2**20
                used = process.cpu_times()
                seen[process.pid, process.create_time()] = used.user + used.system
            except psutil.Error:
                continue
            cost.peak_mib[label] = max(cost.peak_mib.get(label, 0.0), held)

    def watch() -> None:
        while not ended.wait(every):
            look()

    look()
    held_before = sum(seen.values())
    watcher = threading.Thread(target=watch, daemon=True)
    began, before = time.perf_counter(), cpu_seconds(root)
    watcher.start()
    try:
        yield cost
    finally:
        cost.wall, cost.cpu = time.perf_counter() - began, cpu_seconds(root) - before
        ended.set()
        watcher.join()
        look()
        cost.cpu = max(cost.cpu, sum(seen.values()) - held_before)


def shared_data(name: str) -> Path:
    """A set of the evaluation data, which is not part of the project; MissingTool says where it is looked for."""
    root = Path(os.environ.get("ASSAY_SHARED_DATA") or checkout().parent / "shared" / "data")
    if not (root / name).exists():
        raise MissingTool(f"no {name} below {root}; set ASSAY_SHARED_DATA to the folder of the evaluation sets")
    return root / name


def arguments(description: str | None, **flags: Mapping[str, Any]) -> argparse.Namespace:
    """--json FILE and --quick, which every benchmark has, and its own flags. A SIGTERM from now on unwinds the
    benchmark as an exit does, so that it ends the servers that it started."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help='write {"rows": [...], "ratios": {name: number}} to this file')
    parser.add_argument("--quick", action="store_true", help="a small size, to see that it works; not a measurement")
    for name, options in flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    return parser.parse_args()


def run_plainly(benchmark: Callable[[], None]) -> None:
    """Run a benchmark; an error of ours is one line and its exit code."""
    try:
        benchmark()
    except AssayError as exc:
        print(f"assay: {exc}", file=sys.stderr)
        raise SystemExit(exc.exit_code) from exc


def spread(values: Sequence[float]) -> str:
    """`median [min, max]` with three significant digits."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def finish_plot(figure: Any, axes: Iterable[Any], file: Path) -> None:
    """Grid, legend, and the figure as a PNG."""
    for one in axes:
        one.grid(alpha=0.3)
        one.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def show(title: str, rows: Sequence[Mapping[str, Any]], *, ratios: Mapping[str, float], json_file: Path | None) -> None:
    """Print one table (a column per key of the first row) and the ratios below it; write the JSON form if asked."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console(width=None if os.isatty(1) else 160)
    console.print(table)
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.3g}")
    if json_file is not None:
        json_file.write_text(json.dumps({"rows": list(rows), "ratios": dict(ratios)}, indent=1) + "\n")
