"""Great Expectations on every document and on the corpus; what fails goes to quarantine with the reason.

A document that fails an expectation leaves the corpus, the rest goes on. A corpus that fails one is refused as a
whole and staging/checked stays as it was. Documents pass by in batches. Gold quotes are counted here, not judged:
the gate judges. What is suspicious, or holds personal data or secrets, is found by
`pipelines.screening` and dealt with by the policies of the corpus; a landed file that holds what must not go on is left
behind with it.
"""

from __future__ import annotations

import heapq
import shutil
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import screening
from pipelines.backends import gx
from pipelines.core import gold
from pipelines.core.nouns import Report
from pipelines.corpus_files import (
    CorpusFiles,
    document_batches,
    document_count,
    documents_among,
    folder_digest,
    fresh,
    link_tree,
    listing,
    mend,
    quarantine_reasons,
    records_about,
    same_tree,
    swap_in,
    write_files,
)
from pipelines.errors import BadInput, NotFound
from pipelines.params import CheckParams, CorpusParams
from pipelines.ports import Ports
from pipelines.schemas import read_jsonl
from pipelines.screening import HELD, PRIVATE, Masker, Screened
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


_NAMED = 100
"""Suspicious documents named in the receipt; all that are held are in quarantine.jsonl."""


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """staging/fetched -> staging/checked; facts are counts, reasons and digests. BadInput when the corpus fails."""
    started = time.monotonic()
    target, aside = workspace.checked, workspace.root / "staging" / ".checked.old"
    mend(target, aside=aside)
    if not (workspace.fetched / "documents.parquet").is_file():
        raise NotFound(f"{workspace.corpus} has nothing fetched yet; run: assay stage {workspace.corpus} fetch")
    validation = gx.Validation(ports.settings.reports / workspace.corpus / "data_docs")
    building = fresh(workspace.root / "staging" / ".checked.building")
    try:
        questions = list(read_jsonl(workspace.fetched / "questions.jsonl"))
        found = screening.screen(workspace.fetched, questions, params=params.check, cache=ports.settings.cache)
        reasons = _reasons(workspace.fetched, validation, found=found, params=params.check)
        _write_checked(workspace.fetched, building, reasons=reasons, found=found, params=params.check)
        facts = {**_facts(workspace.fetched, building), **_screened(found, params.check)}
        page = _judge(facts, validation, corpus=workspace.corpus, params=params.check)
        if not same_tree(building, target):
            swap_in(building, target, aside=aside)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Report("check", facts, _summary(facts), {"data_docs": str(page), "seconds": time.monotonic() - started})


def _reasons(fetched: Path, validation: gx.Validation, *, found: Screened, params: CheckParams) -> dict[int, str]:
    """The first reason of each document that fails an expectation, by its position."""
    rows = (row for batch in document_batches(fetched, ["id", "title", "text"]) for row in batch.to_pylist())
    screens = {"suspicious": HELD} if params.suspicious == "hold" else {}
    screens |= {"sensitive": PRIVATE} if params.sensitive == "quarantine" else {}
    expectations = gx.document_expectations(min_characters=params.min_characters, screens=screens)
    facts = ({**gx.document_facts(row), **_finding(found, n)} for n, row in enumerate(rows))
    reasons: dict[int, str] = {}
    for expectation, failed in validation.run("documents", facts, expectations):
        seen: set[Any] = set()
        for row, value in failed:
            if expectation.kind == "ExpectColumnValuesToBeUnique" and value not in seen:
                seen.add(value)  # of documents with the same id the first one stays
                continue
            detail = f": {value}" if expectation.arguments["column"] in screens else ""
            reasons.setdefault(row, f"{expectation.reason}{detail}")
    return reasons


def _finding(found: Screened, position: int) -> dict[str, str | None]:
    kinds = found.sensitive.get(position)
    return {
        "suspicious": found.suspicious.get(position),
        "sensitive": screening.counted(kinds) if kinds else None,
    }


def _write_checked(
    fetched: Path, building: Path, *, reasons: Mapping[int, str], found: Screened, params: CheckParams
) -> None:
    """What stays of `fetched`; documents that have a reason become quarantine records, and the files of none go."""
    refused = _refused(fetched, reasons) if reasons else []
    dropped = {file for row in refused for file in _files_behind(row["uri"])}
    if dropped:
        for batch in _kept(fetched, reasons, columns=["uri"]):
            for uri in batch["uri"].to_pylist():
                dropped.difference_update(_files_behind(uri))
    rows, questions = _kept(fetched, reasons), read_jsonl(fetched / "questions.jsonl")
    if params.sensitive != "report":
        masker = Masker(params)
        dropped |= {file for row in _refused(fetched, found.sensitive) for file in _files_behind(row["uri"])}
        rows = screening.redacted(rows, found, positions=_positions(fetched, reasons), masker=masker)
        questions = (masker.question(question) for question in questions)
    records = [{"document": str(r["id"]), "reason": reasons[r["at"]], "bytes": r["bytes"]} for r in refused]
    records.sort(key=_record_order)
    write_files(
        building,
        CorpusFiles(
            rows=rows,
            questions=questions,
            examples=read_jsonl(fetched / "examples.jsonl"),
            quarantine=heapq.merge(read_jsonl(fetched / "quarantine.jsonl"), records, key=_record_order),
        ),
    )
    landed = (name for name in listing(fetched) if name.startswith("source/"))
    link_tree(fetched, building, (name for name in landed if name not in dropped))


