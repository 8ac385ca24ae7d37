"""Secrets of the environment, as canaries, through real stages: they are in no output, file, database or Git object."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import settings
from pipelines.settings import checkout
from tests.integration.test_corpus_cli import Command

pytestmark = pytest.mark.integration
STAGES = ("fetch", "check", "snapshot", "chunk", "embed", "index", "score_retrieval", "mix")
RUN = """
import sys
from pipelines.cli import main
for stage in sys.argv[1:]:
    sys.argv = ["assay", "stage", "demo", stage]
    try:
        main()
    except SystemExit as exc:
        if exc.code:
            raise
"""
"""`assay stage` for one stage after the other, in one process; what each does is in processes of its own."""
VENDORS = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__CORE__FERNET_KEY",
]


def secrets() -> list[str]:
    """The variables that hold secrets: those that settings document, those of the compose file, and vendors' own."""
    documented = re.findall(r"\b((?:ASSAY|AWS)_[A-Z_]*(?:KEY|SECRET|TOKEN|PASSWORD)[A-Z_]*)\b", settings.__doc__ or "")
    example = re.findall(r"^([A-Z_]+)=", (checkout() / "infra" / ".env.example").read_text(), re.MULTILINE)
    return sorted({*documented, *example, *VENDORS} - {"ASSAY_SIGNING_KEY"})  # a path


def git_objects(repository: Path) -> bytes:
    """Every object of a repository, unpacked."""
    command = ["git", "-C", str(repository), "cat-file", "--batch-all-objects", "--batch"]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(the command after all stages, their output, canary of each variable)."""
    root = tmp_path_factory.mktemp("canaries")
    command = Command(root)
    canaries = {name: f"canary-{number}-{name.lower()[::-1]}" for number, name in enumerate(secrets())}
    command.more = {**canaries, "AWS_EC2_METADATA_DISABLED": "true"}
    for name in ("a", "b", "c"):
        (command.landing / f"{name}.md").write_text(
            f"# Rule {name}\n\nThe window of {name} is thirty days, says {name}."
        )
    evidence = [{"document": "a.md", "quote": "The window of a is thirty days"}]
    gold = root / "gold.jsonl"
    question = {"id": "q", "question": "How long is a?", "answers": ["thirty days"], "evidence": evidence}
    gold.write_text(json.dumps(question))
    command("new", "demo", "--documents", str(command.landing), "--questions", str(gold))
    run = [sys.executable, "-c", RUN, *STAGES]
    done = subprocess.run(run, env=command.env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert [json.loads(line)["stage"] for line in done.stdout.splitlines() if line.startswith("{")] == [*STAGES]
    return command, done.stdout + done.stderr, canaries


def test_the_variables_are_those_that_are_documented():
    assert {"ASSAY_OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "POSTGRES_PASSWORD"} <= set(secrets())


def test_no_canary_is_in_what_stages_said_and_wrote(ran):
    command, said, canaries = ran
    files = [path for path in command.home.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"mlflow.db", "index.json", "score_retrieval.json"} <= {path.name for path in files}
    for name, canary in canaries.items():
        assert canary not in said, name
    for path in files:
        held = path.read_bytes()
        for name, canary in canaries.items():
            assert canary.encode() not in held, (name, path)


def test_no_canary_is_in_a_git_object(ran):
    command, _, canaries = ran
    held = git_objects(command.workspace)
    assert b"params.yaml" in held and len(held) > 1000
    assert not [name for name, canary in canaries.items() if canary.encode() in held]


def test_the_repositorys_own_objects_name_no_key():
    """The checkout itself: no private key and no cloud key in any tracked file."""
    tracked = subprocess.run(["git", "-C", str(checkout()), "ls-files", "-z"], capture_output=True, check=True).stdout
    wanted = re.compile(
        rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{40}|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{36}\b"
    )
    files = [checkout() / os.fsdecode(name) for name in tracked.split(b"\0") if name]
    assert [file for file in files if file.is_file() and wanted.search(file.read_bytes())] == []
