"""`assay erase`, killed by SIGKILL at every step that touches the world: it is run again until it ends, and from the
first entry on the document is never served."""

import json
import multiprocessing
import signal
import subprocess

import pytest

from pipelines.actions import ask, erase, promote, views
from pipelines.chunk_sets import parquet, read_part
from pipelines.erasures import log_of
from pipelines.errors import NotFound
from pipelines.wiring import Wiring
from tests import erase_kit as kit
from tests import release_kit

pytestmark = pytest.mark.faults
TINY, GONE = kit.TINY, kit.GONE


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Two generations, of which the first alone holds the document; and chunks, vectors, kept replies and converted
    files of it, as stages leave them."""
    found = release_kit.home(tmp_path / "home")
    for name, value in release_kit.environment(found).items():
        monkeypatch.setenv(name, value)
    quoted = found.workspace(TINY) / "scores" / "quoted.jsonl"
    for texts in (kit.TEXTS, {name: text for name, text in kit.TEXTS.items() if name != GONE}):
        release_kit.candidate(found, texts)
        quoted.write_text("".join(json.dumps({"answer": text}) + "\n" for text in texts.values()))
        wiring = Wiring.of(found, TINY)
        assert promote.run(wiring.params, wiring.workspace, ports=wiring)[0]
        wiring.store.close()
        build = wiring.workspace.receipt("embed")["key"]
        chunks = read_part(wiring.objects, f"{build}/part-00000.parquet")
        wiring.objects.put(
            f"chunks/tiny/by-key/{len(texts)}/part-00000.parquet", parquet(chunks.drop_columns("vector"))
        )
        vectors = parquet(chunks.select(["text_digest", "tokens", "vector"]))
        wiring.objects.put(f"embeddings/model/counted/part-{len(texts)}.parquet", vectors)
    wiring.objects.put("answers/model/one.json", json.dumps({"text": kit.TEXTS[GONE]}).encode())
    (found.home / "cache" / "converted").mkdir()
    (found.home / "cache" / "converted" / "x.json").write_text(json.dumps({"text": kit.TEXTS[GONE]}))
    return found


def killed_after(steps):
    """Whether it was killed. Its process is forked from one that has imported everything: a step costs no start-up."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["tests.erase_kit", "pipelines.actions.erase_purge", "pipelines.chunk_sets", "pymilvus"]
    )
    process = forks.Process(target=kit.erase_until, args=(steps,))
    process.start()
    process.join(300)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def served(service):
    try:
        return {row["document"] for row in service.passages([kit.ASKED])[0]["passages"]}
    finally:
        service.ports.store.close()


def test_killed_at_every_step_it_ends_alike_and_never_serves_the_document_again(settings, faults):
    first, second = (ask.Service(settings, views.release_manifest(settings, TINY, n)) for n in (1, 2))
    assert GONE in served(first)
    assert len(kit.grep(settings.home)) >= 6
    steps, killed = 0, True
    while killed:
        killed = killed_after(steps)  # one step more each time, begun where the one before was killed
        steps += killed
        with faults("kill -9 at a step of erase, and readers after it", times=int(killed)):
            denied = bool(log_of(first.ports).entries(TINY))
            try:
                found = served(first)
            except NotFound as exc:
                assert denied and "no longer kept" in str(exc)
            else:
                assert (GONE in found) is not denied
            assert served(second) == set(kit.TEXTS) - {GONE}
        assert steps < 60
    assert steps >= 12
    (entry,) = erase.listed(settings, TINY)
    assert entry["receipt"]["state"] == "finished" and entry["receipt"]["generations"] == [1]
    assert entry["receipt"]["remains"] == []
    kinds = {"builds", "chunks", "embeddings", "answers", "cache", "dvc-cache", "dvc-remote", "git"}
    assert kinds <= {row["kind"] for row in entry["receipt"]["removed"]}  # whichever pass removed it
    assert kit.grep(settings.home) == set()
    assert not [*(settings.home / "run" / "erasures").rglob("*.json")]
    root = settings.workspace(TINY)
    assert subprocess.run(["git", "fsck"], cwd=root, capture_output=True, check=False).returncode == 0
    parts = [read_part(first.ports.objects, key) for key in first.ports.objects.list("embeddings")]
    assert [part.num_rows for part in parts] == [len(kit.TEXTS) - 1] * 2  # the one that held it, and the other
