"""Attempts that wake up after their retry had finished, two runs at once, and clocks that are a day off.

The processes share a milvus-lite server, as tasks of an orchestrator do. A process that sleeps is stopped by SIGSTOP
just before a step that the world sees; its retry is taken to the end; then it goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local_milvus import lite_server, running
from pipelines.actions import views
from pipelines.settings import Settings
from tests import release_kit as kit
from tests.kill_kit import Zygote
from tests.life_kit import land

pytestmark = pytest.mark.faults

LIFE = ("fetch", "check", "snapshot", "index", "judge", "promote")
OBJECTS, MILVUS = "pipelines.backends.objects:ObstoreObjects", "pipelines.backends.milvus:MilvusStore"
SLEEPS = [
    ("snapshot", "pipelines.backends.dvc:DvcVersioner.snapshot"),
    ("index", f"{MILVUS}.load"),
    ("index", "pipelines.backends.mlflow:MlflowRegistry.register"),
    ("index", f"{OBJECTS}.create"),
    ("promote", f"{OBJECTS}.create"),
    ("promote", f"{MILVUS}.point"),
    ("promote", "pipelines.backends.mlflow:MlflowRegistry.alias"),
]


@pytest.fixture(autouse=True)
def milvus(zygote: Zygote, tmp_path: Path) -> Iterator[None]:
    """A server of each test's own: collections of one content have one name, in whichever home they are made."""
    with running(lite_server(tmp_path)) as server:
        zygote.environment = {"ASSAY_MILVUS_URI": server.uri}
        yield
        zygote.environment = {}


def taken(zygote: Zygote, settings: Settings, *steps: str) -> None:
    for step in steps:
        zygote.undisturbed(settings, step)


@pytest.fixture(scope="module")
def calm(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of a home where nothing happened, with a milvus-lite folder of its own."""
    settings, environment = kit.home(tmp_path_factory.mktemp("calm") / "home"), zygote.environment
    zygote.environment = {}
    land(settings.home, kit.TEXTS)
    taken(zygote, settings, *LIFE)
    said = dict(zygote.undisturbed(settings, "state").said)
    zygote.environment = environment
    return said


def said_plainly(error: str) -> bool:
    """One of our own errors, or none."""
    return not error or re.match(r"(BackendError|BadInput|IntegrityError|PromotionConflict)\(", error) is not None


def test_an_attempt_that_wakes_up_after_its_retry_changes_nothing(
    zygote: Zygote, calm: dict[str, Any], tmp_path: Any, faults: Any
) -> None:
    settings = kit.home(tmp_path / "home")
    land(settings.home, kit.TEXTS)
    for step in LIFE:
        late = [zygote.start(settings, step, stop=where) for name, where in SLEEPS if name == step]
        if not late:
            taken(zygote, settings, step)
            continue
        with faults(f"an attempt at {step} that goes on after its retry", times=len(late)):
            taken(zygote, settings, step)
            ended = [zygote.finish(pid) for pid in late]
            assert all(said_plainly(one.error) for one in ended), ended
            taken(zygote, settings, step)
    assert zygote.undisturbed(settings, "state").said == calm
    assert zygote.undisturbed(settings, "read").said["texts"] == sorted(kit.TEXTS.values())


def test_two_runs_of_one_revision_at_once_are_one(
    zygote: Zygote, calm: dict[str, Any], tmp_path: Any, faults: Any
) -> None:
    settings = kit.home(tmp_path / "home")
    land(settings.home, kit.TEXTS)
    for step in LIFE:
        if step in ("check", "judge"):  # stages of a workspace exclude each other by DVC's locks, which are not here
            taken(zygote, settings, step)
            continue
        with faults(f"two at once of {step}"):
            both = [zygote.finish(pid) for pid in [zygote.start(settings, step) for _ in range(2)]]
            assert all(said_plainly(one.error) for one in both) and not all(one.error for one in both), both
            taken(zygote, settings, step)
    # Known and open (docs/faults.md): two promotions at once may each leave a finished MLflow run of the one release.
    said = zygote.undisturbed(settings, "state").said
    assert {**said, "finished": sorted(set(said["finished"]))} == calm


def test_generations_order_releases_whatever_the_clock_says(zygote: Zygote, tmp_path: Any, faults: Any) -> None:
    settings = kit.home(tmp_path / "home", promote={"keep": 1})
    said = []
    for number, days in enumerate((1, -1, 0)):
        land(settings.home, {**kit.TEXTS, "round": f"This is the text of round {number}."})
        taken(zygote, settings, *LIFE[:-1])
        with faults(f"clock {days:+d} day in promote and gc"):
            for step in ("promote", "gc"):
                ended = zygote.finish(zygote.start(settings, step, days=days))
                assert not ended.error, ended.error
                said.append(ended.said)
            seen = zygote.undisturbed(settings, "read").said
            assert seen["generation"] == number + 1 and f"This is the text of round {number}." in seen["texts"]
    with faults("clock -1 day in rollback"):
        assert not zygote.finish(zygote.start(settings, "rollback", 2, days=-1)).error
        seen = zygote.undisturbed(settings, "read").said
        assert seen["generation"] == 4 and "This is the text of round 1." in seen["texts"]
    rows = views.release_list(settings, kit.CORPUS)["releases"]
    assert [row["generation"] for row in rows] == [4, 3, 2, 1]
    assert sorted(row["created"] for row in rows) != [row["created"] for row in reversed(rows)]  # the clock was wrong
