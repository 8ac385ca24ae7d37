"""The file layout of one corpus's workspace (a git + DVC repository below ASSAY_HOME), and its receipts.

It knows where things are and writes each file whole; what git and DVC do with them is the versioner's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import IntegrityError, NotFound


def write_whole(path: Path, text: str) -> bool:
    """Write `text` by rename, only when it differs; True when it did."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return True


@dataclass(frozen=True)
class Workspace:
    """Paths below `root`.

    `staging/fetched` and `staging/checked` hold documents.parquet, questions.jsonl, examples.jsonl,
    quarantine.jsonl and source/ (the landed files); `corpus/` is the same once versioned. `receipts/STAGE.json`
    is what a stage says it made; `scores/` has one row per question; `training/` is the mixed training set;
    `champion.json` is the release to beat; `measured/STAGE.json` (ignored by git) is what varies between runs.
    """

    root: Path
    corpus: str

    @property
    def fetched(self) -> Path:
        return self.root / "staging" / "fetched"

    @property
    def checked(self) -> Path:
        return self.root / "staging" / "checked"

    @property
    def versioned(self) -> Path:
        return self.root / "corpus"

    @property
    def training(self) -> Path:
        return self.root / "training"

    @property
    def champion_file(self) -> Path:
        return self.root / "champion.json"

    def scores(self, kind: str) -> Path:
        return self.root / "scores" / f"{kind}.jsonl"

    def has(self, stage: str) -> bool:
        return (self.root / "receipts" / f"{stage}.json").is_file()

    def receipt(self, stage: str) -> dict[str, Any]:
        """The facts that `stage` left; NotFound says how to make them, IntegrityError when the file is damaged."""
        path = self.root / "receipts" / f"{stage}.json"
        try:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise NotFound(f"{self.corpus} has no {stage} yet; run: assay run {self.corpus}") from exc
        except ValueError as exc:
            raise IntegrityError(f"{self.corpus}: receipts/{stage}.json is damaged; run stage {stage} again") from exc
        return facts

    def measured(self, stage: str) -> dict[str, Any]:
        path = self.root / "measured" / f"{stage}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def write_receipt(self, stage: str, facts: Mapping[str, Any], measured: Mapping[str, Any], summary: str) -> None:
        """Measured first, the receipt last: a receipt means that the stage is whole."""
        as_text = {"summary": summary, **measured}
        write_whole(self.root / "measured" / f"{stage}.json", json.dumps(as_text, indent=1, sort_keys=True) + "\n")
        write_whole(self.root / "receipts" / f"{stage}.json", json.dumps(facts, indent=1, sort_keys=True) + "\n")

    def champion(self) -> dict[str, Any]:
        """The manifest to beat; empty before the first release."""
        return json.loads(self.champion_file.read_text(encoding="utf-8")) if self.champion_file.is_file() else {}

    def summary(self, stage: str) -> str:
        return str(self.measured(stage).get("summary", ""))
