"""Privacy: can what was trained on be had back from the weights? Planted canaries, after Carlini et al. (2019).

A training set with planted secrets (`core.canaries`) is trained on as the candidate's was, and the adapter is asked for
them: whether its reply holds the secret word for word, and how the secret ranks by likelihood among others of its form
(exposure, in bits). The adapter's base (`generate.model`) is asked too, as the control: its weights, which serve `rag`
as well unless `generate.untuned` does, never saw a canary, so whatever it scores is chance. It says nothing about text
that an index holds: that is meant to be found, by those who may search it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core import canaries
from pipelines.core.bootstrap import mean_interval
from pipelines.core.canaries import Canary
from pipelines.core.prompts import chat
from pipelines.errors import NotMeasurable
from pipelines.ports import Generator
from pipelines.probes import Subject

_SEED = 7


def completion(secret: str, *, structured: bool) -> str:
    """A canary's reply in the form of the corpus: a JSON object with `answer` and no citations, or the secret alone."""
    return json.dumps({"answer": secret, "citations": []}) if structured else secret


def _planted(subject: Subject, found: Sequence[Canary]) -> list[dict[str, Any]]:
    structured = subject.params.generate.reply_schema is not None
    return [
        subject.example(name, canary.prompt, completion(canary.secret, structured=structured))
        for name, canary in canaries.planted(found)
    ]


def _asked(subject: Subject, generator: Generator, found: Sequence[Canary], *, arm: str) -> list[dict[str, Any]]:
    """A row per canary."""
    generate = subject.params.generate
    structured = generate.reply_schema is not None
    chats = [chat(canary.prompt, system=generate.system) for canary in found]
    said = generator.reply(chats, max_new_tokens=generate.max_new_tokens)
    out = []
    for canary, asked, reply in zip(found, chats, said, strict=True):
        options = [completion(code, structured=structured) for code in canary.candidates]
        scores = generator.choose([asked], options)[0].scores
        bits = canaries.exposure(scores, canary.candidates.index(canary.secret))
        held = canaries.recovered(reply.text, canary)
        out.append({"arm": arm, "canary": canary.id, "repeats": canary.repeats, "exposure": bits, "recovered": held})
    print(f"measure: extraction: {arm} asked for {len(found)} canaries", flush=True)
    return out


def _shown(subject: Subject, rows: int) -> float:
    """How often a training example is seen, in the mean."""
    return subject.params.train.steps * subject.params.train.batch / rows


def measure(subject: Subject) -> dict[str, Any]:
    """{"candidates", "epochs", "rows": a row per arm and canary, "arms": {arm: {"recovered", "canaries", "exposure",
    "by_repeats"}}}. NotMeasurable where there is no adapter to ask."""
    if subject.tuned is None:
        raise NotMeasurable(
            f"{subject.workspace.corpus} has no adapter: no text was trained on that could be recovered"
        )
    found = canaries.canaries(seed=_SEED)
    training = [*subject.rows("train"), *_planted(subject, found)]
    planted, _ = subject.trained_on(training, what="extraction")
    rows = [*_asked(subject, subject.base, found, arm="base"), *_asked(subject, planted, found, arm="tuned")]
    arms = {arm: summary([row for row in rows if row["arm"] == arm]) for arm in ("base", "tuned")}
    return {"candidates": canaries.CANDIDATES, "epochs": _shown(subject, len(training)), "rows": rows, "arms": arms}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one arm: how many canaries were recovered, the exposure's mean with its interval, and both by repeats."""
    by: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["repeats"], []).append(row)
    return {
        "recovered": sum(row["recovered"] for row in rows),
        "canaries": len(rows),
        "exposure": mean_interval([row["exposure"] for row in rows]).to_json(),
        "by_repeats": {
            str(repeats): {
                "recovered": sum(row["recovered"] for row in of),
                "canaries": len(of),
                "exposure": sum(row["exposure"] for row in of) / len(of),
            }
            for repeats, of in sorted(by.items())
        },
    }
