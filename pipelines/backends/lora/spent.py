"""What a training has taken so far, kept beside its checkpoints: the seconds of a killed part count, lost steps too."""

from __future__ import annotations

import json
import time
from pathlib import Path


class Account:
    """Wall seconds and CPU-seconds (all threads of this process) of a training, the parts before this one included.

    `keep` writes them whole into `file`; a killed part counts up to when it last did.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self._wall, self._cpu = float(known.get("seconds", 0)), float(known.get("cpu_seconds", 0))
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        return self._wall + time.perf_counter() - self._began

    @property
    def cpu_seconds(self) -> float:
        return self._cpu + time.process_time() - self._cpu_began

    def keep(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_name(f".{self._file.name}.tmp")
        unfinished.write_text(json.dumps({"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}), encoding="utf-8")
        unfinished.replace(self._file)
