"""The embed stage's plan and its tasks, run one after the other without Spark: what is embedded, found, and refused."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import chunk_sets, embeddings, vectors
from pipelines.backends import spark
from pipelines.backends.objects import ObstoreObjects
from pipelines.chunk_sets import covering, database, limits, number_of, publish, write_parts
from pipelines.core.digests import combine_sets, digest_row, digest_set
from pipelines.core.nouns import Chunk
from pipelines.embeddings import Plan, cache_folder
from pipelines.errors import IntegrityError, NotFound
from pipelines.stages import embed
from pipelines.stages.chunk import _row
from pipelines.stages.embed import embed_texts, write_all


class Counting:
    """Vectors of four numbers drawn from the text's digest; tokens are words; it remembers what it was asked."""

    def __init__(self, *, reads: int = 1_000) -> None:
        self.asked: list[str] = []
        self.reads = reads

    def vector(self, text: str) -> np.ndarray:
        drawn = np.frombuffer(sha256(text.encode()).digest()[:4], dtype=np.uint8).astype(np.float32) + 1
        return np.asarray(drawn / np.linalg.norm(drawn), dtype=np.float32)

    def embed_counted(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        self.asked += texts
        counts = [min(len(text.split()), self.reads) for text in texts]
        return np.array([self.vector(text) for text in texts]), np.array(counts, dtype=np.int32)


Corpus = dict[str, list[str]]
"""Document id -> the texts of its chunks."""


class Builder:
    """One corpus's chunk sets and builds, one after the other, as the two stages make them."""

    def __init__(self, folder: Path, embedder: Counting) -> None:
        self.objects, self.folder, self.embedder = ObstoreObjects(str(folder / "objects")), folder, embedder
        self.before: dict[str, Any] | None = None
        self.builds = 0

    def chunks(self, corpus: Corpus) -> dict[str, Any]:
        rows = [
            _row(Chunk(name, n, n, n + 1, text, len(text.split())), name, access="public")
            for name, texts in corpus.items()
            for n, text in enumerate(texts)
        ]
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            scratch = Path(temporary)
            (scratch / "set").mkdir()
            spill = chunk_sets.Spill(scratch / "rows")
            spill.add(rows)
            spill.close()
            facts = write_parts(scratch / "set", spill, None, rows=len(rows))
            (scratch / "set" / "documents.parquet").write_bytes(b"")
            publish(scratch / "set", self.objects, f"chunks/c/{facts['digest']}", facts=facts)
        return {**facts, "key": f"chunks/c/{facts['digest']}"}

    def build(self, corpus: Corpus) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(rows of the build, its facts); `embedder.asked` has what was embedded."""
        chunks, cache = self.chunks(corpus), cache_folder("e")
        self.builds += 1
        folder = f"builds/b{self.builds}"
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary, database(Path(temporary)) as joining:
            plan = Plan(self.objects, joining, chunks=chunks, before=self.before, cache=cache)
            made = [
                embed_texts(task, objects=self.objects, embedder=self.embedder, folder=cache)  # type: ignore[arg-type]
                for task in plan.texts(partitions=2)
            ]
            done = write_all(embed.here, plan, self.objects, folder=folder, made=made)
        facts = {"key": folder, "bits": chunks["bits"], "digest": combine_sets(row["digest"] for row in done)}
        self.before = facts
        rows = [
            row
            for part in done
            for row in pq.read_table(io.BytesIO(self.objects.get(f"{folder}/{part['part']}"))).to_pylist()
        ]
        assert sum(part["tokens"] for part in done) == chunks["tokens"]
        return rows, facts


TEXTS = st.lists(st.integers(0, 12).map(lambda n: f"text {n} " + "word " * (n % 4) + "end"), max_size=5)
CORPORA = st.dictionaries(st.sampled_from([f"{n}.md" for n in range(6)]), TEXTS, min_size=1)


@given(
    st.lists(CORPORA, min_size=1, max_size=4), st.sampled_from([2, 4_096]), st.booleans(), st.sampled_from([0, 1, 16])
)
@settings(max_examples=10, deadline=None)
def test_after_any_edits_a_build_is_the_corpus_and_only_new_texts_are_embedded(
    corpora: list[Corpus], rows_per_part: int, keep: bool, near: int
) -> None:
    """With the build before at hand and without it (`keep`), however many parts the chunk sets have, and whether
    vectors are read where they are or handed on."""
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_sets, "ROWS_PER_PART", rows_per_part)
        patch.setattr(embeddings, "NEAR", near)
        builder, known = Builder(Path(temporary), Counting()), set[str]()
        for corpus in corpora:
            texts = {text for texts in corpus.values() for text in texts}
            builder.before = builder.before if keep else None
            builder.embedder.asked = []
            rows, facts = builder.build(corpus)
            assert sorted(builder.embedder.asked) == sorted(texts - known)
            known |= texts
            assert {row["document"] for row in rows} == {name for name, texts in corpus.items() if texts}
            assert sorted((row["document"], row["ordinal"], row["text"]) for row in rows) == sorted(
                (name, n, text) for name, texts in corpus.items() for n, text in enumerate(texts)
            )
            vectors = [builder.embedder.vector(row["text"]).astype("<f4") for row in rows]
            assert all(np.array_equal(row["vector"], vector) for row, vector in zip(rows, vectors, strict=True))
            assert facts["digest"] == digest_set(
                digest_row(row["key"].encode(), row["text_digest"].encode(), vector.tobytes())
                for row, vector in zip(rows, vectors, strict=True)
            )


def test_the_build_before_has_all_that_an_unchanged_corpus_needs(tmp_path: Path) -> None:
    """As when only index params change: nothing is embedded, and the cache is not even asked."""
    builder = Builder(tmp_path, Counting())
    corpus = {"a.md": ["one two", "three"], "b.md": ["one two"]}
    rows, facts = builder.build(corpus)
    assert sorted(builder.embedder.asked) == ["one two", "three"]
    (tmp_path / "objects" / "embeddings").rename(tmp_path / "gone")
    again, same = builder.build(corpus)
    assert (again, same["digest"], len(builder.embedder.asked)) == (rows, facts["digest"], 2)


def test_when_every_key_moves_no_part_of_the_cache_is_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """240 chunks in 64 parts, embedded as eight parts of the cache: renamed, every part of the build needs some four
    texts, from as many parts of the cache. One text stands everywhere."""
    monkeypatch.setattr(chunk_sets, "ROWS_PER_PART", 4)
    monkeypatch.setattr(embeddings, "TEXTS_PER_TASK", (30, 30))
    reads: Counter[str] = Counter()
    for module in (vectors, embed):

        def counted(objects: Any, key: str, columns: Any = None) -> Any:
            reads[key] += key.startswith("embeddings/")
            return chunk_sets.read_part(objects, key, columns)

        monkeypatch.setattr(module, "read_part", counted)
    builder = Builder(tmp_path, Counting())
    texts = [f"text {n}" for n in range(210)] + ["the same everywhere"] * 30
    first, _ = builder.build({"old.md": texts})
    parts = builder.objects.list("embeddings")
    assert len(parts) == 8 and set(reads) >= set(parts)
    assert max(reads[part] for part in parts) <= embeddings.NEAR
    reads.clear()
    builder.embedder.asked = []
    moved, _ = builder.build({"new.md": texts})
    assert builder.embedder.asked == []
    assert {part: reads[part] for part in parts} == dict.fromkeys(parts, 1)
    assert sorted((row["text"], row["vector"]) for row in moved) == sorted((r["text"], r["vector"]) for r in first)


def test_a_text_that_was_not_read_whole_is_an_integrity_error(tmp_path: Path) -> None:
    builder = Builder(tmp_path, Counting(reads=3))
    with pytest.raises(
        IntegrityError, match=r"^chunk [0-9a-f]{32} of document a.md has 5 tokens, but the embedder read 3"
    ):
        builder.build({"a.md": ["one two three four five", "one two"]})
    assert not builder.objects.list("builds")


def test_cache_parts_of_before_tokens_were_counted_are_not_read(tmp_path: Path) -> None:
    builder = Builder(tmp_path, Counting())
    old = pa.table({"text_digest": [sha256(b"one two").hexdigest()], "vector": [[1.0, 0.0, 0.0, 0.0]]})
    builder.objects.put("embeddings/e/part-0.parquet", chunk_sets.parquet(old))
    builder.build({"a.md": ["one two"]})
    assert builder.embedder.asked == ["one two"]


def test_a_part_that_is_gone_or_damaged_is_named(tmp_path: Path) -> None:
    builder = Builder(tmp_path, Counting())
    chunks = builder.chunks({"a.md": ["one two " * 30]})
    part = f"{chunks['key']}/part-00000.parquet"
    data = builder.objects.get(part)
    builder.objects.put(part, data[:4] + bytes(40) + data[44:])  # the first page
    with pytest.raises(IntegrityError, match=rf"^{part} is damaged .*; delete it and run stage chunk again$"):
        chunk_sets.read_part(builder.objects, part)
    with pytest.raises(NotFound, match=r"^builds/b/part-1.parquet is not in the object store; run stage embed again$"):
        chunk_sets.read_part(builder.objects, "builds/b/part-1.parquet")


@given(st.integers(0, 8), st.integers(0, 8), st.binary(min_size=16, max_size=16))
def test_a_key_lies_in_one_part_and_in_the_parts_that_cover_it(bits: int, other: int, key: bytes) -> None:
    part = number_of(key.hex(), bits)
    low, high = limits(part, bits)
    assert low <= key.hex() < high
    assert [n for n in range(1 << bits) if limits(n, bits)[0] <= key.hex() < limits(n, bits)[1]] == [part]
    assert number_of(key.hex(), other) in covering(part, bits, of=other)


def test_sizes_of_parts_by_hand() -> None:
    assert [chunk_sets.bits_of(rows) for rows in (0, 1, 4_096, 4_097, 8_193)] == [0, 0, 0, 1, 2]
    assert chunk_sets.bits_of(1_000_000) == 8  # 244.1 parts of 4,096, so 256


@pytest.mark.parametrize(
    ("missing", "parts", "master", "where"),
    [
        (0, 1, "local[2]", "here"),
        (256, 1, "local[2]", "here"),
        (257, 1, "local[2]", "spark"),
        (1, 2, "local[2]", "spark"),
        (1, 1, "spark://127.0.0.1:7077", "spark"),
    ],
)
def test_a_small_build_starts_no_spark(missing, parts, master, where, tmp_path, monkeypatch):
    @contextmanager
    def session(*_, folders, **__):
        assert folders == {"0" * 64: tmp_path}  # the model goes along, whichever engine opens it
        yield "a session"

    monkeypatch.setattr(spark, "session", session)
    home = SimpleNamespace(cache=tmp_path, spark_master=master)
    ports = SimpleNamespace(settings=home, embedder=SimpleNamespace(digest="0" * 64, folder=tmp_path))
    with embed._workers(SimpleNamespace(missing=missing), ports, parts=parts, corpus="tiny") as each:
        assert ("here" if each is embed.here else "spark") == where
