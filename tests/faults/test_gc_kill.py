"""`assay gc`, killed by SIGKILL at every step that touches the world; readers and what is built again meanwhile."""

import pytest

from pipelines import tombstones
from pipelines.actions import ask, gc, promote, rollback, views
from pipelines.builds import held
from pipelines.core.retention import TOMBSTONE
from pipelines.errors import BadInput, NotFound
from pipelines.stages.embed import whole_build
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.home_kit import put_back, set_aside

pytestmark = pytest.mark.faults
TINY, ASKED = kit.CORPUS, "Within how many days are refunds paid?"
NEWEST = {**kit.NEWER, "hours": "The desk is open from nine to five."}

COLLECT = """
import os, signal
import obstore
from pipelines.actions import gc
from pipelines.backends.milvus import MilvusStore
from pipelines.settings import Settings

left = {steps}

def counted(real):
    def step(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return step

obstore.delete, obstore.put = counted(obstore.delete), counted(obstore.put)
MilvusStore.drop = counted(MilvusStore.drop)
said = [*gc.collect(Settings.from_env(), grace=0)]
"""
"""`assay gc`, which dies by SIGKILL before the step after so many that touch the world."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three releases of three builds: the newest is retained, and the one that it was judged against."""
    settings = kit.home(tmp_path_factory.mktemp("gc") / "home", promote={"keep": 1})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in kit.environment(settings).items():
            patch.setenv(name, value)
        for texts in (kit.TEXTS, kit.NEWER, NEWEST):
            kit.candidate(settings, texts)
            promoted(settings)
        set_aside(settings.home, "whole")
        yield settings


@pytest.fixture
def settings(made):
    """As it was made, for each test."""
    put_back(made.home, made.home.with_name("whole"))
    return made


def promoted(settings):
    wiring = Wiring.of(settings, TINY)
    changed, said = promote.run(wiring.params, wiring.workspace, ports=wiring)
    wiring.store.close()
    assert changed, said


def passages(settings, generation=None):
    service = ask.Service(settings, views.release_manifest(settings, TINY, generation))
    try:
        return service.passages([ASKED])[0]["passages"]
    finally:
        service.ports.store.close()


def folders(settings):
    return {path.name for path in (settings.home / "objects" / "builds").iterdir()}


def test_killed_at_every_step_only_what_is_unneeded_goes_and_nothing_half_removed_is_served(settings, zygote, faults):
    old, before, new = (views.release_manifest(settings, TINY, n)["index"] for n in (1, 2, 3))
    assert len(passages(settings, 1)) == len(kit.TEXTS)
    steps, killed = 0, True
    while killed:
        ended = zygote.tell(settings, "code", COLLECT.format(steps=steps))
        assert not ended.error, ended.error
        killed = ended.killed
        steps += killed  # one step more each time, begun where the one before was killed
        with faults("kill -9 at a step of gc, and readers after it", times=int(killed)):
            assert any("60 days" in row["text"] for row in passages(settings))
            try:
                rows = passages(settings, 1)
            except NotFound as exc:
                assert "no longer kept" in str(exc) and steps > 1
            else:
                assert len(rows) == len(kit.TEXTS)
        assert steps < 20
    assert steps >= 5  # tombstone, two markers or more, collection, part
    assert folders(settings) == {before["collection"], new["collection"]}
    assert ended.said[-1] == "2 kept, 0 marked, 1 removed"
    assert [*gc.collect(settings, grace=0)] == ["2 kept, 0 marked, 0 removed"]
    wiring = Wiring.of(settings, TINY)
    with pytest.raises(NotFound):
        held(wiring.store, old["collection"])
    assert held(wiring.store, new["collection"]) == (new["rows"], new["digest"])
    wiring.store.close()
    with pytest.raises(NotFound, match=r"tiny@1 is no longer kept: builds/b_tiny_.* was removed \(promote.keep\)"):
        rollback.rollback_release(settings, TINY, to=1)
    assert [row["generation"] for row in views.release_list(settings, TINY)["releases"]] == [3, 2, 1]
    kit.candidate(settings, kit.TEXTS)  # the old revision lands again
    again = whole_build(wiring.objects, old["key"])
    assert again is not None and again["digest"] == old["digest"]


def test_what_is_marked_can_be_returned_to_and_then_stays(settings):
    old = views.release_manifest(settings, TINY, 1)["index"]
    assert [*gc.collect(settings)][-1] == "2 kept, 1 marked, 0 removed"
    objects = Wiring.of(settings, TINY).objects
    assert tombstones.found(objects, old["key"]) is not None
    assert "generation 4 serves what generation 1 served" in rollback.rollback_release(settings, TINY, to=1)
    assert tombstones.found(objects, old["key"]) is None
    # The champion, what the receipts name, and what that was judged against.
    assert [*gc.collect(settings, grace=0)] == ["3 kept, 0 marked, 0 removed"]


def test_a_mark_is_lifted_when_a_workspace_names_the_build_again(settings):
    old = views.release_manifest(settings, TINY, 1)["index"]
    [*gc.collect(settings)]
    wiring = Wiring.of(settings, TINY)
    wiring.workspace.write_receipt("embed", old, {}, "")
    lines = [*gc.collect(settings, grace=0)]
    assert lines == [f"{old['key']}: kept after all", "3 kept, 0 marked, 0 removed"]
    assert f"{old['key']}/{TOMBSTONE}" not in wiring.objects.list(old["key"])


@pytest.mark.parametrize("grace", [-1, float("nan"), 1e9])
def test_a_grace_that_is_none_is_refused(tmp_path, grace):
    with pytest.raises(BadInput, match="--grace"):
        [*gc.collect(kit.bare_home(tmp_path), grace=grace)]
