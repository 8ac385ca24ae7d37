"""What holds for every test: none is timed, since a property is as true on a busy machine. Faults are counted."""

import pytest
from hypothesis import settings

from pipelines.backends.milvus.store import quiet_grpc
from tests.fault_table import faults, pytest_runtest_makereport, pytest_terminal_summary

__all__ = ["faults", "pytest_runtest_makereport", "pytest_terminal_summary"]

settings.register_profile("assay", deadline=None)
settings.load_profile("assay")


def pytest_collection_finish(session: pytest.Session) -> None:
    """pymilvus closes all log handlers when it is imported, and absl's (imported with openvino) takes what pytest has
    put in the place of stderr with it: in slow tests pymilvus therefore comes first."""
    if any(item.get_closest_marker(name) for item in session.items for name in ("integration", "faults")):
        quiet_grpc()
        import pymilvus  # noqa: F401 -- imported for its side effect
