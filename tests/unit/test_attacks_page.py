"""docs/attacks.md: every test it names exists, and its figures' bounds are those of the defaults."""

import ast
import re

import pytest

from pipelines.params import CheckParams
from pipelines.settings import checkout

PAGE = (checkout() / "docs" / "attacks.md").read_text(encoding="utf-8")
NAMED = re.findall(r"\| (tests/\S+\.py)::(\w+) \|$", PAGE, re.MULTILINE)


def test_every_row_names_a_test():
    rows = [line for line in PAGE.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(NAMED) > 50
    assert len({(file, test) for file, test in NAMED}) == len(NAMED)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_every_test_it_names_exists(file, test):
    tree = ast.parse((checkout() / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_defaults_it_names_are_those_of_params():
    assert CheckParams.model_fields["suspicious"].default == "hold"
    assert CheckParams.model_fields["sensitive"].default == "report"
    assert "`check.suspicious: hold` is the default" in PAGE
