"""What a reviewer reads: the HTML report of a candidate, the card of a trained model, the description of a release.

It lays out what views and manifests hold, from the templates in `models/cards`; it measures and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines.core.prompts import ARMS
from pipelines.settings import checkout
from pipelines.show import POWER_NOTE, arm_columns, best_arm, number, questions
from pipelines.workspace import write_whole

Json = Mapping[str, Any]
_NOT_PLOTTED = ("latency_p99", "tokens_in", "tokens_out")


@lru_cache
def templates() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(checkout() / "models" / "cards"),
        autoescape=jinja2.select_autoescape(["html", "html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["num"] = lambda value: "" if value is None else number(value)
    environment.filters["questions"] = questions
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    return environment


def describe(manifest: Json) -> str:
    """Markdown by which a reviewer can decide about a release: verdict, arms, retrieval, digests."""
    scored = manifest["evaluation"]["arms"]
    arms = {arm: scored[arm] for arm in ARMS if arm in scored}
    text: str = (
        templates()
        .get_template("release.md.j2")
        .render(m=manifest, arms=arms, names=list(arm_columns(arms)), power_note=POWER_NOTE)
    )
    return text


def describe_adapter(made: Json) -> str:
    """The model card of an adapter, as Markdown: base and licence, recipe, data, losses, cost, intended use, limits.

    `made` holds corpus, task, licence (None: not known), recipe (its name and content), train (the numbers), `facts`
    and `took` of the stage train, and `mix`, the receipt of the training set. Short enough for a model version's
    description, of which MLflow's database keeps 5,000 characters.
    """
    card: str = templates().get_template("adapter.md.j2").render(**made)
    return card


def describe_tuned(made: Json) -> str:
    """The model card of an embedder or a cross-encoder that `assay tune` made, as Markdown. `made` holds corpus, the
    model's `facts`, `losses` (first and last or best) and what it `took` (`training.took`)."""
    card: str = templates().get_template("tuned.md.j2").render(**made)
    return card


def render(report: Json, comparison: Json, releases: Json) -> str:
    """The candidate's report as one self-contained HTML page. Arguments as `actions.views` makes them."""
    arms = comparison["arms"]
    primary = comparison["primary"].partition(".")[2]
    headings = arm_columns(arms, first=primary)
    plotted = [name for name in headings if name not in _NOT_PLOTTED]
    differences = {pair: d[primary] for pair, d in comparison["differences"].items() if primary in d}
    page: str = (
        templates()
        .get_template("report.html.j2")
        .render(
            corpus=report["corpus"],
            candidate=report["candidate"],
            verdict=report["verdict"],
            power_note=POWER_NOTE,
            retrieval=report["retrieval"],
            arms=arms,
            headings=headings,
            plotted=plotted,
            best={name: best_arm(arms, name) for name in headings},
            scale={name: _top(arms, name) for name in plotted},
            questions=comparison["questions"],
            primary=comparison["primary"],
            differences=differences,
            hypothesis=comparison.get("hypothesis"),
            recommendation=comparison.get("recommendation"),
            distilled=comparison.get("distilled"),
            release=releases["releases"][0] if releases["releases"] else None,
            releases=releases["releases"],
        )
    )
    return page


def _top(arms: Json, name: str) -> float:
    """The longest bar or whisker of a plot, so that every arm is drawn to one scale; never zero."""
    values = [found[name].get("high") or found[name]["value"] for found in arms.values() if name in found]
    return max([*values, 1e-9])


def report_file(reports: Path, corpus: str) -> Path:
    """Where the report of a corpus's last candidate is."""
    return reports / corpus / "report.html"


def write_report(reports: Path, report: Json, comparison: Json, releases: Json) -> Path:
    """Write the page whole; returns its path."""
    file = report_file(reports, report["corpus"])
    write_whole(file, render(report, comparison, releases))
    return file
