"""How much a corpus will ask for before it is built: chunks, core-hours, bytes, Milvus memory, money.

Plain arithmetic on averages, for planning: every coefficient is a field with its unit, and its default says where it
comes from. `python -m benchmarks.capacity` holds the predictions against a measured run. It measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True)
class Load:
    """A corpus and how it is cut. Tokens are the embedder's own, special tokens aside."""

    documents: int
    sample: tuple[float, ...]
    """Tokens of some documents, drawn at random; the more their lengths differ, the more are needed."""
    max_tokens: float = 254.0
    """chunk.max_tokens: a document that is no longer is one chunk."""
    chunk_tokens: float = 207.0
    """Mean tokens of a full chunk: between chunk.min_tokens and max_tokens, their middle unless measured."""
    overlap: float = 20.0
    characters_per_token: float = 4.5
    """Of UTF-8 text; English prose with a WordPiece vocabulary of 30 thousand: 4 to 5."""
    distinct: float = 1.0
    """Share of chunk texts that occur for the first time: the others are in the cache already."""

    def __post_init__(self) -> None:
        if self.documents < 0 or not self.sample or min(self.sample) <= 0 or not 0 <= self.distinct <= 1:
            raise ValueError(f"{self}: documents >= 0, a sample of lengths > 0, distinct between 0 and 1")
        if not 0 <= self.overlap < self.chunk_tokens <= self.max_tokens:
            raise ValueError(f"{self}: 0 <= overlap < chunk_tokens <= max_tokens")

    @property
    def tokens_per_document(self) -> float:
        return sum(self.sample) / len(self.sample)

    def _chunks_of(self, tokens: float) -> float:
        """A document of T tokens takes ceil((T - overlap) / (chunk - overlap)); over documents of many lengths the
        mean of a ceiling is half a step above its argument."""
        if tokens <= self.max_tokens:
            return 1.0
        return max(1.0, (tokens - self.overlap) / (self.chunk_tokens - self.overlap) + 0.5)

    @property
    def chunks(self) -> float:
        return self.documents * sum(map(self._chunks_of, self.sample)) / len(self.sample)

    @property
    def tokens(self) -> float:
        """Tokens in chunks: the documents' own, and the overlap once for every chunk after a document's first."""
        return self.documents * self.tokens_per_document + (self.chunks - self.documents) * self.overlap


@dataclass(frozen=True)
class Rates:
    """Coefficients of one embedder on one kind of machine. Defaults: all-MiniLM-L6-v2 on a core with AVX2 or AVX-512
    and no AMX, from DESIGN.md's and this project's benchmarks; put your own."""

    tokens_per_cpu_second: Mapping[str, float] = field(
        default_factory=lambda: {"fp32": 3_700.0, "bf16": 6_990.0, "int8": 9_390.0}
    )
    gpu_tokens_per_second: float | None = None
    """Of one GPU. No default: none was measured here."""
    start_cpu_seconds: float = 9.0
    """Python and the export's opening in chunk and embed (1), a JVM session (8): once per build whatever its size."""
    cut_cpu_seconds_per_chunk: float = 0.00015
    """Cutting, and the chunk set written: 12.7 s for 99,487 chunks (benchmarks.incremental)."""
    spark_cpu_seconds_per_chunk: float = 0.0005
    """Shuffle, join and Parquet of a row, all passes together."""
    load_cpu_seconds_per_chunk: float = 0.0015
    """Upsert into Milvus and reading everything back to compare, the server's part included: 1.5 ms at 100 thousand
    chunks in milvus-lite's server, 2.5 at a million."""
    dim: int = 384
    text_bytes_kept: float = 0.38
    """Share of a text's bytes that zstd leaves in Parquet: 0.32 to 0.44 on four sets of English texts."""
    vector_bytes_kept: float = 1.0
    """Share of float32 vectors' bytes that is stored: they are nearly noise, and not compressed."""
    key_bytes: float = 110.0
    """Keys and digests of a row in Parquet: hexadecimal, which zstd halves."""
    hnsw_m: int = 16
    terms_per_token: float = 0.55
    """Distinct BM25 terms of a chunk per token."""


