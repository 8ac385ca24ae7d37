"""The demo corpus keeps its promises: in each revision, laid over the ones before, every quote is in its document.

Documents are read as ingestion reads them: Markdown and text as they are, JSON lines by id, others through markitdown.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from markitdown import MarkItDown

from benchmarks.evidence_sets import MORE_EXAMPLES
from infra.landing import HANDBOOK, land, revisions
from pipelines.schemas import read_jsonl
from pipelines.settings import checkout

pytestmark = pytest.mark.integration

FIXTURE = checkout() / HANDBOOK
REVISIONS = ("2026-01-12", "2026-04-20", "2026-09-07")
FIRST = REVISIONS[0]
FORMATS = {".md", ".txt", ".jsonl", ".html", ".csv", ".pdf", ".docx"}
TONES = {"warm", "neutral", "apologetic", "firm"}
REFUSAL = "I could not find this in the handbook."

Row = dict[str, Any]


@dataclass(frozen=True)
class Landed:
    files: list[Path]
    """Below documents/."""
    texts: dict[str, str]
    """By document id, white space collapsed."""
    questions: dict[str, Row]
    examples: list[Row]


def flat(text: str) -> str:
    return " ".join(text.split())


converter = cache(lambda: MarkItDown(enable_plugins=False))


@cache
def converted(suffix: str, content: bytes) -> str:
    """The text of a file; a file that a later revision leaves alone is converted once."""
    return converter().convert_stream(io.BytesIO(content), file_extension=suffix).text_content


def texts_of(path: Path, name: str) -> dict[str, str]:
    if path.suffix == ".jsonl":
        rows = list(read_jsonl(path))
        assert len({row["id"] for row in rows}) == len(rows), f"{name}: an id occurs twice"
        return {f"{name}#{row['id']}": flat(row["text"]) for row in rows}
    if path.suffix in {".md", ".txt"}:
        return {name: flat(path.read_text(encoding="utf-8"))}
    return {name: flat(converted(path.suffix, path.read_bytes()))}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Landed]:
    found: dict[str, Landed] = {}
    for revision in REVISIONS:
        target = tmp_path_factory.mktemp("handbook") / revision
        land(target, revision)
        documents = target / "documents"
        files = sorted(path.relative_to(documents) for path in documents.rglob("*") if path.is_file())
        texts: dict[str, str] = {}
        for file in files:
            texts |= texts_of(documents / file, file.as_posix())
        questions = list(read_jsonl(target / "questions" / "gold.jsonl"))
        examples = [row for file in sorted((target / "examples").glob("*.jsonl")) for row in read_jsonl(file)]
        if revision == FIRST:
            examples += read_jsonl(MORE_EXAMPLES)  # the benchmark's: held to the same rules
        found[revision] = Landed(files, texts, {row["id"]: row for row in questions}, examples)
    return found


def misquoted(rows: list[Row], texts: dict[str, str]) -> list[str]:
    """Each piece of evidence that names a missing document, or quotes what its document does not say."""
    wrong = []
    for row in rows:
        for item in row["evidence"]:
            text = texts.get(item["document"])
            if text is None:
                wrong.append(f"{row['id']}: no document {item['document']}")
            elif not item["quote"].strip() or flat(item["quote"]) not in text:
                wrong.append(f"{row['id']}: not in {item['document']}: {item['quote']}")
    return wrong


def completion(example: Row) -> Row:
    return json.loads(example["completion"])


def test_the_revisions_are_the_three_named_here() -> None:
    assert tuple(revisions(FIXTURE)) == REVISIONS


def test_the_first_revision_has_all_seven_formats(corpora: dict[str, Landed]) -> None:
    assert {file.suffix for file in corpora[FIRST].files} == FORMATS


@pytest.mark.parametrize("revision", REVISIONS)
def test_documents(corpora: dict[str, Landed], revision: str) -> None:
    corpus = corpora[revision]
    assert len(corpus.files) >= 40
    assert {file.suffix for file in corpus.files} <= FORMATS
    assert [name for name, text in corpus.texts.items() if len(text) < 200] == []


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("kind", ["questions", "examples"])
def test_ids_are_unique_within_a_folder(revision: str, kind: str) -> None:
    files = sorted((FIXTURE / revision / kind).glob("*.jsonl"))
    ids = Counter(row["id"] for file in files for row in read_jsonl(file))
    assert [name for name, times in ids.items() if times > 1] == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_question_is_proven_by_its_quotes(corpora: dict[str, Landed], revision: str) -> None:
    corpus = corpora[revision]
    rows = list(corpus.questions.values())
    assert len(rows) >= 120
    assert misquoted(rows, corpus.texts) == []
    assert [row["id"] for row in rows if bool(row["answers"]) != bool(row["evidence"])] == []
    assert sum(not row["answers"] for row in rows) >= 10
    assert [text for text, times in Counter(row["question"] for row in rows).items() if times > 1] == []


def test_ten_answers_change_in_the_second_revision(corpora: dict[str, Landed]) -> None:
    before, after = (corpora[revision].questions for revision in REVISIONS[:2])
    shared = before.keys() & after.keys()
    changed = [name for name in shared if before[name]["answers"][:1] != after[name]["answers"][:1]]
    assert len(changed) >= 10


def test_a_restated_question_keeps_its_words(corpora: dict[str, Landed]) -> None:
    wordings: dict[str, set[str]] = {}
    for corpus in corpora.values():
        for name, row in corpus.questions.items():
            wordings.setdefault(name, set()).add(row["question"])
    assert [name for name, texts in wordings.items() if len(texts) > 1] == []


def test_every_example_is_proven_by_its_quotes(corpora: dict[str, Landed]) -> None:
    corpus = corpora[FIRST]
    assert len(corpus.examples) >= 240
    assert misquoted(corpus.examples, corpus.texts) == []


def test_completions_obey_the_house_style(corpora: dict[str, Landed]) -> None:
    schema = json.loads((FIXTURE / "reply.schema.json").read_text(encoding="utf-8"))
    for example in corpora[FIRST].examples:
        reply, name = completion(example), example["id"]
        jsonschema.validate(reply, schema)
        assert list(reply) == ["answer", "citations", "tone", "next_step"], name
        assert "\n" not in example["completion"], name
        cited = reply["citations"]
        assert len(set(cited)) == len(cited), name
        assert set(cited) == {item["document"] for item in example["evidence"]}, name
        assert len(reply["answer"].split()) <= 35, name
        assert len(reply["next_step"].split()) <= 14, name
        assert (reply["answer"] == REFUSAL) == (not cited), name
        assert not reply["answer"].startswith(("I am sorry", "We are sorry", "Sorry")), f"{name}: the fact comes first"
    assert {completion(example)["tone"] for example in corpora[FIRST].examples} == TONES


def test_no_example_gives_a_gold_question_away(corpora: dict[str, Landed]) -> None:
    gold = {flat(row["question"]).casefold() for corpus in corpora.values() for row in corpus.questions.values()}
    prompts = Counter(flat(example["prompt"]).casefold() for example in corpora[FIRST].examples)
    assert gold & prompts.keys() == set()
    assert [text for text, times in prompts.items() if times > 1] == []


def test_completions_are_not_templated(corpora: dict[str, Landed]) -> None:
    replies = [completion(example) for example in corpora[FIRST].examples]
    answers = [reply["answer"] for reply in replies if reply["citations"]]
    assert len(set(answers)) == len(answers)
    openings = Counter(" ".join(answer.casefold().split()[:5]) for answer in answers)
    assert [opening for opening, times in openings.items() if times > 5] == []
    steps = Counter(reply["next_step"] for reply in replies if reply["citations"])
    assert [step for step, times in steps.items() if times > 3] == []
