"""Milvus behind `ports.VectorStore`: a milvus-lite folder, its server, or a Milvus server; see `store`."""

from pipelines.backends.milvus.store import MilvusStore

__all__ = ["MilvusStore"]