def _record_order(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["document"], record["reason"]


def _kept(
    fetched: Path, reasons: Mapping[int, str], *, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    at = 0
    for batch in document_batches(fetched, columns):
        yield batch.filter(pa.array([at + n not in reasons for n in range(batch.num_rows)], pa.bool_()))
        at += batch.num_rows


def _positions(fetched: Path, reasons: Container[int]) -> Iterator[list[int]]:
    """The positions of the rows of each batch of `_kept`."""
    at = 0
    for batch in document_batches(fetched, ["id"]):
        yield [n for n in range(at, at + batch.num_rows) if n not in reasons]
        at += batch.num_rows


def _refused(fetched: Path, positions: Container[int]) -> list[dict[str, Any]]:
    """id, uri, position (`at`) and bytes of text of the documents at these positions."""
    out, at = [], 0
    for batch in document_batches(fetched, ["id", "uri", "text"]):
        here = [n for n in range(batch.num_rows) if at + n in positions]
        for n, row in zip(here, batch.take(here).to_pylist() if here else [], strict=True):
            size = len((row.pop("text") or "").encode())
            out.append({**row, "at": at + n, "bytes": size})
        at += batch.num_rows
    return out


def _files_behind(uri: str) -> Iterator[str]:
    """Landed files that a uri may mean: it is `source/PATH`, or `source/PATH#ID` for a line of JSON lines."""
    parts = uri.split("#")
    return ("#".join(parts[:n]) for n in range(1, len(parts) + 1))


def _judge(facts: Mapping[str, Any], validation: gx.Validation, *, corpus: str, params: CheckParams) -> Path:
    """The page of Data Docs; BadInput with the reason when the corpus as a whole fails."""
    expectations = gx.corpus_expectations(min_documents=params.min_documents, max_quarantined=params.max_quarantined)
    results = validation.run("corpus", [facts], expectations)
    page = validation.publish()
    for expectation, failed in results:
        if failed:
            raise BadInput(_refusal(corpus, expectation, facts))
    return page


def _facts(fetched: Path, checked: Path) -> dict[str, Any]:
    questions = list(read_jsonl(checked / "questions.jsonl"))
    cited = gold.cited(questions)
    lost = cited.keys() - {row["id"] for row in documents_among(checked, cited, columns=["id"])}
    accounted = gold.in_quarantine(records_about(lost, checked))
    in_quarantine = sum(map(accounted, lost))
    quotes, found = _quotes(questions, checked)
    documents, reasons = document_count(checked), quarantine_reasons(checked)
    landed, erased = documents + reasons.total(), sum(n for why, n in reasons.items() if why.startswith("erased on "))
    return {
        "documents": documents,
        "fetched": document_count(fetched),
        "quarantined": reasons.total(),
        # What was erased is no flaw of what landed.
        "quarantined_share": (reasons.total() - erased) / (landed - erased) if landed > erased else 0.0,
        "reasons": dict(sorted(reasons.items())),
        "questions": len(questions),
        "repeated_questions": len(questions) - len({row["id"] for row in questions}),
        "examples": sum(1 for _ in read_jsonl(checked / "examples.jsonl")),
        "evidence_documents": len(cited),
        "evidence_in_quarantine": in_quarantine,
        "unknown_evidence": len(lost) - in_quarantine,
        "quotes": quotes,
        "quotes_found": found,
        "digest": folder_digest(checked),
    }


def _screened(found: Screened, params: CheckParams) -> dict[str, Any]:
    """What was found in documents, by kind and by name; no value of it. Empty where nothing was."""
    suspicious = [f"{name}: {found.suspicious[n]}" for n, name in sorted(found.names.items())]
    out: dict[str, Any] = {}
    if suspicious:
        out["suspicious"] = {"policy": params.suspicious, "count": len(suspicious), "documents": suspicious[:_NAMED]}
    if found.sensitive:
        kinds = dict(sorted(found.kinds.items()))
        out["sensitive"] = {"policy": params.sensitive, "count": len(found.sensitive), "kinds": kinds}
    return out


def _quotes(questions: Sequence[Mapping[str, Any]], folder: Path) -> tuple[int, int]:
    """(quotes given, quotes that occur in their document), white space aside; only cited documents are read."""
    asked: dict[str, list[str]] = {}
    for question in questions:
        for entry in question["evidence"]:
            if entry.get("quote"):
                asked.setdefault(entry["document"], []).append(gold.squeezed(entry["quote"]))
    found = 0
    for row in documents_among(folder, asked, columns=["id", "text"]):
        text = gold.squeezed(row["text"])
        found += sum(quote in text for quote in asked[row["id"]])
    return sum(map(len, asked.values())), found


def _refusal(corpus: str, expectation: gx.Expectation, facts: Mapping[str, Any]) -> str:
    value = facts[expectation.arguments["column"]]
    shown = f"{value:.3f}" if isinstance(value, float) else value
    why = ", ".join(f"{count} {reason}" for reason, count in Counter(facts["reasons"]).most_common(3))
    return f"{corpus} is refused: {shown} {expectation.reason}{f'; quarantined are {why}' if why else ''}"


def _summary(facts: Mapping[str, Any]) -> str:
    out = f"{facts['documents']} documents passed, {facts['quarantined']} in quarantine"
    if facts["quotes"]:
        out += f"; {facts['quotes_found']} of {facts['quotes']} gold quotes found"
    if facts["evidence_in_quarantine"]:
        out += f"; {facts['evidence_in_quarantine']} evidence documents are in quarantine"
    if found := facts.get("suspicious"):
        out += (
            f"; {found['count']} {HELD if found['policy'] == 'hold' else 'suspicious'}, such as {found['documents'][0]}"
        )
    if found := facts.get("sensitive"):
        done = {"report": "stay", "quarantine": "are in quarantine", "redact": "were redacted"}[found["policy"]]
        out += f"; {PRIVATE} in {found['count']} documents, which {done} ({screening.counted(found['kinds'])})"
    return out
