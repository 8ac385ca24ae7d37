"""What tests look at in the folder form of a corpus: all of it at once, which the stages themselves never read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.schemas import read_jsonl


@dataclass(frozen=True)
class Read:
    rows: list[dict[str, Any]]
    questions: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    quarantine: list[dict[str, Any]]


def read_files(folder: Path) -> Read:
    return Read(
        rows=pq.read_table(folder / "documents.parquet").to_pylist(),
        questions=list(read_jsonl(folder / "questions.jsonl")),
        examples=list(read_jsonl(folder / "examples.jsonl")),
        quarantine=list(read_jsonl(folder / "quarantine.jsonl")),
    )
