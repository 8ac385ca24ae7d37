"""What there is to know of documents that are to be erased: their texts in every version that is still here, where
these were cut, the files that they landed as, and the adapters that were trained on them.

It is kept in a file of the erasure's own while the purge is under way, because the purge removes what it was read from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines import dvc_objects
from pipelines.actions.erase_find import WORKING
from pipelines.backends.objects import ObstoreObjects
from pipelines.core import mixing
from pipelines.core.digests import digest_json
from pipelines.core.erasure import distinctive, pieces
from pipelines.corpus_files import document_batches
from pipelines.erasures import ErasureLog
from pipelines.settings import Settings
from pipelines.traces import Wanted, holds
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace

Json = Mapping[str, Any]


@dataclass
class Known:
    """`digests`: of the documents, by id; `texts`: digests of their chunks' texts; `pieces` of their texts; `files`:
    sha256 -> size of landed files; `training`: digests of training sets that rest on them."""

    digests: dict[str, list[str]]
    texts: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    training: list[str] = field(default_factory=list)

    def __or__(self, other: Known) -> Known:
        ids = self.digests.keys() | other.digests.keys()
        return Known(
            {i: sorted({*self.digests.get(i, ()), *other.digests.get(i, ())}) for i in sorted(ids)},
            sorted({*self.texts, *other.texts}),
            list(dict.fromkeys([*self.pieces, *other.pieces])),
            self.files | other.files,
            sorted({*self.training, *other.training}),
        )


def working_file(settings: Settings, corpus: str, documents: Iterable[str]) -> Path:
    return settings.home / WORKING / corpus / f"{digest_json(sorted(documents))[:32]}.json"


def remembered(file: Path) -> Known:
    return Known(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else Known({})


def remember(file: Path, known: Known) -> None:
    """Whole or not at all, for its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        json.dump(asdict(known), out)
    temporary.replace(file)


def collected(wiring: Wiring, documents: Collection[str]) -> Known:
    """All that is found of the documents now; of one that is nowhere `digests` says nothing."""
    known = Known({})
    for rows in _versions(wiring, documents):
        for row in rows:
            known.digests.setdefault(row["id"], []).append(row["digest"])
            known.pieces += pieces(row["title"]) + pieces(row["text"])
            metadata = json.loads(row["metadata"] or "{}")
            if {"sha256", "bytes"} <= metadata.keys():
                known.files[metadata["sha256"]] = metadata["bytes"]
    for row in _chunks(wiring, documents):
        known.digests.setdefault(row["document"], [])
        known.texts.append(row["text_digest"])
        known.pieces += pieces(row["text"])
    return known | Known({})


