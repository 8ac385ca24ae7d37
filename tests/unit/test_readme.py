"""The README's graph is the graph, and its commands exist."""

import re
import subprocess
import sys

from pipelines import graph
from pipelines.settings import checkout

README = (checkout() / "README.md").read_text(encoding="utf-8")


def test_the_picture_is_drawn_from_dvc_yaml():
    drawn = re.search(r"<!-- graph -->\n```mermaid\n(.*?)\n```", README, re.DOTALL)
    assert drawn is not None
    assert drawn[1] == graph.mermaid()


def test_every_assay_command_it_names_has_help():
    named = set(re.findall(r"assay ([a-z]+)", README)) - {"is"}
    assert {"new", "run", "ask", "compare", "report", "releases", "show", "status", "pull", "rollback"} <= named
    script = "import sys, typer; from pipelines.cli import app; print(*typer.main.get_command(app).commands)"
    known = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert named <= set(known.stdout.split())


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z0-9]+):", (checkout() / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z0-9]+)", README)) <= targets


def test_every_file_it_links_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (checkout() / link).exists(), link
