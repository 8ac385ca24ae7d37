"""Cut every document into spans that the embedder can read whole, and prove that nothing was left out.

The chunks are Parquet in the object store under the digest of their rows; a seal, written last, makes them visible.
It embeds nothing. The same document cut by the same params has the same chunk ids, whatever else the corpus holds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.backends.splitter import Span, TokenSplitter, version
from pipelines.core.digests import digest_json, digest_row, digest_set, digest_text
from pipelines.core.nouns import Chunk, Document, Report
from pipelines.corpus_files import content_digest
from pipelines.errors import BadConfig, BadInput, IntegrityError
from pipelines.params import ChunkParams, CorpusParams
from pipelines.ports import ObjectStore, Ports
from pipelines.workspace import Workspace

ROWS_PER_PART = 50_000
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


def read_documents(file: Path, *, digests: dict[str, str]) -> Iterator[Document]:
    """Documents one by one; fills `digests` (id -> content digest) on the way.

    BadInput without the file, IntegrityError when a row is not what its digest says.
    """
    import pyarrow.parquet as pq

    if not file.is_file():
        raise BadInput(f"no versioned documents at {file}; run: assay stage {file.parent.parent.name} snapshot")
    columns = ["id", "title", "text", "media_type", "uri", "digest"]
    for batch in pq.ParquetFile(file).iter_batches(batch_size=64, columns=columns):
        for row in batch.to_pylist():
            recorded = row.pop("digest")
            document = Document(**row)
            if document.digest != recorded:
                raise IntegrityError(f"document {document.id} is not the text that was versioned; restore {file}")
            digests[document.id] = recorded
            yield document


def _row(chunk: Chunk, title: str) -> dict[str, Any]:
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
    }


class _Parts:
    """Rows into Parquet files of a local folder; keeps the counts and the order-free digest of the rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, 0
        self.rows, self.tokens, self.total = 0, 0, digest_set(())
        self._held: list[dict[str, Any]] = []

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            fields = (row["key"], row["title"], f"{row['start']} {row['end']} {row['tokens']}", row["text_digest"])
            mark = digest_row(*(field.encode() for field in fields))
            self.total = digest_set([int(self.total, 16), mark])
            self.rows += 1
            self.tokens += row["tokens"]
            self._held.append(row)
        if len(self._held) >= ROWS_PER_PART:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from pipelines.schemas import CHUNKS

        table = pa.Table.from_pylist(self._held, schema=CHUNKS)
        file = self.folder / f"part-{self.files:05d}.parquet"
        pq.write_table(table, file, compression="zstd", row_group_size=4096, write_page_checksum=True)
        self.files += 1
        self._held = []


def _check_sizes(params: ChunkParams, *, name: str, room: int) -> None:
    if params.max_tokens > room:
        raise BadConfig(f"chunk.max_tokens is {params.max_tokens}; embedder {name} takes at most {room} tokens of text")


def _publish(parts: _Parts, objects: ObjectStore, key: str) -> None:
    """Parts first, the seal last; sealed chunks are not written again."""
    names = [f"part-{n:05d}.parquet" for n in range(parts.files)]
    if f"{key}/seal.json" in objects.list(key):
        return
    for name in names:
        objects.put(f"{key}/{name}", (parts.folder / name).read_bytes())
    seal = {"parts": names, "rows": parts.rows, "digest": parts.total}
    objects.create(f"{key}/seal.json", json.dumps(seal, indent=1).encode())


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """corpus/documents.parquet -> chunks in the object store. BadInput when the corpus holds no text at all."""
    embedder, size = ports.embedder, params.chunk
    splitter = TokenSplitter(
        embedder.tokenizer, min_tokens=size.min_tokens, max_tokens=size.max_tokens, overlap=size.overlap
    )
    room = embedder.window - splitter.special_tokens
    _check_sizes(size, name=embedder.name, room=room)
    digests: dict[str, str] = {}
    ports.settings.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ports.settings.cache, prefix="chunk-") as temporary:
        parts = _Parts(Path(temporary))
        for document in read_documents(workspace.versioned / "documents.parquet", digests=digests):
            parts.add(_row(chunk, document.title) for chunk in cut(document, splitter, room=room))
        if not parts.rows:
            raise BadInput(f"corpus {workspace.corpus} has no text to index in its {len(digests)} documents")
        parts.flush()
        key = f"chunks/{workspace.corpus}/{parts.total}"
        _publish(parts, ports.objects, key)
    how = {**size.model_dump(), "tokenizer": digest_text(embedder.tokenizer), "splitter": version()}
    facts = {
        "digest": parts.total,
        "key": key,
        "parts": parts.files,
        "documents": len(digests),
        "rows": parts.rows,
        "tokens": parts.tokens,
        "corpus_digest": content_digest(digests),
        "params": how,
        "params_digest": digest_json(how),
        "window": embedder.window,
    }
    return Report("chunk", facts, f"{parts.rows:,} chunks of {len(digests):,} documents, {parts.tokens:,} tokens")
