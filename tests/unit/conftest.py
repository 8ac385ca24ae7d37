"""Fixtures of the fast tests."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An `endpoint_kit.Server` that the environment names as the endpoint `openai`."""
    from tests.endpoint_kit import KEY, serving

    monkeypatch.setenv("ASSAY_OPENAI_API_KEY", KEY)
    with serving() as started:
        monkeypatch.setenv("ASSAY_OPENAI_BASE_URL", started.url)
        yield started
