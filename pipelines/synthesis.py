"""Training examples from documents: the generator is asked about passages, its replies are kept by content.

Test documents are never asked about, nor documents whose access label `mix.labels` does not allow. Which documents and
which passages is decided by digests, so a new document moves no other, and a new revision costs the passages that
changed. What the source does not support is dropped, and counted (`core.synthetic`); what resembles other examples or
the test is the mix's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.answering import replies
from pipelines.core import mixing, splits, synthetic
from pipelines.core.digests import digest_json
from pipelines.core.names import PUBLIC
from pipelines.corpus_files import document_batches, documents_among
from pipelines.params import CorpusParams
from pipelines.ports import Generator, ObjectStore


def _learnable(folder: Path, params: CorpusParams) -> tuple[list[str], int]:
    """(ids of the documents that may be asked about, how many others are not of the test but restricted)."""
    if not (folder / "documents.parquet").is_file():
        return [], 0
    how: dict[str, Any] = params.split.model_dump()
    rows = (row for batch in document_batches(folder, ["id", "access"]) for row in batch.to_pylist())
    learned = [row for row in rows if splits.split_of_key(row["id"], **how) != splits.TEST]
    ids = [str(row["id"]) for row in learned if row["access"] in (PUBLIC, *params.mix.labels)]
    return ids, len(learned) - len(ids)


def _sources(folder: Path, ids: list[str], params: CorpusParams, generator: Generator) -> Iterator[synthetic.Source]:
    """The passages asked about, each cut to what a prompt may show: of the first documents in the order of digests."""
    wanted = params.mix.synthetic
    if wanted is None:
        return
    chosen = sorted(ids, key=lambda d: (splits.fraction(f"synthetic:{d}", seed=params.mix.seed), d))
    chosen = chosen[: wanted.max_documents]
    for row in documents_among(folder, chosen, columns=["id", "text"]):
        found = [s for s in synthetic.sources(row["id"], row["text"]) if synthetic.worth_asking(s)]
        found.sort(key=lambda s: splits.fraction(f"synthetic:{s.document}:{s.text}", seed=params.mix.seed))
        for source in sorted(found[: wanted.per_document], key=lambda s: s.start):
            text = generator.trim(source.text, tokens=params.generate.passage_tokens)
            yield synthetic.Source(source.document, source.start, source.start + len(text), text)


def _example(source: synthetic.Source, question: str, answer: str, *, params: CorpusParams) -> dict[str, Any]:
    """A training example like one from a gold question; its evidence names the span (characters) behind it."""
    evidence = {"document": source.document, "quote": source.text, "start": source.start, "end": source.end}
    asked = {
        "id": f"s{digest_json([source.document, question, answer])[:16]}",
        "question": question,
        "answers": [answer],
        "evidence": [evidence],
    }
    structured = params.generate.reply_schema is not None
    return mixing.from_question(asked, structured=structured, refusal=params.generate.refusal)


def synthesise(
    params: CorpusParams, folder: Path, *, generator: Generator, objects: ObjectStore
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(examples, facts: asked, kept, dropped by reason, and restricted documents, which were not asked about); none
    when `mix.synthetic` is off. `folder` holds documents.parquet. One pair is asked for per passage."""
    ids, restricted = _learnable(folder, params)
    asked = list(_sources(folder, ids, params, generator))
    made, _ = replies(
        objects,
        generator,
        [synthetic.asking(source.text) for source in asked],
        max_new_tokens=params.generate.max_new_tokens,
        batch=params.answer.batch,
        say=lambda ready, wanted: print(f"mix: {ready} of {wanted} passages asked about", flush=True),
    )
    examples: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter(dict.fromkeys(synthetic.REASONS, 0))
    for source, completion in zip(asked, made, strict=True):
        pair = synthetic.read(completion.text, source.text)
        if isinstance(pair, str):
            dropped[pair] += 1
        else:
            examples.append(_example(source, *pair, params=params))
    return examples, {"asked": len(asked), "kept": len(examples), "dropped": dict(dropped), "restricted": restricted}
