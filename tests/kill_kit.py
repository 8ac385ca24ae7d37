"""Steps of a release's life (`life_kit`) as real processes that may be killed, stopped or misled at any moment.

`Zygote` starts `python -m tests.kill_kit`, which imports the vendors once and forks a child for each step that it is
told; it opens no connection of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.settings import Settings, checkout
from tests import graph_kit, life_kit
from tests import release_kit as kit

Json = dict[str, Any]


def code(text: str) -> Any:
    """Run a text; what it leaves in `said` is what it says."""
    scope: Json = {}
    exec(text, scope)  # noqa: S102 -- a test's own text
    return scope.get("said")


STEPS = life_kit.STEPS | graph_kit.STEPS | {"code": code}
EAGER = ("mlflow.pyfunc", "pymilvus", "milvus_lite", "great_expectations", "dvc.repo", "pyarrow.parquet", "openvino")


@dataclass(frozen=True)
class Ended:
    """How a step's process ended: killed by us, or with what it said, or with an error; and after how many seconds."""

    killed: bool
    seconds: float
    said: Any = None
    error: str = ""


class Zygote:
    """The process that forks. `tell` runs a step below a home and may kill it after `delay` seconds; `start` and
    `finish` are its two halves, for steps that run side by side. `environment` is what its children get beside."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.environment: dict[str, str] = {}
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.kill_kit"], cwd=checkout(), text=True, stderr=out,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip

    def _asked(self, order: Json) -> Json:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the zygote died: {self.log.read_text()[-3000:]}"
        return dict(json.loads(line))

    def start(self, settings: Settings, step: str, *arguments: Any, stop: str = "", days: int = 0) -> int:
        """Begin a step; returns its process. With `stop` (MODULE:OWNER.NAME) when it has stopped itself by SIGSTOP,
        just before it calls that. `days` is how wrong its clock is."""
        environment = {name: value for name, value in kit.environment(settings).items() if name.startswith("ASSAY_")}
        order = {"step": step, "arguments": arguments, "stop": stop, "days": days}
        said = self._asked({**order, "environment": environment | self.environment})
        assert said["stopped"] == bool(stop), f"{step} did not stop at {stop}: {self.finish(said['started'])}"
        return int(said["started"])

    def finish(self, pid: int, *, delay: float | None = None) -> Ended:
        """Let the process go on, if it stopped, and wait for its end. `delay` is counted from its beginning; 0 kills it
        where it stopped."""
        return Ended(**self._asked({"finish": pid, "delay": delay}))

    def tell(self, settings: Settings, step: str, *arguments: Any, delay: float | None = None) -> Ended:
        return self.finish(self.start(settings, step, *arguments), delay=delay)

    def undisturbed(self, settings: Settings, step: str, *arguments: Any) -> Ended:
        ended = self.tell(settings, step, *arguments)
        assert not ended.error and not ended.killed, f"{step}{arguments}: {ended.error}"
        return ended

    def ends_itself(self, settings: Settings, text: str) -> None:
        """Run a step of a test's own, which must come to kill itself."""
        ended = self.tell(settings, "code", text)
        assert ended.killed, f"not killed: {ended}"

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=60)


def _stopping(where: str) -> None:
    """Before the first call of MODULE:OWNER.NAME this process stops, and goes on when it is told to."""
    module, _, path = where.partition(":")
    owner, _, name = path.rpartition(".")
    target = importlib.import_module(module)
    target = getattr(target, owner) if owner else target
    real = getattr(target, name)

    def stopped(*args: Any, **kwargs: Any) -> Any:
        setattr(target, name, real)
        os.kill(os.getpid(), signal.SIGSTOP)
        return real(*args, **kwargs)

    setattr(target, name, stopped)


def _misled(days: int) -> None:
    """The clock that dates releases and tombstones is so many days ahead."""
    from datetime import UTC, datetime, timedelta
    from types import SimpleNamespace

    from pipelines import released
    from pipelines.actions import gc

    def now(*_: Any) -> datetime:
        return datetime.now(UTC) + timedelta(days=days)

    released.now = lambda: now().replace(microsecond=0)
    gc.datetime = SimpleNamespace(now=now)  # type: ignore[misc, assignment]


def _child(order: Json, out: int) -> None:
    os.setsid()
    os.dup2(2, 1)
    os.environ.update(order["environment"])
    if order["stop"]:
        _stopping(order["stop"])
    if order["days"]:
        _misled(order["days"])
    try:
        said = {"said": STEPS[order["step"]](*order["arguments"])}
    except BaseException as exc:
        import traceback

        said = {"said": None, "error": f"{exc!r}\n{traceback.format_exc()[-2000:]}"}
    # So that the next child finds its imports done. Of a step that should have stopped nothing is read before it ends.
    said["modules"] = [] if order["stop"] else sorted({*sys.modules, *graph_kit.IMPORTED})
    os.write(out, json.dumps(said).encode())
    os._exit(0)


def _started(order: Json, running: dict[int, tuple[int, float]]) -> Json:
    into, out = os.pipe()
    began = time.monotonic()
    if (pid := os.fork()) == 0:
        os.close(into)
        _child(order, out)
    os.close(out)
    running[pid] = (into, began)
    stopped = False
    if order["stop"]:
        seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        stopped = seen is not None and seen.si_code == os.CLD_STOPPED
    return {"started": pid, "stopped": stopped}


def _kill(pid: int) -> None:
    """kill -9 of a step and of all that it started: Spark's Python workers have a group of their own in its session."""
    os.kill(pid, signal.SIGKILL)
    while others := [other for other in _session(pid) if other != pid]:
        for other in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
        time.sleep(0.002)


def _session(pid: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == pid and state not in "ZX":
                    found.append(int(entry.name))
    return found


def _finished(pid: int, delay: float | None, into: int, began: float) -> Json:
    if delay != 0.0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    said, ends = b"", None if delay is None else began + delay
    while True:
        if not select.select([into], [], [], max(0.0, ends - time.monotonic()) if ends is not None else None)[0]:
            _kill(pid)
            ends = None
        elif not (part := os.read(into, 1 << 20)):
            break
        else:
            said += part
    os.close(into)
    status = os.waitpid(pid, 0)[1]
    while _session(pid):  # Spark's JVM clears its folder when its driver has ended
        time.sleep(0.01)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    told = {} if killed else json.loads(said or b'{"error": "it ended without a word"}')
    for name in told.pop("modules", []):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return {"killed": killed, "seconds": time.monotonic() - began, **told}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in EAGER:
        importlib.import_module(name)
    running: dict[int, tuple[int, float]] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "finish" in order:
            said = _finished(order["finish"], order["delay"], *running.pop(order["finish"]))
        else:
            said = _started(order, running)
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
