"""Model exports: a folder of files that another process makes once, kept under the digest of what it was made of.

Converting a model needs torch and transformers, 20 CPU-seconds to import, so it happens in a process of its own. The
folder is written aside and renamed; the files' digests stand in its facts, and are verified whenever it is opened.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.definitions import sha256_file
from pipelines.errors import BackendError, BadInput, IntegrityError

FACTS = "export.json"


def make(
    destination: Path,
    module: str,
    arguments: Sequence[str],
    *,
    files: Sequence[str],
    facts: Mapping[str, Any],
    what: str,
) -> None:
    """Run `python -m MODULE ARGUMENTS... FOLDER`, which must leave `files` in FOLDER; rename into place (the first one
    there wins). BackendError, which `what` begins, when it fails; BadInput on a full disk."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".export-") as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        command = [sys.executable, "-m", module, *arguments, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode < 0:  # a crash in native code (seen once in hundreds of int8 exports) or a kill: once more
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if "No space left on device" in done.stderr:
                raise BadInput(f"no space left in {destination.parent}; free some, or set ASSAY_HOME")
            if done.returncode < 0:
                last = f"its process was ended twice by {signal.Signals(-done.returncode).name}; is there memory left?"
            raise BackendError(f"{what}: export failed: {last[:300]}")
        whole = {**facts, "files": {name: sha256_file(folder / name) for name in files}}
        (folder / FACTS).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        if not (destination / FACTS).is_file():  # what somebody left there is no export
            shutil.rmtree(destination, ignore_errors=True)
        try:
            folder.rename(destination)
        except OSError as exc:
            if not (destination / FACTS).is_file():
                raise BackendError(f"{what}: cannot write {destination}: {exc}") from exc


def opened(folder: Path) -> dict[str, Any]:
    """The facts of an export; IntegrityError when a file is not what was recorded."""
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    for file, digest in facts["files"].items():
        if not (folder / file).is_file() or sha256_file(folder / file) != digest:
            raise IntegrityError(f"{folder / file} is not the file that was exported; delete {folder} and run again")
    return facts
