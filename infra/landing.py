"""Land a dated revision of the demo corpus: the files that a data source would have dropped by that day.

It only lays folders over each other as `tests/fixtures/handbook/README.md` says; what happens next is Assay's job.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.errors import NotFound
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.settings import checkout

HANDBOOK = Path("tests") / "fixtures" / "handbook"


def revisions(fixture: Path | None = None) -> list[str]:
    """The dated folders, oldest first."""
    fixture = fixture or checkout() / HANDBOOK
    found = sorted(folder.name for folder in fixture.iterdir() if folder.is_dir() and folder.name[:2] == "20")
    if not found:
        raise NotFound(f"no dated revisions in {fixture}")
    return found


def landed(target: Path) -> str | None:
    """The newest revision that was landed whole, or None."""
    marker = target / ".revision"
    return marker.read_text().strip() if marker.is_file() else None


def land(target: Path, upto: str, *, fixture: Path | None = None) -> None:
    """Make `target` hold documents/, questions/ and examples/ as of revision `upto`. Swapped in whole."""
    fixture = fixture or checkout() / HANDBOOK
    building = target.with_name(target.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    questions: dict[str, dict[str, object]] = {}
    for revision in (name for name in revisions(fixture) if name <= upto):
        source = fixture / revision
        for kind in ("documents", "examples"):
            if (source / kind).is_dir():
                shutil.copytree(source / kind, building / kind, dirs_exist_ok=True)
        for file in sorted((source / "questions").glob("*.jsonl")):
            questions.update({str(row["id"]): row for row in read_jsonl(file)})
        for line in _removed(source):
            kind, _, name = line.partition("/")
            if kind == "documents":
                (building / "documents" / name).unlink()
            elif questions.pop(name, None) is None:
                raise NotFound(f"{revision}/removed.txt: no question {name}")
    write_jsonl(building / "questions" / "gold.jsonl", questions.values())
    (building / ".revision").write_text(upto + "\n")
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)


def _removed(source: Path) -> list[str]:
    file = source / "removed.txt"
    return [line for line in file.read_text().splitlines() if line.strip()] if file.is_file() else []
