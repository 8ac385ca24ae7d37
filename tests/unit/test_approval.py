"""What counts as a person's approval, and how an answer is read."""

import json
from types import SimpleNamespace

import pytest

from pipelines.candidates import page
from pipelines.core.approval import UNKNOWN, answered, approving, rejecting, said

ANSWER = {"by": "Ada", "at": "2026-01-02T03:04:05+00:00", "how": "Airflow: tiny_release run r", "candidate": "c" * 64}


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({}, ("waiting", "", "")),
        ({"approved_by": "Ada"}, ("waiting", "", "")),  # a name alone says nothing
        ({"validation_status": "aproved", "approved_by": "Ada"}, ("waiting", "", "")),
        ({"validation_status": "pending"}, ("waiting", "", "")),
        (approving("Ada"), ("approved", "Ada", "")),
        ({"validation_status": " Approved "}, ("approved", UNKNOWN, "")),
        ({"validation_status": "approved", "approved_by": " "}, ("approved", UNKNOWN, "")),
        (rejecting("Ben", "too long"), ("rejected", "Ben", "too long")),
        ({"validation_status": "rejected"}, ("rejected", UNKNOWN, "")),
        ({**approving("Ada"), **rejecting("Ben", "no")}, ("rejected", "Ben", "no")),
        ({**rejecting("Ben", "no"), **approving("Ada")}, ("approved", "Ada", "")),
    ],
)
def test_the_tags_say(tags, wanted):
    found = said(tags)
    assert (found.state, found.by, found.reason) == wanted


def test_an_answer_is_whole_or_none():
    assert answered("null") is None
    assert answered(json.dumps(ANSWER)) == ANSWER
    for wrong in ("", "yes", "[]", "{}", json.dumps({**ANSWER, "by": ""}), json.dumps({**ANSWER, "x": "y"})):
        with pytest.raises(ValueError, match=r'an approval is {"by": WHO, .*} or null'):
            answered(wrong)


@pytest.mark.parametrize(
    ("uri", "services", "wanted"),
    [
        ("http://127.0.0.1:5000/", {}, "http://127.0.0.1:5000/#/models/a-candidate/versions/3"),
        ("https://me:secret@host/ml", {}, "https://host/ml/#/models/a-candidate/versions/3"),
        (
            "sqlite:///x.db",
            {"mlflow": "http://127.0.0.1:5000"},
            "http://127.0.0.1:5000/#/models/a-candidate/versions/3",
        ),
        ("sqlite:///x.db", {}, "sqlite:///x.db"),
    ],
)
def test_where_a_version_is_shown(uri, services, wanted):
    assert page(SimpleNamespace(mlflow_uri=uri, services=services), "a-candidate", 3) == wanted
