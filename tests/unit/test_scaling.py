"""docs/scaling.md: what it links exists, its code runs, and the variables it names are the settings' or a vendor's."""

from __future__ import annotations

import re

from pipelines import settings
from pipelines.settings import checkout

TEXT = (checkout() / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_every_file_it_links_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(links) >= 6
    for link in links:
        assert (checkout() / "docs" / link).exists(), link


def test_its_capacity_example_runs(capsys: object) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "scaling.md", "exec"), names)  # noqa: S102 -- the documentation's own lines
    assert names["load"].chunks > 1_000_000  # type: ignore[attr-defined]


def test_its_variables_are_documented() -> None:
    named = set(re.findall(r"\b(?:ASSAY|MLFLOW)_[A-Z_]*[A-Z]\b", TEXT))
    assert len(named) >= 6
    assert named <= set(re.findall(r"\b(?:ASSAY|MLFLOW)_[A-Z_]*[A-Z]\b", settings.__doc__ or ""))


def test_modules_that_it_tells_to_run_exist_or_are_marked_as_measured_elsewhere() -> None:
    for module in set(re.findall(r"python -m ([a-z_.]+)", TEXT)) - {"benchmarks.engine"}:
        assert (checkout() / (module.replace(".", "/") + ".py")).is_file(), module
