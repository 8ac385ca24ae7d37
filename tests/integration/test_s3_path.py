"""A corpus whose objects and DVC remote are on S3 (moto's server): the index path on Spark, a release, its pull.

The stages run in processes of their own, as Airflow and DVC run them, with nothing but the environment to say where.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.actions import pull, verify
from pipelines.backends.dvc import DvcVersioner
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.releaselog import SignedReleaseLog
from pipelines.core.nouns import Document
from pipelines.corpus_files import CorpusFiles, document_row, write_files
from pipelines.errors import BackendError, IntegrityError, PromotionConflict
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring
from tests import index_kit, release_kit
from tests.s3_kit import BUCKET, SECRET, Requests, served

pytestmark = pytest.mark.integration
BIN = Path(sys.executable).parent
ON_SPARK = """
import sys
from pipelines.stages import embed
from tests.index_kit import main
embed.SMALL = 0
main(*sys.argv[1:])
"""
"""Stages in a process of their own that starts Spark for however little there is to embed."""


@pytest.fixture(scope="module")
def requests() -> Iterator[Requests]:
    with served() as requests, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_OBJECTS_URI", f"s3://{BUCKET}/assay")
        yield requests


def leaks(folder: Path) -> list[Path]:
    """Files below that hold the secret key."""
    return [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


def test_the_index_path_leaves_its_build_on_s3_and_nothing_in_the_folder(requests: Requests, tmp_path: Path) -> None:
    ports = index_kit.ports_of(tmp_path, index_kit.params_of())
    index_kit.write_corpus(ports.workspace, index_kit.documents_of(index_kit.TEXTS))
    requests.taken()
    run = [sys.executable, "-c", ON_SPARK, str(tmp_path), "{}", "chunk", "embed", "index"]
    done = subprocess.run(run, cwd=checkout(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    counted = requests.taken()
    assert (tmp_path / "cache" / "spark" / "spark.log").is_file()
    facts = ports.workspace.receipt("index")
    objects = ObstoreObjects(os.environ["ASSAY_OBJECTS_URI"])
    seal = json.loads(objects.get(f"{facts['key']}/seal.json"))
    assert (seal["digest"], seal["rows"]) == (facts["digest"], facts["rows"])
    assert {key.split("/")[0] for key in objects.list("")} == {"builds", "chunks", "embeddings"}
    assert not (tmp_path / "objects").exists()
    assert leaks(tmp_path) == []
    print(f"requests of chunk, embed and index: {dict(counted)}")
    assert counted["PUT"] <= len(objects.list("")) + 4  # no object is written twice
    assert counted["LIST"] <= 12


def test_a_release_on_s3_is_appended_once_read_verified_and_pulled(requests: Requests, tmp_path: Path) -> None:
    settings = release_kit.home(tmp_path / "home")
    wiring = Wiring.of(settings, release_kit.CORPUS)
    facts = release_kit.build(wiring, release_kit.TEXTS)
    params = {name: getattr(wiring.params, name).model_dump(mode="json") for name in ("embed", "retrieve", "generate")}
    base = wiring.generator()
    manifest: dict[str, Any] = {
        "corpus": release_kit.CORPUS, "generation": 1, "arm": "rag", "index": facts, "adapter": None, "params": params,
            "prompt": {"digest": "0" * 64},
        "base": {"name": base.name, "digest": base.base_digest, "tokenizer": base.tokenizer_digest},
        "embedder": {"name": wiring.embedder.name, "digest": wiring.embedder.digest},
    }  # fmt: skip
    log = SignedReleaseLog(wiring.objects, key_file=settings.signing_key)
    log.append(release_kit.CORPUS, manifest, generation=1)
    with pytest.raises(PromotionConflict):
        log.append(release_kit.CORPUS, manifest, generation=1)
    assert log.generations(release_kit.CORPUS) == [1]
    assert log.read(release_kit.CORPUS)["index"] == facts
    lines = list(verify.verify_release(settings, release_kit.CORPUS))
    assert [line.split(" ")[0] for line in lines] == ["signature:", "embedder:", "parquet", "milvus", "generator:"]
    assert "tiny@1: 3 rows" in pull.pull_release(settings, release_kit.CORPUS, to=tmp_path / "out")
    assert (tmp_path / "out" / "index" / "part-00000.parquet").is_file()
    newer = release_kit.build(Wiring.of(settings, release_kit.CORPUS), release_kit.NEWER)
    wiring.objects.put(f"{facts['key']}/part-00000.parquet", wiring.objects.get(f"{newer['key']}/part-00000.parquet"))
    with pytest.raises(IntegrityError, match="the release binds 3 of"):
        list(verify.verify_release(settings, release_kit.CORPUS))
    assert leaks(tmp_path) == []


def test_a_tampered_object_of_the_dvc_remote_on_s3_is_refused(requests: Requests, tmp_path: Path) -> None:
    settings = Settings(tmp_path, checkout() / "params.yaml", "local[2]")
    remote = settings.dvc_remote("demo")
    assert remote == f"s3://{BUCKET}/assay/dvc/demo"
    root, content = settings.workspace("demo"), tmp_path / "content"
    root.mkdir(parents=True)
    write_files(content, CorpusFiles([document_row(Document("a.md", "A", "one", "text/markdown", "a.md"))], [], [], []))
    versioner = DvcVersioner(root, corpus="demo", remote=remote)
    assert versioner.snapshot("demo", content=content).revision == "r1"
    held = ObstoreObjects(remote)
    assert len(held.list("")) >= 2  # the folder's list and its files

    def pulled(name: str) -> tuple[int, bool]:
        clone = tmp_path / name
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        config = (clone / ".dvc" / "config").read_text()
        assert f"url = {remote}\n    verify = true" in config
        done = subprocess.run([BIN / "dvc", "pull", "--quiet"], cwd=clone, capture_output=True, check=False)
        return done.returncode, (clone / "corpus" / "documents.parquet").exists()

    assert pulled("clone") == (0, True)  # without a word of configuration beyond AWS_*
    for key in held.list(""):
        if not key.endswith(".dir"):
            held.put(key, b"tampered" + held.get(key))
    failed, there = pulled("tampered")
    assert failed and not there
    assert leaks(tmp_path) == []
    (root / "corpus.dvc").touch()
    moved = DvcVersioner(root, corpus="demo", remote=f"s3://{BUCKET}/elsewhere")
    assert moved.snapshot("demo", content=content).revision == "r1"
    assert f"url = s3://{BUCKET}/elsewhere\n" in (root / ".dvc" / "config").read_text()


def test_a_store_that_does_not_answer_is_one_line_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(BackendError, match=r"^object store s3://assay/x: reading a/b: ") as said:
        ObstoreObjects("s3://assay/x").get("a/b")
    assert "\n" not in str(said.value) and SECRET not in str(said.value) and "Debug" not in str(said.value)
