"""One document erased from a small corpus that went through the real stages: never served again, in the next generation
no more, and at the end nowhere on the disk but in the user's own folder."""

import hashlib
import json
import os
import subprocess

import pytest

from pipelines import adapters, dvc_objects
from pipelines.actions import ask, erase, gc, pull, rollback, views
from pipelines.client import Release
from pipelines.core.digests import digest_json
from pipelines.errors import BadInput, IntegrityError, NotFound
from pipelines.wiring import Wiring
from tests import erase_kit as kit
from tests import release_kit
from tests.cli_kit import assay

pytestmark = pytest.mark.integration
TINY, GONE = kit.TINY, kit.GONE


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    found = kit.landed(tmp_path_factory.mktemp("erase") / "home")
    before = dict(os.environ)
    os.environ.update(release_kit.environment(found))
    changed, said = kit.run(found)
    assert changed, said
    wiring = Wiring.of(found, TINY)
    objects = wiring.objects
    trained_on(wiring, "before", f"[1] {GONE}\n{kit.TEXTS[GONE]}\n\nWhat is asked?")
    trained_on(wiring, "other", "[1] refunds.md\nRefunds are paid.\n\nWhat is asked?")
    objects.put("answers/model/one.json", json.dumps({"text": kit.TEXTS[GONE]}).encode())
    yield found
    os.environ.clear()
    os.environ.update(before)


def trained_on(wiring, name, prompt):
    """A training set in DVC's cache, as a revision leaves it, and a sealed adapter bound to it; it serves nowhere."""
    rows = [{"id": name, "tokens": 9, "messages": [{"role": "user", "content": prompt}]}]
    cache, listed = dvc_objects.cache_of(wiring.workspace.root), []
    for file, content in (("train.jsonl", rows), ("validation.jsonl", [])):
        data = "".join(json.dumps(row) + "\n" for row in content).encode()
        listed.append({"relpath": file, "md5": md5(data)})
        cache.put(dvc_objects.key_of(md5(data)), data)
    folder = json.dumps(listed).encode()
    cache.put(dvc_objects.key_of(f"{md5(folder)}.dir"), folder)
    made = wiring.settings.home.parent / f"adapter-{name}"
    made.mkdir()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (made / file).write_text("{}")
    adapters.bind(made, {"base": "x", "base_digest": "x", "training_digest": digest_json([rows, []])})
    adapters.seal(wiring.objects, made)


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def documents(service):
    try:
        return [row["document"] for row in service.passages([kit.ASKED])[0]["passages"]]
    finally:
        service.ports.store.close()


def test_what_is_unknown_is_refused_and_a_dry_run_changes_nothing(settings):
    said = assay("erase", TINY, "letters/none.md")
    assert said.returncode == 2 and said.stderr.startswith("assay: tiny has no document 'letters/none.md', neither now")
    assert len(said.stderr.splitlines()) == 1
    with pytest.raises(BadInput, match="--adapters is 'burn'; one of retire, keep"):
        [*erase.erase(settings, TINY, [GONE], adapters="burn")]
    before = kit.grep(settings.home)
    lines = erase.preview(settings, TINY, [GONE])
    assert any(line.startswith("builds builds/b_tiny_") for line in lines)
    assert kit.grep(settings.home) == before and erase.listed(settings, TINY) == []
    assert GONE in documents(ask.Service(settings, views.release_manifest(settings, TINY, None)))


def test_erased_it_is_served_no_more_by_any_service_whenever_it_was_opened(settings):
    opened = ask.Service(settings, views.release_manifest(settings, TINY, 1))
    assert GONE in documents(opened)
    lines = [*erase.erase(settings, TINY, [GONE], reason="request 7")]
    assert lines[0] == f"{TINY}: {GONE} erased: served no more, by any generation"
    left = set(kit.TEXTS) - {GONE}
    assert set(documents(opened)) == left
    assert set(documents(ask.Service(settings, views.release_manifest(settings, TINY, 1)))) == left
    only = {"document": [GONE]}
    assert opened.passages([kit.ASKED], filters=only)[0]["passages"] == []
    opened.ports.store.close()
    with Release(TINY, settings=settings, look_every=None) as release:
        assert {row["document"] for row in release.passages([kit.ASKED])[0]["passages"]} == left
    with pytest.raises(IntegrityError, match="tiny@1 holds 1 erased document"):
        pull.pull_release(settings, TINY, to=settings.home.parent / "pulled")


