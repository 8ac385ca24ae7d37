"""What `check` finds in documents before they go on: suspicious ones, and personal data and secrets in them.

What was found in a document is kept by its content (and by the gold questions, whose wording is looked for), so a
revision costs what changed. Values of personal data and secrets are in no result. What follows is the stage's decision.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.backends import sensitive
from pipelines.core.digests import canonical_json, digest_json
from pipelines.core.nouns import Document
from pipelines.core.suspicion import Detector
from pipelines.corpus_files import document_batches, document_row
from pipelines.params import CheckParams

if TYPE_CHECKING:
    import pyarrow as pa

HELD, PRIVATE = "held for review", "personal data or secrets"
_RULES = "1"
"""Raised when what is found in the same text changes."""
_PACKAGES = ("phonenumbers", "python-stdnum", "email-validator", "detect-secrets")
_COLUMNS = ("id", "title", "text", "metadata", "digest")

Row = Mapping[str, Any]


@dataclass
class Screened:
    """By position in documents.parquet: what is suspicious (in words), and how many of each kind of sensitive value."""

    suspicious: dict[int, str] = field(default_factory=dict)
    sensitive: dict[int, Mapping[str, int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # `ID@DIGEST` of the suspicious, as check.reviewed names them

    @property
    def kinds(self) -> Counter[str]:
        """Values found, by kind."""
        total: Counter[str] = Counter()
        for found in self.sensitive.values():
            total.update(found)
        return total


def counted(kinds: Mapping[str, int]) -> str:
    """`2 e-mail address, 1 IBAN`."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


class Masker:
    """Finds sensitive values in texts, and puts `[KIND]` in their place."""

    def __init__(self, params: CheckParams) -> None:
        self._how: dict[str, Any] = {"allow": params.allow, "region": params.region}

    def kinds(self, rows: Sequence[Sequence[str]]) -> list[Counter[str]]:
        """How many values of each kind are in the texts of each row."""
        found = iter(sensitive.screen([text for texts in rows for text in texts], **self._how))
        return [Counter(finding.kind for _ in texts for finding in next(found)) for texts in rows]

    def masked(self, texts: Sequence[str]) -> list[str]:
        """The texts with `[KIND]` for each value."""
        return [_masked(text, of) for text, of in zip(texts, sensitive.screen(texts, **self._how), strict=True)]

    def document(self, row: Row) -> dict[str, Any]:
        """A DOCUMENTS row without its sensitive values; its metadata counts by kind what was `redacted`, its digest is
        that of what it says now."""
        (kinds,) = self.kinds([texts_of(row)])
        title, text = self.masked([row["title"], row["text"]])
        held = self.everywhere(json.loads(row["metadata"]))
        said = Document(row["id"], title, text, row["media_type"], row["uri"], {**held, "redacted": dict(kinds)})
        return document_row(said)

    def everywhere(self, value: Any) -> Any:
        """A JSON value with every text in it masked."""
        return _mapped(value, lambda text: self.masked([text])[0])

    def question(self, row: Row) -> dict[str, Any]:
        """A gold question whose wording, answers and evidence are masked as their documents are; ids stay."""
        shown = {name: self.everywhere(row[name]) for name in ("question", "answers", "context") if name in row}
        evidence = [{**entry, **self.everywhere(_quoted(entry))} for entry in row["evidence"]]
        return {**row, **shown, "evidence": evidence}


def _quoted(entry: Row) -> dict[str, Any]:
    return {name: entry[name] for name in ("quote", "context") if name in entry}


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(held, change) for key, held in value.items()}
    return [_mapped(held, change) for held in value] if isinstance(value, list) else value


def _masked(text: str, found: Sequence[sensitive.Finding]) -> str:
    for finding in reversed(found):
        text = f"{text[: finding.start]}[{finding.kind}]{text[finding.end :]}"
    return text


