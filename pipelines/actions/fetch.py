"""Copy what landed, convert it to text, quarantine what cannot be read; leave it all in staging/fetched.

One bad document never stops the batch. It stops, with everything as it was, when there are no documents or when the
gold questions or training examples cannot be used. It judges no document's content: that is check's.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipelines.actions.landing import FORMATS, LINES, Reader, is_beir
from pipelines.backends.converter import Converter
from pipelines.backends.spool import Spool
from pipelines.core import gold
from pipelines.core.gold import UNKNOWN
from pipelines.core.names import PUBLIC
from pipelines.core.splits import documents_of
from pipelines.corpus_files import (
    CorpusFiles,
    document_count,
    documents_among,
    fresh,
    mend,
    quarantine_reasons,
    records_about,
    same_tree,
    swap_in,
    write_files,
)
from pipelines.erasures import log_of
from pipelines.errors import BadInput
from pipelines.locks import exclusive
from pipelines.params import CorpusParams, Fetch
from pipelines.ports import Ports
from pipelines.tasks import require_gold
from pipelines.workspace import Workspace

_QRELS = ("test.tsv", "dev.tsv", "train.tsv")


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> tuple[bool, str]:
    """(whether staging/fetched changed, one line of counts). BadInput names the file and line that cannot be used.

    One at a time: of two at once the second waits.
    """
    with exclusive(workspace.root / "measured" / "fetch.lock", patience=600, what=f"the fetch of {workspace.corpus}"):
        return _run(params, workspace, ports=ports)


def _run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> tuple[bool, str]:
    target, aside = workspace.fetched, workspace.root / "staging" / ".fetched.old"
    mend(target, aside=aside)
    building = fresh(workspace.root / "staging" / ".fetched.building")
    try:
        summary = _build(building, params, corpus=workspace.corpus, ports=ports)
        changed = not same_tree(building, target)
        if changed:
            swap_in(building, target, aside=aside)
    except OSError as exc:  # of our own folder: a full disk, a lost mount
        raise BadInput(f"{workspace.corpus}: fetch cannot go on: {exc.strerror or exc} ({exc.filename})") from exc
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return changed, f"{'' if changed else 'unchanged: '}{summary}"


def _build(building: Path, params: CorpusParams, *, corpus: str, ports: Ports) -> str:
    """Read everything that landed into `building`; the counts in one line."""
    converter = Converter(ports.settings.cache / "converted")
    source, erased = ports.path(params.source.documents), log_of(ports).erased(corpus)
    with Spool(building / "found.sqlite") as spool:
        how: dict[str, Any] = {"params": params.fetch, "converter": converter, "erased": erased}
        reader = read_landing(source, building / "source", spool, **how)
        questions, lost = gold.without(_questions(params, source, building / "source", ports=ports), erased)
        examples, unlearnt = gold.without(_examples(params, ports=ports), erased)
        spool.settle()
        questions = [gold.with_passages(row, spool.texts(gold.unquoted(row))) for row in questions]
        questions, examples = (_with_labels(rows, spool, used=reader.labels) for rows in (questions, examples))
        labels = spool.labelled()
        write_files(building, CorpusFiles(spool.documents(), questions, examples, spool.quarantine()))
    require_gold(params, questions, examples, ports=ports)
    missing = _check_evidence(questions, building, corpus=corpus)
    notes = _notes(building, passed_over=spool.passed_over, converted=converter.misses, missing=missing)
    notes += "".join(f"; {count} labelled {label}" for label, count in labels.items())
    notes += "".join(f"; fetch.access: {pattern!r} matches no document" for pattern in reader.idle)
    if lost or unlearnt:
        notes += f"; {lost} questions and {unlearnt} examples about erased documents left out"
    return f"{document_count(building)} documents, {len(questions)} questions, {len(examples)} examples{notes}"


def read_landing(
    source: Path,
    into: Path,
    spool: Spool,
    *,
    params: Fetch,
    converter: Converter,
    erased: Mapping[str, str] = MappingProxyType({}),
) -> Reader:
    """Read a folder, a BEIR folder or a .jsonl file, landing raw files in `into`; what was erased is quarantined.
    BadInput without any document."""
    into.mkdir(parents=True, exist_ok=True)
    most, access = params.max_document_mb, params.access
    reader = Reader(into, spool, max_mb=most, converter=converter, access=access, erased=erased)
    if source.is_file() and source.suffix.lower() == LINES:
        reader.lines(source, source.name, prefix="")
    elif source.is_dir() and is_beir(source):
        reader.within(source)
        reader.lines(source / "corpus.jsonl", "corpus.jsonl", prefix="")
    elif source.is_dir():
        reader.folder(source)
    else:
        what = "is not a folder or a .jsonl file" if source.exists() else "does not exist"
        raise BadInput(f"documents: {source} {what}")
    if spool.empty:
        raise BadInput(f"documents: {source} holds none; formats are {FORMATS}, at any depth")
    return reader


def _with_labels(rows: Sequence[Mapping[str, Any]], spool: Spool, *, used: bool) -> list[dict[str, Any]]:
    """Gold rows with the access labels of the documents that they rest on. Where labels are `used` at all, that of a
    document which did not land is not known, so nothing is trained on it."""
    documents = {document for row in rows for document in documents_of(row)}
    labels = dict.fromkeys(documents, UNKNOWN if used else PUBLIC) | spool.labels(documents)
    return [gold.with_labels(row, labels) for row in rows]


def _questions(params: CorpusParams, source: Path, into: Path, *, ports: Ports) -> list[dict[str, Any]]:
    if params.source.questions is not None:
        path = ports.path(params.source.questions)
        found = _read_gold(path, "questions", gold.question)
    elif source.is_dir() and is_beir(source):
        found = _beir_questions(source, into)
    else:
        return []
    _refuse_repeats((row["id"] for row in found), "question")
    return found


def _examples(params: CorpusParams, *, ports: Ports) -> list[dict[str, Any]]:
    if params.source.examples is None:
        return []
    found = _read_gold(ports.path(params.source.examples), "examples", gold.example)
    _refuse_repeats((row["id"] for row in found if "id" in row), "example")
    return found


def _read_gold(path: Path, kind: str, parse: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a .jsonl file, or of a folder's .jsonl files in name order, each through `parse`."""
    if path.is_dir():
        files = sorted(file for file in path.glob(f"*{LINES}") if not file.name.startswith("."))
    else:
        files = [path] if path.is_file() else []
    if not files:
        what = f"holds no {LINES} file" if path.is_dir() else "does not exist"
        raise BadInput(f"{kind}: {path} {what}")
    return [row for file in files for row in _parsed(file, kind, parse)]


