"""The stages that DVC starts, in the test's own process: `assay exec STAGE` as a new interpreter imports everything
again. What runs as a process of its own is tested where processes are the subject (`test_corpus_cli`,
`test_secrets_stay`, the demo)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pipelines.runner import execute
from pipelines.settings import Settings
from pipelines.stage_process import OUTER, inner
from tests.home_kit import let_go


def _run(_: Any, cmd: str, *, cwd: str, env: Mapping[str, str], **__: Any) -> None:
    """In the place of DVC's `_run`. The stage has no outer process, whose end it would watch for: its error passes
    through DVC."""
    name = cmd.removeprefix("assay exec ")
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ, env):
        patch.delenv(OUTER, raising=False)
        patch.chdir(cwd)
        try:
            with inner(Path.cwd(), name):
                execute(Settings.from_env(), Path.cwd().name, name)
        finally:
            let_go()


@contextmanager
def stages_here() -> Iterator[None]:
    with mock.patch("dvc.stage.run._run", _run):
        yield