@dataclass(frozen=True)
class Prices:
    """In one currency; what your provider asks."""

    core_hour: float = 0.0
    gpu_hour: float = 0.0
    object_gib_month: float = 0.0
    memory_gib_month: float = 0.0


@dataclass(frozen=True)
class Need:
    """What a full build of a load asks for. Times are of all cores together; wall time is that over the cores."""

    chunks: float
    tokens: float
    core_hours: float
    gpu_hours: float | None
    object_bytes: float
    milvus_bytes: float
    build_cost: float
    month_cost: float


def cpu_seconds(load: Load, rates: Rates, *, precision: str) -> float:
    """CPU of chunk, embed and load on the CPU path; KeyError for a precision without a rate."""
    embedding = load.tokens * load.distinct / rates.tokens_per_cpu_second[precision]
    each = (
        rates.cut_cpu_seconds_per_chunk + rates.spark_cpu_seconds_per_chunk + rates.load_cpu_seconds_per_chunk
    ) * load.chunks
    return rates.start_cpu_seconds + embedding + each


def object_bytes(load: Load, rates: Rates, *, builds: int = 1) -> float:
    """Chunk sets, cached embeddings and `builds` kept builds. The cache grows with distinct texts alone; a build and
    its chunk set are stored whole each time."""
    text = load.tokens * load.characters_per_token * rates.text_bytes_kept
    vectors = load.chunks * 4 * rates.dim * rates.vector_bytes_kept
    keys = load.chunks * rates.key_bytes
    cache = load.distinct * (vectors + keys / 2)
    return builds * (2 * (text + keys) + vectors) + cache


def milvus_bytes(load: Load, rates: Rates, *, index: str) -> float:
    """Bytes that one loaded collection has in a Milvus server at the least: vectors, graph, BM25 postings, and the
    scalar fields. Of a server's own (some 350 MB at rest, buffers, segments that are being built) nothing is in it:
    Milvus 2.3.5 took 1.2 to 1.3 times as much (benchmarks.milvus_memory), milvus-lite several times.

    HNSW keeps 2 M neighbours of 4 bytes in its lowest layer, and about a tenth more above (Malkov and Yashunin,
    arXiv:1603.09320, section 4.2.3). A posting is a 4-byte id and a 4-byte weight.
    """
    if index not in ("FLAT", "HNSW"):
        raise ValueError(f"index {index!r}; one of FLAT, HNSW")
    graph = 2 * rates.hnsw_m * 4 * 1.1 if index == "HNSW" else 0.0
    scalars = load.tokens * load.characters_per_token + load.chunks * 2 * rates.key_bytes
    return load.chunks * (4 * rates.dim + graph) + 8 * load.tokens * rates.terms_per_token + scalars


def need(
    load: Load,
    rates: Rates,
    *,
    precision: str = "fp32",
    index: str = "FLAT",
    builds: int = 2,
    prices: Prices | None = None,
) -> Need:
    """Everything at once. `builds` are the builds kept at a time: the one that serves, and the one that is made."""
    prices = prices or Prices()
    cores = cpu_seconds(load, rates, precision=precision) / 3600
    gpus = None
    if rates.gpu_tokens_per_second is not None:
        gpus = load.tokens * load.distinct / rates.gpu_tokens_per_second / 3600
        cores -= load.tokens * load.distinct / rates.tokens_per_cpu_second[precision] / 3600
    stored, held = object_bytes(load, rates, builds=builds), milvus_bytes(load, rates, index=index)
    return Need(
        chunks=load.chunks,
        tokens=load.tokens,
        core_hours=cores,
        gpu_hours=gpus,
        object_bytes=stored,
        milvus_bytes=held,
        build_cost=cores * prices.core_hour + (gpus or 0.0) * prices.gpu_hour,
        month_cost=stored / GIB * prices.object_gib_month + held / GIB * prices.memory_gib_month,
    )
