"""The `assay` command in the test's own process, which has imported already what a new one would import again; and as
the process that a user starts."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

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
    """The command's exit code and what it printed. `environment` stands in the place of this process's for the length
    of the call; afterwards no folder of milvus-lite is open here, as after a process's end."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    surroundings = os.environ if environment is None else environment
    with (
        mock.patch.dict(os.environ, dict(surroundings), clear=True),
        mock.patch.object(sys, "argv", ["assay", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
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
