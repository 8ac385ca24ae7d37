"""Names that become folders, DAG ids, collections, registered models and access labels: validated once, here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

_CORPUS = re.compile(r"[a-z][a-z0-9]{0,29}(?:_[a-z0-9]+)*")
_REFERENCE = re.compile(r"(?P<corpus>[^@]+)(?:@(?P<generation>[1-9][0-9]{0,8}))?")
CORPUS_FORM = "a lower-case letter, then letters, digits and single underscores, at most 40 characters, e.g. support_en"

PUBLIC = "public"
"""The access label of what every reader may see."""
_LABEL = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
LABEL_FORM = (
    "a lower-case letter, then letters, digits and single dashes or underscores, at most 40 characters, e.g. hr-eu"
)


def valid_corpus_name(name: str) -> bool:
    """True when `name` may name a corpus."""
    return len(name) <= 40 and _CORPUS.fullmatch(name) is not None


def valid_label(label: Any) -> bool:
    """True when `label` may be the access label of a document."""
    return isinstance(label, str) and len(label) <= 40 and _LABEL.fullmatch(label) is not None


def matching(document: str, patterns: Iterable[str]) -> list[str]:
    """The globs that match a document id, in their order; `*` also matches `/`, and case counts."""
    return [pattern for pattern in patterns if fnmatchcase(document, pattern)]


def parse_reference(reference: str) -> tuple[str, int | None]:
    """`NAME` or `NAME@GENERATION` -> (name, generation or None). ValueError with the valid form otherwise."""
    match = _REFERENCE.fullmatch(reference)
    if match is None or not valid_corpus_name(match["corpus"]):
        raise ValueError(f"{reference!r} is not NAME or NAME@GENERATION; NAME is {CORPUS_FORM}")
    return match["corpus"], int(match["generation"]) if match["generation"] else None


def collection_name(corpus: str, build_digest: str) -> str:
    """Physical Milvus collection of a build: `b_<corpus>_<16 hex>`; never an alias of the same form."""
    return f"b_{corpus}_{build_digest[:16]}"