def test_what_serves_or_is_of_the_newest_run_remains_with_its_reason_and_the_rest_is_gone(settings):
    (found,) = erase.listed(settings, TINY)
    receipt = found["receipt"]
    assert (found["reason"], found["documents"][0]["id"], receipt["state"]) == ("request 7", GONE, "open")
    remains = {row["kind"]: row["why"] for row in receipt["remains"]}
    assert set(remains) == {"builds", "chunks", "dvc-cache", "dvc-remote", "git", "milvus", "source", "workspace"}
    assert remains["builds"].startswith("the newest release answers from it")
    removed = {row["kind"] for row in receipt["removed"]}
    assert {"answers", "embeddings", "adapters"} <= removed
    objects = Wiring.of(settings, TINY).objects
    assert len(receipt["adapters"]) == 1  # of the two: the one whose training set shows a passage of it
    assert not objects.list(f"adapters/{receipt['adapters'][0]}") and len(objects.list("adapters")) == 4
    assert kit.MARK not in json.dumps(found)
    for key in Wiring.of(settings, TINY).objects.list("erasures"):
        assert kit.MARK.encode() not in Wiring.of(settings, TINY).objects.get(key)


def test_the_next_run_releases_without_it_and_then_the_disk_holds_nothing(settings):
    changed, said = kit.run(settings)
    assert changed and said.startswith("generation 2"), said
    old = views.release_manifest(settings, TINY, 1)
    assert "erased on" in (settings.workspace(TINY) / "corpus" / "quarantine.jsonl").read_text()
    lines = [*gc.collect(settings)]
    (found,) = erase.listed(settings, TINY)
    assert found["receipt"]["state"] == "finished", [*lines, *found["receipt"]["remains"]]
    assert {row["kind"] for row in found["receipt"]["remains"]} == {"source"}
    assert found["receipt"]["generations"] == [1]
    held = kit.grep(settings.home)
    assert held == {f"documents/{GONE}"}  # the user's own folder
    with pytest.raises(NotFound, match=r"tiny@1 is no longer kept: .* was removed \(it held what erasure 1 removed\)"):
        rollback.rollback_release(settings, TINY, to=1)
    with pytest.raises(NotFound, match="no longer kept"):
        documents(ask.Service(settings, old))
    assert set(documents(ask.Service(settings, views.release_manifest(settings, TINY, None)))) == set(kit.TEXTS) - {
        GONE
    }


def test_history_and_caches_stay_usable(settings):
    root = settings.workspace(TINY)
    for command in (["fsck"], ["gc", "--quiet"], ["status", "--porcelain"], ["log", "--oneline"]):
        subprocess.run(["git", *command], cwd=root, check=True, capture_output=True)
    assert {"r1", "r2"} <= set(subprocess.run(["git", "tag"], cwd=root, capture_output=True, text=True).stdout.split())
    changed, said = kit.run(settings)
    assert not changed and said == "unchanged at generation 2"
    assert [*erase.erase(settings, TINY, [GONE])][-1].startswith("tiny: erasure 1 is finished: ")
    shown = assay("erasures", TINY, "--json")
    assert json.loads(shown.stdout)["erasures"][0]["receipt"]["state"] == "finished"
    assert GONE in assay("erasures", TINY).stdout


def test_a_list_that_was_cut_or_altered_serves_nothing(settings):
    wiring = Wiring.of(settings, TINY)
    key = "erasures/tiny/000000001.json"
    entry = wiring.objects.get(key)
    for cut in (lambda: wiring.objects.delete([key]), lambda: wiring.objects.put(key, entry[:-40] + b"\n}")):
        cut()
        with pytest.raises(IntegrityError, match="erasure"):
            documents(ask.Service(settings, views.release_manifest(settings, TINY, None)))
        wiring.objects.put(key, entry)
