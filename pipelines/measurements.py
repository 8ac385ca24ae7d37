"""The long measurements of a corpus as its workspace holds them: which there are, and what each is about.

`actions.measure` makes them. Nothing heavy is imported here: `assay compare` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipelines.workspace import Workspace, write_whole

MEASUREMENTS = {
    "freshness": "seconds until each arm answers by changed documents",
    "learning": "quality on shares of the documents and of the examples",
    "extraction": "whether planted secrets can be had back from the weights",
    "judge": "whether a language model finds the replies right, and how far that agrees with the gold answers",
}
CODE = 1
"""Raise it when a measurement is made otherwise: what is held of an older one is then measured anew."""


def made_of(workspace: Workspace) -> dict[str, Any]:
    """What a measurement is about: it is of an earlier candidate when this has changed since. NotFound before the arms
    were scored."""
    answers, index = workspace.receipt("score_answers"), workspace.receipt("index")
    train = workspace.receipt("train")
    return {
        "code": CODE,
        "collection": index["collection"],
        "adapter": train.get("digest"),
        "questions": answers.get("questions_digest"),
        "prompt": answers.get("prompt_digest"),
    }


def held(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """What was measured, by name, each with `current`: whether it is about the last candidate."""
    out = {}
    for name in MEASUREMENTS:
        file = workspace.root / "measured" / "evidence" / f"{name}.json"
        if file.is_file():
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            about = made_of(workspace).items()
            out[name] = {**found, "current": all(found["made_of"].get(key) == value for key, value in about)}
    return out


def keep(workspace: Workspace, name: str, found: Mapping[str, Any]) -> None:
    """Write a measurement whole; it takes the place of an older one of its name."""
    file = workspace.root / "measured" / "evidence" / f"{name}.json"
    write_whole(file, json.dumps(found, indent=1, sort_keys=True) + "\n")
