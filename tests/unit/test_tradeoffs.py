"""The comparison table's cells, from figures worked out by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipelines.actions import compare
from pipelines.comparison_page import QUESTIONS, by_question, render
from pipelines.core import recommend, tradeoffs
from pipelines.core.costs import Running, Spent, break_even
from pipelines.core.tradeoffs import Facts, Line
from pipelines.params import Prices
from pipelines.show_arms import show_comparison
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.unit.test_release_views import shown


def metric(value: float, n: int = 40) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n}


def facts(**changed: Any) -> Facts:
    """rag builds for 360 CPU-seconds and answers a thousand for 2; tuned for 3,600 and 1; at 0.04 an hour."""
    known: dict[str, Any] = {
        "arms": {
            "base": {"f1": metric(0.2), "cost_per_1000": metric(1.0)},
            "rag": {"f1": metric(0.5), "citation_precision": metric(0.6), "cost_per_1000": metric(2.0)},
            "tuned": {"f1": metric(0.3), "cost_per_1000": metric(1.0)},
        },
        "rows": [
            {
                "id": f"q{n}",
                "arm": arm,
                "gold": ["x"] if n else [],
                "metrics": {"hallucination": float(n % 2), "f1": 0.5},
            }
            for arm in ("base", "rag", "tuned")
            for n in range(5)
        ],
        "primary": "f1",
        "index": {"rows": 1200, "documents": 30, "embedded": 7, "cpu_seconds": 360.0, "paid": 0.0},
        "training": {"base": "smollm2", "examples": 90, "cpu_seconds": 3600.0, "paid": 0.0},
        "models": {"base": "smollm2", "rag": "smollm2", "tuned": "smollm2"},
        "cpu_hour": 0.04,
        "currency": "USD",
        "traffic": (1000, 1_000_000),
        "refreshes": 10,
        "measured": {},
    }
    return Facts(**{**known, **changed})


def line(found: Facts, name: str) -> Line:
    return next(line for line in tradeoffs.table(found) if line.name == name)


def test_cost_of_a_month_is_builds_and_answers():
    # rag: 10 builds of 0.1 h at 0.04 = 0.04, and 1,000 answers at 0.002 = 2; tuned: 10 of 1 h = 0.4, and 1.
    assert line(facts(), "month_1000").cells == {"base": "1.000", "rag": "2.040", "tuned": "1.400"}
    # They cost the same where 0.04 + 0.002 x = 0.4 + 0.001 x: at 360 answers.
    assert "tuned below rag from 360" in line(facts(), "month_1000000").note


def test_break_even_is_where_both_cost_the_same_and_never_where_one_is_always_cheaper():
    assert break_even(Running(0.04, 0.002), Running(0.004, 0.003), refreshes=1) == pytest.approx(36)
    assert break_even(Running(1, 2), Running(0, 1), refreshes=4) is None
    assert break_even(Running(1, 2), Running(0, 2), refreshes=4) is None
    assert break_even(Running(1, 1), Running(0, 2), refreshes=0) is None


def test_without_a_price_there_is_no_cost_and_without_a_figure_no_number():
    assert set(line(facts(cpu_hour=None), "month_1000").cells.values()) == {"–"}
    unknown = facts(index={"rows": 1, "documents": 1, "embedded": 0, "cpu_seconds": None, "paid": 0.0})
    assert line(unknown, "build").cells == {"base": ".000", "rag": "–", "tuned": "3,600"}


def test_what_a_making_cost_beside_cpu_time_is_part_of_its_price():
    """A hosted embedder was paid 0.50 for the index, 1.25 of GPU-hours were spent on the adapter."""
    index = {"rows": 1200, "documents": 30, "embedded": 7, "cpu_seconds": 360.0, "paid": 0.5}
    training = {"examples": 90, "cpu_seconds": 3600.0, "paid": 1.25}
    paid = facts(index=index, training=training)
    assert line(paid, "build_paid").title == "To build, paid besides, USD"
    assert line(paid, "build_paid").cells == {"base": ".000", "rag": ".500", "tuned": "1.250"}
    # As above, and 10 times 0.50 for rag, 10 times 1.25 for tuned.
    assert line(paid, "month_1000").cells == {"base": "1.000", "rag": "7.040", "tuned": "13.9"}
    assert not [found for found in tradeoffs.table(facts()) if found.name == "build_paid"]
    unknown = facts(index={**index, "paid": None})
    assert line(unknown, "build_paid").cells["rag"] == line(unknown, "month_1000").cells["rag"] == "–"


def test_what_was_paid_is_read_from_what_the_stages_measured(tmp_path):
    wiring = Wiring.of(kit.home(tmp_path), kit.CORPUS)
    workspace = wiring.workspace
    index, adapter = {"collection": "c", "rows": 3, "documents": 3}, {"digest": "a" * 64}
    kit.scored(wiring, index, adapter=adapter)

    def paid(bill, **prices):
        workspace.write_receipt("embed", index, {} if bill is None else {"cost": bill.to_json()}, "")
        answer = wiring.params.answer.model_copy(update={"prices": Prices(**prices)})
        found = compare._facts(workspace, wiring.params.model_copy(update={"answer": answer}), kit.ARMS)
        return found.index["paid"], found.training["paid"]

    workspace.write_receipt("train", {**adapter, "base": "smollm2", "examples": 20}, {"gpu_hours": 0.5}, "")
    assert paid(Spent(900, 0, 0.5, "USD"), gpu_hour=2.5) == (0.5, 1.25)
    assert paid(Spent(900, 0, 0.5, "USD"), currency="EUR") == (None, None)  # another currency, no price of a GPU
    assert paid(Spent(900, 0)) == (None, None)
    workspace.write_receipt("train", {**adapter, "base": "smollm2", "examples": 20}, {"gpu_hours": 0.0}, "")
    assert paid(None) == (0.0, 0.0)  # an embedder that is here, a training on the CPU


def test_what_was_not_measured_says_how_to_measure_it():
    for name, command in (("freshness", "freshness"), ("learning", "learning"), ("privacy", "extraction")):
        found = line(facts(), name)
        assert set(found.cells.values()) == {"not measured"}
        assert found.note == f"to measure it: assay measure NAME {command}"


def test_hallucinations_are_of_questions_with_and_without_an_answer():
    # q0 has no answer and value 0; q1 to q4 have one, with values 1, 0, 1, 0.
    assert line(facts(), "hallucination").cells["rag"].startswith(".500 ")
    assert line(facts(), "hallucination_unanswerable").cells["rag"].startswith(".000 ")


MEASURED: dict[str, Any] = {
    "freshness": {
        "current": True,
        "changed": 20,
        "retrieved": metric(0.9),
        "arms": {
            "base": {"share": metric(0.0), "seconds": None, "by": "nothing"},
            "rag": {"share": metric(0.5), "seconds": 31.2, "by": "index"},
            "tuned": {"share": metric(0.3), "seconds": 95.0, "by": "training"},
        },
    },
    "learning": {
        "current": False,
        "metric": "f1",
        "rows": [
            {"of": of, "arm": arm, "share": share, "items": 10, **metric(share / 2)}
            for of, arm in (("documents", "rag"), ("examples", "tuned"))
            for share in (0.25, 0.5, 1.0)
        ],
    },
    "extraction": {
        "current": True,
        "candidates": 64,
        "arms": {
            arm: {
                "recovered": recovered,
                "canaries": 12,
                "exposure": metric(bits),
                "by_repeats": {"1": {"recovered": 0, "canaries": 4, "exposure": bits}},
            }
            for arm, recovered, bits in (("base", 0, 1.3), ("tuned", 3, 4.0))
        },
    },
}


def test_what_was_measured_is_shown_with_its_figures():
    found = facts(measured=MEASURED)
    assert line(found, "freshness").cells == {"base": "never", "rag": "31 s (index)", "tuned": "95 s (training)"}
    assert line(found, "freshness_answered").cells["rag"] == ".500 [.40, .60]"
    assert line(found, "learning_documents").cells == {
        "base": "–",
        "rag": "25% .125, 50% .250, 100% .500",
        "tuned": "–",
    }
    assert "of an earlier candidate" in line(found, "learning_examples").note
    assert line(found, "privacy").cells == {
        "base": "0 of 12, 1.3 bits",
        "rag": "0 of 12, 1.3 bits",  # rag is served with the base's weights
        "tuned": "3 of 12, 4.0 bits",
    }


def test_arms_of_two_models_are_named_and_weights_that_were_not_asked_have_no_figure():
    assert line(facts(), "knowledge").note == "base model smollm2"
    two = facts(measured=MEASURED, models={"base": "hosted", "rag": "hosted", "tuned": "smollm2"})
    assert line(two, "knowledge").note == "base models hosted (base, rag); smollm2 (tuned)"
    assert line(two, "privacy").cells == {"base": "–", "rag": "–", "tuned": "3 of 12, 4.0 bits"}
    assert line(two, "privacy").note.startswith("smollm2 without an adapter: 0 of 12, 1.3 bits; planted 1 times 0 of 4")


def compared() -> dict[str, Any]:
    found = facts(measured=MEASURED)
    choices = recommend.recommend(found.rows, primary="f1", formed=False)
    return {
        "corpus": "tiny",
        "questions": 5,
        "primary": "answers.f1",
        "arm": "rag",
        "arms": found.arms,
        "differences": {"rag - base": {"f1": metric(0.3)}},
        "hypothesis": None,
        "distilled": None,
        "currency": "USD",
        "kinds": [choice.to_json() for choice in choices],
        "recommendation": recommend.overall(choices),
        "rules": list(recommend.RULES),
        "table": [row.to_json() for row in tradeoffs.table(found)],
        "break_even": tradeoffs.break_evens(found),
        "costs": {arm: {"build": c.build, "answer": c.answer} for arm, c in tradeoffs.running(found).items()},
        "refreshes": 10,
        "models": found.models,
        "measured": MEASURED,
    }


def test_the_page_stands_alone_and_holds_every_row_and_plot():
    page = render(compared())
    assert page.count("<svg") == 4
    for row in compared()["table"]:
        assert row["title"] in page
    assert "too thin" in page
    assert re.search(r"(src|href)=.?https?:|<script|<link|@import", page) is None
    assert page == render(compared())


def replied(number: int, arm: str, text: str = "It is 60.") -> dict[str, Any]:
    passage = {"document": "a.md", "chunk": "c1", "start": 3, "end": 9, "score": 0.75}
    return {
        "id": f"q{number}",
        "question": f"How many, {number}?",
        "arm": arm,
        "gold": ["60"],
        "kind": None,
        "reply": text,
        "citations": ["a.md"],
        "passages": [passage] if arm == "rag" else [],
        "metrics": {"f1": 0.5},
        "tokens_in": 120,
        "tokens_out": 9,
        "ms": 411.6,
    }


def test_the_page_shows_every_question_with_gold_replies_passages_scores_tokens_and_latency():
    rows = [replied(n, arm, text) for arm, text in (("base", "<b>No</b>"), ("rag", "It is 60.")) for n in range(2)]
    page = render(compared(), rows)
    assert page.count("<details><summary>") == 2
    assert "<b>No</b>" not in page
    assert "&lt;b&gt;No&lt;/b&gt;" in page
    for cell in ("How many, 1?", "gold: 60", "a.md [3:9] 0.750", "120 + 9", ">412<"):
        assert cell in page


def test_a_page_holds_the_first_questions_of_many():
    rows = [replied(n, arm) for arm in ("base", "rag") for n in range(QUESTIONS + 3)]
    found = by_question(rows, ["base", "rag"], "f1")
    assert [entry["question"] for entry in found] == [f"How many, {n}?" for n in range(QUESTIONS)]
    assert all(list(entry["replies"]) == ["base", "rag"] for entry in found)


def test_traceability_is_the_share_of_answerable_questions_whose_reply_cites_a_right_document():
    rows = [
        {**row, "metrics": {"citation_precision": {"q1": 0.5, "q2": 1.0}.get(row["id"], 0.0)}} for row in facts().rows
    ]
    # q0 has no answer; of q1 to q4 two cite right.
    assert line(facts(rows=rows), "traceability").cells["rag"].startswith(".500 ")


def test_the_terminal_shows_the_table_its_notes_and_the_recommendation():
    text = shown(show_comparison, compared(), width=140)
    assert "31 s (index)" in text
    assert "Recommended by the figures" in text
    assert "too thin" in text
    brief = shown(lambda result, console: show_comparison(result, console, brief=True), compared(), width=140)
    assert "31 s (index)" not in brief
    assert "Recommended by the figures" in brief