def _versions(wiring: Wiring, documents: Collection[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of the documents in the workspace's folders, and in every revision that DVC still has."""
    columns = ["id", "title", "text", "metadata", "digest"]
    workspace = wiring.workspace
    for folder in (workspace.fetched, workspace.checked, workspace.versioned):
        file = folder / "documents.parquet"
        if file.is_file():
            yield _rows(file.read_bytes(), "id", documents, columns)
    if workspace.root.is_dir():
        for objects in _stores(wiring):
            for listed in dvc_objects.folders(objects):
                if md5 := listed.get("documents.parquet"):
                    yield _rows(_get(objects, md5), "id", documents, columns)


def _stores(wiring: Wiring) -> list[ObstoreObjects]:
    return [
        dvc_objects.cache_of(wiring.workspace.root),
        ObstoreObjects(wiring.settings.dvc_remote(wiring.corpus)),
    ]


def _get(objects: ObstoreObjects, md5: str) -> bytes:
    try:
        return objects.get(dvc_objects.key_of(md5))
    except KeyError:
        return b""


def _rows(data: bytes, owner: str, documents: Collection[str], columns: list[str]) -> list[dict[str, Any]]:
    import io

    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not data:
        return []
    wanted, out = pa.array(sorted(documents), pa.string()), []
    with pq.ParquetFile(io.BytesIO(data)) as file:
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            out += batch.filter(pc.is_in(batch[owner], value_set=wanted)).to_pylist()
    return out


def _chunks(wiring: Wiring, documents: Collection[str]) -> Iterator[dict[str, Any]]:
    """Rows of the documents in the chunk sets and builds of the object store."""
    objects, corpus = wiring.objects, wiring.corpus
    builds = (key for key in objects.list("builds") if key.split("/")[1].rpartition("_")[0] == f"b_{corpus}")
    for key in (*objects.list(f"chunks/{corpus}"), *builds):
        if key.rpartition("/")[2].startswith("part-"):
            yield from _rows(objects.get(key), "document", documents, ["document", "text", "text_digest"])


def alone(wiring: Wiring, log: ErasureLog, known: Known, corpora: Collection[str]) -> Known:
    """Of what is known, what no living document of any corpus here has: the pieces and texts to look for."""
    found, texts = known.pieces, set(known.texts)
    for corpus in {*corpora, wiring.corpus}:
        workspace = Workspace(wiring.settings.workspace(corpus), corpus)
        gone = log.erased(corpus).keys() | (known.digests.keys() if corpus == wiring.corpus else set())
        if (workspace.versioned / "documents.parquet").is_file():
            batches = document_batches(workspace.versioned, ["id", "text"])
            living = (row["text"] for batch in batches for row in batch.to_pylist() if row["id"] not in gone)
            found = distinctive(found, living)
        texts -= _living_texts(wiring, workspace, texts, gone)
    return Known(known.digests, sorted(texts), found, known.files, known.training)


def _living_texts(wiring: Wiring, workspace: Workspace, texts: Collection[str], gone: Collection[str]) -> set[str]:
    """Those of the text digests that a document which is not gone has in the newest chunk set of a corpus."""
    from pipelines.errors import NotFound

    try:
        key = workspace.receipt("chunk")["key"]
    except (NotFound, KeyError):
        return set()
    parts = [part for part in wiring.objects.list(key) if part.rpartition("/")[2].startswith("part-")]
    rows = (_rows(wiring.objects.get(part), "text_digest", texts, ["document", "text_digest"]) for part in parts)
    return {row["text_digest"] for found in rows for row in found if row["document"] not in gone}


def trained_on(wiring: Wiring, wanted: Wanted) -> list[str]:
    """Digests of the training sets, of every revision still here, that show a text of the documents or whose questions
    and examples rest on them."""
    folders = [wiring.workspace.training, *([] if not wiring.workspace.root.is_dir() else _stores(wiring))]
    about = _about(wiring, wanted.documents)
    out = set()
    for sets in _training_sets(folders):
        rows = [row for found in sets for row in found]
        if any(row["id"] in about or _shows(row, wanted) for row in rows):
            out.add(digest_json(list(sets)))
    return sorted(out)


def _lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines() if line.strip()]


def _training_sets(places: Iterable[Any]) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    for place in places:
        if isinstance(place, Path):
            files = [place / "train.jsonl", place / "validation.jsonl"]
            if all(file.is_file() for file in files):
                yield _lines(files[0].read_bytes()), _lines(files[1].read_bytes())
            continue
        for folder in dvc_objects.folders(place):
            if {"train.jsonl", "validation.jsonl"} <= folder.keys():
                yield _lines(_get(place, folder["train.jsonl"])), _lines(_get(place, folder["validation.jsonl"]))


def _about(wiring: Wiring, documents: Collection[str]) -> set[str]:
    """Ids of the questions and examples, of every revision still here, whose evidence names one of the documents."""
    names = ("questions.jsonl", "examples.jsonl")
    files = [file.read_bytes() for n in names if (file := wiring.workspace.versioned / n).is_file()]
    for store in _stores(wiring) if wiring.workspace.root.is_dir() else ():
        files += [_get(store, folder[n]) for folder in dvc_objects.folders(store) for n in names if n in folder]
    rows = (mixing.with_id(row) for data in files for row in _lines(data))
    return {row["id"] for row in rows if any(e["document"] in documents for e in row.get("evidence") or ())}


def _shows(row: Json, wanted: Wanted) -> bool:
    said = "\n".join(str(message.get("content")) for message in row["messages"])
    named = any(f"] {document}\n" in said for document in wanted.documents)
    return named or holds(said.encode("utf-8", "surrogatepass"), wanted)


def adapters_of(wiring: Wiring, training: Collection[str]) -> list[str]:
    """Digests of the adapters in the object store that were trained on one of these training sets."""
    out = []
    for key in wiring.objects.list("adapters"):
        if key.endswith("/assay.json"):
            bound = json.loads(wiring.objects.get(key))
            if bound.get("training_digest") in training:
                out.append(key.split("/")[1])
    return out
