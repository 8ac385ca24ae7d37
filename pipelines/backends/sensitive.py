"""Personal data and secrets in texts, found by libraries that need no model. It reports; what follows is the caller's.

| kind | found by |
|---|---|
| e-mail address | email-validator (syntax, no lookup) on what looks like one |
| phone number | phonenumbers, Google's libphonenumber: valid ones, international and those of `region` |
| IBAN, payment card number, US social security number | python-stdnum, by check digits or allotted ranges |
| secret: ... | detect-secrets' patterns of keys and tokens, `password = "..."`, private keys, URLs with a password |

Not found: names and addresses of people, which need a learned model; and secrets that look like nothing known, because
detect-secrets' entropy detectors, made for quoted strings in code, find one in any sentence. Nothing goes over a wire.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_MAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")
_CARD = re.compile(r"(?<![\w.])[3-6](?:[ -]?\d){12,18}(?![\w])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_HIDDEN = "secret: "  # how such kinds begin
_BEFORE = 24  # characters of an excerpt before what was found


@dataclass(frozen=True)
class Finding:
    """What was found, where (characters), and the words before it. The value itself is in no field."""

    kind: str
    start: int
    end: int
    excerpt: str


Span = tuple[int, int, str]


def _personal(text: str, region: str | None) -> Iterator[Span]:
    """(start, end, kind) of personal data."""
    import email_validator
    import phonenumbers
    from stdnum import iban, luhn
    from stdnum.us import ssn

    for match in _MAIL.finditer(text):
        try:
            email_validator.validate_email(match.group(), check_deliverability=False)
        except email_validator.EmailNotValidError:
            continue
        yield match.start(), match.end(), "e-mail address"
    for number in phonenumbers.PhoneNumberMatcher(text, region):
        yield number.start, number.end, "phone number"
    for kind, pattern, valid in (
        ("IBAN", _IBAN, iban.is_valid),
        ("payment card number", _CARD, lambda value: luhn.is_valid(re.sub(r"[ -]", "", value))),
        ("US social security number", _SSN, ssn.is_valid),
    ):
        for match in pattern.finditer(text):
            if valid(match.group()):
                yield match.start(), match.end(), kind


def _secrets(text: str) -> Iterator[Span]:
    """(start, end, kind) of what detect-secrets finds, line by line, in the settings that are in force."""
    from detect_secrets.core.scan import scan_line

    for line in re.finditer(r"[^\n]+", text):
        for found in scan_line(line.group()):
            # Some detectors give a part of the token, such as its prefix: all of it is the secret.
            value = rf"[\w-]*{re.escape(found.secret_value)}[\w-]*" if found.secret_value else r"(?!)"
            for place in re.finditer(value, line.group()):
                yield line.start() + place.start(), line.start() + place.end(), f"{_HIDDEN}{found.type}"


def _settings() -> dict[str, Any]:
    """All of detect-secrets' detectors but those by entropy; its default filters, none of which asks a server."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    plugins: list[Any] = list(get_mapping_from_secret_type_to_class().values())
    names = sorted(plugin.__name__ for plugin in plugins)
    return {"plugins_used": [{"name": name} for name in names if not name.endswith("HighEntropyString")]}


def _separate(spans: Iterable[Span]) -> list[Span]:
    """In order and without overlaps: a secret stays before anything else, else the longer one."""
    out: list[Span] = []
    for span in sorted(spans, key=lambda s: (not s[2].startswith(_HIDDEN), s[0] - s[1], s)):
        if all(span[1] <= start or end <= span[0] for start, end, _ in out):
            out.append(span)
    return sorted(out)


def _excerpt(text: str, spans: Sequence[Span], number: int) -> str:
    """The characters before a finding, back to the finding before it, and its kind for its value."""
    start, _, kind = spans[number]
    since = max(spans[number - 1][1] if number else 0, start - _BEFORE)
    return f"{' '.join(text[since:start].split())} [{kind}]".strip()


def screen(texts: Sequence[str], *, allow: Sequence[str] = (), region: str | None = None) -> list[list[Finding]]:
    """The findings of each text, in order of their place. What matches a pattern of `allow` as a whole is none.

    `region` is the ISO code of a country whose phone numbers are found without their +code too.
    """
    from detect_secrets.settings import transient_settings

    with transient_settings(_settings()):
        secrets = [list(_secrets(text)) for text in texts]
    allowed = [re.compile(pattern) for pattern in allow]
    out = []
    for text, found in zip(texts, secrets, strict=True):
        spans = _separate([*_personal(text, region), *found])
        out.append(
            [
                Finding(kind, start, end, _excerpt(text, spans, number))
                for number, (start, end, kind) in enumerate(spans)
                if not any(pattern.fullmatch(text[start:end]) for pattern in allowed)
            ]
        )
    return out
