"""docs/training.md: what it links exists, its recipes and recipe keys are those that there are."""

import re

from pipelines.backends.lora.recipe import RECIPE_KEYS
from pipelines.core.costs import of_training
from pipelines.settings import checkout

TEXT = (checkout() / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_file_it_links_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert link.startswith("https://arxiv.org/") or (checkout() / "docs" / link).exists(), link


def test_it_lists_every_recipe():
    named = set(re.findall(r"^\| `([a-z]+)` \| ", TEXT.split("## What")[0], re.MULTILINE))
    assert named == {file.stem for file in (checkout() / "models" / "recipes").glob("*.yaml")}


def test_its_keys_and_figures_have_these_names():
    keys = re.findall(r"^\| `([a-z_]+)` \| ", TEXT.split("## Keys")[1].split("## ")[0], re.MULTILINE)
    assert len(keys) == 4 and set(keys) <= set(RECIPE_KEYS)
    figures = of_training(tokens=1, seconds=1.0, cpu_seconds=1.0, gpus=0, cpu_hour=1.0)
    assert all(f"`{name}`" in TEXT for name in figures)
