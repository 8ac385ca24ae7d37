"""The steps of a release's life, each the product's own code on the corpus of `release_kit`.

Chunking, training and scoring are left out, vectors are made by the kit's hand. What a step needs it finds below
ASSAY_HOME: it may be repeated, also after it was killed. `read` and `state` look at what there is.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.digests import digest_bytes
from pipelines.settings import Settings
from tests import release_kit as kit

Json = dict[str, Any]


def land(home: Path, texts: Mapping[str, str]) -> None:
    folder = home / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def _wiring() -> Any:
    from pipelines.wiring import Wiring

    return Wiring.of(Settings.from_env(), kit.CORPUS)


def fetch() -> str:
    from pipelines.actions import fetch

    wiring = _wiring()
    return fetch.run(wiring.params, wiring.workspace, ports=wiring)[1]


def check() -> str:
    return _stage("check")


def _stage(name: str) -> str:
    """Run a stage and write its receipt, as the runner does."""
    wiring = _wiring()
    stage = importlib.import_module(f"pipelines.stages.{name}")
    report = stage.run(wiring.params, wiring.workspace, ports=wiring)
    wiring.workspace.write_receipt(name, report.facts, report.measured, report.summary)
    return str(report.summary)


def snapshot() -> str:
    from pipelines.actions import snapshot
    from pipelines.runner import _sync

    wiring = _wiring()
    _sync(wiring)
    return snapshot.run(wiring.params, wiring.workspace, ports=wiring)[1]


def index() -> str:
    """The build's Parquet by hand, where it is not whole; then the index stage."""
    import pyarrow.parquet as pq

    from pipelines.core.nouns import Document

    wiring = _wiring()
    rows = pq.read_table(wiring.workspace.versioned / "documents.parquet").to_pylist()
    facts = kit.embedded(wiring, [Document(r["id"], r["title"], r["text"], "text/markdown", r["uri"]) for r in rows])
    wiring.workspace.write_receipt("embed", facts, {}, "by hand")
    return _stage("index")


def judge() -> str:
    from pipelines.runner import sync_champion

    wiring = _wiring()
    sync_champion(wiring)
    kit.scored(wiring, wiring.workspace.receipt("embed"))
    return f"passed: {kit.judged(wiring)['passed']}"


def promote() -> str:
    from pipelines.actions import promote

    wiring = _wiring()
    return promote.run(wiring.params, wiring.workspace, ports=wiring)[1]


def rollback(to: int) -> str:
    """Return to generation `to`, and where a killed run had published that already, mend the projections."""
    from pipelines.actions import reconcile, rollback
    from pipelines.errors import BadInput

    settings = Settings.from_env()
    try:
        return rollback.rollback_release(settings, kit.CORPUS, to=to)
    except BadInput:
        return reconcile.reconcile_corpus(settings, kit.CORPUS)


def gc() -> str:
    from pipelines.actions import gc

    return [*gc.collect(Settings.from_env(), grace=0)][-1]


def read() -> Json:
    """What a fresh service sees of the newest release; it fails unless that is one whole generation."""
    from pipelines.actions import ask, views
    from pipelines.builds import build_rows, held

    manifest = views.release_manifest(Settings.from_env(), kit.CORPUS, None)
    service = ask.Service(Settings.from_env(), manifest)
    found = service.passages(["Within how many days are refunds paid?"], k=50)[0]["passages"]
    index, ports = manifest["index"], service.ports
    texts = sorted(text for batch in build_rows(ports.objects, index) for text in batch.column("text").to_pylist())
    assert sorted(passage["text"] for passage in found) == texts, (found, texts)
    assert held(ports.store, index["collection"]) == (index["rows"], index["digest"])
    return {"generation": manifest["generation"], "texts": texts, "revision": manifest["revision"]["tag"]}


def state() -> Json:
    """Everything that two homes with one history must agree on, whatever was killed on the way."""
    from pipelines.builds import build_facts, held
    from pipelines.corpus_files import file_digest, tree_digest

    wiring, settings = _wiring(), Settings.from_env()
    log, root = wiring.releases, wiring.workspace.root
    history = [log.read(kit.CORPUS, generation) for generation in log.generations(kit.CORPUS)]
    builds = sorted({key.split("/")[1] for key in wiring.objects.list("builds")})
    client = wiring.registry._client
    # The envelope holds when it was made, so its digest is not compared.
    models = {
        name: sorted(
            sorted(tag for tag in version.tags.items() if tag[0] != "assay.digest")
            for version in client.search_model_versions(f"name = '{name}'")
        )
        for name in (kit.CORPUS, f"{kit.CORPUS}-index")
    }
    experiment = client.get_experiment_by_name(kit.CORPUS).experiment_id
    runs = [(r.info.run_name, r.info.status) for r in client.search_runs([experiment])]
    alias = client.get_model_version_by_alias(kit.CORPUS, "champion").tags["assay.generation"]
    parts = [f"builds/{build}/part-00000.parquet" for build in builds]

    def git(*words: str) -> list[str]:
        return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()

    files = (path for path in (settings.home / "remotes").rglob("*") if path.is_file())
    remote = sorted((path.relative_to(settings.home).as_posix(), file_digest(path)) for path in files)
    return {
        "log": [[r["generation"], r["previous"], r["candidate"], r["revision"]["digest"]] for r in history],
        "served": [[r["revision"]["tag"], r["index"]["digest"], r.get("restores")] for r in history],
        "builds": {b: [*held(wiring.store, b), build_facts(wiring.objects, f"builds/{b}")["digest"]] for b in builds},
        "parquet": [digest_bytes(wiring.objects.get(part)) for part in parts],
        "objects": wiring.objects.list("builds"),
        "collections": sorted(wiring.store._client.list_collections()),
        "pointed": wiring.store._client.describe_alias(kit.CORPUS)["collection_name"],
        "models": models,
        "finished": sorted(name for name, status in runs if status == "FINISHED"),
        "running": [name for name, status in runs if status == "RUNNING"],
        "alias": alias,
        "tags": sorted(git("tag")),
        "subjects": git("log", "--format=%s"),
        "dirty": git("status", "--porcelain"),
        "corpus": tree_digest(root / "corpus"),
        "remote": remote,
    }


STEPS: dict[str, Callable[..., Any]] = {
    step.__name__: step for step in (fetch, check, snapshot, index, judge, promote, rollback, gc, read, state)
}
