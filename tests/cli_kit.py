"""The `assay` command in the test's own process, which has imported already what a new one would import again; and as
the process that a user starts."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.settings import Settings
from tests import release_kit
from tests.home_kit import let_go


@dataclass(frozen=True)
class Said:
    returncode: int
    stdout: str
    stderr: str


def assay(*arguments: str, environment: Mapping[str, str] | None = None) -> Said:
    """The command's exit code and what it printed. `environment` stands for the length of the call; afterwards no
    folder of milvus-lite is open here, as after a process's end."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["assay", *arguments])
        try:
            cli.main()
        except SystemExit as exc:
            code = int(exc.code or 0)
        finally:
            let_go()
    return Said(code, out.getvalue(), err.getvalue())


def process(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, below that home."""
    command, env = [Path(sys.executable).parent / "assay", *arguments], release_kit.environment(settings)
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)
