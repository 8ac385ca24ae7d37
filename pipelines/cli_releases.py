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


@releasing.command()
def promote(name: Name) -> None:
    """Publish the judged candidate, if its verdict passed, as the next generation."""
    from pipelines.actions.promote import promote_candidate

    print(promote_candidate(Settings.from_env(), name))


@releasing.command()
def approve(
    name: Name,
    by: Annotated[str, typer.Option(help="Who decides; it goes into the release's manifest.")],
    reject: Annotated[bool, typer.Option("--reject", help="Say no, with --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is rejected.")] = None,
) -> None:
    """Approve the judged candidate, where promote.approval is mlflow: sets the tags of its model version."""
    from pipelines.actions.approve import approve_candidate

    print(approve_candidate(Settings.from_env(), name, by=by, reject=reject, reason=reason))


@releasing.command()
def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option(help="Generation to return to; default: the one before.")] = None,
) -> None:
    """Publish a new generation that names an older build."""
    from pipelines.actions.rollback import rollback_release

    print(rollback_release(Settings.from_env(), name, to=to))


@releasing.command()
def verify(reference: Reference) -> None:
    """Check a release: signature, and every digest that it binds."""
    from pipelines.actions.verify import verify_release

    corpus, generation = reference_of(reference)
    for line in verify_release(Settings.from_env(), corpus, generation):
        print(line)


@releasing.command()
def pull(reference: Reference, to: Annotated[Path, typer.Option(help="An empty or absent folder.")]) -> None:
    """Copy a verified release into a folder: manifest, index rows, adapter, embedder."""
    from pipelines.actions.pull import pull_release

    corpus, generation = reference_of(reference)
    print(pull_release(Settings.from_env(), corpus, generation, to=to))


@releasing.command()
def reconcile(
    name: Name,
    remote: Annotated[bool, typer.Option("--remote", help="First read back all revisions from DVC's remote.")] = False,
) -> None:
    """Bring MLflow's and Milvus's aliases back in line with the release log; mend DVC's remote with --remote."""
    from pipelines.actions.reconcile import mend_remote, reconcile_corpus

    if remote:
        print(mend_remote(Settings.from_env(), name))
    print(reconcile_corpus(Settings.from_env(), name))


@releasing.command()
def gc(
    grace: Annotated[float, typer.Option(help="Hours that something must have been unneeded before it goes.")] = 24.0,
) -> None:
    """Remove builds, adapters and chunk sets that no kept release and no workspace needs (promote.keep)."""
    from pipelines.actions.gc import collect

    for line in collect(Settings.from_env(), grace=grace):
        print(line, flush=True)


@releasing.command()
def erase(
    name: Name,
    documents: Annotated[list[str], typer.Argument(help="Document ids, as citations name them.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why, for the receipt; no text of the document.")] = "",
    adapters: Annotated[str, typer.Option(help="What becomes of adapters trained on it: retire or keep.")] = "retire",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go; change nothing.")] = False,
) -> None:
    """Erase documents for good: served no more from now on, and removed from all that Assay wrote. Run it again to go
    on."""
    from pipelines.actions import erase as erasing

    settings = Settings.from_env()
    if dry_run:
        lines = iter(erasing.preview(settings, name, documents, adapters=adapters))
    else:
        lines = erasing.erase(settings, name, documents, reason=reason, adapters=adapters)
    for line in lines:
        print(line, flush=True)


@releasing.command()
def erasures(name: Name, as_json: AsJson = False) -> None:
    """The erasures of a corpus with their receipts, signatures verified."""
    from pipelines.actions.erase import listed

    found = listed(Settings.from_env(), name)
    if as_json:
        emit({"corpus": name, "erasures": found})
    else:
        from pipelines.show import show_erasures

        show_erasures(name, found)
