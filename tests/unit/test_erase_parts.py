"""The two places that are written anew in place: a workspace's git history, and MLflow's database."""

import json
import sqlite3
import subprocess
from types import SimpleNamespace

import pytest

from pipelines.actions import erase_purge
from pipelines.actions.erase_find import DATABASE
from pipelines.actions.erase_purge import Purge
from pipelines.core import erasure
from pipelines.git_history import History
from pipelines.settings import Settings, checkout
from pipelines.traces import Wanted

SECRET = "The committee heard the witness from Bremen on the fourth day."


@pytest.fixture
def history(tmp_path):
    """Three commits with tags; the file `said` holds the secret in the first two, `other` never does."""
    made = History(tmp_path / "root")
    (tmp_path / "root").mkdir()
    git = made.git.run
    git("init", "--quiet", "--initial-branch=main")
    git("config", "user.name", "Assay")
    git("config", "user.email", "assay@localhost")
    for n, said in enumerate((f"{SECRET} 1", f"{SECRET} 2", "nothing"), 1):
        (tmp_path / "root" / "said").write_text(said * 40)
        (tmp_path / "root" / "other").write_text(f"other {n}")
        made.git.commit(f"Commit {n}", "said", "other")
        git("tag", "--annotate", "--message", f"{n}", f"r{n}")
    return made


def test_every_kind_that_is_not_left_has_a_way_to_go():
    kinds = {*erasure._WHOLE, *erasure._FILES, *erasure._WHY, "dvc-cache", "dvc-remote", "git", "source", "home"}
    decided = {kind: erasure.decide(erasure.Place(kind, "x", "x"), erasure.Needs()).action for kind in kinds}
    assert {kind for kind, action in decided.items() if action != erasure.REMAINS} == set(erase_purge._ORDER)


def holding(history):
    return {name for name, data in history.blobs() if SECRET.encode() in data}


@pytest.mark.parametrize("packed", [True, False])
def test_struck_blobs_are_gone_and_every_hash_is_as_it_was(history, packed):
    if packed:
        history.git.run("gc", "--quiet")
    before = history.git.run("log", "--format=%H %T")[1], history.git.run("for-each-ref")[1]
    names = holding(history)
    assert len(names) == 2 and not names & history.newest()
    for _ in range(2):  # twice: what is struck already is no error
        history.strike(names)
        assert holding(history) == set()
    assert (history.git.run("log", "--format=%H %T")[1], history.git.run("for-each-ref")[1]) == before
    history.git.run("fsck", "--strict")
    assert history.git.run("show", "r1:other")[1] == "other 1"
    assert history.git.run("show", "r1:said", ok=(128,))[0] == 128
    (history._root / "other").write_text("other 4")
    assert history.git.commit("Commit 4", "other") and not history.git.changed("other", "said")
    history.git.run("gc", "--quiet", "--prune=now")
    history.git.run("fsck")
    assert holding(history) == set() and history.git.run("show", "HEAD:said")[1].startswith("nothing")
    from dulwich.repo import Repo  # by which DVC reads

    assert Repo(str(history._root)).head().decode() == history.git.run("rev-parse", "HEAD")[1].strip()
    clone = history._root.parent / "clone"
    subprocess.run(["git", "clone", "--quiet", str(history._root), str(clone)], check=True)
    assert (clone / "other").read_text() == "other 4"


def test_what_a_killed_strike_left_of_packs_is_swept(history):
    history.git.run("gc", "--quiet")
    packs = history._root / ".git" / "objects" / "pack"
    (orphan,) = packs.glob("*.pack")
    kept = packs / "pack-0123456789012345678901234567890123456789.pack"
    kept.write_bytes(orphan.read_bytes())  # a pack whose index went first
    (packs / "tmp_pack_x").write_bytes(b"half")
    history.sweep()
    assert {file.suffix for file in packs.iterdir()} <= {".pack", ".idx", ".rev"} and not kept.exists()
    assert len(holding(history)) == 2


def test_a_database_keeps_its_form_and_loses_the_text(tmp_path):
    file = tmp_path / DATABASE
    file.parent.mkdir()
    nested = {"a": json.dumps({"outputs": f"so {SECRET}"}), "b": [1, "kept"], "c": SECRET}
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE spans (content TEXT, name TEXT)")
        database.executemany(
            "INSERT INTO spans VALUES (?, ?)", [(json.dumps(nested), "x"), (f"plain {SECRET}", "y"), ("kept", "z")]
        )
        database.executemany("INSERT INTO spans VALUES (?, ?)", [(f"{n} {SECRET}", "dropped") for n in range(500)])
        database.execute("DELETE FROM spans WHERE name = 'dropped'")  # its pages still hold it
    database.close()
    assert SECRET.encode() in file.read_bytes()
    wiring = SimpleNamespace(settings=Settings(tmp_path, checkout() / "params.yaml", "local[1]"), objects=None)
    Purge(wiring, Wanted.of(["a.md"], [SECRET], {}), [])._database(DATABASE)
    assert not any(SECRET.encode() in one.read_bytes() for one in file.parent.iterdir())
    rows = dict(sqlite3.connect(file).execute("SELECT name, content FROM spans").fetchall())
    assert json.loads(rows["x"]) == {"a": json.dumps({"outputs": "[erased]"}), "b": [1, "kept"], "c": "[erased]"}
    assert (rows["y"], rows["z"]) == ("[erased]", "kept")
