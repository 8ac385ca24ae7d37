"""What a text says once common disguises are taken off: look-alike letters, invisible characters, spelling with spaces
or digits, base64, HTML entities, Unicode tags. Standard library alone. It judges nothing, and changes no document.

Source of the look-alikes: Unicode Technical Standard 39, confusables, of Cyrillic and Greek with Latin letters.
"""

from __future__ import annotations

import base64
import html
import re
import unicodedata
from collections.abc import Iterator

_LOOK_ALIKE = str.maketrans(
    "аеорсухівкмнтјѕԁԛԝһАВЕКМНОРСТУХІЅЈαοενικρτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧɡı",
    "aeopcyxibkmhtjsdqwhABEKMHOPCTYXISJaoevikptuxABEZHIKMNOPTYXgi",
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_SPELT = re.compile(r"(?<!\w)\w(?:[ .\-_*|·]{1,3}\w){7,}(?!\w)")
_BROKEN = re.compile(r"(?:^[^\w\n]*\w+[^\w\n]*\n+){6,}[^\n]*", re.MULTILINE)
_RUN = re.compile(r"[^\W0-9]*+[0-9@$!][\w@$!]*")  # what _MIXED may be in
_MIXED = re.compile(r"(?=\w*[^\W\d])(?=[\w@$!]*[0-9@$!])[\w@$!]{3,}")
_DIGITS = str.maketrans("013457@$!", "oieastasi")
_BASE64 = re.compile(r"(?<![\w+/=])[A-Za-z0-9+/]{24,}={0,2}(?![\w+/=])")
SPELT, BASE64 = "words spelt out with spaces", "sentences in base64"
UNUSUAL = (SPELT, BASE64)
"""Disguises that honest documents have no use for, whatever is said in them."""

_ALIKE = re.compile(f"[{''.join(map(chr, _LOOK_ALIKE))}]")
_LATIN = re.compile(r"[^\W\d_]*[A-Za-z][^\W\d_]*")


def _latin(word: re.Match[str]) -> str:
    """A word that mixes Latin letters with look-alikes in Latin letters; words of other scripts stay."""
    return word.group().translate(_LOOK_ALIKE)


def plain(text: str) -> str:
    """The text in compatibility form without invisible characters, entities resolved, look-alikes in Latin letters
    where they stand in words of Latin ones."""
    if not text.isascii():
        text = _INVISIBLE.sub("", _TAGS.sub("", unicodedata.normalize("NFKC", text)))
        text = _LATIN.sub(_latin, text) if _ALIKE.search(text) else text
    return html.unescape(text) if "&" in text else text


def _decoded(text: str) -> Iterator[str]:
    """What runs of base64 hold, where that is text."""
    for found in _BASE64.finditer(text):
        run = found.group().rstrip("=")
        try:
            said = base64.b64decode(run + "=" * (-len(run) % 4), validate=True).decode("utf-8")
        except ValueError:
            continue
        if len(re.findall(r"[A-Za-z]{2,}(?= )", said)) >= 4:
            yield said


def _no_alphabet(letters: str) -> bool:
    """True for letters that repeat, as those of words do and those of an enumeration do not."""
    return letters.isalpha() and len(set(letters.casefold())) < 0.8 * len(letters)


def _digits(text: str) -> str:
    """Words that mix letters with digits as the letters that these stand for."""
    return _RUN.sub(lambda run: _MIXED.sub(lambda word: word.group().translate(_DIGITS), run.group()), text)


def covert(text: str) -> list[tuple[str, str]]:
    """(how, what) of what the text says in disguise, beyond `plain(text)`: usually nothing."""
    out = [("Unicode tags", "".join(chr(ord(c) - 0xE0000) for c in tags.group())) for tags in _TAGS.finditer(text)]
    seen = plain(text)
    out += [
        (SPELT, said) for spelt in _SPELT.finditer(seen) if _no_alphabet(said := re.sub(r"[\W_]+", "", spelt.group()))
    ]
    out += [("words broken over lines", " ".join(lines.group().split())) for lines in _BROKEN.finditer(seen)]
    out += [(BASE64, said) for said in _decoded(seen)]
    if _foreign(text):
        out.append(("look-alike letters", seen.translate(_LOOK_ALIKE)))
    if (read := _digits(seen)) != seen:
        out.append(("digits for letters", read))
    return out


def _foreign(text: str) -> bool:
    """True where a text of Latin letters holds letters of Greek or Cyrillic as well."""
    return not text.isascii() and bool(re.search(r"[A-Za-z]{3}", text)) and bool(re.search(r"[\u0370-\u052f]", text))
