"""A release that expires: refused everywhere once its time has come, renewed by a person, valid anew after a rollback.
On the real log, milvus-lite, MLflow and git; only `released.now` is moved. In order, on one home."""

import os
from datetime import datetime, timedelta

import pytest

from pipelines import released
from pipelines.actions import ask, promote, pull, reconcile, rollback, verify, views
from pipelines.client import Release
from pipelines.errors import BadInput, Expired, NotPromotable
from pipelines.stages import index
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.integration
TINY, ASKED, DAYS = kit.CORPUS, "Within how many days are refunds paid?", 30
REAL_NOW = released.now


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    found = kit.home(tmp_path_factory.mktemp("expiry"), promote={"valid_days": DAYS})
    before = dict(os.environ)
    os.environ.update(kit.environment(found))
    yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def later(monkeypatch):
    """Move the time in this process to so many days from the real one."""
    return lambda days: monkeypatch.setattr(released, "now", lambda: REAL_NOW() + timedelta(days=days))


def registered(settings):
    """Index and adapter as their stages register them in MLflow; the versions."""
    wiring = Wiring.of(settings, TINY)
    made = index.run(wiring.params, wiring.workspace, ports=wiring)
    adapter = kit.made_up_adapter(wiring)
    with wiring.registry.run(TINY, "train", tags={}) as log:
        log.folder(settings.home / "made-up-adapter", name="adapter")
    tags = {"assay.digest": adapter["digest"]}
    where = {"run_id": log.run_id, "path": "adapter", "description": ""}
    version = wiring.registry.register(f"{TINY}-adapter", **where, tags=tags)
    kit.scored(wiring, made.facts, adapter=adapter)
    wiring.workspace.write_receipt("index", made.facts, made.measured, made.summary)
    wiring.workspace.write_receipt("train", wiring.workspace.receipt("train"), {"version": version}, "")
    kit.judged(wiring)
    wiring.store.close()
    return {"index": made.measured["version"], "adapter": version}


def newest(settings):
    return views.release_manifest(settings, TINY, None)


def days(manifest):
    return (datetime.fromisoformat(manifest["expires"]) - datetime.fromisoformat(manifest["created"])).days


def refused(settings, tmp_path, generation):
    """Every way to a release that has expired."""
    match = f"{TINY}@{generation} expired at .*; `assay promote {TINY}` renews the newest release"
    with pytest.raises(Expired, match=match):
        ask.find_passages(settings, TINY, ASKED, generation=generation)
    with pytest.raises(Expired, match=match):
        ask.ask_release(settings, TINY, ASKED, generation=generation)
    with pytest.raises(Expired, match=match):
        pull.pull_release(settings, TINY, generation, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(Expired, match=match):
        list(verify.verify_release(settings, TINY, generation))
    with pytest.raises(Expired, match=match):
        Release(TINY, generation, settings=settings)


def test_the_manifest_says_when_it_expires_and_which_versions_it_was_made_of(settings):
    kit.candidate(settings)
    versions = registered(settings)
    assert kit.run_promote(settings)[0]
    manifest = newest(settings)
    assert manifest["evaluation"]["versions"] == versions
    wiring = Wiring.of(settings, TINY)
    assert wiring.registry.version(f"{TINY}-adapter", manifest["adapter"]["digest"]) == versions["adapter"]
    assert wiring.registry.version(f"{TINY}-index", manifest["index"]["digest"]) == versions["index"]
    assert days(manifest) == DAYS
    assert views.release_list(settings, TINY)["releases"][0]["expires"] == manifest["expires"]
    assert f"valid: until {manifest['expires']}" in list(verify.verify_release(settings, TINY))
    assert promote.promote_candidate(settings, TINY) == f"{TINY}: unchanged at generation 1"


def test_from_that_moment_on_it_is_refused_and_a_client_refuses_what_it_holds(settings, later, tmp_path):
    with Release(TINY, settings=settings, look_every=None) as release:
        assert release.passages([ASKED])[0]["passages"]
        later(DAYS)
        with pytest.raises(Expired, match=f"{TINY}@1 expired"):
            release.passages([ASKED])
        assert not release.refresh() and "expired" in release.problem
    refused(settings, tmp_path, 1)
    assert "expired" in views.overview(settings)["corpora"][0]["problem"]
    assert "generation" in reconcile.reconcile_corpus(settings, TINY)  # projections do not serve


def test_the_graph_does_not_renew_a_person_does(settings, later):
    later(DAYS)
    changed, said = kit.run_promote(settings)
    assert not changed and said.startswith("unchanged at generation 1, which expired at ")
    with pytest.raises(Expired):
        ask.find_passages(settings, TINY, ASKED)
    said = promote.promote_candidate(settings, TINY)
    first, renewed = views.release_manifest(settings, TINY, 1), newest(settings)
    assert said == f"{TINY}: generation 2 renews generation 1, valid until {renewed['expires']}"
    assert (renewed["restores"], renewed["withdrawn"], days(renewed)) == (1, [], DAYS)
    changing = {"generation", "previous", "created", "expires", "restores", "withdrawn"}
    assert {k: v for k, v in renewed.items() if k not in changing} == {
        k: v for k, v in first.items() if k not in changing
    }
    assert ask.find_passages(settings, TINY, ASKED)["release"]["generation"] == 2
    assert promote.promote_candidate(settings, TINY) == f"{TINY}: unchanged at generation 2"


def test_it_may_be_renewed_before_it_is_refused_and_a_client_follows(settings, later):
    later(DAYS + DAYS * 3 // 4)
    with Release(TINY, settings=settings, look_every=None) as release:
        assert promote.promote_candidate(settings, TINY).startswith(f"{TINY}: generation 3 renews generation 2")
        later(2 * DAYS + 1)
        with pytest.raises(Expired, match=f"{TINY}@2 expired"):
            release.passages([ASKED])
        assert release.refresh() and release.problem is None
        assert release.passages([ASKED])[0]["release"]["generation"] == 3


def test_a_rollback_makes_what_it_restores_valid_anew(settings, later, tmp_path):
    later(3 * DAYS)
    kit.candidate(settings, kit.NEWER)
    assert kit.run_promote(settings)[1].startswith("generation 4")
    with pytest.raises(Expired):
        ask.find_passages(settings, TINY, ASKED, generation=3)
    assert "generation 5 serves what generation 1 served" in rollback.rollback_release(settings, TINY)
    assert days(newest(settings)) == DAYS
    assert ask.find_passages(settings, TINY, ASKED)["release"]["generation"] == 5
    refused(settings, tmp_path, 1)


def test_where_another_candidate_was_judged_since_the_rollback_renews(settings, later):
    later(3 * DAYS)
    kit.candidate(settings, ndcg=0.1)
    with pytest.raises(BadInput, match="generation 5 is what generation 5 serves already"):
        rollback.rollback_release(settings, TINY, to=5)
    later(4 * DAYS)
    with pytest.raises(NotPromotable, match="rejected"):
        promote.promote_candidate(settings, TINY)
    with pytest.raises(Expired, match=f"assay rollback {TINY} --to 5"):
        ask.find_passages(settings, TINY, ASKED)
    assert "generation 6 serves what generation 1 served" in rollback.rollback_release(settings, TINY, to=5)
    assert ask.find_passages(settings, TINY, ASKED)["release"]["generation"] == 6
