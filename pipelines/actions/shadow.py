"""`assay shadow`: ask the newest candidate beside the champion, before it is promoted, and show what would change.

Both answer through the very code that serves a release: the candidate by the manifest that promoting it would sign. The
differences go to the terminal and to an MLflow run; nothing is published and no alias moves. It does not judge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.actions.ask import Service
from pipelines.actions.promote import candidate_manifest
from pipelines.builds import load_build
from pipelines.core import shadow
from pipelines.errors import BadInput, NotFound
from pipelines.released import newest_release
from pipelines.schemas import read_jsonl
from pipelines.settings import Settings

Json = Mapping[str, Any]
FORM = '`{"question": "..."}` on each line of a .jsonl file, or a question on each line of a text file'


def questions_of(file: Path, *, limit: int) -> list[str]:
    """The first `limit` distinct questions of a file, a service's log for instance. BadInput names what is wrong."""
    if not file.is_file():
        raise BadInput(f"questions: {file} is no file; give {FORM}")
    rows = file.suffix == ".jsonl"
    found = [row.get("question") for row in read_jsonl(file)] if rows else file.read_text("utf-8").splitlines()
    texts: dict[str, None] = {}
    for number, text in enumerate(found, 1):
        if not isinstance(text, str):
            raise BadInput(f"questions: {file.name}, line {number} has no question; give {FORM}")
        if text.strip():
            texts[text.strip()] = None
    asked = list(texts)[:limit]
    if not asked:
        raise BadInput(f"questions: {file.name} holds none; give {FORM}")
    return asked


def _asked(settings: Settings, manifest: Json, questions: Sequence[str], *, retrieve: bool) -> list[dict[str, Any]]:
    """Passages, and unless `retrieve` answers, of each question by one manifest. Its store is closed with it: a
    milvus-lite folder serves one at a time."""
    service = Service(settings, manifest)
    try:
        load_build(service.ports.store, service.ports.objects, manifest["index"])
        out = [{"passages": found["passages"]} for found in service.passages(questions)]
        if not retrieve:
            said = service.answer(questions)
            out = [
                {**row, "answer": s["answer"], "citations": s["citations"]} for row, s in zip(out, said, strict=True)
            ]
        return out
    finally:
        service.ports.store.close()  # type: ignore[attr-defined]


def shadow_candidate(
    settings: Settings, corpus: str, *, questions: Path | None = None, limit: int = 50, retrieve: bool = False
) -> dict[str, Any]:
    """Differences between champion and candidate on `questions` (the corpus's gold questions by default).

    NotFound without a candidate or a release, BadInput when the candidate is what the champion serves.
    """
    from pipelines.wiring import Wiring

    wiring = Wiring.of(settings, corpus)
    workspace = wiring.workspace
    if not workspace.has("judge"):
        raise NotFound(f"{corpus} has no candidate yet; run: assay run {corpus}")
    newest = newest_release(wiring.releases, corpus)
    if not newest:
        raise NotFound(f"{corpus} has no release to compare with; run: assay promote {corpus}")
    if newest["candidate"] == workspace.receipt("judge")["candidate"]:
        raise BadInput(f"{corpus}: the newest candidate is what generation {newest['generation']} serves already")
    asked = questions_of(questions or workspace.versioned / "questions.jsonl", limit=limit)
    candidate = candidate_manifest(wiring.params, workspace, wiring, generation=int(newest["generation"]) + 1)
    champion, challenger = (_asked(settings, m, asked, retrieve=retrieve) for m in (newest, candidate))
    rows = [shadow.difference(*each) for each in zip(asked, champion, challenger, strict=True)]
    arms = {"champion": newest["arm"], "candidate": candidate["arm"]}
    result = {"corpus": corpus, "generation": newest["generation"], "candidate": candidate["candidate"], "arms": arms}
    result |= shadow.summary(rows) | {"rows": rows}
    result["run_id"] = _logged(wiring, result)
    return result


def _logged(wiring: Any, result: Json) -> str:
    """An MLflow run with the metrics and a table of all rows; its id."""
    tags = {"assay.stage": "shadow", "assay.candidate": result["candidate"]}
    with wiring.registry.run(result["corpus"], "shadow", tags=tags) as log:
        log.params({"champion": result["generation"], "candidate": result["candidate"], **result["arms"]})
        log.metrics({"changed": result["changed"], "questions": result["questions"]})
        log.metrics({name: metric["value"] for name, metric in result["metrics"].items()})
        log.table("differences", [{k: _cell(v) for k, v in row.items()} for row in result["rows"]])
        return str(log.run_id)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
