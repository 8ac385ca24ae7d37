"""From documents to a searchable index: ours against the pipelines of the common tutorials, on the same model.

Each system indexes the same documents in processes of its own, on the same two cores, and is measured whole: start-up,
splitting, embedding, storing. Ours does more in that time (checks, versions, tracks, reads back, seals) and is charged
for it; a further row, `3 stages`, counts chunk, embed and index alone. Then each indexes the retrieval sets and is
asked their questions through its own store, in its default way.

- `tok/s` is source tokens: tokens of the documents by the embedder's tokenizer, each once. Splitting with overlap wins
  nothing by it. `lost` is the share of them that no vector has read, because the window cut them off; the ratio
  "of tokens embedded" leaves those out, since not to embed is quick.
- `start-up` is CPU-seconds of the same commands on a corpus of one short document, run second, so that what is made
  once per machine (our export of the model, which that first run includes) is in neither. `bare` is tokens per
  CPU-second with the start-up subtracted; `-` where start-up is two thirds of it or more.
- `MiB` adds up the peaks of the processes of the largest step: an upper bound, which is unkind to ours, whose Spark
  workers share pages.

The default of 60 of the 631 documents, evenly chosen, has 251 thousand of the 3.0 million tokens: minutes for the
slowest system. Start-up is shown apart and every other cost is per token, so that is enough to tell what the whole set
would give; a small set is unkind to the system with the larger start-up, ours. The whole set: `--documents 0`, a
quarter to half an hour for each system in fp32.

`python -m benchmarks.embed [--documents N] [--alternatives langchain ...] [--precision fp32 int8] [--sets xquad_en ...]
[--rounds N] [--quick]`
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.alternatives.scoring import Reader, ndcg, tokens_lost
from benchmarks.alternatives.systems import BARE, Alternative, Looked, Ours
from benchmarks.harness import Cost, arguments, run_plainly, shared_data, show
from pipelines.core import gold
from pipelines.errors import BadInput, MissingTool
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.settings import checkout

SETS = ("xquad_en", "cranfield", "vaswani_npl")
ALTERNATIVES = {"langchain": "LangChain", "llamaindex": "LlamaIndex"}
CORES = 2
QUICK = (4, 24)
"""Documents of the long ones and of each retrieval set at --quick."""
_SHORT = "A short note on {}: the first run makes what is made once, the second shows what every run costs."


@dataclass
class Measured:
    """What one system did: cost by step of every build of the long documents, of the start-up before it, what is in
    the last build, and nDCG@10 by set. `reason` says why it could not run."""

    label: str
    built: list[dict[str, Cost]] = field(default_factory=list)
    idle: list[dict[str, Cost]] = field(default_factory=list)
    chunks: int = 0
    tokens: int = 0
    lost: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""


def evenly(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` rows at equal distances, in order; all of them for 0 or when there are no more."""
    if not 0 < count < len(rows):
        return list(rows)
    return [rows[n * len(rows) // count] for n in range(count)]


def retrieval_set(name: str, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(documents, questions with graded evidence) of a BEIR folder. With a count, so many documents, and the questions
    all of whose evidence is among them."""
    folder = shared_data(name)
    documents = evenly(list(read_jsonl(folder / "corpus.jsonl")), count)
    lines = (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    asked = gold.beir_questions(map(gold.query, read_jsonl(folder / "queries.jsonl")), list(map(gold.judgement, lines)))
    there = {row["_id"] for row in documents}
    kept = [row for row in asked if there.issuperset(entry["document"] for entry in row["evidence"])]
    if not kept:
        raise BadInput(f"{name}: none of its {len(asked)} questions is about the {len(documents)} documents chosen")
    return documents, kept


def _written(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Identifier and text alone, since that is what every system is to embed."""
    write_jsonl(folder / f"{name}.jsonl", [{"_id": row["_id"], "text": row["text"]} for row in rows])
    return folder / f"{name}.jsonl"


def _round(system: Alternative | Ours, files: Mapping[str, Path], folder: Path, into: Measured) -> None:
    """First use, start-up, the long documents: three builds, of which the last two count."""
    system.build("first", files["first"], folder)
    into.idle.append(system.build("second", files["second"], folder))
    into.built.append(system.build("documents", files["documents"], folder))


def _look(system: Alternative | Ours, name: str, questions: Sequence[Mapping[str, Any]], folder: Path) -> Looked:
    file = folder / f"{name}.questions.jsonl"
    write_jsonl(file, [{"id": row["id"], "question": row["question"]} for row in questions])
    return system.look(name, file, folder)


def _total(costs: Mapping[str, Cost], steps: Sequence[str] | None = None) -> tuple[float, float, float]:
    """(wall, CPU, peak MiB) of the steps named, or of all: seconds add up, the peak is the largest step's."""
    kept = [cost for step, cost in costs.items() if steps is None or step in steps]
    return sum(c.wall for c in kept), sum(c.cpu for c in kept), max(c.peak for c in kept)


def _row(found: Measured, documents: int, sets: Sequence[str], *, steps: Sequence[str] | None = None) -> dict[str, Any]:
    """A row of the table, medians over the rounds; with `steps`, of these alone."""
    wall, cpu, peak = (
        statistics.median(column) for column in zip(*(_total(b, steps) for b in found.built), strict=True)
    )
    idle = statistics.median(_total(costs, steps)[1] for costs in found.idle)
    return {
        "system": found.label if steps is None else f"{found.label}, {len(steps)} stages",
        "docs/s": documents / wall,
        "chunks": found.chunks,
        "chunks/s": found.chunks / wall,
        "tok/s": found.tokens / wall,
        "CPU-s": cpu,
        "start-up": idle,
        "tok/CPU-s": round(found.tokens / cpu),
        # The difference of two numbers of one size is mostly noise: no figure when start-up is most of it.
        "bare": round(found.tokens / (cpu - idle)) if cpu - idle >= idle / 2 else "-",
        "lost %": 100 * found.lost / found.tokens,
        "MiB": round(peak),
        **{name: found.scores[name] if steps is None else "" for name in sets},
    }


def ratios(ours: Mapping[str, Any], theirs: Mapping[str, Any], sets: Sequence[str]) -> dict[str, float]:
    """Ours over theirs, from two rows: tokens per CPU-second in three ways of counting, and nDCG@10 by set."""
    pair = f"{ours['system']} / {theirs['system']}"
    embedded = (1 - ours["lost %"] / 100) / (1 - theirs["lost %"] / 100)
    out = {
        f"{pair}, tokens per CPU-second": ours["tok/CPU-s"] / theirs["tok/CPU-s"],
        f"{pair}, of tokens embedded": ours["tok/CPU-s"] / theirs["tok/CPU-s"] * embedded,
    }
    if "-" not in (ours["bare"], theirs["bare"]):
        out[f"{pair}, start-up aside"] = ours["bare"] / theirs["bare"]
    return out | {f"{pair}, nDCG@10 {name}": ours[name] / theirs[name] for name in sets if theirs[name]}


def compare(
    systems: Sequence[Alternative | Ours],
    long: Sequence[dict[str, Any]],
    sets: Mapping[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]],
    *,
    rounds: int,
    scratch: Path,
) -> list[Measured]:
    """Everything that is run, in interleaved rounds; what a system could not do is its `reason`."""
    reader = Reader.of(checkout() / "models" / "embedders" / "minilm.yaml")
    notes = {name: [{"_id": name, "text": _SHORT.format(name)}] for name in ("first", "second")}
    files = {name: _written(scratch, name, rows) for name, rows in (*notes.items(), ("documents", long))}
    found = {system.name: Measured(system.label) for system in systems}
    for system in systems:
        try:
            system.prepare()
        except MissingTool as exc:
            found[system.name].reason = str(exc)
    able = [system for system in systems if not found[system.name].reason]
    for number in range(rounds):
        for system in able if number % 2 == 0 else reversed(able):
            _say(f"round {number + 1} of {rounds}: {system.label}")
            _round(system, files, scratch / f"{number}-{system.name}", found[system.name])
    for system in able:
        into, folder = found[system.name], scratch / f"{rounds - 1}-{system.name}"
        held = _look(system, "documents", [], folder).chunks
        texts = {row["_id"]: row["text"] for row in long}
        into.chunks, (into.tokens, into.lost) = len(held), tokens_lost(texts, held, reader=reader)
        for name, (documents, questions) in sets.items():
            _say(f"{name}: {system.label}")
            system.build(name, _written(scratch, name, documents), folder)
            into.scores[name] = ndcg(questions, _look(system, name, questions, folder).run)
    return list(found.values())


def _say(text: str) -> None:
    print(f"embed: {text}", file=sys.stderr, flush=True)


def _table(
    found: Sequence[Measured], documents: int, sets: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The rows, ours twice, and the ratios of ours to each of the others."""
    whole = [_row(one, documents, sets) for one in found if one.built]
    bare = [_row(one, documents, sets, steps=BARE) for one in found if one.built and BARE[0] in one.built[0]]
    ours, theirs = whole[-len(bare) :], whole[: -len(bare)]
    out: dict[str, float] = {}
    for mine in ours:
        for other in theirs:
            out |= ratios(mine, other, sets)
    missing = [dict.fromkeys(whole[0], "") | {"system": f"{one.label}: {one.reason}"} for one in found if one.reason]
    return [*whole, *bare, *missing], out


def main() -> None:
    args = arguments(
        __doc__,
        documents={"type": int, "default": 60, "metavar": "N", "help": "long documents, evenly chosen; 0: all 631"},
        alternatives={"nargs": "*", "default": ALTERNATIVES, "choices": ALTERNATIVES, "help": "beside ours"},
        precision={"nargs": "+", "default": [None], "help": "embed.precision of ours, one row each; default: params'"},
        sets={"nargs": "*", "default": SETS, "choices": SETS, "help": "retrieval sets that are scored"},
        rounds={"type": int, "default": 1, "help": "interleaved rounds over the long documents"},
        keep={"type": Path, "help": "an absent folder for the indices and logs, which else are deleted"},
    )
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    count, part = QUICK if args.quick else (args.documents, 0)
    names = args.sets[:1] if args.quick else args.sets
    ours = [Ours(precision) for precision in args.precision]
    systems = [*(Alternative(name, f"{ALTERNATIVES[name]}, Chroma") for name in args.alternatives), *ours]
    long = evenly(list(read_jsonl(shared_data("scale") / "peps.jsonl")), count)
    sets = {name: retrieval_set(name, part) for name in names}
    with tempfile.TemporaryDirectory(prefix="assay-embed-") as temporary:
        scratch = args.keep or Path(temporary)
        scratch.mkdir(exist_ok=True)
        found = compare(systems, long, sets, rounds=args.rounds, scratch=scratch)
    rows, out = _table(found, len(long), names)
    title = (
        f"{len(long)} documents, {CORES} cores, {args.rounds} rounds; nDCG@10 by set, ours by {ours[0].mode} retrieval"
    )
    show(title, rows, ratios=out, json_file=args.json)


if __name__ == "__main__":
    run_plainly(main)
