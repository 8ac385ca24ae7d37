"""Cut every document into spans that the embedder can read whole, and prove that nothing was left out.

The chunks are Parquet in the object store under the digest of their rows; a seal, written last, makes them visible.
It embeds nothing. The same document cut by the same params has the same chunk ids, whatever else the corpus holds, so
the rows of documents that are as they were in the chunk set before are taken over, and only the others are cut.

One process cuts: 1 to 3 ms of CPU a chunk, against some 100 ms for embedding it in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.backends import splitter as splitting
from pipelines.backends.splitter import Span, TokenSplitter
from pipelines.chunk_sets import Kept, Spill, database, part_name, publish, write_parts
from pipelines.core.digests import digest_bytes, digest_json, digest_text
from pipelines.core.nouns import Chunk, Document, Report
from pipelines.corpus_files import folder_digest
from pipelines.errors import BadConfig, BadInput, IntegrityError
from pipelines.params import ChunkParams, CorpusParams
from pipelines.ports import ObjectStore, Ports
from pipelines.schemas import with_access
from pipelines.temporary import temporary_folder
from pipelines.tombstones import claim
from pipelines.workspace import Workspace

PLAIN = ("text/plain", "application/json", "application/jsonl", "application/x-ndjson")
"""Media types whose text is not read as Markdown; the converter turns the other formats into Markdown."""


def uncovered(text: str, spans: Sequence[Span]) -> int | None:
    """Offset of the first character that is no white space and lies in no span; None when there is none."""
    reached = 0
    for span in sorted(spans, key=lambda s: s.start):
        gap = text[reached : span.start]
        if gap.strip():
            return reached + len(gap) - len(gap.lstrip())
        reached = max(reached, span.end)
    rest = text[reached:]
    return reached + len(rest) - len(rest.lstrip()) if rest.strip() else None


def cut(document: Document, splitter: TokenSplitter, *, room: int) -> list[Chunk]:
    """The chunks of one document. `room` is the embedder's window in tokens less its special tokens.

    IntegrityError when a chunk is not its span's text, is larger than the room, or when text lies outside all spans.
    """
    text = document.text
    spans = splitter.split(text, markdown=document.media_type not in PLAIN)
    for span in spans:
        if text[span.start : span.end] != span.text:
            raise IntegrityError(f"document {document.id}: a chunk at {span.start} is not the document's text there")
        if span.tokens > room:
            raise IntegrityError(f"document {document.id}: a chunk of {span.tokens} tokens; the embedder takes {room}")
    if (lost := uncovered(text, spans)) is not None:
        raise IntegrityError(f"document {document.id}: {text[lost : lost + 20]!r} at {lost} is in no chunk")
    return [Chunk(document.id, n, s.start, s.end, s.text, s.tokens) for n, s in enumerate(spans)]


def _row(chunk: Chunk, title: str, *, access: str) -> dict[str, Any]:
    return {
        "key": chunk.id,
        "document": chunk.document,
        "title": title,
        "ordinal": chunk.ordinal,
        "start": chunk.start,
        "end": chunk.end,
        "tokens": chunk.tokens,
        "text": chunk.text,
        "text_digest": chunk.text_digest,
        "access": access,
    }


def _check_sizes(params: ChunkParams, *, name: str, room: int) -> None:
    if params.max_tokens > room:
        raise BadConfig(f"chunk.max_tokens is {params.max_tokens}; embedder {name} takes at most {room} tokens of text")


def read_documents(file: Path, *, only: Any = None) -> Iterator[Document]:
    """Documents one by one, sorted by id; `only` those of an Arrow array of ids, sorted too. Public where the file is
    of before there were access labels.

    IntegrityError when a document is not what its digest says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = iter(only) if only is not None else None
    following = next(wanted, None) if wanted else None
    columns = ["id", "title", "text", "media_type", "uri", "digest", "access"]
    for batch in pq.ParquetFile(file, memory_map=True).iter_batches(batch_size=64, columns=columns):
        if wanted is not None:
            positions = []
            for position, name in enumerate(batch["id"].to_pylist()):
                if following is not None and name == following.as_py():
                    positions.append(position)
                    following = next(wanted, None)
            batch = batch.take(pa.array(positions, pa.int64()))
        for row in with_access(batch).to_pylist():
            recorded = row.pop("digest")
            document = Document(**row)
            if document.digest != recorded:
                raise IntegrityError(f"document {document.id} is not the text that was versioned; restore {file}")
            yield document


def _code() -> str:
    """16 hex digits over what decides where documents are cut: rows of other code are not taken over."""
    return digest_bytes(b"".join(Path(str(file)).read_bytes() for file in (__file__, splitting.__file__)))[:16]


@dataclass(frozen=True)
class Changes:
    """What a chunk set needs to become the corpus's: ids to `cut` (None: all), and what is kept of the set."""

    cut: Any = None
    kept: Kept | None = None
    rows: int = 0
    """Rows kept."""


