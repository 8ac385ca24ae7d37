"""A bit flipped, a file cut in half, a file gone: of everything that a release rests on, one at a time.

Afterwards a service either serves exactly what the release binds, or says in one line what is wrong with which thing;
and what can be made again is made again with the same digests.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipelines import adapters
from pipelines.actions import promote, reconcile, verify
from pipelines.builds import held
from pipelines.client import Release
from pipelines.errors import AssayError, IntegrityError
from pipelines.settings import Settings
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.fault_table import flip, truncate
from tests.home_kit import put_back, set_aside

pytestmark = pytest.mark.faults
ASKED = "Within how many days are refunds paid?"


DAMAGES: dict[str, Callable[[Path], None]] = {"bit flip": flip, "truncation": truncate, "removal": Path.unlink}
MILVUS = "milvus/lite.db"
PROJECTED = {
    "segment": f"{MILVUS}/collections/*/partitions/_default/data/*.parquet",
    "index": f"{MILVUS}/collections/*/partitions/_default/indexes/*.idx",
    "manifest": f"{MILVUS}/collections/*/manifest.json",
    "schema": f"{MILVUS}/collections/*/schema.json",
    "alias file": f"{MILVUS}/aliases.json",
    "WAL": f"{MILVUS}/collections/*/wal/*",
}
"""What Milvus keeps: all of it can be made again from the build."""
BOUND = {
    "Parquet of a build": ("objects/builds/*/part-00000.parquet", r"builds/b_tiny_\w+(/part-00000.parquet)? "),
    "adapter weights": ("objects/adapters/*/adapter_model.safetensors", r"adapter adapters/\w+: adapter_model"),
    "release manifest": ("objects/releases/tiny/*.json", r"(release tiny@1|tiny has no release yet)"),
}
"""What the release binds: the file, and what is said of it."""

UNFLUSHED = """
import os
from pipelines.builds import build_rows
from pipelines.settings import Settings
from pipelines.wiring import Wiring
wiring = Wiring.of(Settings.from_env(), "tiny")
facts = wiring.workspace.receipt("embed")
wiring.store.drop(facts["collection"])
wiring.store.load(facts["collection"], build_rows(wiring.objects, facts), dim=facts["dim"], finish=False)
os._exit(0)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A home with one release that binds an adapter, and copies of it: HOME.whole, and HOME.wal whose collection is in
    the write-ahead log alone."""
    settings = kit.home(tmp_path_factory.mktemp("rot") / "home")
    kept = cache(Wiring.embedder_at)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in kit.environment(settings).items():
            patch.setenv(name, value)
        opened: dict[str, Any] = {}
        patch.setattr(Wiring, "embedder_at", lambda w, p: opened.get(p) or opened.setdefault(p, kept(w, p)))
        wiring = Wiring.of(settings, kit.CORPUS)
        arms = {"base": 0.1, "rag": 0.4, "tuned": 0.2, "both": 0.7}
        kit.candidate(settings, arms=arms, adapter=kit.made_up_adapter(wiring))
        assert promote.run(wiring.params, wiring.workspace, ports=wiring)[0]
        wiring.store.close()
        set_aside(settings.home, "home.whole")
        subprocess.run([sys.executable, "-c", UNFLUSHED], env=kit.environment(settings), check=True)
        set_aside(settings.home, "home.wal")
        yield settings


def damaged(settings: Settings, pattern: str, damage: str, *, state: str = "whole") -> Path:
    """Put the home back as it was, and damage the one file of that pattern."""
    put_back(settings.home, settings.home.with_suffix(f".{state}"))
    file = max(settings.home.glob(pattern), key=lambda path: path.stat().st_size)
    DAMAGES[damage](file)
    return file


def served(settings: Settings) -> list[str]:
    """The texts that a service finds; AssayError when it does not serve."""
    with Release(kit.CORPUS, settings=settings, look_every=None) as release:
        return sorted(row["text"] for row in release.passages([ASKED], k=50)[0]["passages"])


def in_milvus(settings: Settings) -> tuple[tuple[int, str], str]:
    """(rows and digest of the release's collection, the collection that the alias names)"""
    wiring = Wiring.of(settings, kit.CORPUS)
    try:
        found = held(wiring.store, wiring.releases.read(kit.CORPUS)["index"]["collection"])
        return found, wiring.store._client.describe_alias(kit.CORPUS)["collection_name"]  # type: ignore[attr-defined]
    finally:
        wiring.store.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("what", PROJECTED)
def test_what_milvus_lost_is_loaded_again_before_it_is_served(made: Settings, what: str, damage: str, faults: Any):
    bound = Wiring.of(made, kit.CORPUS).releases.read(kit.CORPUS)["index"]
    with faults(f"{damage}: Milvus {what}"):
        damaged(made, PROJECTED[what], damage, state="wal" if what == "WAL" else "whole")
        assert served(made) == sorted(kit.TEXTS.values())
        reconcile.reconcile_corpus(made, kit.CORPUS)
        assert in_milvus(made) == ((bound["rows"], bound["digest"]), bound["collection"])
        assert any(line.startswith("milvus") for line in verify.verify_release(made, kit.CORPUS))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("what", BOUND)
def test_what_the_release_binds_is_never_served_when_it_is_damaged(made: Settings, what: str, damage: str, faults: Any):
    pattern, said = BOUND[what]
    with faults(f"{damage}: {what}"):
        damaged(made, pattern, damage)
        with pytest.raises(AssayError, match=said):
            served(made)
        with pytest.raises(AssayError, match=said):
            [*verify.verify_release(made, kit.CORPUS)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_is_made_again_is_whole_again(made: Settings, damage: str, faults: Any):
    with faults(f"{damage}: adapter weights, made again"):
        damaged(made, BOUND["adapter weights"][0], damage)
        wiring = Wiring.of(made, kit.CORPUS)
        key = adapters.seal(wiring.objects, made.home / "made-up-adapter")
        assert key == f"adapters/{wiring.workspace.receipt('train')['digest']}"
        assert served(made) == sorted(kit.TEXTS.values())


@pytest.mark.parametrize("damage", ["bit flip", "truncation"])
def test_a_damaged_receipt_is_named_and_written_again(made: Settings, damage: str, faults: Any):
    with faults(f"{damage}: receipt"):
        receipt = damaged(made, "workspaces/tiny/receipts/judge.json", damage)
        whole = made.home.with_suffix(".whole") / receipt.relative_to(made.home)
        wiring = Wiring.of(made, kit.CORPUS)
        with pytest.raises(IntegrityError, match=r"receipts/judge.json .*run stage judge again"):
            promote.run(wiring.params, wiring.workspace, ports=wiring)
        kit.judged(wiring)
        assert receipt.read_text() == whole.read_text()
