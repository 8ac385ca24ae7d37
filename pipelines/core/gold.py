"""Gold questions and training examples: what a line must be, and how BEIR's queries and qrels become questions.

Pure: lines come in as parsed JSON objects; a ValueError says what is wrong and what the valid form is. It does not
look whether documents exist or quotes occur.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import Any

from pipelines.core.names import PUBLIC
from pipelines.core.splits import SPLITS

QUESTION_FORM = '{"id", "question", "answers": [...], "evidence": [{"document", "quote"}]}'
EXAMPLE_FORM = '{"prompt", "completion"} or {"messages": [{"role", "content"}, ...]} ending with the assistant'
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]")
_CONTEXT = 1000  # most characters of a document that are shown as the passage of a question: a chunk or two
UNKNOWN = ""
"""In the place of the access label of a document that has none which could be read: nobody may train on it."""
ROLES = ("system", "user", "assistant", "tool")


def _text(row: Mapping[str, Any], key: str, form: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be text that is not empty; a line is {form}")
    return value


def _evidence(row: Mapping[str, Any], form: str) -> list[dict[str, Any]]:
    entries = row.get("evidence")
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"evidence must be a list of objects; a line is {form}")
    for entry in entries:
        _text(entry, "document", form)
        if not isinstance(entry.get("quote", ""), str):
            raise ValueError(f"quote must be text; a line is {form}")
        relevance = entry.get("relevance", 1)
        if isinstance(relevance, bool) or not isinstance(relevance, int) or relevance < 1:
            raise ValueError(f"relevance is {relevance!r}; it is a whole number of at least 1")
    return [dict(entry) for entry in entries]


def _split(row: Mapping[str, Any]) -> None:
    if "split" in row and row["split"] not in SPLITS:
        raise ValueError(f"split is {row['split']!r}; it is one of {', '.join(SPLITS)}, or left out")


def question(row: Mapping[str, Any]) -> dict[str, Any]:
    """A gold question with all four keys; further keys are kept as they are. ValueError with the valid form."""
    answers = row.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"answers must be a list of texts; a line is {QUESTION_FORM}")
    _split(row)
    known = {
        "id": _text(row, "id", QUESTION_FORM),
        "question": _text(row, "question", QUESTION_FORM),
        "answers": answers,
        "evidence": _evidence(row, QUESTION_FORM),
    }
    return {**known, **{key: value for key, value in row.items() if key not in known}}


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"messages must be a list that is not empty; a line is {EXAMPLE_FORM}")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f"a message's role must be one of {', '.join(ROLES)}; a line is {EXAMPLE_FORM}")
        _text(message, "content", EXAMPLE_FORM)
    return value


def example(row: Mapping[str, Any]) -> dict[str, Any]:
    """A training example: `prompt` + `completion` as texts, or `messages` that end with the assistant.

    Prompt and completion as message lists (the conversational form of trainers) become `messages`.
    ValueError with the valid form otherwise.
    """
    out = dict(row)
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list) and "messages" not in row:
        out["messages"] = [*out.pop("prompt"), *out.pop("completion")]
    if "messages" in out:
        if _messages(out["messages"])[-1]["role"] != "assistant":
            raise ValueError(f"the last message must be the assistant's; a line is {EXAMPLE_FORM}")
    else:
        _text(out, "prompt", EXAMPLE_FORM)
        _text(out, "completion", EXAMPLE_FORM)
    _split(out)
    if "id" in out:
        _text(out, "id", EXAMPLE_FORM)
    if "evidence" in out:
        out["evidence"] = _evidence(out, EXAMPLE_FORM)
    return out


def judgement(line: str) -> tuple[str, str, int]:
    """One qrels line, `query-id TAB corpus-id TAB score` or TREC's four columns. ValueError with the valid form."""
    parts = line.split("\t") if "\t" in line else line.split()
    fields = [parts[0], *parts[2:]] if len(parts) == 4 else parts
    try:
        query, document, score = fields
        return query.strip(), document.strip(), int(score)
    except ValueError:
        raise ValueError("a qrels line is query-id, corpus-id and a whole-number score, separated by tabs") from None


def query(row: Mapping[str, Any]) -> dict[str, Any]:
    """A BEIR query as {"_id", "text", "answers"}; answers come from `answers` or `metadata.answers`, if anywhere."""
    form = '{"_id", "text"}'
    metadata = row.get("metadata")
    answers = row.get("answers", metadata.get("answers", []) if isinstance(metadata, Mapping) else [])
    asked = question({"id": _text(row, "_id", form), "question": _text(row, "text", form), "answers": answers})
    return {"_id": asked["id"], "text": asked["question"], "answers": asked["answers"]}


