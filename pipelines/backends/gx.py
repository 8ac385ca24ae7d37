"""Great Expectations on a corpus and on a training set: suites, validation, and their Data Docs.

It validates and reports; what follows from a failed expectation is the stage's decision.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipelines.core.gold import readable_share
from pipelines.corpus_files import fresh

_COMPLETE = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
_NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f]+\Z"


@dataclass(frozen=True)
class Expectation:
    """A Great Expectations class by name with its arguments, and the reason to give where it fails."""

    kind: str
    arguments: Mapping[str, Any]
    reason: str


def document_expectations(
    *, min_characters: int, screens: Mapping[str, str] = MappingProxyType({})
) -> list[Expectation]:
    """What each document must hold, in the order in which reasons are given. `screens`: columns of what was found in
    it, which must be empty, and the reason that goes before what was found."""
    least = max(1, min_characters)
    return [
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "id"}, "id is missing"),
        Expectation("ExpectColumnValuesToMatchRegex", {"column": "id", "regex": _NO_CONTROLS}, "id holds controls"),
        Expectation("ExpectColumnValuesToBeUnique", {"column": "id"}, "id occurs more than once"),
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "text"}, "text is missing"),
        Expectation(
            "ExpectColumnValuesToBeBetween",
            {"column": "characters", "min_value": least},
            f"text is shorter than check.min_characters = {least}",
        ),
        Expectation(
            "ExpectColumnValuesToBeBetween",
            {"column": "readable", "min_value": 0.5},
            "text is mostly replacement or control characters",
        ),
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "title"}, "title is missing"),
        Expectation("ExpectColumnValueLengthsToBeBetween", {"column": "title", "min_value": 1}, "title is empty"),
        *(Expectation("ExpectColumnValuesToBeNull", {"column": name}, reason) for name, reason in screens.items()),
    ]


def corpus_expectations(*, min_documents: int, max_quarantined: float) -> list[Expectation]:
    """What the corpus as a whole must hold, on the one-row table of its facts."""

    def at_most(column: str, bound: float, reason: str) -> Expectation:
        return Expectation("ExpectColumnValuesToBeBetween", {"column": column, "max_value": bound}, reason)

    return [
        Expectation(
            "ExpectColumnValuesToBeBetween",
            {"column": "documents", "min_value": min_documents},
            f"documents that remain, below check.min_documents = {min_documents}",
        ),
        at_most(
            "quarantined_share",
            max_quarantined,
            f"is the share of quarantined, above check.max_quarantined = {max_quarantined:g}",
        ),
        at_most("repeated_questions", 0, "question ids occur more than once"),
        at_most("unknown_evidence", 0, "evidence documents are neither in the corpus nor in quarantine"),
    ]


def training_expectations(*, max_tokens: int, share: float) -> list[Expectation]:
    """What each chat of a training set must hold, in the order in which reasons are given."""

    def between(column: str, reason: str, **bounds: float) -> Expectation:
        return Expectation("ExpectColumnValuesToBeBetween", {"column": column, **bounds}, reason)

    return [
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "id"}, "id is missing"),
        Expectation("ExpectColumnValuesToBeUnique", {"column": "id"}, "id occurs more than once"),
        between("prompt", "prompt is empty", min_value=1),
        between("reply", "reply is empty", min_value=1),
        Expectation(
            "ExpectColumnValuesToBeInSet", {"column": "last", "value_set": ["assistant"]}, "does not end with a reply"
        ),
        between("tokens", f"tokens are not within train.max_tokens = {max_tokens}", min_value=1, max_value=max_tokens),
        between("strays", "rests on a document of a stricter split", max_value=0),
        between(
            "overlap",
            f"holds mix.contamination.share = {share:g} of a text of an evaluation set",
            max_value=share,
            strict_max=True,
        ),
    ]


class Validation:
    """One ephemeral context: tables validated in it appear together in its Data Docs site."""

    def __init__(self, site: Path) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        import great_expectations as gx

        self._site = site
        self._building = site.with_name(f".{site.name}.building")
        self._tables = site.with_name(f".{site.name}.tables")
        shutil.rmtree(self._building, ignore_errors=True)
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = {"globally": False}
        self._context.delete_data_docs_site("local_site")
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(self._building)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        self._context.add_data_docs_site(
            "corpus", {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
        )

    def run(
        self, name: str, rows: Iterable[Mapping[str, Any]], expectations: Sequence[Expectation]
    ) -> list[tuple[Expectation, list[tuple[int, Any]]]]:
        """Each expectation with where it failed, in order: (position in `rows`, the column's value). RuntimeError if
        one did not run.

        The rows pass through a SQLite table, which Great Expectations asks in SQL: however many there are, they are
        one table of one page of Data Docs, and an expectation on a whole column sees all of it.
        """
        import great_expectations as gx

        columns = list(dict.fromkeys(str(expectation.arguments["column"]) for expectation in expectations))
        file = fresh(self._tables) / f"{name}.sqlite"
        _fill(file, name, columns, rows)
        suite = self._context.suites.add(gx.ExpectationSuite(name=name))
        for expectation in expectations:
            suite.add_expectation(_own(expectation))
        source = self._context.data_sources.add_sqlite(name, connection_string=f"sqlite:///{file}")
        batch = source.add_table_asset(name, table_name=name).add_batch_definition_whole_table("all")
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        results = self._context.validation_definitions.add(definition).run(result_format=dict(_COMPLETE))
        out = [
            (expectation, _failed(expectation, result, batch.get_batch()))
            for expectation, result in zip(expectations, results.results, strict=True)
        ]
        source.get_execution_engine().close()
        shutil.rmtree(self._tables)
        return out

    def publish(self) -> Path:
        """Build Data Docs of everything run so far and put them in place; returns the page to open."""
        self._context.build_data_docs()
        shutil.rmtree(self._site, ignore_errors=True)
        self._building.rename(self._site)
        return self._site / "index.html"


def _fill(file: Path, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table of the columns and of `row`, the position. SQLite's length() ends at NUL, so NUL goes in as U+FFFD,
    but for ids, whose controls are looked at."""
    keep = ("id",)
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
        database.execute(f'CREATE TABLE "{name}" (row INTEGER PRIMARY KEY, {", ".join(columns)})')
        values = (
            [n, *(v.replace("\0", "\ufffd") if isinstance(v := row[c], str) and c not in keep else v for c in columns)]
            for n, row in enumerate(rows)
        )
        database.executemany(f'INSERT INTO "{name}" VALUES (?{", ?" * len(columns)})', values)  # noqa: S608 our names
        database.execute("COMMIT")


def _own(expectation: Expectation) -> Any:
    """Great Expectations' object of it."""
    import great_expectations as gx

    kind = getattr(gx.expectations, expectation.kind)
    return kind(**expectation.arguments, description=f"none where: {expectation.reason}")


def _failed(expectation: Expectation, result: Any, batch: Any) -> list[tuple[int, Any]]:
    """Where it failed; RuntimeError when it did not run or does not name every failure."""
    column = expectation.arguments["column"]
    count = result.result.get("unexpected_count") or 0
    if count > len(result.result.get("unexpected_index_list") or []):
        # In SQL it names 20, which are enough for the page; all of them when asked again for so many.
        result = batch.validate(_own(expectation), result_format={**_COMPLETE, "partial_unexpected_count": count})
    entries = result.result.get("unexpected_index_list") or []
    failed = sorted(((int(entry["row"]), entry[column]) for entry in entries), key=lambda entry: entry[0])
    if len(failed) != count or result.success != (not failed) or result.exception_info.get("raised_exception"):
        raise RuntimeError(f"{expectation.kind} on {column} did not run")
    return failed


def document_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the document suite looks at; of the text, which may be long, its first characters and two measures."""
    text = row["text"] or ""
    return {
        "id": row["id"],
        "title": row["title"],
        "text": None if row["text"] is None else text[:40],
        "characters": len(text.strip()),
        "readable": readable_share(text),
    }
