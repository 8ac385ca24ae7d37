"""The `assay` commands around a release, and what all commands share: as `pipelines.cli`, each parses, calls one action
and shows the result.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.errors import BadInput
from pipelines.settings import Settings

releasing = typer.Typer(rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Corpus name, as in params.yaml.", show_default=False)]
Reference = Annotated[str, typer.Argument(help="NAME or NAME@GENERATION.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def emit(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False))


def reference_of(text: str) -> tuple[str, int | None]:
    from pipelines.core.names import parse_reference

    try:
        return parse_reference(text)
    except ValueError as exc:
        raise BadInput(str(exc)) from exc


@releasing.command()
def shadow(
    name: Name,
    questions: Annotated[
        Path | None, typer.Option(help="JSON lines with `question`, or a question a line; default: the gold questions.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most questions asked.")] = 50,
    retrieve: Annotated[bool, typer.Option("--retrieve", help="Compare passages only; no model generates.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the newest candidate beside the champion, before it is promoted, and show what would change."""
    from pipelines.actions.shadow import shadow_candidate

    result = shadow_candidate(Settings.from_env(), name, questions=questions, limit=limit, retrieve=retrieve)
    if as_json:
        emit(result)
    else:
        from pipelines.show_arms import show_shadow

        show_shadow(result)