def beir_questions(
    queries: Iterable[Mapping[str, Any]], judgements: Sequence[tuple[str, str, int]]
) -> list[dict[str, Any]]:
    """`query` rows joined with their judgements: graded evidence without quotes, in the order of the queries.

    Kept are queries judged relevant (score 1 or more) for at least one document: a score of 0 says that a document
    was looked at and is no evidence.
    """
    by_query: dict[str, dict[str, int]] = {}
    for key, document, score in judgements:
        if score > 0:
            by_query.setdefault(key, {})[document] = score
    return [
        {
            "id": row["_id"],
            "question": row["text"],
            "answers": row["answers"],
            "evidence": [{"document": d, "relevance": score} for d, score in sorted(by_query[row["_id"]].items())],
        }
        for row in queries
        if row["_id"] in by_query
    ]


def passage_around(text: str, answers: Iterable[str], *, most: int = _CONTEXT) -> str:
    """A document as the passage that an answer is found in: the whole of a short one, else some `most` characters
    around the first of the answers, in whole words; empty where a long one has none of them word by word."""
    if len(text) <= most:
        return text
    forms = (rf"(?<!\w){re.escape(answer.strip())}(?!\w)" for answer in answers if answer.strip())
    found = [match.start() for form in forms if (match := re.search(form, text, re.IGNORECASE))]
    if not found:
        return ""
    start = max(0, min(min(found) - most // 2, len(text) - most))
    first, last = text[start : start + most], start + most >= len(text)
    first = first if start == 0 else first.partition(" ")[2]
    return first if last else first.rpartition(" ")[0]


def evidence_text(question: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """What a question's evidence says: the quote, else the passage of its document, else the question's `context`."""
    context = question.get("context")
    return entry.get("quote") or entry.get("context") or (context if isinstance(context, str) else "")


def unquoted(question: Mapping[str, Any]) -> list[str]:
    """The documents whose text a question with answers needs, for its evidence says nothing itself."""
    if not question["answers"]:
        return []
    return [entry["document"] for entry in question["evidence"] if not evidence_text(question, entry)]


def with_passages(question: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """The question with the passages of `texts` (document -> text) as `context` of the evidence that says nothing."""
    needed = set(unquoted(question))
    evidence = [
        {**entry, "context": passage_around(texts[entry["document"]], question["answers"])}
        if entry["document"] in needed & texts.keys()
        else entry
        for entry in question["evidence"]
    ]
    return {**question, "evidence": evidence}


def with_labels(item: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The question or example with the access label of its document beside each piece of evidence, where that is not
    public; `labels`: document -> label. What a line says itself of a public document stays: it can only restrict."""

    def mark(entry: Mapping[str, Any]) -> Mapping[str, Any]:
        label = labels.get(entry["document"], PUBLIC)
        return entry if label == PUBLIC else {**entry, "access": label}

    return {**item, "evidence": [mark(entry) for entry in item["evidence"]]} if item.get("evidence") else dict(item)


def restricted(item: Mapping[str, Any], allowed: Collection[str] = ()) -> str | None:
    """Why a question or example must stay out of weights and prompts: the first document it rests on whose access label
    is neither public nor one of `allowed`; None where there is none."""
    for entry in item.get("evidence") or ():
        label = entry.get("access", PUBLIC)
        if label != PUBLIC and (not label or label not in allowed):
            return (
                f"rests on {entry['document']}, {f'labelled {label}' if label else 'whose access label is not known'}"
            )
    return None


def cited(questions: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Every document named as evidence, with the id of the first question that names it."""
    out: dict[str, str] = {}
    for row in questions:
        for entry in row["evidence"]:
            out.setdefault(entry["document"], row["id"])
    return out


def without(rows: Iterable[dict[str, Any]], documents: Container[str]) -> tuple[list[dict[str, Any]], int]:
    """(the questions or examples whose evidence names none of the documents, how many others there were)."""
    found = list(rows)
    kept = [row for row in found if not any(e["document"] in documents for e in row.get("evidence") or ())]
    return kept, len(found) - len(kept)


def in_quarantine(quarantine: Iterable[Mapping[str, Any]]) -> Callable[[str], bool]:
    """Whether a document id is accounted for by these records: by name, or because it may be that of a line whose
    own id could not be read (the record's `ids` is then the form of such ids, `PREFIX*`)."""
    names: set[str] = set()
    prefixes: set[str] = set()
    for row in quarantine:
        names.add(row["document"])
        if "ids" in row:
            prefixes.add(row["ids"].removesuffix("*"))
    lengths = {len(prefix) for prefix in prefixes}
    return lambda document: document in names or any(document[:length] in prefixes for length in lengths)


def squeezed(text: str) -> str:
    """Without white space: how a quote is compared with its document."""
    return "".join(text.split())


def readable_share(text: str) -> float:
    """Share of characters, white space aside, that are neither controls nor U+FFFD; 1.0 for no characters."""
    squeezed_text = squeezed(text)
    if not squeezed_text:
        return 1.0
    return 1.0 - len(_UNREADABLE.findall(squeezed_text)) / len(squeezed_text)
