"""The client of a service: what it serves is checked first, changes over without dropping a request, and never gets
worse than the last good release."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from infra.local_milvus import lite_server, running
from pipelines.actions import promote
from pipelines.client import Release
from pipelines.errors import IntegrityError, NotFound
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.integration
TINY, ASKED = kit.CORPUS, "Within how many days are refunds paid?"
TEXTS = {
    1: kit.TEXTS,
    2: kit.NEWER,
    3: {**kit.NEWER, "hours": "The desk is open from nine to five."},
    4: {**kit.NEWER, "gifts": "Gift cards are valid for three years."},
}
"""What the generations hold."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home with one release. Publishers and readers are several: they go through a server, as a folder serves one.
    The tests share it, in order."""
    root = tmp_path_factory.mktemp("client")
    found = kit.home(root / "home")
    with running(lite_server(root)) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**kit.environment(found), "ASSAY_MILVUS_URI": server.uri}.items():
            patch.setenv(name, value)
        released(found, 1)
        yield found


def released(settings, generation):
    kit.candidate(settings, TEXTS[generation])
    wiring = Wiring.of(settings, TINY)
    changed, said = promote.run(wiring.params, wiring.workspace, ports=wiring)
    assert changed, said


def found(release):
    """The generation that is said; what was found is what that holds."""
    (answer,) = release.passages([ASKED], k=50)
    generation = answer["release"]["generation"]
    assert {row["text"] for row in answer["passages"]} == set(TEXTS[generation].values())
    return int(generation)


LIGHT = textwrap.dedent(
    """
    import sys
    from pipelines.client import Release

    with Release("tiny", look_every=None) as release:
        assert release.passages(["Within how many days are refunds paid?"])[0]["passages"]
    heavy = {"airflow", "pyspark", "dvc", "torch", "transformers", "sentence_transformers", "mlflow"}
    print(",".join(sorted(heavy & {name.partition(".")[0] for name in sys.modules})))
    """
)


def test_passages_are_served_without_anything_heavy(settings):
    environment = {**kit.environment(settings), "ASSAY_MILVUS_URI": os.environ["ASSAY_MILVUS_URI"]}
    done = subprocess.run([sys.executable, "-c", LIGHT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_a_floating_release_changes_over_and_a_pinned_one_stays(settings):
    with Release(TINY, settings=settings, look_every=None) as floating, Release(TINY, 1, settings=settings) as pinned:
        assert found(floating) == found(pinned) == 1
        assert not floating.refresh()
        released(settings, 2)
        assert floating.refresh() and not pinned.refresh()
        assert (found(floating), found(pinned)) == (2, 1)
        assert floating.manifest["revision"]["tag"] == "r2" and floating.problem is None


def test_no_request_is_dropped_while_releases_change(settings):
    stop, seen, failed = threading.Event(), [], []
    with Release(TINY, settings=settings, look_every=0.2) as release:

        def ask():
            while not stop.is_set():
                try:
                    seen.append(found(release))
                except Exception as exc:  # whatever it is, it was dropped
                    failed.append(exc)
                    return

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            released(settings, 3)
            for _ in range(100):
                if release.generation == 3:
                    break
                stop.wait(0.2)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not failed
    assert set(seen) == {2, 3}


def test_nothing_right_to_begin_with_is_an_error(settings):
    with pytest.raises(NotFound, match="tiny has no generation 7"):
        Release(TINY, 7, settings=settings)
    objects, log = Wiring.of(settings, TINY).objects, Wiring.of(settings, TINY).releases
    part = f"{log.read(TINY)['index']['key']}/part-00000.parquet"
    whole = objects.get(part)
    objects.delete([part])
    with pytest.raises(IntegrityError, match="gone"):
        Release(TINY, settings=settings)
    objects.put(part, whole)


def test_what_is_not_right_is_not_served_and_the_last_good_release_stays(settings):
    with Release(TINY, settings=settings, look_every=None) as release:
        objects, log = Wiring.of(settings, TINY).objects, Wiring.of(settings, TINY).releases
        signed = log.envelope(TINY, 3)
        objects.put(log.key(TINY, 4), signed)  # a true manifest under another number
        assert not release.refresh() and "release tiny@4 holds tiny@3" in release.problem
        objects.put(log.key(TINY, 4), b"{}")
        assert not release.refresh() and "not a signed envelope" in release.problem
        assert found(release) == 3
        objects.delete([log.key(TINY, 4)])
        released(settings, 4)
        part = f"{log.read(TINY, 4)['index']['key']}/part-00000.parquet"
        whole = objects.get(part)
        objects.delete([part])
        assert not release.refresh() and "gone" in release.problem and found(release) == 3
        objects.put(part, whole)
        assert release.refresh() and release.problem is None and found(release) == 4
        objects.delete([log.key(TINY, 4)])  # the log is cut: an older state is not followed
        assert not release.refresh() and "generation 4 was read here before" in release.problem
        assert found(release) == 4
