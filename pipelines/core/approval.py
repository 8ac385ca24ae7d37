"""What a person said of a candidate, read from the tags of its MLflow model version or from an answer in Airflow.

It decides what counts as an approval; who may give one is the business of those two. No I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

STATUS = "validation_status"
APPROVED_BY, REJECTED_BY, REASON = "approved_by", "rejected_by", "rejection_reason"
APPROVED, REJECTED = "approved", "rejected"
UNKNOWN = "unknown (MLflow records no author of a tag)"
ANSWER_FORM = '{"by": WHO, "at": ISO TIME, "how": WHERE, "candidate": DIGEST}'


@dataclass(frozen=True)
class Said:
    """`by` is empty while nobody has said anything; `reason` is that of a rejection, or empty."""

    state: Literal["approved", "rejected", "waiting"]
    by: str = ""
    reason: str = ""


def said(tags: Mapping[str, str]) -> Said:
    """By the tags of a model version. A status that is neither `approved` nor `rejected` is waited for."""
    status = tags.get(STATUS, "").strip().lower()
    if status == APPROVED:
        return Said("approved", tags.get(APPROVED_BY, "").strip() or UNKNOWN)
    if status == REJECTED:
        return Said("rejected", tags.get(REJECTED_BY, "").strip() or UNKNOWN, tags.get(REASON, "").strip())
    return Said("waiting")


def approving(by: str) -> dict[str, str]:
    """The tags that approve."""
    return {STATUS: APPROVED, APPROVED_BY: by}


def rejecting(by: str, reason: str) -> dict[str, str]:
    """The tags that reject."""
    return {STATUS: REJECTED, REJECTED_BY: by, REASON: reason}


def answered(text: str) -> dict[str, str] | None:
    """An approval that was given elsewhere, from its JSON; None for null. ValueError shows the valid form."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = text
    if answer is None:
        return None
    keys = {"by", "at", "how", "candidate"}
    if (
        not isinstance(answer, dict)
        or set(answer) != keys
        or not all(isinstance(v, str) and v for v in answer.values())
    ):
        raise ValueError(f"an approval is {ANSWER_FORM} or null, not {text!r}")
    return answer
