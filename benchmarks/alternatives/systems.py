"""The systems that `benchmarks.embed` compares, as commands: each builds an index, and says what it holds and finds.

A build is one or more processes, whose whole trees are measured. What a build holds is read back outside of that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.alternatives import adopting
from benchmarks.harness import Cost, metered
from pipelines.core.digests import digest_bytes
from pipelines.errors import BackendError, MissingTool
from pipelines.params import read_raw, released
from pipelines.schemas import read_jsonl
from pipelines.settings import QUIET, checkout

HERE = Path(__file__).parent
LIMIT = 4 * 3600.0
"""Seconds that one command may take."""
K = 50
"""Chunks asked for, so that ten different documents are among them."""
STAGES = ("fetch", "check", "snapshot", "chunk", "embed", "index")
BARE = ("chunk", "embed", "index")
_ELSEWHERE = ("ASSAY_OBJECTS_URI", "ASSAY_MILVUS_URI", "MLFLOW_TRACKING_URI")


def command(line: Sequence[str], env: Mapping[str, str], *, log: Path) -> Cost:
    """Run a command to the end of all its descendants and return what they cost; its output goes to `log`.

    BackendError with the last line that it said when it fails or takes longer than LIMIT; nothing of it lives on.
    """
    wrapped = [sys.executable, "-S", adopting.__file__, *line]
    with log.open("ab") as said:
        process = subprocess.Popen(wrapped, env=dict(env), stdout=said, stderr=said, start_new_session=True)
        limit = threading.Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))
        limit.start()
        try:
            with metered(root=process.pid, every=0.25) as cost:
                # Not reaped yet: the times of a process and of all that it waited for are there until it is.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            limit.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    if code:
        last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"{' '.join(line[1:4])} ended with {code}: {last[:300]} (see {log})")
    return cost


@dataclass
class Looked:
    """What a store holds (`document`, `start`, `text` of each chunk) and what it found (`id`, `documents`)."""

    chunks: list[dict[str, Any]]
    run: list[dict[str, Any]]


def _looked(line: Sequence[str], env: Mapping[str, str], folder: Path, out: Path) -> Looked:
    out.mkdir(parents=True)
    command(line, env, log=folder / "look.log")
    return Looked(list(read_jsonl(out / "chunks.jsonl")), list(read_jsonl(out / "run.jsonl")))


class Alternative:
    """A pipeline of others: `with_NAME.py` in an environment made from `NAME.txt`, once, below the user's cache."""

    def __init__(self, name: str, label: str) -> None:
        self.name, self.label = name, label
        self._pins = HERE / f"{name}.txt"

    def prepare(self) -> None:
        """Make the environment if it is not there. MissingTool says why when it cannot be made."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "assay" / "alternatives" / f"{self.name}-{digest_bytes(self._pins.read_bytes())[:16]}"
        self.python = folder / "bin" / "python"
        if (folder / ".ready").is_file():
            return
        uv = Path(sys.executable).parent / "uv"
        if not uv.is_file():
            raise MissingTool(f"{self.label} needs uv beside {sys.executable}; run: make setup")
        shutil.rmtree(folder, ignore_errors=True)
        env = dict(os.environ)
        if "PIP_FIND_LINKS" in env:
            env.setdefault("UV_FIND_LINKS", env["PIP_FIND_LINKS"])
        # Copies: NLTK 3.10, which LlamaIndex uses, refuses to read files that are hard links into uv's cache.
        install = ["pip", "install", "--quiet", "--compile-bytecode", "--link-mode", "copy", "-r", str(self._pins)]
        for words in (["venv", "--quiet", "--python", sys.executable], [*install, "--python"]):
            target = str(folder) if words[0] == "venv" else str(self.python)
            done = subprocess.run([str(uv), *words, target], env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1].strip()
                raise MissingTool(f"{self.label} cannot be installed: {last[:300]}")
        (folder / ".ready").touch()

    @property
    def _env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LANGSMITH"))}
        # The speed-ups that the project sets for its own processes are not theirs: telemetry off and no hub, no more.
        quiet = {key: QUIET[key] for key in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")}
        return {**kept, **quiet, "ANONYMIZED_TELEMETRY": "False"}

    def _line(self, verb: str, *words: str) -> list[str]:
        return [str(self.python), str(HERE / f"with_{self.name}.py"), verb, *words]

    def build(self, corpus: str, documents: Path, folder: Path) -> dict[str, Cost]:
        """Index a JSON-lines file into `folder`; the cost by step."""
        folder.mkdir(parents=True, exist_ok=True)
        line = self._line("build", str(documents), str(folder / corpus))
        return {"build": command(line, self._env, log=folder / "build.log")}

    def look(self, corpus: str, questions: Path, folder: Path) -> Looked:
        """Read back a build, and ask it the questions."""
        out = folder / f"{corpus}.looked"
        return _looked(
            self._line("look", str(folder / corpus), str(questions), str(out), str(K)), self._env, folder, out
        )


class Ours:
    """The product's own commands in an ASSAY_HOME of their own, with the params' defaults but for the precision."""

    def __init__(self, precision: str | None) -> None:
        """BadConfig for a precision that embed.precision does not have."""
        file = checkout() / "params.yaml"
        defaults = read_raw(file)["defaults"]
        if precision is not None:
            defaults["embed"]["precision"] = precision
        parsed = released(file, "documents", {"embed": defaults["embed"]})
        self._params = {"defaults": defaults, "corpora": {}}
        self.name = f"assay-{parsed.embed.precision}"
        self.label = f"Assay, {parsed.embed.precision}"
        self.mode = parsed.retrieve.mode

    def prepare(self) -> None:
        """Nothing: it is what runs this."""

    def _env(self, folder: Path) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in _ELSEWHERE}
        return {**kept, "ASSAY_HOME": str(folder / "home"), "ASSAY_PARAMS": str(folder / "params.yaml")}

    def build(self, corpus: str, documents: Path, folder: Path) -> dict[str, Cost]:
        """From documents to a sealed Milvus collection; the cost by stage, `assay new` among fetch's."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "params.yaml").is_file():
            (folder / "params.yaml").write_text(yaml.safe_dump(self._params, sort_keys=False), encoding="utf-8")
        assay, env, log = str(Path(sys.executable).parent / "assay"), self._env(folder), folder / "build.log"
        costs = {"new": command([assay, "new", corpus, "--documents", str(documents)], env, log=log)}
        for stage in STAGES:
            costs[stage] = command([assay, "stage", corpus, stage], env, log=log)
        home = folder / "home"
        receipt = json.loads((home / "workspaces" / corpus / "receipts" / "index.json").read_text(encoding="utf-8"))
        if not (home / "objects" / receipt["key"] / "seal.json").is_file():
            raise BackendError(f"{receipt['key']} was not sealed; see {log}")
        return costs

    def look(self, corpus: str, questions: Path, folder: Path) -> Looked:
        """Read back a build, and ask it the questions as retrieve.mode says."""
        out = folder / f"{corpus}.looked"
        module = [sys.executable, "-m", "benchmarks.alternatives.with_assay"]
        return _looked([*module, "look", corpus, str(questions), str(out), str(K)], self._env(folder), folder, out)
