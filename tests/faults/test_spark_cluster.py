"""A real standalone cluster on loopback: executors run the shipped wheel, and one that is killed changes nothing.

Where this user may make namespaces, the workers see empty folders in the place of the checkout's `pipelines` and of the
exported embedders: what executors use has been sent to them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from infra.local_milvus import free_port
from infra.local_milvus import running as milvus_running
from infra.spark_cluster import SparkCluster, running
from pipelines.backends.spark import session
from pipelines.backends.torch_embedder import load_torch
from pipelines.builds import build_rows, held
from pipelines.embedders import embedder_digest, read_definition
from pipelines.settings import Settings, checkout
from pipelines.shipping import packed
from tests.faults.test_milvus_kill import HALF, build_in
from tests.index_kit import (
    Ports,
    documents_of,
    embed_here,
    exports,
    params_of,
    ports_of,
    rules,
    run_stage,
    write_corpus,
)
from tests.milvus_kit import real_server, relayed

pytestmark = pytest.mark.faults

PARAMS = params_of(chunk={"min_tokens": 24, "max_tokens": 48, "overlap": 4}, embed={"partitions": 8})
TEXTS = rules(32)
"""About 290 chunks of 45 tokens: eight Spark tasks, of which two run at a time."""
MAY_HIDE = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    home, empty = tmp_path_factory.mktemp("cluster"), tmp_path_factory.mktemp("empty")
    hide = 'mount --bind "$1" "$2" && mount --bind "$1" "$3" && shift 3 && exec "$@"'
    hidden = [str(empty), str(checkout() / "pipelines"), str(exports())]
    exports().mkdir(parents=True, exist_ok=True)
    wrap = ["unshare", "--mount", "sh", "-ec", hide, "sh", *hidden] if MAY_HIDE else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_SPARK_PORT", str(free_port()))
        patch.setenv("PYTHONPATH", str(checkout()))
        with running(Settings(home, checkout() / "params.yaml", "local[2]"), wrap=wrap) as started:
            yield started


def home_of(folder: Path, master: str = "local[2]") -> Ports:
    ports = ports_of(folder, PARAMS)
    ports.settings = replace(ports.settings, spark_master=master)
    write_corpus(ports.workspace, documents_of(TEXTS))
    run_stage(ports, "chunk")
    return ports


def test_executors_run_the_wheel_without_a_checkout(cluster: SparkCluster, tmp_path: Path) -> None:
    hidden = checkout() / "pipelines"

    def where(batches: Iterable[Any]) -> Iterator[Any]:  # a closure: what runs there is pickled, not imported
        import pyarrow as pa

        import pipelines

        for _ in batches:
            facts = {"file": str(Path(pipelines.__file__).absolute()), "cwd": str(Path.cwd())}
            facts |= {
                "seen": " ".join(path.name for path in hidden.iterdir()),
                "path": os.environ.get("PYTHONPATH", ""),
            }
            yield pa.RecordBatch.from_pylist([facts])

    with session(cluster.url, name="where", scratch=tmp_path / "cache" / "spark") as spark:
        rows = spark.createDataFrame([(n,) for n in range(8)], "n int").repartition(8)
        found = rows.mapInArrow(where, "file string, cwd string, seen string, path string").collect()
    (archive,) = (tmp_path / "cache" / "wheels").glob("*/assay.zip")
    assert archive.stat().st_size > 50_000
    assert {Path(row.file).relative_to(row.cwd) for row in found} == {Path("assay.zip/pipelines/__init__.py")}
    assert len({row.cwd for row in found}) == 2  # both executors
    assert all(str(checkout()) not in row.path.split(os.pathsep) for row in found)
    if MAY_HIDE:
        assert {row.seen for row in found} == {""}


def listeners(cluster: SparkCluster) -> set[str]:
    pids = {child.pid for pid in cluster.processes.values() for child in psutil.Process(pid).children(recursive=True)}
    pids |= set(cluster.processes.values()) | {os.getpid()}
    pids |= {child.pid for child in psutil.Process().children(recursive=True)}
    return {
        connection.laddr.ip
        for pid in pids
        if psutil.pid_exists(pid)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def kill_one(cluster: SparkCluster, ports: Ports, said: dict[str, Any]) -> None:
    """When the first part of the cache is there, seven tasks are to come: note who listens, kill an executor."""
    deadline = time.monotonic() + 240
    while not ports.objects.list("embeddings"):
        if time.monotonic() > deadline:
            return
        time.sleep(0.005)
    victim = cluster.executors()[0]
    said["listeners"] = listeners(cluster)
    victim.send_signal(signal.SIGKILL)
    said["parts"] = len(ports.objects.list("embeddings"))


@pytest.mark.fault("kill -9 of a Spark executor")
def test_an_executor_killed_in_the_middle_of_embed_changes_nothing(cluster: SparkCluster, tmp_path: Path) -> None:
    undisturbed = embed_here(home_of(tmp_path / "undisturbed")).facts
    ports, said = home_of(tmp_path / "cluster", cluster.url), {}
    killer = threading.Thread(target=kill_one, args=(cluster, ports, said))
    killer.start()
    report = run_stage(ports, "embed")
    killer.join()
    assert said["parts"] < 8  # it was in the middle
    scratch = cluster.settings.cache / "spark-cluster"
    assert [folder.name for folder in sorted(scratch.glob("app-*"))[-1].iterdir() if folder.name == "2"]  # a third one
    assert report.facts == undisturbed
    tables = [pq.read_table(io.BytesIO(ports.objects.get(key))) for key in ports.objects.list("embeddings")]
    texts = [digest for table in tables for digest in table["text_digest"].to_pylist()]
    assert len(texts) == len(set(texts)) == report.measured["embedded"]
    assert said["listeners"] and all(ip.removeprefix("::ffff:") == "127.0.0.1" for ip in said["listeners"])
    deadline = time.monotonic() + 60
    while cluster.executors():  # they end with the session
        assert time.monotonic() < deadline, "executors outlived their session"
        time.sleep(0.1)


@pytest.mark.fault("kill -9 of a Spark executor")
def test_an_executor_killed_in_the_middle_of_index_changes_nothing(
    cluster: SparkCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four parts of 2,000 rows into a Milvus server, from two executors of which one dies."""
    server = real_server(tmp_path)
    ports = ports_of(tmp_path / "home", PARAMS)
    ports.settings = replace(ports.settings, spark_master=cluster.url)
    facts = build_in(ports)
    with milvus_running(server), relayed(server, HALF, lambda: cluster.executors()[0].kill()) as relay:
        monkeypatch.setenv("ASSAY_MILVUS_URI", relay.uri)
        report = run_stage(ports, "index")
        assert relay.fired.is_set()  # it was in the middle
        assert report.measured["loads"] == 1  # the tasks were taken again, not the load
        assert held(ports.store, facts["collection"]) == (facts["rows"], facts["digest"])
        ports.store.close()
    assert json.loads(ports.objects.get(f"{facts['key']}/seal.json"))["digest"] == facts["digest"]


def test_executors_open_a_torch_model_that_was_sent_to_them(cluster: SparkCluster, tmp_path: Path) -> None:
    """As a tuned model's folder: it is on the driver's disk alone, here gone once it was packed."""
    ports = home_of(tmp_path / "home", cluster.url)
    read = read_definition(checkout() / "models/embedders/minilm.yaml")
    own = replace(read, folder=tmp_path / "own")
    shutil.copytree(read.folder, own.folder)
    embedder = load_torch(own, embedder_digest(own, "fp32"), precision="fp32", batch_tokens=1024, device="cpu")
    packed(embedder.folder, below=ports.settings.cache / "shipped", name=embedder.digest)
    shutil.rmtree(own.folder)
    exact, ports.__dict__["embedder"] = ports.embedder, embedder
    report = run_stage(ports, "embed")
    assert report.measured["embedded"] == report.facts["rows"]
    rows = [row for batch in build_rows(ports.objects, report.facts) for row in batch.to_pylist()][:20]
    theirs = exact.embed_batch([row["text"] for row in rows])
    assert np.einsum("ij,ij->i", theirs, np.array([row["vector"] for row in rows])).min() >= 0.9999
