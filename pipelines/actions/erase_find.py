"""Where something of a document lies: in the object store, the workspace with its DVC and git, and what else Assay
wrote below ASSAY_HOME. It finds; it removes nothing.

Other corpora's workspaces, builds and collections are theirs and not looked at; weights and exports of models neither.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines import dvc_objects
from pipelines.backends.objects import ObstoreObjects
from pipelines.core import retention
from pipelines.core.erasure import Needs, Place
from pipelines.errors import NotFound
from pipelines.git_history import History
from pipelines.settings import Settings
from pipelines.traces import WEIGHTS, Wanted, holds
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace

WORKING = "run/erasures"
"""Below ASSAY_HOME, readable by its owner alone: what a purge under way looks for. It goes with the last pass."""
_EXPORTS = {"embedders", "generators", "rerankers", "wheels", "locks"}
_SCRATCH = ("chunk-", "embed-")
DATABASE = "mlflow/mlflow.db"
_WHOLE_BELOW_CACHE = {"training-runs", "freshness", "adapters"}


def held(file: Path, wanted: Wanted) -> bool:
    """Whether a file holds something of the documents; one that is gone or closed to us does not."""
    try:
        with file.open("rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                return False
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return holds(data, wanted)
    except (FileNotFoundError, PermissionError):
        return False


def in_objects(objects: Any, corpus: str, wanted: Wanted, *, remote: str) -> Iterator[Place]:
    """Builds, chunk sets, kept replies, releases and what else lies in the object store. Of a build that holds a
    document no further part is read."""
    done: set[str] = set()
    for key in objects.list(""):
        kind, folder = key.split("/")[0], retention.folder_of(key)
        theirs = kind == "releases" and key.split("/")[1] != corpus
        theirs = theirs or (folder is not None and kind != "adapters" and not retention.ours(folder, {corpus}))
        is_remote = objects.uri(key).startswith(f"{remote}/")
        if theirs or is_remote or folder in done or kind in ("erasures", "embeddings", "adapters", "dvc"):
            continue
        try:
            found = holds(objects.get(key), wanted)
        except KeyError:  # removed meanwhile
            continue
        if found:
            known = kind in ("builds", "chunks", "answers", "releases")
            yield Place(kind if known else "objects", folder or key, key)
            done |= {folder} if folder else set()


def vectors(objects: Any, texts: Collection[str]) -> Iterator[Place]:
    """Parts of the cache of vectors that hold one of these text digests."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.chunk_sets import read_part

    digests = pa.array(sorted(texts), pa.string())
    for key in objects.list("embeddings"):
        if key.endswith(".parquet") and len(digests):
            column = read_part(objects, key, ("text_digest",))["text_digest"]
            if pc.any(pc.is_in(column, value_set=digests)).as_py():
                yield Place("embeddings", key, key)


def in_dvc(root: Path, remote: str, wanted: Wanted) -> Iterator[Place]:
    """Objects of DVC's cache and of its remote, by md5."""
    for kind, objects in (("dvc-cache", dvc_objects.cache_of(root)), ("dvc-remote", ObstoreObjects(remote))):
        for key in objects.list(dvc_objects.FILES):
            if not key.endswith(".dir") and holds(objects.get(key), wanted):
                yield Place(kind, dvc_objects.md5_of(key), key)


def in_git(root: Path, wanted: Wanted) -> Iterator[Place]:
    """Blobs of the workspace's history, by name."""
    if (root / ".git").is_dir():
        for name, data in History(root).blobs():
            if holds(data, wanted):
                yield Place("git", name, name)


