"""Great Expectations on every document and on the corpus; what fails goes to quarantine with the reason.

A document that fails an expectation leaves the corpus, the rest goes on. A corpus that fails one is refused as a
whole and staging/checked stays as it was. Gold quotes are counted here, not judged: the gate judges.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.backends import gx
from pipelines.core import gold
from pipelines.core.nouns import Report
from pipelines.corpus_files import (
    CorpusFiles,
    content_digest,
    fresh,
    link_tree,
    listing,
    mend,
    read_files,
    same_tree,
    swap_in,
    write_files,
)
from pipelines.errors import BadInput, NotFound
from pipelines.params import CorpusParams
from pipelines.ports import Ports
from pipelines.workspace import Workspace


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """staging/fetched -> staging/checked; facts are counts, reasons and digests. BadInput when the corpus fails."""
    started = time.monotonic()
    target, aside = workspace.checked, workspace.root / "staging" / ".checked.old"
    mend(target, aside=aside)
    try:
        fetched = read_files(workspace.fetched)
    except FileNotFoundError as exc:
        raise NotFound(
            f"{workspace.corpus} has nothing fetched yet; run: assay stage {workspace.corpus} fetch"
        ) from exc
    validation = gx.Validation(ports.settings.reports / workspace.corpus / "data_docs")
    checked = _without_bad(fetched, validation, min_characters=params.check.min_characters)
    facts = _facts(fetched, checked)
    failed = validation.run(
        "corpus",
        [facts],
        gx.corpus_expectations(min_documents=params.check.min_documents, max_quarantined=params.check.max_quarantined),
    )
    page = validation.publish()
    for expectation, rows in failed:
        if rows:
            raise BadInput(_refusal(workspace.corpus, expectation, facts))
    building = fresh(workspace.root / "staging" / ".checked.building")
    try:
        write_files(building, checked)
        dropped = _source_files(fetched) - _source_files(checked)
        landed = (name for name in listing(workspace.fetched) if name.startswith("source/"))
        link_tree(workspace.fetched, building, (name for name in landed if name not in dropped))
        if not same_tree(building, target):
            swap_in(building, target, aside=aside)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Report("check", facts, _summary(facts), {"data_docs": str(page), "seconds": time.monotonic() - started})


def _without_bad(fetched: CorpusFiles, validation: gx.Validation, *, min_characters: int) -> CorpusFiles:
    """The documents that meet every expectation; the others as quarantine records with the first reason."""
    table = gx.document_table(fetched.rows)
    reasons: dict[int, str] = {}
    seen: set[Any] = set()
    for expectation, failed in validation.run(
        "documents", table, gx.document_expectations(min_characters=min_characters)
    ):
        for row in failed:
            key = table[row]["id"]
            if expectation.kind == "ExpectColumnValuesToBeUnique" and key not in seen:
                seen.add(key)  # of documents with the same id the first one stays
                continue
            reasons.setdefault(row, expectation.reason)
    records = [
        {"document": str(row["id"]), "reason": reasons[n], "bytes": len((row["text"] or "").encode())}
        for n, row in enumerate(fetched.rows)
        if n in reasons
    ]
    kept = [row for n, row in enumerate(fetched.rows) if n not in reasons]
    return CorpusFiles(kept, fetched.questions, fetched.examples, [*fetched.quarantine, *records])


def _source_files(files: CorpusFiles) -> set[str]:
    """Landed files behind the documents: a uri is `source/PATH`, or `source/PATH#ID` for a line of JSON lines."""
    out: set[str] = set()
    for row in files.rows:
        parts = row["uri"].split("#")
        out.update("#".join(parts[:n]) for n in range(1, len(parts) + 1))
    return out


def _facts(fetched: CorpusFiles, checked: CorpusFiles) -> dict[str, Any]:
    texts = {row["id"]: row["text"] for row in checked.rows}
    cited, accounted = gold.cited(checked.questions), gold.in_quarantine(checked.quarantine)
    quotes, found = _quotes(checked.questions, texts)
    landed = len(checked.rows) + len(checked.quarantine)
    reasons = Counter(row["reason"].split(":")[0].split(";")[0] for row in checked.quarantine)
    return {
        "documents": len(checked.rows),
        "fetched": len(fetched.rows),
        "quarantined": len(checked.quarantine),
        "quarantined_share": len(checked.quarantine) / landed if landed else 0.0,
        "reasons": dict(sorted(reasons.items())),
        "questions": len(checked.questions),
        "repeated_questions": len(checked.questions) - len({row["id"] for row in checked.questions}),
        "examples": len(checked.examples),
        "evidence_documents": len(cited),
        "evidence_in_quarantine": sum(1 for d in cited if d not in texts and accounted(d)),
        "unknown_evidence": sum(1 for d in cited if d not in texts and not accounted(d)),
        "quotes": quotes,
        "quotes_found": found,
        "digest": content_digest({row["id"]: row["digest"] for row in checked.rows}),
    }


def _quotes(questions: Sequence[Mapping[str, Any]], texts: Mapping[str, str]) -> tuple[int, int]:
    """(quotes given, quotes that occur in their document), white space aside."""
    squeezed: dict[str, str] = {}
    quotes = found = 0
    for question in questions:
        for entry in question["evidence"]:
            if not entry.get("quote"):
                continue
            quotes += 1
            document = entry["document"]
            if document not in squeezed:
                squeezed[document] = gold.squeezed(texts.get(document, ""))
            found += gold.squeezed(entry["quote"]) in squeezed[document]
    return quotes, found


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
    return out
