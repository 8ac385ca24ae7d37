"""End the sessions that services were started in, with every process in them, and look whether one has ended."""

from __future__ import annotations

import contextlib
import os
import signal

import psutil

from pipelines.errors import BackendError


def gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def members(pids: list[int]) -> list[psutil.Process]:
    """The processes, all their descendants, and all members of their sessions."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            for process in [parent, *parent.children(recursive=True)]:
                found[process.pid] = process
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) in pids:
                for member in [process, *process.children(recursive=True)]:
                    found[member.pid] = member
    return list(found.values())


def end_sessions(pids: list[int], *, patience: float = 10) -> None:
    """End the sessions led by `pids`: SIGTERM, SIGKILL `patience` seconds later. BackendError names what would not
    die."""
    left = members(pids)
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(sign)
        _, left = psutil.wait_procs(left, timeout=seconds)
        left = list({process.pid: process for process in [*left, *members(pids)]}.values())
    alive = [str(p.pid) for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    if alive:
        raise BackendError(f"processes {', '.join(alive)} did not end")