def texts_of(row: Row) -> list[str]:
    """Title, text and the texts of the metadata."""
    out = [row["title"] or "", row["text"] or ""]
    _mapped(json.loads(row["metadata"] or "{}"), lambda text: out.append(text) or text)  # type: ignore[func-returns-value]
    return out


class _Known:
    """What was found in documents before, by their content: a SQLite file that may be deleted at any time."""

    def __init__(self, file: Path, under: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._under = under
        self._database = sqlite3.connect(file, timeout=60)
        self._database.execute("CREATE TABLE IF NOT EXISTS found (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def close(self) -> None:
        self._database.close()

    def key(self, row: Row) -> str:
        return digest_json([self._under, row["digest"], row["metadata"]])

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        query = "SELECT key, value FROM found WHERE key IN (SELECT value FROM json_each(?))"
        return {key: json.loads(value) for key, value in self._database.execute(query, [json.dumps(keys)])}

    def put(self, found: Mapping[str, Any]) -> None:
        with self._database:
            rows = [(key, canonical_json(value)) for key, value in found.items()]
            self._database.executemany("INSERT OR REPLACE INTO found VALUES (?, ?)", rows)


def screen(folder: Path, questions: Sequence[Row], *, params: CheckParams, cache: Path) -> Screened:
    """Every document of a folder, looked at by the policies of `check`; those that were reviewed are not suspicious."""
    detector, masker, out, at = Detector(questions), Masker(params), Screened(), 0
    asked = sorted([row["id"], row["question"], [entry["document"] for entry in row["evidence"]]] for row in questions)
    versions = [metadata.version(name) for name in _PACKAGES]
    under = digest_json([_RULES, versions, asked, list(params.allow), params.region, params.suspicious])
    with closing(_Known(cache / "screened.sqlite", under)) as known:
        for batch in document_batches(folder, list(_COLUMNS)):
            rows = batch.to_pylist()
            for n, (row, found) in enumerate(zip(rows, _found(rows, known, detector, masker, params), strict=True), at):
                name = f"{row['id']}@{row['digest'][:12]}"
                if found.get("suspicious") and not _reviewed(row["id"], name, params.reviewed):
                    out.suspicious[n], out.names[n] = found["suspicious"], name
                if found.get("sensitive"):
                    out.sensitive[n] = found["sensitive"]
            at += len(rows)
    return out


def _found(
    rows: Sequence[Row], known: _Known, detector: Detector, masker: Masker, params: CheckParams
) -> list[dict[str, Any]]:
    """What is in each row; only what is not known is looked at."""
    keys = [known.key(row) for row in rows]
    held = known.get(keys)
    new = {key: row for key, row in zip(keys, rows, strict=True) if key not in held}
    fresh: dict[str, Any] = {}
    for (key, row), kinds in zip(new.items(), masker.kinds([texts_of(row) for row in new.values()]), strict=True):
        fresh[key] = {"sensitive": dict(kinds)} if kinds else {}
        if params.suspicious != "off":
            why = detector.look(row["id"] or "", title=row["title"] or "", text=row["text"] or "")
            fresh[key] |= {"suspicious": "; ".join(map(str, why))} if why else {}
    known.put(fresh)
    return [(held | fresh)[key] for key in keys]


def _reviewed(document: str, name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, said) for pattern in patterns for said in (document, name))


def redacted(
    batches: Iterator[pa.RecordBatch], found: Screened, *, positions: Iterator[list[int]], masker: Masker
) -> Iterator[pa.RecordBatch]:
    """The batches (whose rows stand at `positions`) with their sensitive values masked."""
    import pyarrow as pa

    for batch, places in zip(batches, positions, strict=True):
        if not any(place in found.sensitive for place in places):
            yield batch
            continue
        rows = zip(batch.to_pylist(), places, strict=True)
        masked = [masker.document(row) if place in found.sensitive else row for row, place in rows]
        yield pa.RecordBatch.from_pylist(masked, schema=batch.schema)
