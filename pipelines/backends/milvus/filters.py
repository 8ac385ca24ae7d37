"""A filter expression of Milvus from validated values; nothing else that a user typed enters one. No I/O.

pymilvus' templates (`filter_params`) would be the better way, but milvus-lite 3.2 and servers before 2.5 do not know
them: the values are written into the expression as string literals, in the one form that all of them read alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence

from pipelines.core.names import LABEL_FORM, PUBLIC, valid_label
from pipelines.errors import BadInput

FIELDS = ("document", "title")
"""What a passage may be filtered by: fields that every row holds and that people know."""

MOST = 1_000
"""Values of one field."""

_LONGEST = 4_096
_UNSAID = ("Cc", "Cs", "Zl", "Zp")
"""Categories of characters that are in no literal: controls, surrogates, line and paragraph separators."""


def readable(labels: Sequence[str] | None) -> tuple[str, ...] | None:
    """The access labels that a reader of `labels` may see, sorted, public always among them; None: whatever there is.

    BadInput names a label that is none, and a text in the place of a list.
    """
    if labels is None:
        return None
    if isinstance(labels, str) or len(labels) > MOST:
        raise BadInput(f"access labels are a list of at most {MOST:,}, not {str(labels)[:80]!r}")
    for label in labels:
        if not valid_label(label):
            raise BadInput(f"access label {str(label)[:80]!r} is not valid; a label is {LABEL_FORM}")
    return tuple(sorted({PUBLIC, *labels}))


def expression(filters: Mapping[str, str | Sequence[str]] | None, *, labels: Sequence[str] | None) -> str:
    """`document in ["a", "b"] and title in ["c"] and access in ["hr", "public"]`. BadInput names what cannot be
    filtered by, and a label that is none.

    Values are whole and exact: no patterns, no prefixes. `labels` are a reader's; None adds no condition on `access`.
    """
    seen = readable(labels)
    parts = [_among(name, values) for name, values in sorted((filters or {}).items())]
    if seen is not None:
        parts.append(f"access in [{', '.join(_literal('access', label) for label in seen)}]")
    return " and ".join(parts)


def excluding(documents: Collection[str]) -> str:
    """`document not in ["a"]`, in lists of at most MOST; empty without documents. An id that no literal can hold (with
    control characters) is left out here: whoever searches looks at what it found as well."""
    listed = sorted(document for document in documents if _expressible(document))
    parts = (listed[start : start + MOST] for start in range(0, len(listed), MOST))
    return " and ".join(f"document not in [{', '.join(_literal('document', d) for d in part)}]" for part in parts)


def _expressible(value: str) -> bool:
    return 1 <= len(value) <= _LONGEST and not any(unicodedata.category(c) in _UNSAID for c in value)


def _among(name: str, values: str | Sequence[str]) -> str:
    if name not in FIELDS:
        raise BadInput(f"passages cannot be filtered by {name!r}; one of {', '.join(FIELDS)}")
    listed = [values] if isinstance(values, str) else list(values)
    if not 1 <= len(listed) <= MOST:
        raise BadInput(f"the filter by {name} has {len(listed)} values; give 1 to {MOST:,}")
    return f"{name} in [{', '.join(_literal(name, value) for value in listed)}]"


def _literal(name: str, value: str) -> str:
    """A double-quoted literal in which only the quote and the backslash are escaped, as every Milvus reads it."""
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST:
        raise BadInput(f"the filter by {name} has a value that is not text of 1 to {_LONGEST:,} characters")
    if not _expressible(value):
        raise BadInput(f"the filter by {name} has {value[:80]!r}, which holds control characters or surrogates")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
