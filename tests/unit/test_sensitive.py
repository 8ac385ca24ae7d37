"""Personal data and secrets: found by kind, never repeated, and not found where there are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.screening import plain_spans
from pipelines.backends import sensitive
from pipelines.backends.sensitive import screen
from pipelines.core import mixing
from tests.adapter_kit import handbook

# Numbers of documentation and of test systems; assembled, so that no scanner of repositories takes them for real.
VALUES = {
    "e-mail address": "jane.doe@" + "gmail.com",
    "phone number": "+44 20 7946 0958",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "payment card number": "4111 1111 1111 1111",
    "US social security number": "536-90-4399",
    "secret: AWS Access Key": "AKIA" + "IOSFODNN7EXAMPLE",
    "secret: GitHub Token": "ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789",
    "secret: Private Key": "-----BEGIN RSA " + "PRIVATE KEY-----",
}


@pytest.mark.parametrize(("kind", "value"), VALUES.items(), ids=list(VALUES))
def test_each_kind_is_found_and_masked(kind, value):
    text = f"Hello,\nit is {value} as I said"
    (finding,) = screen([text])[0]
    assert (finding.kind, finding.excerpt) == (kind, f"Hello, it is [{kind}]")
    assert value in text[finding.start : finding.end].strip() or text[finding.start : finding.end] in value
    assert value not in json.dumps(finding.__dict__) and screen([text], allow=[".*"]) == [[]]


@pytest.mark.parametrize(
    "text",
    [
        "Order 60417 of 2026-01-12, item 4111 1111 1111 1112, 29.00 euros",  # no valid card number
        "DE89 3704 0044 0532 0130 02",  # check digits do not agree
        "536-90-439 and 000-12-3456",
        "reply@ and @home, a@b",
        "Ask desk/support-desk-operations.md, version 1.2.3.4",
        "password = ",
    ],
)
def test_what_only_looks_like_it_is_not(text):
    assert screen([text], region="GB") == [[]]


def test_a_neighbour_is_not_shown_in_an_excerpt():
    first, second = VALUES["e-mail address"], VALUES["phone number"]
    found = screen([f"{first} {second}"])[0]
    assert [f.excerpt for f in found] == ["[e-mail address]", "[phone number]"]


def test_a_password_in_a_url_is_the_finding():
    (found,) = screen(["See https://bob:" + "s3cr3tpw@host.org/x"])[0]
    assert found.kind == "secret: Basic Auth Credentials" and "s3cr3tpw" not in found.excerpt


def test_numbers_without_code_are_found_in_their_country_only():
    assert [[f.kind for f in of] for of in screen(["Call 020 7946 0958"], region="GB")] == [["phone number"]]
    assert screen(["Call 020 7946 0958"]) == [[]]


def test_what_is_allowed_is_no_finding():
    text = f"Write to {VALUES['e-mail address']} or to desk@tarnwick.example"
    assert [f.start for f in screen([text], allow=[r".*@tarnwick\.example"])[0]] == [9]
    assert len(screen([text], allow=["tarnwick"])[0]) == 2  # a pattern must match as a whole


def test_the_handbook_holds_none():
    texts = [text for example in handbook("examples") for text in mixing.texts_of(example)]
    assert len(texts) > 700 and not any(screen(texts, region="GB"))


SECRETS = [
    'db_password = "' + "hunter2hunter" + '"',
    "aws_key = '" + "a1B2" * 10 + "'",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiJ4In0",
    "xoxb-" + "12345-abcdef",
    "203.0.113.7:80",
    "cloudant_key: " + "abcdefgh" * 3,
    "1234567890:" + "A" * 35,
    "sk_live_" + "a1" * 12,
    "AC" + "0a" * 16,
    "PASSWORD => 'x1y2'",
    "\u017fecret = 'x1y2'",
]
PIECES = st.one_of(
    st.sampled_from(
        [*VALUES.values(), *SECRETS, "020 7946 0958", "key", "+", "@", "://a:b@c", "3/10/2011", "e\u0301", "\uff0b"]
    ),
    st.text("0123456789+-.:/@aA ()'\"=x\u00e9", max_size=6),
)


@given(st.lists(PIECES, max_size=8), st.sampled_from([" ", "", "\n", "\r"]), st.sampled_from([None, "GB"]))
def test_what_is_found_is_what_the_libraries_find_plainly(pieces, between, region):
    text = between.join(pieces)
    (found,) = screen([text], region=region)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitive, "_spans", plain_spans)
        assert screen([text], region=region) == [found]