def _parsed(file: Path, kind: str, parse: Callable[[Any], dict[str, Any]]) -> Iterable[dict[str, Any]]:
    number = 0
    try:
        # Line by line here, because the error must name the line of the file, blank ones counted.
        with file.open(encoding="utf-8-sig") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    yield parse(_json_object(line))
    except UnicodeDecodeError as exc:
        raise BadInput(f"{kind}: {file} after line {number} is not UTF-8 text") from exc
    except OSError as exc:
        raise BadInput(f"{kind}: {file} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise BadInput(f"{kind}: {file} line {number}: {exc}") from exc


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as exc:
        raise ValueError("is nested too deeply") from exc
    except UnicodeEncodeError as exc:
        raise ValueError("holds half of a surrogate pair") from exc
    except ValueError as exc:
        raise ValueError(f"is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ValueError(f"is {type(value).__name__}, not an object")
    return value


def _beir_questions(source: Path, into: Path) -> list[dict[str, Any]]:
    qrels = next((source / "qrels" / name for name in _QRELS if (source / "qrels" / name).is_file()), None)
    queries = source / "queries.jsonl"
    if qrels is None or not queries.is_file():
        return []
    for file in (queries, qrels):
        copy = into / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    judgements = []
    for number, line in enumerate(qrels.read_text(encoding="utf-8-sig").splitlines(), 1):
        header = number == 1 and line.lower().startswith("query-id")
        if line.strip() and not header:
            try:
                judgements.append(gold.judgement(line))
            except ValueError as exc:
                raise BadInput(f"questions: {qrels} line {number}: {exc}") from exc
    rows = list(_parsed(queries, "questions", gold.query))
    return gold.beir_questions(rows, judgements)


def _refuse_repeats(ids: Iterable[str], what: str) -> None:
    repeated = [key for key, count in Counter(ids).items() if count > 1]
    if repeated:
        raise BadInput(f"{what} id {repeated[0]!r} occurs more than once; ids are unique over all {what} files")


def _check_evidence(questions: Sequence[dict[str, Any]], folder: Path, *, corpus: str) -> int:
    """How many evidence documents are in quarantine; BadInput when one neither landed nor was quarantined."""
    cited = gold.cited(questions)
    landed = {row["id"] for row in documents_among(folder, cited, columns=["id"])}
    lost = {document: asker for document, asker in cited.items() if document not in landed}
    accounted = gold.in_quarantine(records_about(lost, folder))
    for document, asker in lost.items():
        if not accounted(document):
            raise BadInput(f"{corpus}: question {asker!r} names document {document!r}, which is not among the landed")
    return len(lost)


def _notes(folder: Path, *, passed_over: int, converted: int, missing: int) -> str:
    notes = [f"{converted} converted anew"] if converted else []
    reasons = quarantine_reasons(folder)
    if reasons:
        most = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        notes.append(f"{reasons.total()} quarantined ({most})")
    if missing:
        notes.append(f"{missing} evidence documents are in quarantine")
    if passed_over:
        notes.append(f"{passed_over} hidden files passed over")
    return "".join(f"; {note}" for note in notes)
