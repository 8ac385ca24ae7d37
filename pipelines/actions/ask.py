"""Ask a release questions: retrieve, and unless only passages are wanted prompt, generate and cite, exactly as its
manifest says.

A release is resolved through the log, its signature verified; params.yaml of today does not matter. The embedder that
is loaded must be the one that the index was built with, reranker and generator those that it was judged with. Nothing
is written, except that a collection which Milvus lost is loaded again. A reader finds what is public and what bears one
of the access labels that it is asked with, and nothing else: who may use which label is for the caller to know
(docs/trust.md). Passages alone cost no generator: what they import is a light runtime, OpenVINO and tokenizers, and
Milvus's client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pipelines.answering import prompts, speak
from pipelines.core.prompts import Reply, parse_reply
from pipelines.errors import BadInput, NotFound
from pipelines.ports import Generator, Hit
from pipelines.released import embedder_of, generator_of, longer_of, require_valid, reranker_of
from pipelines.retrieval import Filters, search
from pipelines.settings import Settings
from pipelines.tombstones import require_kept
from pipelines.wiring import Wiring

Json = Mapping[str, Any]
MOST_PASSAGES = 50
_EMPTY = 'the question is empty; ask something, e.g. "What is the refund policy?"'


class Service:
    """A verified release, ready to answer; models are loaded with the first question and kept."""

    def __init__(self, settings: Settings, manifest: Json) -> None:
        self.manifest = manifest
        self.ports = Wiring.released(settings, manifest)

    @cached_property
    def _generator(self) -> Generator:
        return generator_of(self.manifest, self.ports)

    def _search(
        self,
        questions: Sequence[str],
        filters: Filters | None = None,
        *,
        k: int | None = None,
        labels: Sequence[str] = (),
    ) -> list[list[Hit]]:
        """The k passages of each question, best first; as many as the release was judged with by default.
        Expired from the moment on that the release names."""
        require_valid(self.manifest)
        if labels is None or isinstance(labels, str):  # None would restrict nothing: that is for stages
            raise BadInput(f"labels are a list of access labels, such as ['hr'], or an empty one; not {labels!r}")
        for question in questions:
            if not question.strip():
                raise BadInput(_EMPTY)
        embedder, reranker = embedder_of(self.manifest, self.ports), reranker_of(self.manifest, self.ports)
        ports, index = self.ports, self.manifest["index"]

        def found() -> list[list[Hit]]:
            how: dict[str, Any] = {"retrieve": ports.params.retrieve, "reranker": reranker}
            how |= {"k": k, "filters": filters, "labels": labels}
            hits = search(ports.store, embedder, index["collection"], questions, **how)
            require_kept(ports.objects, self.manifest)
            return hits

        try:
            return found()
        except NotFound:  # Milvus is a projection: what it lost is loaded again from the build's Parquet
            from pipelines.builds import load_build

            require_kept(ports.objects, self.manifest)
            load_build(ports.store, ports.objects, index)
            return found()

    def passages(
        self,
        questions: Sequence[str],
        *,
        filters: Filters | None = None,
        k: int | None = None,
        labels: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """The k passages of each question (`retrieve.k` by default), best first, in the form of `assay ask --retrieve
        --json`; no generator is loaded, whatever arm serves. `labels`: the reader's access labels; without any it gets
        what is public. BadInput on an empty question, on a filter or label that is not one, and on a k that is not 1
        to 50."""
        if k is not None and not 1 <= k <= MOST_PASSAGES:
            raise BadInput(f"k is {k}; it must be 1 to {MOST_PASSAGES}")
        return [
            {"passages": [self._citation(hit) for hit in hits], "release": self._release}
            for hits in self._search(questions, filters, k=k, labels=labels)
        ]

    def answer(self, questions: Sequence[str], *, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
        """One reply per question, in the form of `assay ask --json`, from passages that the reader's access `labels`
        admit. BadInput on an empty question and on a label that is not one."""
        arm, generate = self.manifest["arm"], self.ports.params.generate
        hits = self._search(questions, labels=labels)
        longer = longer_of(self.manifest)
        shown, chats = prompts(questions, hits, self._generator, arm=arm, generate=generate, longer=longer)
        options = self.manifest["prompt"].get("labels")
        completions = speak(self._generator, chats, max_new_tokens=generate.max_new_tokens, options=options)
        out = []
        for completion, passages, found in zip(completions, shown, hits, strict=True):
            structured = generate.reply_schema is not None
            reply = parse_reply(completion.text, passages, refusal=generate.refusal, structured=structured)
            out.append(self._reply(reply, found))
        return out

    def _reply(self, reply: Reply, found: Sequence[Hit]) -> dict[str, Any]:
        return {
            "answer": reply.answer,
            "arm": self.manifest["arm"],
            "citations": [self._citation(hit) for hit in cited(reply, found)],
            "release": self._release,
        }

    @property
    def _release(self) -> dict[str, Any]:
        return {"corpus": self.manifest["corpus"], "generation": self.manifest["generation"]}

    def _citation(self, hit: Hit) -> dict[str, Any]:
        return {
            "document": hit.document,
            "title": hit.title,
            "revision": self.manifest["revision"]["tag"],
            "start": hit.start,
            "end": hit.end,
            "text": hit.text,
            "score": round(float(hit.score), 6),
            "access": hit.access,
        }


def cited(reply: Reply, found: Sequence[Hit]) -> list[Hit]:
    """The retrieved passages that a reply cites; when it cites none of them, the best one, so that a reader always
    has something to check the answer by. A document that was not retrieved cannot be shown, and is left out."""
    named = [hit for hit in found if hit.document in reply.citations]
    return named or list(found[:1])


def ask_release(
    settings: Settings, corpus: str, question: str, *, generation: int | None = None, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """Ask one question of a release (the newest by default). BadInput, NotFound, IntegrityError."""
    return _service(settings, corpus, question, generation).answer([question], labels=labels)[0]


def find_passages(
    settings: Settings,
    corpus: str,
    question: str,
    *,
    generation: int | None = None,
    documents: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """The passages of one question, no answer; of `documents` alone (ids) where any are named. BadInput, NotFound,
    IntegrityError."""
    filters = {"document": documents} if documents else None
    return _service(settings, corpus, question, generation).passages([question], filters=filters, labels=labels)[0]


def _service(settings: Settings, corpus: str, question: str, generation: int | None) -> Service:
    """A release ready to be asked; an empty question is refused before anything is opened."""
    if not question.strip():
        raise BadInput(_EMPTY)
    from pipelines.actions.views import release_manifest

    return Service(settings, release_manifest(settings, corpus, generation))
