"""embed and index, killed in the middle and starved of disk: the next run ends as if nothing had happened.

The processes are real and die by SIGKILL; when to kill is seen from outside, by what they have written.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.builds import held, parquet_digest
from pipelines.errors import BadInput
from pipelines.settings import checkout
from tests.fault_table import flip, truncate
from tests.index_kit import Ports, documents_of, embed_here, params_of, ports_of, rules, run_stage, write_corpus

pytestmark = pytest.mark.faults

SHAPE: dict[str, Any] = {"chunk": {"min_tokens": 24, "max_tokens": 48, "overlap": 4}}
TEXTS = rules(60)
"""About 540 chunks of 45 tokens: three Spark tasks, of which two run at a time."""


def home_of(folder: Path) -> Ports:
    ports = ports_of(folder, params_of(**SHAPE))
    write_corpus(ports.workspace, documents_of(TEXTS))
    run_stage(ports, "chunk")
    return ports


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(a home that was embedded without Spark, what came of it)"""
    home = tmp_path_factory.mktemp("calm") / "home"
    return home, embed_here(home_of(home)).facts


@pytest.fixture
def undisturbed(calm: tuple[Path, Any]) -> Any:
    return calm[1]


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def kill_when(ports: Ports, stage: str, seen: Callable[[], bool], *, patience: float = 240.0) -> None:
    """Start the stage in a process of its own and kill it when `seen`; returns when all its children are gone."""
    arguments = [str(ports.settings.home), json.dumps(SHAPE), stage]
    # Small batches, so that loading takes long enough to be interrupted; the product is not touched otherwise.
    code = "import sys, pipelines.builds as b; b.BATCH = 10; from tests.index_kit import main; main(*sys.argv[1:])"
    log = ports.settings.home / f"{stage}.killed.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=checkout(), stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + patience
        while not seen():
            assert process.poll() is None, f"it ended before it could be killed: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, "nothing was written"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        while not gone(process.pid):
            assert time.monotonic() < deadline + 60, "the killed stage left processes behind"
            time.sleep(0.1)
    finally:
        if not gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def cached_texts(ports: Ports, embedder: str) -> list[str]:
    """Text digests of every part of the cache, repetitions kept."""
    parts = ports.objects.list(f"embeddings/{embedder}")
    tables = [pq.read_table(io.BytesIO(ports.objects.get(part)), columns=["text_digest"]) for part in parts]
    return [digest for table in tables for digest in table["text_digest"].to_pylist()]


@pytest.mark.fault("kill -9 in embed and in index", times=2)
def test_embed_killed_after_its_first_part_ends_the_same(undisturbed: Any, tmp_path: Path) -> None:
    ports = home_of(tmp_path)
    embedder, folder = undisturbed["embedder_digest"], undisturbed["key"]
    kill_when(ports, "embed", lambda: bool(ports.objects.list(f"embeddings/{embedder}")))
    kept = cached_texts(ports, embedder)
    assert 0 < len(kept) < undisturbed["rows"]
    assert f"{folder}/embed.json" not in ports.objects.list("builds")
    assert not ports.workspace.has("embed")
    report = run_stage(ports, "embed")
    assert report.facts == undisturbed
    texts = cached_texts(ports, embedder)
    assert len(texts) == len(set(texts))
    assert report.measured["embedded"] == len(texts) - len(kept)

    # The same build, killed while Milvus is loaded.
    written = ports.settings.milvus_lite / "collections" / undisturbed["collection"] / "wal"
    kill_when(ports, "index", lambda: any(file.stat().st_size > 10_000 for file in written.glob("*")))
    assert f"{folder}/seal.json" not in ports.objects.list("builds")
    assert held(ports.store, undisturbed["collection"])[0] < undisturbed["rows"]
    report = run_stage(ports, "index")
    assert report.facts == undisturbed
    assert held(ports.store, undisturbed["collection"]) == (undisturbed["rows"], undisturbed["digest"])
    seal = json.loads(ports.objects.get(f"{folder}/seal.json"))
    assert seal["digest"] == undisturbed["digest"]
    keys = [key for key, _, _ in ports.store.rows(undisturbed["collection"])]
    assert len(keys) == len(set(keys))


def test_a_damaged_build_is_made_again_by_embed_with_the_same_rows(
    calm: tuple[Path, Any], tmp_path: Path, faults: Any
) -> None:
    (made, undisturbed), home = calm, tmp_path / "home"
    shutil.copytree(made, home, symlinks=True)
    ports, folder = ports_of(home, params_of(**SHAPE)), home / "objects" / undisturbed["key"]
    damages = {"bit flip": (flip, "part-00000.parquet"), "removal": (Path.unlink, "part-00000.parquet")}
    for what, (damage, part) in damages.items():
        with faults(f"{what}: Parquet of a build, embedded again"):
            run_stage(ports, "index")
            damage(folder / part)
            again = run_stage(ports, "embed")
            assert (again.facts, again.measured["embedded"]) == (undisturbed, 0)
            assert not (folder / "seal.json").exists()  # until Milvus was compared with it
    with faults("truncation: marker and seal of a build, embedded and indexed again", times=2):
        run_stage(ports, "index")
        truncate(folder / "embed.json")
        assert run_stage(ports, "embed").facts == undisturbed
        run_stage(ports, "index")
        truncate(folder / "seal.json")
        assert run_stage(ports, "index").facts == undisturbed
    assert parquet_digest(ports.objects, undisturbed) == (undisturbed["rows"], undisturbed["digest"])
    assert held(ports.store, undisturbed["collection"]) == (undisturbed["rows"], undisturbed["digest"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 500 kB for the objects; skipped where this user may not mount one."""
    disk = tmp_path / "objects"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.fault("disk full: objects, in embed")
def test_embed_on_a_full_disk_says_so_and_goes_on_when_there_is_space(
    undisturbed: Any, small_disk: Path, tmp_path: Path
) -> None:
    ports = home_of(tmp_path)
    with pytest.raises(
        BadInput, match=rf"^no space left in {small_disk}; free some, or set ASSAY_OBJECTS_URI$"
    ) as said:
        run_stage(ports, "embed")
    assert said.value.exit_code == 2
    assert not ports.workspace.has("embed")
    assert not ports.objects.list("builds")
    kept = cached_texts(ports, undisturbed["embedder_digest"])  # what is there is whole
    assert [file.name for file in small_disk.rglob("*#*")] == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    report = run_stage(ports, "embed")
    assert report.facts == undisturbed
    assert report.measured["embedded"] == len(cached_texts(ports, undisturbed["embedder_digest"])) - len(kept)
