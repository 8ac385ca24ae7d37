"""Great Expectations on a corpus: one suite for each document, one for the corpus as a whole, and their Data Docs.

It validates and reports; what follows from a failed expectation is the check stage's decision.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.gold import readable_share

_COMPLETE = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
_NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f]+\Z"


@dataclass(frozen=True)
class Expectation:
    """A Great Expectations class by name with its arguments, and the reason to give where it fails."""

    kind: str
    arguments: Mapping[str, Any]
    reason: str


def document_expectations(*, min_characters: int) -> list[Expectation]:
    """What each document must hold, in the order in which reasons are given."""
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


class Validation:
    """One ephemeral context: frames validated in it appear together in its Data Docs site."""

    def __init__(self, site: Path) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        import great_expectations as gx

        self._site = site
        self._building = site.with_name(f".{site.name}.building")
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
        self, name: str, rows: Sequence[Mapping[str, Any]], expectations: Sequence[Expectation]
    ) -> list[tuple[Expectation, list[int]]]:
        """Each expectation with the positions in `rows` where it failed, in order. RuntimeError if one did not run."""
        import great_expectations as gx
        import pandas as pd

        columns = dict.fromkeys(str(expectation.arguments["column"]) for expectation in expectations)
        frame = pd.DataFrame([{c: row[c] for c in columns} for row in rows], columns=list(columns))
        frame["row"] = range(len(rows))
        asset = self._context.data_sources.add_pandas(name).add_dataframe_asset(name)
        suite = self._context.suites.add(gx.ExpectationSuite(name=name))
        for expectation in expectations:
            kind = getattr(gx.expectations, expectation.kind)
            suite.add_expectation(kind(**expectation.arguments, description=f"none where: {expectation.reason}"))
        definition = gx.ValidationDefinition(
            name=name, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite
        )
        results = self._context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": frame}, result_format=dict(_COMPLETE)
        )
        out = []
        for expectation, result in zip(expectations, results.results, strict=True):
            failed = sorted({int(entry["row"]) for entry in result.result.get("unexpected_index_list") or []})
            if (not result.success and not failed) or result.exception_info.get("raised_exception"):
                raise RuntimeError(f"{expectation.kind} on {expectation.arguments['column']} did not run")
            out.append((expectation, failed))
        return out

    def publish(self) -> Path:
        """Build Data Docs of everything run so far and put them in place; returns the page to open."""
        self._context.build_data_docs()
        shutil.rmtree(self._site, ignore_errors=True)
        self._building.rename(self._site)
        return self._site / "index.html"


def document_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns that the document suite looks at; the long texts stay out of Data Docs by their length."""
    return [
        {
            "id": row["id"],
            "title": row["title"],
            "text": None if row["text"] is None else row["text"][:200],
            "characters": len((row["text"] or "").strip()),
            "readable": readable_share(row["text"] or ""),
        }
        for row in rows
    ]
