"""A Milvus server that dies by SIGKILL while Spark's executors load it, and comes back: the build ends whole.

The build is written by hand (several parts, small vectors); the index stage, Spark and the server are the real ones.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.local_milvus import Server, running
from pipelines.builds import held
from pipelines.core.digests import digest_row, digest_set
from pipelines.errors import BackendError, IntegrityError
from pipelines.schemas import VECTORS
from tests.index_kit import Ports, params_of, ports_of, run_stage
from tests.milvus_kit import real_server, relayed

pytestmark = pytest.mark.faults

NAME = "b_tiny_00112233445566ff"
PARTS, ROWS, DIM = 4, 2_000, 32
HALF = PARTS * ROWS * DIM * 4 // 2  # bytes: half of what the vectors alone weigh, so more than half is to come


def build_in(ports: Ports) -> dict[str, Any]:
    """Write PARTS * ROWS rows below builds/NAME and the receipt of embed that names them."""
    random, marks, parts = np.random.default_rng(7), [], []
    for part in range(PARTS):
        vectors = random.normal(size=(ROWS, DIM))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4")
        keys = [f"{part:02d}{n:030d}" for n in range(ROWS)]
        marks += [digest_row(key.encode(), key.encode(), v.tobytes()) for key, v in zip(keys, vectors, strict=True)]
        shown = {"document": "d.md", "title": "D", "ordinal": 0, "start": 0, "end": 9, "tokens": 2, "text": "a tent"}
        shown["access"] = "public"
        rows = [{"key": key, "text_digest": key, "vector": v, **shown} for key, v in zip(keys, vectors, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=VECTORS), sink)
        parts.append(f"part-{part:05d}.parquet")
        ports.objects.put(f"builds/{NAME}/{parts[-1]}", sink.getvalue())
    facts = {"collection": NAME, "key": f"builds/{NAME}", "parts": parts, "rows": PARTS * ROWS, "dim": DIM}
    facts |= {"tokens": 1, "documents": 1, "embedder": "none", "embedder_digest": "e" * 64, "corpus_digest": "c" * 64}
    facts |= {"digest": digest_set(marks), "index_type": "HNSW", "index_reason": "a test"}
    ports.workspace.write_receipt("embed", facts, {}, "")
    return facts


@pytest.mark.fault("kill -9 of a Milvus server in upsert")
def test_a_server_killed_while_it_is_loaded_ends_with_the_whole_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: Server = real_server(tmp_path)

    def kill_and_start_again() -> None:
        server.kill()
        server.start()

    ports = ports_of(tmp_path / "home", params_of())
    facts = build_in(ports)
    with running(server), relayed(server, HALF, kill_and_start_again) as relay:
        monkeypatch.setenv("ASSAY_MILVUS_URI", relay.uri)
        try:
            run_stage(ports, "index")
        except (BackendError, IntegrityError) as exc:  # the client had no patience left: as an orchestrator, try again
            said = str(exc)
            assert NAME in said or "Spark" in said or relay.uri in said
            assert f"builds/{NAME}/seal.json" not in ports.objects.list("builds")
        assert relay.fired.wait(timeout=120), "it was not killed"
        ports.store.close()
        run_stage(ports, "index")
        assert held(ports.store, NAME) == (facts["rows"], facts["digest"])
        keys = [key for key, _, _ in ports.store.rows(NAME)]
        assert len(keys) == len(set(keys)) == facts["rows"]
        assert json.loads(ports.objects.get(f"builds/{NAME}/seal.json"))["digest"] == facts["digest"]
        again = run_stage(ports, "index")
        assert (again.facts, again.measured["loads"]) == (facts, 0)
        ports.store.close()