def _place(parts: tuple[str, ...], corpus: str) -> Place | None:
    """What a path below ASSAY_HOME is; None for what is not looked at here."""
    path, top, rest = "/".join(parts), parts[0], parts[1:]
    if top == "workspaces":
        handled = rest[0] != corpus or rest[1:2] == (".git",) or rest[1:4] == (".dvc", "cache", "files")
        return None if handled else Place("workspace", path, path)
    if top == "cache":
        whole = rest[:2] if rest[0] in _WHOLE_BELOW_CACHE else rest
        whole = rest[:1] if rest[0].startswith(_SCRATCH) else whole
        return None if rest[0] in _EXPORTS else Place("cache", "/".join((top, *whole)), path)
    if top == "reports":
        return Place("reports", path, path) if rest[0] == corpus else None
    if top == "mlflow" and rest[0] == "artifacts":
        return Place("releases" if rest[-1] == "release.json" else "artifacts", path, path)
    if top == "mlflow" and rest[0].startswith("mlflow.db"):
        return Place("mlflow-db", DATABASE, path)
    if top == "milvus" and "collections" in rest[:-1]:
        name = rest[rest.index("collections") + 1]
        return Place("milvus", f"builds/{name}", path) if retention.ours(f"builds/{name}", {corpus}) else None
    if top == "keys" or path.startswith(f"{WORKING}/"):
        return None
    return Place("home", path, path)


def in_home(settings: Settings, corpus: str, wanted: Wanted, *, aside: Collection[Path]) -> Iterator[Place]:
    """Files below ASSAY_HOME; `aside` are folders that are looked at elsewhere (object store, DVC remotes)."""
    for parent, folders, files in os.walk(settings.home):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if here / name not in aside)
        for name in sorted(files):
            file = here / name
            if file in aside:
                continue
            parts = file.relative_to(settings.home).parts
            if name.endswith(WEIGHTS) or file.is_symlink() or len(parts) < 2:
                continue
            place = _place(parts, corpus)
            if place is not None and held(file, wanted):
                yield place


def _source(wiring: Wiring) -> list[str]:
    source = wiring.params.source
    return [text for text in (source.documents, source.questions, source.examples) if text]


def in_source(wiring: Wiring, wanted: Wanted) -> Iterator[Place]:
    """What the user's own folder and files still hold, named as params.yaml names them."""
    for text in _source(wiring):
        path = wiring.path(text)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            relative = file.relative_to(path).as_posix()
            named = f"{text}/{relative}" if file != path else text
            if (text == wiring.params.source.documents and relative in wanted.documents) or held(file, wanted):
                yield Place("source", named, named)


def places(wiring: Wiring, wanted: Wanted, texts: Collection[str]) -> Iterator[Place]:
    """Everywhere that something of the documents was found. `texts`: digests of texts that only they have."""
    settings, corpus, root = wiring.settings, wiring.corpus, wiring.workspace.root
    remote = settings.dvc_remote(corpus)
    yield from in_objects(wiring.objects, corpus, wanted, remote=remote)
    yield from vectors(wiring.objects, texts)
    if root.is_dir():
        yield from in_dvc(root, remote, wanted)
        yield from in_git(root, wanted)
    local = [Path(uri).resolve() for uri in (settings.objects_uri, remote) if "://" not in uri]
    source = [wiring.path(text).resolve() for text in _source(wiring)]
    # Other corpora's remotes are theirs.
    aside = {*local, *source, settings.home / "remotes"}
    yield from in_home(settings, corpus, wanted, aside=aside)
    yield from in_source(wiring, wanted)


def needs(wiring: Wiring, corpora: Collection[str]) -> Needs:
    """What the newest releases (of every corpus in the object store) and the newest runs (of `corpora`, which have a
    workspace here) still need, and this corpus's newest revision."""
    released = {key.split("/")[1] for key in wiring.objects.list("releases")}
    champion: set[str] = set()
    run: set[str] = set()
    for corpus in {*corpora, *released, wiring.corpus}:
        with suppress(NotFound):
            champion |= retention.needed([wiring.releases.read(corpus)])
        root = Workspace(wiring.settings.workspace(corpus), corpus).root
        for file in sorted((root / "receipts").glob("*.json")):
            run |= retention.needed([json.loads(file.read_text(encoding="utf-8"))])
    root = wiring.workspace.root
    revision = dvc_objects.newest(root) | (History(root).newest() if (root / ".git").is_dir() else set())
    return Needs(champion, run, revision)
