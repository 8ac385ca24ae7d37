"""The `assay` command: the only place that prints. It parses, calls one action, shows the result, and maps errors
to exit codes: 0 done (a rejected candidate included), 2 bad input with one line of reason, 1 anything else.

Nothing heavy is imported here: each command imports what it uses.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli_releases import AsJson, Name, Reference, emit, reference_of, releasing
from pipelines.errors import AssayError, BadInput
from pipelines.settings import Settings

app = typer.Typer(
    name="assay",
    help="Version corpora, build indices, train adapters, judge both, release what passes.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich costs half of the start-up time and changes only how --help is framed
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(releasing)


@app.command()
def new(
    name: Name,
    documents: Annotated[Path, typer.Option(help="A folder of documents, or a BEIR folder as it is.")],
    questions: Annotated[
        Path | None, typer.Option(help="Gold questions: a JSON-lines file or a folder of them.")
    ] = None,
    examples: Annotated[Path | None, typer.Option(help="Training examples: a JSON-lines file or a folder.")] = None,
) -> None:
    """Add a corpus: a block in params.yaml, nothing else."""
    from pipelines.actions.new import add_corpus

    add_corpus(Settings.from_env(), name, documents=documents, questions=questions, examples=examples)
    print(f"{name}: added to params.yaml; next: assay run {name}")


@app.command()
def run(name: Name, force: Annotated[bool, typer.Option(help="Run every stage, stale or not.")] = False) -> None:
    """Run the whole graph once in the foreground, without Airflow services."""
    from pipelines.progress import run_graph

    run_graph(Settings.from_env(), name, force=force)


@app.command()
def stage(
    name: Name,
    stage: Annotated[str, typer.Argument(help="A stage or action of dvc.yaml.", show_default=False)],
    force: Annotated[bool, typer.Option(help="Run it, stale or not.")] = False,
    skip_code: Annotated[int, typer.Option(help="Exit code when there was nothing to do (Airflow uses 99).")] = 0,
    approval: Annotated[
        str, typer.Option(help="Of promote: JSON of what Airflow's task approve was answered.")
    ] = "null",
) -> None:
    """Run one stage, if it is stale."""
    from pipelines.core.approval import answered
    from pipelines.runner import run_node

    try:
        answer = answered(approval)
    except ValueError as exc:
        raise BadInput(f"--approval: {exc}") from exc
    outcome = run_node(Settings.from_env(), name, stage, force=force, answer=answer)
    said = {"stage": outcome.node, "changed": outcome.changed, "summary": outcome.summary}
    print(json.dumps(said | ({"awaits": outcome.awaits} if outcome.awaits else {})), flush=True)
    if not outcome.changed:
        raise typer.Exit(skip_code)


@app.command("exec", hidden=True)
def exec_stage(stage: str) -> None:
    """What DVC calls inside a workspace: do the work of a stage, write its receipt."""
    from pipelines.runner import execute
    from pipelines.stage_process import inner

    with inner(Path.cwd(), stage):
        print(execute(Settings.from_env(), Path.cwd().name, stage), flush=True)


@app.command()
def tune(name: Name, recipe: Annotated[str, typer.Argument(help="embedder or reranker.", show_default=False)]) -> None:
    """Train the corpus's own embedder or reranker on its gold questions (models/recipes)."""
    from pipelines.actions.tune import tune_corpus

    print(tune_corpus(Settings.from_env(), name, recipe))


@app.command()
def ask(
    reference: Reference,
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    retrieve: Annotated[bool, typer.Option("--retrieve", help="The passages only; no model generates.")] = False,
    document: Annotated[
        list[str] | None, typer.Option(help="With --retrieve: passages of this document only. May be repeated.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="An access label of the reader, beside public. May be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a promoted release one question; the answer comes with its citations."""
    from pipelines.actions.ask import ask_release, find_passages

    corpus, generation = reference_of(reference)
    how: dict[str, Any] = {"generation": generation, "labels": label or ()}
    if retrieve:
        found = find_passages(Settings.from_env(), corpus, question, documents=document or (), **how)
    elif document:
        raise BadInput("--document narrows what is retrieved; give it with --retrieve")
    else:
        found = ask_release(Settings.from_env(), corpus, question, **how)
    if as_json:
        emit(found)
    else:
        from pipelines.show import show_answer, show_passages

        (show_passages if retrieve else show_answer)(question, found)


@app.command()
def compare(name: Name, as_json: AsJson = False) -> None:
    """The arms side by side on the same questions, and what that recommends; a page of it, and an MLflow run."""
    from pipelines.actions.compare import log_once, page_of
    from pipelines.actions.views import comparison

    settings = Settings.from_env()
    result = comparison(settings, name)
    if not as_json:
        from pipelines.show_arms import show_comparison

        show_comparison(result)
    if result["arms"]:
        page = page_of(settings, result)
        log_once(settings, result, page)
        print(f"The whole comparison: {page}", file=sys.stderr)
    if as_json:
        emit(result)


@app.command()
def measure(
    name: Name,
    what: Annotated[
        list[str] | None, typer.Argument(help="freshness, learning, extraction; all by default.", show_default=False)
    ] = None,
) -> None:
    """The long measurements behind the comparison: freshness, data needed, what the weights give away."""
    from pipelines.actions.measure import measure_corpus

    for line in measure_corpus(Settings.from_env(), name, what or ()):
        print(line, flush=True)
    print(f"{name}: see them by: assay compare {name}")


@app.command()
def report(name: Name, as_json: AsJson = False) -> None:
    """The last candidate: retrieval metrics, checks, verdict."""
    from pipelines.actions.views import candidate_report

    result = candidate_report(Settings.from_env(), name)
    if as_json:
        emit(result)
    else:
        from pipelines.show import show_report

        show_report(result)


@app.command()
def releases(name: Name, as_json: AsJson = False) -> None:
    """The release log of a corpus."""
    from pipelines.actions.views import release_list

    result = release_list(Settings.from_env(), name)
    if as_json:
        emit(result)
    else:
        from pipelines.show import show_releases

        show_releases(result)


@app.command()
def show(reference: Reference, as_json: AsJson = False) -> None:
    """One release's manifest, its signature verified."""
    from pipelines.actions.views import release_manifest

    corpus, generation = reference_of(reference)
    manifest = release_manifest(Settings.from_env(), corpus, generation)
    if as_json:
        emit(manifest)
    else:
        from pipelines.show import show_manifest

        show_manifest(manifest)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Every corpus: revision, candidate, verdict, release."""
    from pipelines.actions.views import overview

    result = overview(Settings.from_env())
    if as_json:
        emit(result)
    else:
        from pipelines.show import show_status

        show_status(result)


def main() -> None:
    """Entry point: errors as one line on stderr, with their exit code."""
    try:
        app()
    except AssayError as exc:
        print(f"assay: {' '.join(str(exc).split())}", file=sys.stderr)
        sys.stderr.flush()
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        print("assay: interrupted", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os._exit(1)
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"assay: no space left for {exc.filename or 'what is written'}; free some", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
