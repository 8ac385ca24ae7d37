"""Landed documents into a `Spool`: a folder of files, a BEIR folder, or one JSON-lines file.

Each file is first copied into `source/`, then read from that copy, so what was read is what is kept. A file or line
that cannot be a document is quarantined with its reason; nothing here raises for a document's sake. A document's access
label is the one that its JSON line states, else what the patterns say of its id, else public; a line that states a
label which is none is quarantined, since nobody could say who may read it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipelines.backends.converter import CONVERTED, Converter, Unreadable, decoded
from pipelines.backends.spool import Spool
from pipelines.core.digests import digest_bytes
from pipelines.core.names import LABEL_FORM, PUBLIC, matching, valid_label
from pipelines.core.nouns import Document
from pipelines.core.titles import file_title, markdown_title
from pipelines.corpus_files import document_row

PLAIN = {".md": "text/markdown", ".markdown": "text/markdown", ".txt": "text/plain"}
LINES = ".jsonl"
FORMATS = ", ".join(suffix[1:] for suffix in (*PLAIN, *CONVERTED, LINES))
_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini", "lost+found"}


def is_beir(folder: Path) -> bool:
    """True for BEIR's layout: corpus.jsonl beside queries.jsonl or qrels/."""
    return (folder / "corpus.jsonl").is_file() and ((folder / "queries.jsonl").is_file() or (folder / "qrels").is_dir())


def walk(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """(relative POSIX path, path, visible) of every file below `folder`: of each folder its files by name, then its
    folders. Those that are symbolic links are not entered; like hidden files they come as not visible. A folder that
    cannot be read comes itself, last."""
    closed: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=closed.append):
        here = Path(parent)
        folders.sort(key=os.fsencode)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*files, *links], key=os.fsencode):
            path = here / name
            relative = path.relative_to(folder)
            hidden = any(part.startswith((".", "~$")) or part in _LITTER for part in relative.parts)
            yield relative.as_posix(), path, not (hidden or path.is_dir())
    for error in closed:
        yield Path(error.filename).relative_to(folder).as_posix(), Path(error.filename), True


