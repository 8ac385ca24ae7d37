"""A release as a LangChain vector store: the chain stays as it is, its store is one that was judged and signed.

    vectorstore = ReleaseStore("support")                        # was: Chroma(...), FAISS.load_local(...)
    retriever = vectorstore.as_retriever(search_kwargs={"k": 5})

Passages are found as `assay ask --retrieve` finds them: by the release's own embedder, search mode and reranker, and
every one says its document, span, corpus revision and generation. It is read-only, since what a release holds is
made by `assay run`; scores are those of the release's search and have no common scale, so a threshold on them is
refused. Needs langchain-core (`pip install 'assay[langchain]'`), which nothing else of Assay imports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from pipelines.client import Release
from pipelines.retrieval import Filters

_READ_ONLY = "a release is read-only: change the corpus's documents and run `assay run NAME`"


class ReleaseStore(VectorStore):
    """The passages of one corpus's release; `generation` and the other options are those of `pipelines.client.Release`.

    `labels` are the access labels of whoever reads through this store; one store a reader, or `labels` with each
    search. Raises what `Release` raises. Close it, or use it in a `with` block.
    """

    def __init__(
        self, corpus: str, generation: int | None = None, *, labels: Sequence[str] = (), **options: Any
    ) -> None:
        self.release = Release(corpus, generation, **options)
        self.labels = labels

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filters | None = None, **kwargs: Any
    ) -> list[Document]:
        """The k best passages, best first; `filter` as {"document": [ids]}. BadInput, IntegrityError."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter=filter, **kwargs)]

    def similarity_search_with_score(  # type: ignore[override]
        self, query: str, k: int = 4, *, filter: Filters | None = None, labels: Sequence[str] | None = None
    ) -> list[tuple[Document, float]]:
        """The same with the scores of the release's search: higher is better, comparable within one question only."""
        admitted = self.labels if labels is None else labels
        (found,) = self.release.passages([query], k=k, filters=filter, labels=admitted)
        return [(_document(passage, found["release"]), passage["score"]) for passage in found["passages"]]

    def add_texts(self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, **_: Any) -> NoReturn:
        raise NotImplementedError(_READ_ONLY)

    def delete(self, ids: list[str] | None = None, **_: Any) -> NoReturn:
        raise NotImplementedError(_READ_ONLY)

    @classmethod
    def from_texts(
        cls, texts: list[str], embedding: Embeddings, metadatas: list[dict[str, Any]] | None = None, **_: Any
    ) -> NoReturn:
        raise NotImplementedError(_READ_ONLY)

    def close(self) -> None:
        self.release.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _document(passage: dict[str, Any], release: dict[str, Any]) -> Document:
    """A passage with where it is from; `source` is the key that LangChain's chains with sources look for."""
    where = {key: passage[key] for key in ("document", "title", "revision", "start", "end")}
    named = f"{passage['document']}:{passage['start']}-{passage['end']}"
    metadata = {"source": passage["document"], **where, **release}
    return Document(id=named, page_content=passage["text"], metadata=metadata)
