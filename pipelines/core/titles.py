"""A document's title: its first Markdown heading, or its file name made readable."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_FENCE = re.compile(r" {0,3}(```|~~~)")
_ATX = re.compile(r" {0,3}#{1,6}[ \t]+(?P<title>.+?)(?:[ \t]+#+)?[ \t]*")
_FIELD = re.compile(r"title:[ \t]*(?P<title>\S.*)")
_LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\([^)]*\)")


def _plain(markdown: str) -> str:
    """Inline markup taken off, white space evened out."""
    return " ".join(re.sub(r"[*`]|\\(?=\W)", "", _LINK.sub(lambda m: m["text"], markdown)).split())


def markdown_title(text: str) -> str | None:
    """The front matter's `title:`, else the first heading (`#`, or a line underlined with `=`) outside code; or None.

    Source of the forms: CommonMark 0.31, sections 4.2 (ATX) and 4.3 (setext).
    """
    lines = text.split("\n")
    start = 0
    if lines[0].rstrip() == "---":
        end = next((n for n, line in enumerate(lines[1:60], 1) if line.rstrip() in ("---", "...")), None)
        if end is not None:
            for line in lines[1:end]:
                if field := _FIELD.fullmatch(line.rstrip()):
                    return field["title"].strip("\"'") or None
            start = end + 1
    fence = ""
    for number, line in enumerate(lines[start:], start):
        if mark := _FENCE.match(line):
            fence = "" if fence == mark[1] else fence or mark[1]
        elif not fence:
            if (atx := _ATX.fullmatch(line)) and (title := _plain(atx["title"])):
                return title
            below = lines[number + 1] if number + 1 < len(lines) else ""
            if line.strip() and re.fullmatch(r" {0,3}=+[ \t]*", below) and (title := _plain(line)):
                return title
    return None


def file_title(name: str) -> str:
    """`orders/spare-parts_2.csv` -> `spare parts 2`."""
    stem = PurePosixPath(name).stem
    return " ".join(re.sub(r"[-_]+", " ", stem).split()) or PurePosixPath(name).name