class Reader:
    """Reads into one spool. `into` is the folder that receives the landed files; sizes are in MB (10**6); `access` are
    patterns of `fetch.access`; `erased` are ids of documents that are never taken up again, each with the day of its
    erasure. Afterwards `idle` are those patterns that no document matched, and `labels` says whether any pattern or
    line speaks of labels."""

    def __init__(
        self,
        into: Path,
        spool: Spool,
        *,
        max_mb: float,
        converter: Converter,
        access: Mapping[str, str],
        erased: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._spool = spool
        self._root: Path | None = None
        self._into = into
        self._max_mb = max_mb
        self._most = int(max_mb * 1_000_000)
        self._converter = converter
        self._access, self.idle, self.labels = access, list(access), bool(access)
        self._erased = erased
        self._struck: set[int] = set()  # lines of the file that is being read: those of erased documents

    def _label(self, document: str) -> str:
        """What the patterns say: of those that match the last."""
        matched = matching(document, self._access)
        self.idle = [pattern for pattern in self.idle if pattern not in matched]
        return self._access[matched[-1]] if matched else PUBLIC

    def within(self, folder: Path) -> None:
        """From now on links that lead out of `folder` are refused: what they name was not landed."""
        self._root = folder.resolve()

    def folder(self, folder: Path) -> None:
        """Every file at any depth; ids are relative paths, `PATH#ID` for a line of JSON lines."""
        self.within(folder)
        for name, path, visible in walk(folder):
            if not visible:
                self._spool.passed_over += 1
            elif (shown := _shown(name)) != name:
                self._spool.refuse(shown, "file name is not UTF-8", 0)
            elif path.is_dir():
                self._spool.refuse(name, "a folder that cannot be read", 0, ids=f"{name}/*")
            elif name in self._erased:
                self._spool.refuse(name, f"erased on {self._erased[name]}", 0)
            elif path.suffix.lower() == LINES:
                self.lines(path, name, prefix=f"{name}#")
            else:
                self._file(path, name)

    def lines(self, path: Path, name: str, *, prefix: str) -> None:
        """A JSON-lines file: each line a document `prefix + its id`. A file without any good line is one record."""
        copy = self._land(path, name, lines=prefix)
        if copy is None:
            return
        before, mark = self._spool.good, self._spool.mark()
        self._struck.clear()
        with copy.open("rb") as stream:
            for number, (line, size) in enumerate(_bounded_lines(stream, self._most), 1):
                self._line(line, size, name=name, number=number, prefix=prefix)
        if self._struck:
            _blank(copy, self._struck)
        elif self._spool.good == before:
            size = copy.stat().st_size
            copy.unlink()
            bad, first = self._spool.take_back(mark)
            reason = f"none of its {bad} lines is a document; the first: {first}" if bad else "no text in it"
            self._spool.refuse(name, reason, size, ids=f"{prefix}*")

    def _land(self, path: Path, name: str, *, lines: str | None = None) -> Path | None:
        """Copy into `source/`; None when it was quarantined instead. JSON lines (their ids' prefix is `lines`) may
        have any size, because their documents are bounded line by line."""
        ids = None if lines is None else f"{lines}*"
        try:
            status = path.stat()
            if self._root and not path.resolve().is_relative_to(self._root):
                self._spool.refuse(name, "a link that leads out of the landed folder", 0, ids=ids)
            elif not stat.S_ISREG(status.st_mode):
                self._spool.refuse(name, "not a regular file", 0, ids=ids)
            elif lines is None and status.st_size > self._most:
                self._spool.refuse(name, self._too_big(status.st_size), status.st_size)
            else:
                copy = self._into / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                with path.open("rb") as stream:
                    # What the landed file's owner, mode and times are is no part of the corpus.
                    return _written(copy, stream)
        except FileNotFoundError:
            self._spool.refuse(name, "unreadable: it vanished, or its link leads nowhere", 0, ids=ids)
        except PermissionError:
            self._spool.refuse(name, "unreadable: permission denied", 0, ids=ids)
        return None

    def _too_big(self, size: int) -> str:
        return f"too big: {size / 1e6:.1f} MB, above fetch.max_document_mb = {self._max_mb:g}"

    def _file(self, path: Path, name: str) -> None:
        suffix = path.suffix.lower()
        if suffix not in PLAIN and suffix not in CONVERTED:
            what = f"unsupported extension {suffix!r}" if suffix else "no extension"
            self._spool.refuse(name, f"{what}; formats are {FORMATS}", path.lstat().st_size)
            return
        copy = self._land(path, name)
        if copy is None:
            return
        data = copy.read_bytes()
        try:
            text, title = self._text(data, suffix, name)
            if not text.strip():
                raise Unreadable("no text in it")
        except Unreadable as exc:
            copy.unlink()
            self._spool.refuse(name, str(exc), len(data))
            return
        document = Document(
            id=name,
            title=title,
            text=text,
            media_type=PLAIN.get(suffix) or CONVERTED[suffix],
            uri=f"source/{name}",
            metadata={"bytes": len(data), "sha256": digest_bytes(data)},
            access=self._label(name),
        )
        self._spool.add(document_row(document), place=name, size=len(data))

    def _text(self, data: bytes, suffix: str, name: str) -> tuple[str, str]:
        if suffix in PLAIN:
            text = decoded(data)
            heading = markdown_title(text) if PLAIN[suffix] == "text/markdown" else None
            return text, heading or file_title(name)
        converted = self._converter.convert(data, suffix)
        heading = markdown_title(converted.text) if suffix in (".html", ".htm", ".docx") else None
        return converted.text, heading or converted.title or file_title(name)

    def _line(self, line: bytes, size: int, *, name: str, number: int, prefix: str) -> None:
        where = f"{name} line {number}"
        try:
            if size > self._most:
                raise Unreadable(self._too_big(size))
            text = decoded(line)
            if not text.strip():
                return
            row = _object(text)
            key = _key(row)
        except Unreadable as exc:
            self._spool.refuse(where, str(exc), size, ids=f"{prefix}*")
            return
        document = f"{prefix}{key}"
        if document in self._erased:
            self._struck.add(number)
            self._spool.refuse(document, f"erased on {self._erased[document]}", 0, place=where)
            return
        self.labels = self.labels or row.get("access", PUBLIC) != PUBLIC
        row = {"access": self._label(document), **row}
        try:
            found = document_row(_document(row, document, key=key, uri=f"source/{name}#{key}"))
        except Unreadable as exc:
            self._spool.refuse(document, str(exc), size, place=where)
        except (ValueError, RecursionError) as exc:  # metadata that JSON's grammar allows and JSON cannot hold: 1e999
            self._spool.refuse(document, f"malformed JSON: {exc}", size, place=where)
        else:
            self._spool.add(found, place=where, size=size)


def _shown(name: str) -> str:
    """The name as it is, or with escapes for bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("ascii", "backslashreplace")
    return name


def _written(copy: Path, stream: Any) -> Path:
    with copy.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)
    return copy


def _blank(copy: Path, struck: Collection[int]) -> None:
    """Leave these lines of a landed copy empty: the others keep their numbers."""
    kept = copy.with_name(f".{copy.name}.tmp")
    with copy.open("rb") as lines, kept.open("wb") as out:
        for number, line in enumerate(lines, 1):
            out.write(b"\n" if number in struck else line)
    kept.replace(copy)


def _bounded_lines(stream: Any, most: int) -> Iterator[tuple[bytes, int]]:
    """(line, size in bytes) of a binary stream; a line above `most` bytes comes empty, with its true size."""
    while line := stream.readline(most + 1):
        size = len(line)
        if size <= most or line.endswith(b"\n"):
            yield line, size
            continue
        while not line.endswith(b"\n") and (line := stream.readline(1 << 20)):
            size += len(line)
        yield b"", size


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_constant)


def _object(text: str) -> dict[str, Any]:
    try:
        row = _JSON.decode(text)
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"malformed JSON: {exc}") from exc
    if not isinstance(row, dict):
        raise Unreadable(f"a line must be an object, not {type(row).__name__}")
    return row


def _key(row: dict[str, Any]) -> str:
    key = row.get("_id", row.get("id"))
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or not key.strip():
        raise Unreadable("no id: a line has `_id` or `id`")
    return _encodable(key, "id")


def _encodable(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise Unreadable(f"{what} holds half of a surrogate pair") from exc
    return text


def _document(row: dict[str, Any], document: str, *, key: str, uri: str) -> Document:
    text, title, access = row.get("text"), row.get("title"), row["access"]
    if not isinstance(text, str) or not text.strip():
        raise Unreadable("no text in it")
    if not valid_label(access):
        raise Unreadable(f"access label is not valid: {str(access)[:80]!r}; a label is {LABEL_FORM}")
    rest = {name: value for name, value in row.items() if name not in ("_id", "id", "title", "text", "access")}
    return Document(
        id=document,
        title=_encodable(title.strip(), "title") if isinstance(title, str) and title.strip() else key,
        text=_encodable(text, "text"),
        media_type="text/plain",
        uri=uri,
        metadata=rest,
        access=access,
    )
