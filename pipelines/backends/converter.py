"""PDF, DOCX, HTML and CSV to Markdown through markitdown, each result cached by the bytes it came from.

Importing markitdown costs seconds, so it happens only when something is not in the cache. The converter is chosen
by the file's extension alone: nothing is guessed from content, no network, no plug-ins.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipelines.core.digests import digest_bytes, digest_json
from pipelines.workspace import write_whole

CONVERTED = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".html": "text/html",
    ".htm": "text/html",
    ".csv": "text/csv",
}
"""Extension to media type of what is converted here."""

_PACKAGES = ("markitdown", "pdfminer.six", "pdfplumber", "mammoth", "beautifulsoup4", "markdownify")
_RULES = "3"
"""Raised when what is done around markitdown changes the text."""
_EXPANSION = 100
"""Most times that a DOCX may grow when unpacked: above it, it is a bomb rather than a letter."""


_WRAPPED = 45
"""Characters of a block's longest line from which on its lines may be wrapped ones."""
_FILLED = 0.85
"""Share of the longest line that a wrapped line and the word after it fill, had that word been kept on it."""
_STARTS = re.compile(r"\s*(\||#|[-*•–]\s|\(?(\d{1,3}|[A-Za-z]|[ivx]{2,4})[.)]\s)")
"""What begins a line of its own: a table row, a heading, an item of a list."""
_ENDS = re.compile(r"""[.!?:;]["'”’)]*\s*$""")


class Unreadable(ValueError):
    """A file that cannot become text; the message is the reason that a quarantine record gives."""


@dataclass(frozen=True)
class Converted:
    """Markdown, and the title that the format itself carries (HTML's <title>), if any."""

    text: str
    title: str | None


def decoded(data: bytes) -> str:
    """UTF-8 text without byte-order mark and with LF line ends. Unreadable for NUL bytes and other encodings."""
    if b"\0" in data:
        raise Unreadable("binary content: it holds NUL bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise Unreadable(f"not UTF-8 text: byte {exc.start} cannot be decoded") from exc
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Converter:
    """Conversion with a cache folder that may be deleted at any time."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.version = digest_json([_RULES, *(f"{name} {metadata.version(name)}" for name in _PACKAGES)])[:12]
        self.misses = 0

    def convert(self, data: bytes, suffix: str) -> Converted:
        """`data` of a file with extension `suffix` (a key of CONVERTED) as Markdown. Unreadable with the reason."""
        key = digest_bytes(data)
        file = self._cache / self.version / key[:2] / f"{key}{suffix}.json"
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = self._convert(data, suffix)
            write_whole(file, json.dumps(known))
        if known["error"]:
            raise Unreadable(known["error"])
        return Converted(known["text"], known["title"])

    def _convert(self, data: bytes, suffix: str) -> dict[str, str | None]:
        self.misses += 1
        try:
            found = _markdown(data, suffix)
        except Unreadable as exc:
            return {"text": None, "title": None, "error": str(exc)}
        except MemoryError:
            raise
        except Exception as exc:  # vendors raise anything at all on a broken file
            return {"text": None, "title": None, "error": _reason(exc, suffix)}
        return {"text": found.text, "title": found.title, "error": None}


def _reason(exc: BaseException, suffix: str) -> str:
    """One line that is the same on every run: exception types and messages, no addresses."""
    chain: BaseException | None = exc
    while chain is not None:
        if "password" in type(chain).__name__.lower() or "encrypt" in type(chain).__name__.lower():
            return f"encrypted {suffix[1:].upper()}: it asks for a password"
        chain = chain.__cause__ or chain.__context__
    detail = re.sub(r"0x[0-9a-f]+", "0x…", " ".join(str(exc).split()))[:160]
    return f"unreadable {suffix[1:].upper()}: {type(exc).__name__}{': ' + detail if detail else ''}"


def _refuse_bomb(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _EXPANSION * max(len(data), 1_000_000):
        raise Unreadable(f"unreadable DOCX: it unpacks to {unpacked / 1e6:.0f} MB")


def _markdown(data: bytes, suffix: str) -> Converted:
    from markitdown import StreamInfo
    from markitdown.converters import CsvConverter, DocxConverter, HtmlConverter, PdfConverter

    if suffix == ".docx":
        _refuse_bomb(data)
    if suffix in (".html", ".htm", ".csv"):
        data = decoded(data).encode()
    converter = {".pdf": PdfConverter, ".docx": DocxConverter, ".csv": CsvConverter}.get(suffix, HtmlConverter)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Word's Title style is the document's heading; without this it would come out as an ordinary line.
        options = {"style_map": "p[style-name='Title'] => h1:fresh"} if suffix == ".docx" else {}
        result = converter.convert(io.BytesIO(data), StreamInfo(extension=suffix, charset="utf-8"), **options)
    text = result.markdown.replace("\r\n", "\n").replace("\x0c", "\n\n")
    if suffix == ".pdf":
        text = unwrapped(text)
    title = " ".join((result.title or "").split()) or None
    return Converted(text.encode("utf-8", "replace").decode(), title)


def unwrapped(text: str) -> str:
    """Paragraphs of a PDF on one line each, as in other formats; markitdown leaves a line where the page had one.

    In a block without empty lines, a line goes on in the next one if that one's first word would not have fitted on
    it. Lists, table rows, headings and blocks of short lines stay. A line that ends in a hyphen is joined as it is.
    """
    blocks = (part.split("\n") for part in re.split(r"\n[ \t]*\n", text))
    return "\n\n".join("\n".join(_joined(lines)) for lines in blocks)


def _joined(lines: list[str]) -> list[str]:
    widest = max((len(line.rstrip()) for line in lines if not line.lstrip().startswith("|")), default=0)
    paragraphs: list[str] = []
    last = ""
    for line in lines:
        if paragraphs and widest >= _WRAPPED and _goes_on(last.rstrip(), line, widest):
            head = paragraphs[-1].rstrip()
            paragraphs[-1] = head + ("" if head.endswith("-") else " ") + line.strip()
        else:
            paragraphs.append(line)
        last = line
    return paragraphs


def _goes_on(last: str, line: str, widest: int) -> bool:
    """Whether `line` belongs to the paragraph of the line before it."""
    words = line.split()
    if not words or not last or last.lstrip().startswith("|") or _STARTS.match(line):
        return False
    heading = _ENDS.search(last) and not _ENDS.search(line) and len(line.strip()) < _FILLED * widest
    return not heading and len(last) + 1 + len(words[0]) >= _FILLED * widest
