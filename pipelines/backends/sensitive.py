"""Personal data and secrets in texts, found by libraries that need no model. It reports; what follows is the caller's.

| kind | found by |
|---|---|
| e-mail address | email-validator (syntax, no lookup) on what looks like one |
| phone number | phonenumbers, Google's libphonenumber: valid ones, international and those of `region` |
| IBAN, payment card number, US social security number | python-stdnum, by check digits or allotted ranges |
| secret: ... | detect-secrets' patterns of keys and tokens, `password = "..."`, private keys, URLs with a password |

Not found: names and addresses of people, which need a learned model; and secrets that look like nothing known, because
detect-secrets' entropy detectors, made for quoted strings in code, find one in any sentence. Nothing goes over a wire.

All of it stands within a line, so texts are looked at by line, and a library only at lines that hold what it needs: a
digit, a plus, a string that a pattern of detect-secrets cannot do without (`core.needs`). What is found is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.needs import needed

_MAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")
_CARD = re.compile(r"(?<![\w.])[3-6](?:[ -]?\d){12,18}(?![\w])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_DIGIT, _PLUS = re.compile(r"\d"), re.compile("[+\uff0b]")
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


def _personal(line: str, region: str | None) -> Iterator[Span]:
    """(start, end, kind) of personal data."""
    if "@" in line:
        yield from _mails(line)
    if _DIGIT.search(line):
        yield from _numbers(line, region)


def _mails(line: str) -> Iterator[Span]:
    import email_validator

    for match in _MAIL.finditer(line):
        try:
            email_validator.validate_email(match.group(), check_deliverability=False)
        except email_validator.EmailNotValidError:
            continue
        yield match.start(), match.end(), "e-mail address"


def _numbers(line: str, region: str | None) -> Iterator[Span]:
    import phonenumbers
    from stdnum import iban, luhn
    from stdnum.us import ssn

    if region or _PLUS.search(line):  # a number of no known country is none without its +code
        for number in phonenumbers.PhoneNumberMatcher(line, region):
            yield number.start, number.end, "phone number"
    for kind, pattern, valid in (
        ("IBAN", _IBAN, iban.is_valid),
        ("payment card number", _CARD, lambda value: luhn.is_valid(re.sub(r"[ -]", "", value))),
        ("US social security number", _SSN, ssn.is_valid),
    ):
        for match in pattern.finditer(line):
            if valid(match.group()):
                yield match.start(), match.end(), kind


def _secrets(line: str) -> Iterator[Span]:
    """(start, end, kind) of what detect-secrets finds, in the settings that are in force."""
    from detect_secrets.core.scan import scan_line

    for found in scan_line(line):
        # Some detectors give a part of the token, such as its prefix: all of it is the secret.
        value = rf"[\w-]*{re.escape(found.secret_value)}[\w-]*" if found.secret_value else r"(?!)"
        for place in re.finditer(value, line):
            yield place.start(), place.end(), f"{_HIDDEN}{found.type}"


def _patterns() -> Iterator[re.Pattern[str]]:
    """Expressions, one of which matches any line in which the detectors in force find something."""
    from detect_secrets.plugins.base import RegexBasedDetector
    from detect_secrets.plugins.keyword import QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP, KeywordDetector
    from detect_secrets.settings import get_plugins

    for plugin in get_plugins():
        if isinstance(plugin, RegexBasedDetector):
            yield from plugin.denylist
        elif isinstance(plugin, KeywordDetector):
            yield from QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP  # as it does for a file of no known type
        else:
            yield re.compile("")  # nobody knows: every line is looked at


def _secretive() -> Callable[[str], bool]:
    """Whether a line may hold a secret: a scan of it calls each detector by way of many filters, and costs as much as
    all of the other checks."""
    short: list[re.Pattern[str]] = []  # of what they need, most lines hold something
    exact: list[re.Pattern[str]] = []
    caseless: list[re.Pattern[str]] = []
    for pattern in _patterns():
        long = min(map(len, needed(pattern)), default=0) > 1
        (short if not long else caseless if pattern.flags & re.IGNORECASE else exact).append(pattern)
    hold = re.compile("|".join(re.escape(string) for string in _all_needed(exact))).search
    hold_caseless = re.compile("|".join(re.escape(string.lower()) for string in _all_needed(caseless))).search

    def may(line: str) -> bool:
        wide = not line.isascii()  # beyond ASCII, letters match that are no lower case of each other
        tried = [*short, *(exact if wide or hold(line) else ())]
        tried += caseless if wide or hold_caseless(line.lower()) else ()
        return any(pattern.search(line) for pattern in tried)

    return may


def _all_needed(patterns: Iterable[re.Pattern[str]]) -> list[str]:
    return sorted(frozenset().union(*map(needed, patterns)))


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


def _spans(text: str, region: str | None, secretive: Callable[[str], bool]) -> Iterator[Span]:
    """(start, end, kind) of everything, in any order."""
    for line in re.finditer(r"[^\n]+", text):
        said = line.group()
        for start, end, kind in (*_personal(said, region), *(_secrets(said) if secretive(said) else ())):
            yield line.start() + start, line.start() + end, kind


def screen(texts: Sequence[str], *, allow: Sequence[str] = (), region: str | None = None) -> list[list[Finding]]:
    """The findings of each text, in order of their place. What matches a pattern of `allow` as a whole is none.

    `region` is the ISO code of a country whose phone numbers are found without their +code too.
    """
    from detect_secrets.settings import transient_settings

    allowed = [re.compile(pattern) for pattern in allow]
    out = []
    with transient_settings(_settings()):
        secretive = _secretive()
        for text in texts:
            spans = _separate(_spans(text, region, secretive))
            out.append(
                [
                    Finding(kind, start, end, _excerpt(text, spans, number))
                    for number, (start, end, kind) in enumerate(spans)
                    if not any(pattern.fullmatch(text[start:end]) for pattern in allowed)
                ]
            )
    return out
