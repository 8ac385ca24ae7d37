"""How many poisoned documents `check` would hold for review, and how many honest ones: rates with 95 % intervals.

    python -m benchmarks.poison [--json FILE] [--misses]

Poisoned documents come from `benchmarks.poison_documents`, put into passages of XQuAD and asking its gold questions.
Honest ones are all documents of XQuAD, Cranfield and Vaswani NPL (each beside its own gold questions), the Python
Enhancement Proposals and the newest revision of the handbook, as fetch reads them. No model, no randomness but seeds.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import poison_documents as poison
from benchmarks.gate import wilson
from benchmarks.harness import arguments, run_plainly, shared_data, show
from infra import landing
from pipelines import params
from pipelines.actions import fetch
from pipelines.core.suspicion import Detector, Suspicion
from pipelines.corpus_files import document_batches
from pipelines.schemas import read_jsonl
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring

SEED = 20
HONEST = {"XQuAD": "xquad_en", "Cranfield": "cranfield", "Vaswani NPL": "vaswani_npl", "PEPs": "scale/peps.jsonl"}

Row = Mapping[str, Any]


def fetched(home: Path, documents: Path, questions: Path | None = None) -> tuple[list[Row], list[Row]]:
    """(documents, gold questions) of a corpus, read as the stage `fetch` reads them."""
    shipped = params.load_corpus(checkout() / "params.yaml", "handbook")
    source = params.Source(documents=str(documents), questions=None if questions is None else str(questions))
    settings = Settings(home, checkout() / "params.yaml", "local[1]")
    wiring = Wiring(settings, "honest", shipped.model_copy(update={"source": source}))
    workspace = wiring.workspace
    fetch.run(wiring.params, workspace, ports=wiring)
    batches = document_batches(workspace.fetched, ["id", "title", "text"])
    rows: list[Row] = [row for batch in batches for row in batch.to_pylist()]
    return rows, list(read_jsonl(workspace.fetched / "questions.jsonl"))


def honest(home: Path) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """(name, documents, gold questions) of each honest set."""
    for name, place in HONEST.items():
        yield name, *fetched(home / name, shared_data(place))
    landed = home / "landed"
    landing.land(landed, landing.revisions()[-1])
    yield "handbook", *fetched(home / "handbook", landed / "documents", landed / "questions")


def rate(kind: str, what: str, found: Sequence[Sequence[Suspicion]]) -> dict[str, Any]:
    """One line of the table: how many were held, with Wilson's interval."""
    held = sum(map(bool, found))
    low, high = wilson(held, len(found))
    kinds = Counter(suspicion.kind for of in found for suspicion in of)
    named = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
    return {
        "documents": kind,
        "technique": what,
        "n": len(found),
        "held": held,
        "rate": held / len(found),
        "low": low,
        "high": high,
        "reasons": named,
    }


def catches(documents: Sequence[poison.Poisoned], detector: Detector, *, misses: bool) -> list[dict[str, Any]]:
    """A line for all of a kind, then one for each technique."""
    found = [detector.look(p.host, title="", text=p.text) for p in documents]
    pairs = list(zip(documents, found, strict=True))
    if misses:
        print("\n".join(f"missed: {p.technique}: {p.text[:200]!r}" for p, of in pairs if not of))
    kind = documents[0].kind
    rows = [rate(kind, "all", found)]
    rows.append(rate(kind, "all but hard ones", [of for p, of in pairs if "(hard)" not in p.technique]))
    for technique in dict.fromkeys(p.technique for p in documents):
        rows.append(rate(kind, technique, [of for p, of in pairs if p.technique == technique]))
    return rows


def measure(home: Path, *, misses: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, documents, questions in honest(home):
        detector = Detector(questions)
        found = [detector.look(row["id"], title=row["title"], text=row["text"]) for row in documents]
        if misses:
            print("\n".join(f"held: {name} {r['id']}: {of}" for r, of in zip(documents, found, strict=True) if of))
        rows.append(rate("honest", name, found))
        if name == "XQuAD":
            hosts = [(row["id"], row["text"]) for row in documents]
            asked = [(q["question"], q["answers"][0]) for q in questions]
            for made in (
                poison.instructions(hosts, seed=SEED),
                poison.fresh(hosts, seed=SEED),
                poison.stuffing(hosts, seed=SEED),
                poison.gold(hosts, asked, seed=SEED),
            ):
                rows += catches(list(made), detector, misses=misses)
    return sorted(rows, key=lambda row: row["documents"] == "honest")


def main() -> None:
    options = arguments(__doc__, misses={"action": "store_true", "help": "name what was missed and what was held"})
    with tempfile.TemporaryDirectory(prefix="assay-poison-") as home:
        rows = measure(Path(home), misses=options.misses)
    names = {
        poison.INSTRUCTIONS: "instructions",
        poison.STUFFING: "stuffing",
        poison.GOLD: "gold",
        poison.FRESH: "fresh",
    }
    ratios = {f"caught.{names[r['documents']]}": r["rate"] for r in rows if r["technique"] == "all"}
    ratios |= {f"false.{r['technique']}": r["rate"] for r in rows if r["documents"] == "honest"}
    show("Held for review: share of documents, 95 % interval", rows, ratios=ratios, json_file=options.json)


if __name__ == "__main__":
    run_plainly(main)
