"""Masters that cannot be, said in one line before a JVM starts; and the archive of the code, which follows sources."""

from __future__ import annotations

import pickle
import shutil
import socket
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.backends.spark import _conf, is_local, require_master
from pipelines.backends.torch_embedder import load_torch, reopen
from pipelines.errors import BadConfig
from pipelines.ports import OnDisk
from pipelines.settings import checkout
from pipelines.shipping import archive, arrived, packed, sources_digest


def test_a_master_that_does_not_answer_is_named() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused
        master = f"spark://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(BadConfig, match=rf"^ASSAY_SPARK_MASTER is {master}, where no master answers; start it"):
            require_master(master)
        held.listen()
        require_master(master)
        require_master(f"spark://127.0.0.1:1,{master.removeprefix('spark://')}")  # one of two answers


@pytest.mark.parametrize(
    "master", ["spark://", "spark://host", "spark://host:port", "http://host:7077", "loca[2]", "spark://a:1/b", "x\ny"]
)
def test_other_forms_are_refused(master: str) -> None:
    with pytest.raises(BadConfig, match=r"it is local\[N\], spark://HOST:PORT, yarn or k8s://URL"):
        require_master(master)


def test_a_local_master_is_in_this_process() -> None:
    assert [is_local(master) for master in ("local", "local[2]", "local[*,4]", "local-cluster[2,1,1]")] == [
        True,
        True,
        True,
        False,
    ]


def test_on_a_cluster_tasks_are_retried_and_slow_ones_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    conf = _conf("spark://127.0.0.1:7077", tmp_path)
    assert (conf["spark.speculation"], conf["spark.task.maxFailures"]) == ("true", "4")
    assert conf["spark.sql.adaptive.enabled"] == "false"  # a second run of a task has the rows of the first
    assert "spark.speculation" not in _conf("local[2]", tmp_path)


def test_the_archive_holds_the_package_and_follows_its_sources(tmp_path: Path) -> None:
    made = archive(tmp_path)
    with zipfile.ZipFile(made) as held:
        names = set(held.namelist())
        assert held.read("pipelines/shipping.py") == (checkout() / "pipelines" / "shipping.py").read_bytes()
    assert names >= {
        "pipelines/stages/embed.py",
        "pipelines/_checkout/dvc.yaml",
        "pipelines/_checkout/requirements.lock",
    }
    assert archive(tmp_path) == made
    assert [file.name for file in (tmp_path / "wheels").rglob("*") if file.is_file()] == ["assay.zip"]
    copy = tmp_path / "copy"
    for name in ("pipelines", "models"):
        shutil.copytree(checkout() / name, copy / name)
    for name in ("pyproject.toml", "dvc.yaml", "params.yaml", "README.md", "requirements.lock"):
        shutil.copy(checkout() / name, copy)
    assert sources_digest(copy) == made.parent.name
    (copy / "pipelines" / "shipping.py").write_text("changed")
    assert sources_digest(copy) != made.parent.name


def test_a_folder_arrives_as_itself_or_as_what_was_unpacked_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "driver" / "0123abcd"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "model.bin").write_bytes(b"weights")
    made = packed(folder, below=tmp_path / "shipped", name="0123abcd")
    assert packed(folder, below=tmp_path / "shipped", name="0123abcd") == made
    assert [file.name for file in (tmp_path / "shipped").iterdir()] == ["0123abcd.zip"]
    executor = tmp_path / "executor"
    shutil.unpack_archive(made, executor / "0123abcd")
    monkeypatch.chdir(executor)
    assert arrived(str(folder), name="0123abcd") == folder
    shutil.rmtree(folder)
    assert (arrived(str(folder), name="0123abcd") / "deep" / "model.bin").read_bytes() == b"weights"
    monkeypatch.chdir(tmp_path)
    assert arrived(str(folder), name="0123abcd") == folder  # nowhere: whoever opens it says so


def test_a_model_that_torch_opens_is_found_where_it_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "driver" / "model"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    model = SimpleNamespace(name="own", folder=folder, prefix="", window=256, lower=False, random_seed=None)
    one = load_torch(model, "d" * 64, precision="fp32", batch_tokens=256, device="cpu")
    assert isinstance(one, OnDisk)
    sent = pickle.dumps(one)
    shutil.unpack_archive(
        packed(one.folder, below=tmp_path / "shipped", name=one.digest), tmp_path / "executor" / one.digest
    )
    shutil.rmtree(folder)
    monkeypatch.chdir(tmp_path / "executor")
    reopen.cache_clear()
    assert pickle.loads(sent).folder == tmp_path / "executor" / one.digest  # noqa: S301 -- our own bytes
