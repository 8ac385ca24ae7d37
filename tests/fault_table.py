"""The table of faults at the end of a run: each fault, how often it was tried, how often the invariant held.

A test says what it tries by `with faults("kill -9 in promote", times=15): ...` (all of these tries held when the block
ends without an error), or by the mark `@pytest.mark.fault("kill -9 in promote", times=15)` for the test as a whole. The
counts travel in the tests' reports, so they survive xdist. ASSAY_FAULTS_JSON names a file for the rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

PROPERTY = "assay.fault"
Faults = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """`with faults(NAME, times=N):` counts N tries of a fault, and that they held unless the block raises."""

    @contextmanager
    def trying(name: str, *, times: int = 1) -> Iterator[None]:
        row = [name, times, 0]
        request.node.user_properties.append((PROPERTY, row))
        yield
        row[2] = times

    return trying


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if call.when == "call" and not report.skipped:
        for mark in item.iter_markers("fault"):
            times = mark.kwargs.get("times", 1)
            report.user_properties.append((PROPERTY, [mark.args[0], times, times if report.passed else 0]))
    return report


def flip(file: Path) -> None:
    """One bit in the middle of the file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x80
    file.write_bytes(bytes(data))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def rows_of(reports: Sequence[Any]) -> list[dict[str, Any]]:
    """One row per fault, in the order of their names; skipped tests tried nothing."""
    counts: dict[str, list[int]] = {}
    for report in reports:
        if getattr(report, "when", None) == "call":
            for key, value in report.user_properties:
                if key == PROPERTY:
                    total = counts.setdefault(value[0], [0, 0])
                    total[0] += value[1]
                    total[1] += value[2]
    return [{"fault": name, "times tried": n, "times held": held} for name, (n, held) in sorted(counts.items())]


def markdown(rows: Sequence[dict[str, Any]]) -> list[str]:
    total = {"fault": "all", **{key: sum(row[key] for row in rows) for key in ("times tried", "times held")}}
    lines = ["| fault | times tried | times held |", "|---|---:|---:|"]
    return lines + [f"| {r['fault']} | {r['times tried']} | {r['times held']} |" for r in (*rows, total)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    if not (rows := rows_of(reports)):
        return
    terminalreporter.section("faults")
    for line in markdown(rows):
        terminalreporter.write_line(line)
    if where := os.environ.get("ASSAY_FAULTS_JSON"):
        Path(where).write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
