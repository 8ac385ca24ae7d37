"""The capacity model: one case by hand, and what must hold whatever the numbers are."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chunk_sets import parquet
from pipelines.core.capacity import GIB, Load, Prices, Rates, cpu_seconds, milvus_bytes, need, object_bytes

RATES = Rates(
    tokens_per_cpu_second={"fp32": 1000.0, "int8": 4000.0},
    start_cpu_seconds=10.0,
    cut_cpu_seconds_per_chunk=0.01,
    spark_cpu_seconds_per_chunk=0.02,
    load_cpu_seconds_per_chunk=0.03,
    dim=100,
    text_bytes_kept=0.5,
    vector_bytes_kept=1.0,
    key_bytes=40.0,
    hnsw_m=10,
    terms_per_token=0.5,
)
# 980 tokens in steps of 100 - 20 = 80: (980 - 20) / 80 = 12 and a half step above, so 12.5 chunks a document.
LOAD = Load(1000, (980,), max_tokens=100, chunk_tokens=100, overlap=20, characters_per_token=4)
loads = st.builds(
    Load,
    documents=st.integers(0, 10**7),
    sample=st.lists(st.floats(1, 1e5), min_size=1, max_size=5).map(tuple),
    max_tokens=st.just(500.0),
    chunk_tokens=st.floats(50, 500),
    overlap=st.floats(0, 40),
    characters_per_token=st.floats(1, 8),
    distinct=st.floats(0, 1),
)


def quantities(load: Load) -> tuple[float, ...]:
    return (
        load.chunks,
        load.tokens,
        cpu_seconds(load, RATES, precision="fp32"),
        object_bytes(load, RATES),
        milvus_bytes(load, RATES, index="FLAT"),
        milvus_bytes(load, RATES, index="HNSW"),
    )


def test_a_case_by_hand() -> None:
    assert LOAD.chunks == 12_500
    assert LOAD.tokens == 980_000 + 11_500 * 20 == 1_210_000
    # 10 s to start, 1,210,000 tokens at 1,000 a second, 12,500 chunks at 0.06 s.
    assert cpu_seconds(LOAD, RATES, precision="fp32") == pytest.approx(10 + 1210 + 750)
    # Text 1,210,000 x 4 x 0.5 and keys 12,500 x 40 in chunk set and build; 12,500 x 400 of vectors in build and cache.
    assert object_bytes(LOAD, RATES) == pytest.approx(2 * (2_420_000 + 500_000) + 5_000_000 + 5_000_000 + 250_000)
    # Vectors 5,000,000; postings 1,210,000 x 0.5 x 8; text 4,840,000 and keys 1,000,000.
    assert milvus_bytes(LOAD, RATES, index="FLAT") == pytest.approx(5_000_000 + 4_840_000 + 5_840_000)
    # A graph of 2 x 10 neighbours of 4 bytes, and a tenth more: 88 bytes a chunk.
    more = milvus_bytes(LOAD, RATES, index="HNSW") - milvus_bytes(LOAD, RATES, index="FLAT")
    assert more == pytest.approx(12_500 * 88)


def test_money_and_the_gpu() -> None:
    prices = Prices(core_hour=0.05, gpu_hour=1.0, object_gib_month=0.02, memory_gib_month=3.0)
    on_cpu = need(LOAD, RATES, builds=1, prices=prices)
    assert on_cpu.gpu_hours is None
    assert on_cpu.build_cost == pytest.approx(1970 / 3600 * 0.05)
    assert on_cpu.month_cost == pytest.approx(on_cpu.object_bytes / GIB * 0.02 + on_cpu.milvus_bytes / GIB * 3)
    on_gpu = need(LOAD, replace(RATES, gpu_tokens_per_second=121_000.0), builds=1, prices=prices)
    assert on_gpu.gpu_hours == pytest.approx(10 / 3600)
    assert on_gpu.core_hours == pytest.approx(760 / 3600)  # starting, cutting, moving and loading remain


@given(loads)
def test_nothing_is_negative_and_a_document_is_at_least_one_chunk(load: Load) -> None:
    assert all(value >= 0 for value in quantities(load))
    assert load.chunks >= load.documents
    assert load.tokens >= load.documents * load.tokens_per_document * (1 - 1e-9)


@given(loads, st.integers(2, 50))
def test_all_but_the_start_is_linear_in_documents(load: Load, times: int) -> None:
    more = quantities(replace(load, documents=load.documents * times))
    started = (0.0, 0.0, RATES.start_cpu_seconds, 0.0, 0.0, 0.0)
    for one, many, fixed in zip(quantities(load), more, started, strict=True):
        assert many - fixed == pytest.approx((one - fixed) * times, rel=1e-6, abs=1e-6)


@given(loads, st.floats(1, 100))
def test_longer_documents_never_cost_less(load: Load, times: float) -> None:
    longer = replace(load, sample=tuple(tokens * times for tokens in load.sample))
    assert all(b >= a * (1 - 1e-9) for a, b in zip(quantities(load), quantities(longer), strict=True))


@given(loads)
def test_faster_arithmetic_and_known_texts_never_cost_more(load: Load) -> None:
    assert cpu_seconds(load, RATES, precision="int8") <= cpu_seconds(load, RATES, precision="fp32")
    known = replace(load, distinct=0.0)
    assert cpu_seconds(known, RATES, precision="fp32") <= cpu_seconds(load, RATES, precision="fp32")
    assert object_bytes(known, RATES) <= object_bytes(load, RATES)
    assert object_bytes(load, RATES, builds=2) >= object_bytes(load, RATES)


def test_a_document_that_fits_is_one_chunk() -> None:
    assert replace(LOAD, sample=(100,)).chunks == 1000
    # One of two documents fits; the other, of 180 tokens, takes two steps of 80 and a half.
    assert replace(LOAD, sample=(100, 180)).chunks == 1000 * (1 + 2.5) / 2


@pytest.mark.parametrize(
    "wrong",
    [{"documents": -1}, {"sample": ()}, {"sample": (0,)}, {"overlap": 207}, {"chunk_tokens": 255}, {"distinct": 1.1}],
)
def test_a_load_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"0 <= overlap < chunk_tokens <= max_tokens|documents >= 0"):
        Load(**{"documents": 1, "sample": (100,), **wrong})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError):
        cpu_seconds(LOAD, RATES, precision="fp8")
    with pytest.raises(ValueError, match="one of FLAT, HNSW"):
        milvus_bytes(LOAD, RATES, index="IVF")


def test_stored_vectors_are_as_large_as_chunk_sets_writes_them() -> None:
    """The default share against Parquet as `chunk_sets.parquet` writes it: 1,536 bytes a vector, not compressed."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.random.default_rng(7).normal(size=(2_000, 384)).astype(np.float32)
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), 384).cast(pa.list_(pa.float32()))})
    column = pq.ParquetFile(io.BytesIO(parquet(table))).metadata.row_group(0).column(0)
    assert column.total_compressed_size / vectors.nbytes == pytest.approx(Rates().vector_bytes_kept, abs=0.01)