def _earlier(workspace: Workspace, objects: ObjectStore, cut_by: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of the chunk set before, when it is whole and was cut by the same params and code."""
    if not workspace.has("chunk"):
        return None
    facts = workspace.receipt("chunk")
    if any(facts.get(name) != value for name, value in cut_by.items()):
        return None
    names = ["seal.json", "documents.parquet", *(part_name(number) for number in range(facts["parts"]))]
    return facts if {f"{facts['key']}/{name}" for name in names} <= set(objects.list(facts["key"])) else None


def compare(joining: Any, scratch: Path, *, objects: ObjectStore, earlier: dict[str, Any]) -> Changes:
    """The documents (view `now` of `joining`) against those that `earlier` (a chunk set's facts) was cut from.

    A document is the same when id, digest (over id, title, text and access label) and media type are. When more than
    half of them are not, everything is cut.
    """
    from pyarrow import dataset

    listed = scratch / "before.parquet"
    listed.write_bytes(objects.get(f"{earlier['key']}/documents.parquet"))
    joining.register("before", dataset.dataset(listed))
    changed = "SELECT id FROM now ANTI JOIN before USING (id, digest, media_type) ORDER BY id"
    gone = "SELECT id FROM before ANTI JOIN now USING (id, digest, media_type) ORDER BY id"
    same = "SELECT count(*), sum(chunks) FROM before SEMI JOIN now USING (id, digest, media_type)"
    cut = joining.sql(changed).to_arrow_table()["id"]
    ((documents, rows),) = joining.execute(same).fetchall()
    if documents < len(cut):
        return Changes()
    left_out = joining.sql(gone).to_arrow_table()["id"].combine_chunks()
    kept = Kept(objects, earlier["key"], earlier["bits"], left_out)
    return Changes(cut, kept, int(rows or 0))


def _list_documents(joining: Any, parts: Path, target: Path) -> None:
    """(id, digest, media_type, chunks) of every document, sorted by id: what the next run compares with."""
    from pyarrow import dataset

    joining.register("rows", dataset.dataset(parts))
    counted = (
        "SELECT id, digest, media_type, coalesce(n, 0)::INTEGER AS chunks FROM now LEFT JOIN "
        "(SELECT document AS id, count(*) AS n FROM rows GROUP BY document) USING (id) ORDER BY id"
    )
    joining.sql(counted).write_parquet(str(target))


def _cut_into(scratch: Path, file: Path, earlier: dict[str, Any] | None, objects: ObjectStore, cutter: Any) -> Any:
    """Parts and list of documents as files of `scratch`/set; returns the set's facts and how many rows were cut."""
    from pyarrow import dataset

    folder, fresh = scratch / "set", Spill(scratch / "rows")
    folder.mkdir()
    with database(scratch) as joining:
        joining.register("now", dataset.dataset(file))
        changes = compare(joining, scratch, objects=objects, earlier=earlier) if earlier else Changes()
        for document in read_documents(file, only=changes.cut):
            fresh.add(_row(chunk, document.title, access=document.access) for chunk in cutter(document))
        fresh.close()
        rows = fresh.rows + changes.rows
        made = write_parts(folder, fresh, changes.kept, rows=rows)
        if made["rows"] != rows:
            raise IntegrityError(
                f"{made['rows']} rows were written, but {rows} chunks were cut or kept; run chunk again"
            )
        _list_documents(joining, folder, scratch / "documents.parquet")
    (scratch / "documents.parquet").rename(folder / "documents.parquet")
    return made, fresh.rows


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """corpus/documents.parquet -> chunks in the object store. BadInput when the corpus holds no text at all."""
    import pyarrow.parquet as pq

    embedder, size, objects = ports.embedder, params.chunk, ports.objects
    splitter = TokenSplitter(
        embedder.tokenizer, min_tokens=size.min_tokens, max_tokens=size.max_tokens, overlap=size.overlap
    )
    room = embedder.window - splitter.special_tokens
    _check_sizes(size, name=embedder.name, room=room)
    file = workspace.versioned / "documents.parquet"
    if not file.is_file():
        raise BadInput(f"no versioned documents at {file}; run: assay stage {workspace.corpus} snapshot")
    how = {**size.model_dump(), "tokenizer": digest_text(embedder.tokenizer), "splitter": splitting.version()}
    cut_by = {"params_digest": digest_json(how), "code": _code(), "window": embedder.window}
    documents, corpus = pq.ParquetFile(file).metadata.num_rows, folder_digest(workspace.versioned)
    with temporary_folder(ports.settings.cache, "chunk") as temporary:
        earlier = _earlier(workspace, objects, cut_by)
        cutter = partial(cut, splitter=splitter, room=room)
        made, fresh = _cut_into(temporary, file, earlier, objects, cutter)
        if not made["rows"]:
            raise BadInput(f"corpus {workspace.corpus} has no text to index in its {documents} documents")
        key = f"chunks/{workspace.corpus}/by-key/{made['digest']}"
        claim(objects, key, settings=ports.settings)
        publish(temporary / "set", objects, key, facts=made)
    facts = {**made, **cut_by, "key": key, "documents": documents, "corpus_digest": corpus, "params": how}
    said = f"{made['rows']:,} chunks of {documents:,} documents, {made['tokens']:,} tokens; {fresh:,} cut"
    return Report("chunk", facts, said, {"cut": fresh, "kept": made["rows"] - fresh})
