"""One process that has imported the vendors and forks, for all tests that kill, stop or starve its children."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kill_kit import Zygote


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    started = Zygote(tmp_path_factory.mktemp("zygote") / "log")
    yield started
    started.close()
