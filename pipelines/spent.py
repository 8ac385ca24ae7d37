"""What a training has taken so far, kept beside its checkpoints: the seconds of a killed part count, lost steps too."""

from __future__ import annotations

import json
import time
from pathlib import Path


class Account:
    """Wall seconds and CPU-seconds (all threads) of a process that trains, the parts before this one included.

    `keep` writes them whole into `folder`; a killed part counts up to when it last did. Processes that train side by
    side have an account each, by their `rank`.
    """

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self._file = folder / f"spent-{rank}.json"
        known = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        self._wall, self._cpu = float(known.get("seconds", 0)), float(known.get("cpu_seconds", 0))
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        return self._wall + time.perf_counter() - self._began

    def keep(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        cpu = self._cpu + time.process_time() - self._cpu_began
        unfinished = self._file.with_name(f".{self._file.name}.tmp")
        unfinished.write_text(json.dumps({"seconds": self.seconds, "cpu_seconds": cpu}), encoding="utf-8")
        unfinished.replace(self._file)

    def cpu_seconds(self) -> float:
        """Of all processes, as each last kept it."""
        kept = (json.loads(file.read_text(encoding="utf-8")) for file in self._file.parent.glob("spent-*.json"))
        return sum(float(known["cpu_seconds"]) for known in kept)
