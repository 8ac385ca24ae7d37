"""Build the training set: examples, or the gold questions where there are none, and questions written about documents.

Documents are read only where `mix.synthetic` asks for it: else a revision that changes documents alone leaves the
training set as it is, so nothing is trained. The set is split by document. Left out, counted and named in
training/remarks.jsonl are: what rests on documents whose access label `mix.labels` does not allow, repeats and
near-duplicates, test questions and what else holds texts of the test (of training rows also: what holds texts of the
validation questions), replies that do not obey the schema, personal
data and secrets (unless the stage refuses them, its default), and what is too long to train on. With `mix.teacher` the
replies of a long prompt take the place of completions (`pipelines.teacher`). Great Expectations then looks at the chats
as they were written. Fewer than `mix.min_examples` are no training set: that is said, and nothing is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.backends import near_duplicates, sensitive
from pipelines.core import distil, gold, mixing, splits
from pipelines.core.contamination import Guard, Overlap
from pipelines.core.digests import digest_json
from pipelines.core.mixing import Account
from pipelines.core.nouns import Report
from pipelines.core.prompts import first_object, normalised
from pipelines.errors import BadInput
from pipelines.few_shot import distilled_prompt
from pipelines.params import CorpusParams
from pipelines.params import Mix as MixParams
from pipelines.ports import Ports
from pipelines.reply_schema import load_validator
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.synthesis import synthesise
from pipelines.teacher import Teacher
from pipelines.training_checks import expected, guard_of
from pipelines.workspace import Workspace, write_whole

Item = Mapping[str, Any]
Row = Mapping[str, Any]
Schema = Callable[[Any], bool] | None
Teach = Callable[[Sequence[Item], Account], list[Item]]
_NAMED = 5  # examples named in an error


def _read(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    file = workspace.versioned / f"{name}.jsonl"
    try:
        return list(read_jsonl(file)) if file.is_file() else []
    except ValueError as exc:
        raise BadInput(str(exc)) from exc


def _examples(params: CorpusParams, workspace: Workspace) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """(examples, gold questions, where the examples come from)."""
    questions = _read(workspace, "questions")
    examples = [mixing.with_id(example) for example in _read(workspace, "examples")]
    if examples:
        return examples, questions, "examples"
    structured, refusal = params.generate.reply_schema is not None, params.generate.refusal
    # A question with evidence but no answer (a retrieval set) teaches nothing: it is no unanswerable one.
    asked = [q for q in questions if q["answers"] or not q["evidence"]]
    return [mixing.from_question(q, structured=structured, refusal=refusal) for q in asked], questions, "questions"


def _style(params: CorpusParams) -> mixing.Style:
    generate, mix = params.generate, params.mix
    return mixing.Style(
        generate.system,
        generate.refusal,
        generate.reply_schema is not None,
        mix.context_share,
        mix.distractors,
        mix.seed,
        oracle_share=mix.oracle_share,
    )


def _said(overlap: Overlap | None) -> str | None:
    return None if overlap is None else str(overlap)


def _alike(examples: Sequence[Item], threshold: float | None) -> list[str | None]:
    if threshold is None:
        return [None] * len(examples)
    parts = [[normalised(mixing.prompt_of(e)), normalised(mixing.completion_of(e))] for e in examples]
    found = near_duplicates.near_duplicates(parts, threshold=threshold)
    return [None if first is None else f"like {examples[first]['id']}" for first in found]


def _screened(examples: Sequence[Item], mix: MixParams, account: Account) -> list[Item]:
    """What may stay by `mix.sensitive`. BadInput names what was found when that is refuse."""
    texts = [mixing.texts_of(example) for example in examples]
    found = iter(sensitive.screen([text for of in texts for text in of], allow=mix.allow, region=mix.region))
    findings = [[finding for _ in of for finding in next(found)] for of in texts]
    touched = [(example, of) for example, of in zip(examples, findings, strict=True) if of]
    if touched and mix.sensitive == "refuse":
        kinds = (f"{e['id']} ({', '.join(dict.fromkeys(f.kind for f in of))})" for e, of in touched[:_NAMED])
        more = f" and {len(touched) - _NAMED} more" if len(touched) > _NAMED else ""
        raise BadInput(
            f"personal data or secrets in {len(touched)} training examples: {', '.join(kinds)}{more}; "
            "take them out, name what is harmless in mix.allow, or set mix.sensitive to drop or report"
        )
    dropped = mix.sensitive == "drop"
    for example, of in touched:
        account.found.update(finding.kind for finding in of)
        account.say(example, "sensitive", "; ".join(finding.excerpt for finding in of), dropped=dropped)
    return [e for e, of in zip(examples, findings, strict=True) if not (of and dropped)]


def _kept(
    params: CorpusParams,
    examples: Sequence[Item],
    guard: Guard,
    *,
    schema: Schema,
    account: Account,
) -> list[Item]:
    """The examples that may be trained on, in the order of their ids."""
    how: dict[str, Any] = params.split.model_dump()
    mix = params.mix

    def overlapping() -> list[str | None]:
        return [_said(guard.overlap(mixing.texts_of(e), splits.split_of(e, **how))) for e in kept]

    def choosing() -> list[str | None]:
        """Asked word for word in validation: short questions are not looked for by runs of words."""
        asked = mixing.asked_in_test(kept, guard.chosen)
        return [a if splits.split_of(e, **how) == splits.TRAIN else None for e, a in zip(kept, asked, strict=True)]

    def disobeying() -> list[str | None]:
        obeys = (schema is None or schema(first_object(mixing.completion_of(e))) for e in kept)
        return [None if well else "the reply does not obey generate.reply_schema" for well in obeys]

    kept = mixing.in_order(e for e in examples if splits.split_of(e, **how) != splits.TEST)
    kept = account.sieve(kept, (gold.restricted(e, mix.labels) for e in kept), reason="restricted")
    kept = account.sieve(kept, mixing.repeats(kept), reason="repeated")
    kept = account.sieve(kept, mixing.asked_in_test(kept, guard.tested), reason="test_question")
    kept = account.sieve(kept, choosing(), reason="contaminated")
    kept = account.sieve(kept, overlapping(), reason="contaminated")
    kept = account.sieve(kept, disobeying(), reason="format")
    kept = account.sieve(kept, _alike(kept, mix.near_duplicate), reason="near_duplicate")
    kept = _screened(kept, mix, account)
    for example in kept:
        shared = guard.shared(mixing.texts_of(example))
        if shared is not None:
            account.say(example, "shares_evidence", str(shared), dropped=False)
    return kept


def compose(
    params: CorpusParams,
    examples: Sequence[Item],
    questions: Sequence[Item],
    *,
    count: Callable[[Sequence[Mapping[str, str]]], int],
    schema: Schema,
    teach: Teach | None = None,
) -> tuple[list[Row], list[Row], Account]:
    """(training rows, validation rows, what was left out and what was found). `count` gives a chat's tokens; `schema`
    says whether a reply obeys; `teach` puts other replies in the place of completions. A row is {"id", "tokens",
    "messages"}, in the order of the ids, whatever the order of the examples. BadInput for personal data and secrets
    under `mix.sensitive: refuse`."""
    how: dict[str, Any] = params.split.model_dump()
    account = Account()
    guard = guard_of(params, questions)
    kept = _kept(params, examples, guard, schema=schema, account=account)
    kept = kept if teach is None else teach(kept, account)
    pool = mixing.quotes(e for e in kept if splits.split_of(e, **how) == splits.TRAIN)
    rows: dict[str, list[Row]] = {splits.TRAIN: [], splits.VALIDATION: []}
    style = _style(params)
    for example in kept:
        shown = mixing.passages(example, pool, style=style)
        messages = mixing.as_chat(example, shown, system=style.system)
        tokens = count(messages)
        # Passages may hold together what none of them does.
        overlap = guard.overlap(mixing.spoken(messages), splits.split_of(example, **how))
        if overlap is not None:
            account.say(example, "contaminated", str(overlap))
        elif tokens > params.train.max_tokens:
            account.say(example, "too_long", f"{tokens} tokens")
        else:
            account.shown += bool(shown)
            rows[splits.split_of(example, **how)].append({"id": example["id"], "tokens": tokens, "messages": messages})
    return rows[splits.TRAIN], rows[splits.VALIDATION], account


def _withheld(facts: Mapping[str, Any]) -> str:
    """What access labels kept out, as the end of a line; empty where they kept nothing out."""
    n, documents = facts["dropped"]["restricted"], facts.get("synthetic", {}).get("restricted", 0)
    out = f"; {n} examples rest on restricted documents" if n else ""
    return out + (f"; {documents} restricted documents were not asked about" if documents else "")


def _summary(facts: Mapping[str, Any]) -> str:
    lost = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in facts["dropped"].items() if n and why != "restricted")
    found = ", ".join(f"{n} of {kind}" for kind, n in facts["screened"]["found"].items())
    out = f"{facts['train']} training and {facts['validation']} validation chats from {facts['source']}"
    out += f", {facts['shown']} of them with passages" if facts["shown"] else ""
    out += f"; {distil.summary(facts['teacher'])}" if "teacher" in facts else ""
    out += _withheld(facts) + (f"; dropped {lost}" if lost else "")
    return out + (f"; found {found}" if found else "; nothing sensitive found")


def _gathered(
    params: CorpusParams, workspace: Workspace, ports: Ports
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """(examples, gold questions, facts: where the examples come from), those written about documents included."""
    examples, questions, source = _examples(params, workspace)
    if params.mix.synthetic is None:
        return examples, questions, {"source": source}
    made, facts = synthesise(params, workspace.versioned, generator=ports.generator(), objects=ports.objects)
    source = f"{source} and documents" if examples else "documents"
    return [*examples, *made], questions, {"source": source, "synthetic": facts}


def _write(
    workspace: Workspace, rows: Mapping[str, Sequence[Row]], account: Account, *, teacher: Teacher | None
) -> None:
    write_jsonl(workspace.training / "train.jsonl", rows[splits.TRAIN])
    write_jsonl(workspace.training / "validation.jsonl", rows[splits.VALIDATION])
    write_jsonl(workspace.training / "remarks.jsonl", map(asdict, account.remarks))
    distilled_prompt(workspace).unlink(missing_ok=True)
    if teacher is not None and teacher.longer is not None:
        write_whole(distilled_prompt(workspace), json.dumps(teacher.longer.to_json(), ensure_ascii=False) + "\n")


def _counted(params: CorpusParams, account: Account, teacher: Teacher | None) -> dict[str, Any]:
    """What was left out and found, and what came of asking the teacher, where there is one."""
    screened = {"policy": params.mix.sensitive, "found": dict(sorted(account.found.items()))}
    shared = sum(remark.reason == "shares_evidence" for remark in account.remarks)
    out = {"dropped": account.dropped(), "screened": screened, "shares_evidence": shared}
    return out | ({"teacher": teacher.facts} if teacher and teacher.facts else {})


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> Report:
    """Write training/train.jsonl, validation.jsonl and remarks.jsonl. The receipt names the set's digest, or says under
    `skipped` why there is none. BadInput when no completion obeys the schema, when personal data or secrets are
    refused, or when an expectation fails; MissingTool without the model."""
    examples, questions, facts = _gathered(params, workspace, ports)
    teacher = Teacher(params, workspace, questions=questions, ports=ports) if params.mix.teacher else None
    # Gold answers do not have the reply's form, and completions need not have it where they are not what is learned.
    own = facts["source"].startswith("examples") and teacher is None
    schema = load_validator(params.generate.reply_schema, ports) if own else None
    training: list[Row] = []
    validation: list[Row] = []
    account = Account()
    if examples:
        count = ports.base_generator().count
        how: dict[str, Any] = {"count": count, "schema": schema, "teach": teacher.teach if teacher else None}
        training, validation, account = compose(params, examples, questions, **how)
    least = params.mix.min_examples
    facts |= _counted(params, account, teacher) | {"train": len(training)}
    if facts["dropped"]["format"] and not training:
        raise BadInput(f"no training example's completion obeys {params.generate.reply_schema}; they must")
    if len(training) < least:
        facts["skipped"] = f"{len(training)} training examples, at least {least} are needed (mix.min_examples)"
        _write(workspace, {splits.TRAIN: [], splits.VALIDATION: []}, account, teacher=None)
        said = f"; {distil.summary(facts['teacher'])}" if "teacher" in facts else ""
        return Report("mix", facts, f"skipped: {facts['skipped']}{said}{_withheld(facts)}")
    rows = {splits.TRAIN: training, splits.VALIDATION: validation}
    site = ports.settings.reports / workspace.corpus / "training_docs"
    page = expected(params, rows, examples, questions, site=site)
    _write(workspace, rows, account, teacher=teacher)
    facts |= {
        "digest": digest_json([training, validation]),
        "validation": len(validation),
        "tokens": sum(row["tokens"] for row in training),
        "longest": max(row["tokens"] for row in training),
        "shown": account.shown,
    }
    return Report("mix", facts, _summary(facts), {"data_docs": str(page)})
