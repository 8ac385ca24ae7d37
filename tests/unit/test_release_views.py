"""What people see: tables, page and description, from mappings written by hand."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from pipelines import report, show, show_arms
from pipelines.actions import views
from pipelines.core.hypothesis import verdict
from pipelines.core.prompts import ARMS as ARMS_IN_ORDER
from pipelines.core.prompts import pairs
from pipelines.errors import NotFound
from tests import release_kit as kit

CHECKS = [
    {"name": "floor answers.token_f1", "value": 0.5, "bound": 0.3, "low": 0.4, "high": 0.6, "n": 30, "passed": True,
     "reason": "answers.token_f1 is 0.500, at least 0.3 is asked"},
    {"name": "data labels", "value": 2, "bound": 0, "low": None, "high": None, "n": 0, "passed": False,
     "reason": "2 gold quotes that the corpus no longer holds: <b>q1</b>, a|b"},
]  # fmt: skip
POWERED = {
    "name": "no loss of answers.token_f1", "value": -0.01, "bound": -0.03, "low": -0.08, "high": 0.06, "n": 48,
    "passed": False, "reason": "too few questions to decide", "detectable": 0.1364, "needed": 1312,
}  # fmt: skip


def metric(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "n": 30}


ARMS = {
    "base": {"token_f1": metric(0.1, 0.05, 0.15), "latency_p50": {"value": 0.5, "n": 30}},
    "both": {"token_f1": metric(0.5, 0.4, 0.6), "latency_p50": {"value": 2.5, "n": 30}},
}
COMPARISON = {
    "corpus": "tiny", "questions": 30, "primary": "answers.token_f1", "arm": "both", "arms": ARMS,
    "differences": {"both - base": {"token_f1": metric(0.4, 0.3, 0.5), "hallucination": metric(-0.02, -0.1, 0.05)}},
    "hypothesis": None, "currency": "USD",
}  # fmt: skip
REPORT = {
    "corpus": "tiny",
    "candidate": {"digest": "ab" * 32, "arm": "both", "collection": "b_tiny_0", "rows": 3, "index_digest": "cd" * 32,
                  "embedder": "minilm", "embedder_digest": "ef" * 32, "adapter": None, "prompt_digest": "aa" * 32,
                  "model": {"name": "served", "digest": "5e" * 32}},
    "retrieval": {"ndcg@10": metric(0.8, 0.7, 0.9)},
    "verdict": {"passed": False, "checks": CHECKS},
    "html": None,
}  # fmt: skip
RELEASES = {"corpus": "tiny", "releases": [
    {"generation": 3, "created": "2026-01-02T03:04:05+00:00", "expires": "2026-02-01T03:04:05+00:00",
     "revision": "r1", "arm": "both", "collection": "b_tiny_0", "adapter": None,
     "primary": "answers.token_f1", "metric": metric(0.5, 0.4, 0.6), "restores": 1, "champion": True}
]}  # fmt: skip


def shown(function, *arguments, width=120):
    console = Console(width=width, record=True, file=io.StringIO(), highlight=False, markup=False)
    function(*arguments, console)
    return console.export_text()


def test_numbers_are_short():
    assert [show.number(v) for v in (None, 0.1234, 12.34, 1234.5, 7)] == ["–", "0.123", "12.3", "1,234", "7"]


def test_the_best_arm_is_the_highest_or_the_simplest_and_a_tie_has_none():
    assert show.best_arm(ARMS, "token_f1") == "both"
    assert show.best_arm(ARMS, "latency_p50") == "base"
    assert show.best_arm({"a": {"x": metric(1.0)}, "b": {"x": metric(1.0)}}, "x") is None
    two = {"a": {"hallucination": metric(0.1), "refused": metric(0.1)}, "b": {"hallucination": metric(0.2)}}
    two["b"]["refused"] = metric(0.2)
    assert (show.best_arm(two, "hallucination"), show.best_arm(two, "refused")) == ("a", None)


def test_intervals_are_short():
    ends = (0.0, 0.054, -0.054, 1.0, -1.0, 2.5, 12.34, -0.3)
    assert [show.short(end) for end in ends] == ["0", ".05", "-.05", "1", "-1", "2.50", "12.3", "-.30"]


def test_the_comparison_says_n_interval_and_who_would_serve():
    text = shown(show_arms.show_comparison, COMPARISON)
    assert "tiny: arms on the same 30 questions" in text
    assert "both ●" in text
    assert ".500 .40–.60" in text
    assert "+.400 [+.30, +.50]" in text and "-.020 [-.10, +.05]" in text
    assert "cost in USD, generation alone" in text
    assert "both together" not in text


def wide():
    """A comparison of five arms with every metric, each value and interval as long as they get."""
    arms = {arm: {name: metric(0.123, 0.111, 0.987) for name in show.ANSWER_COLUMNS} for arm in ARMS_IN_ORDER}
    arms["rag"]["groundedness"] = {**metric(0.123, 0.111, 0.987), "n": 28}
    found = {pair: {n: metric(-0.123, -0.223, -0.023) for n in arms["rag"]} for pair, _, _ in pairs(ARMS_IN_ORDER)}
    primary = "token_recall"
    claim = verdict(found, primary)
    return {
        **COMPARISON, "primary": f"answers.{primary}", "arms": arms, "differences": found, "hypothesis": claim,
    }  # fmt: skip


def test_the_comparison_of_five_arms_fits_a_hundred_columns_with_the_primary_metric_first():
    text = shown(show_arms.show_comparison, wide(), width=100)
    table = [line for line in text.splitlines() if ".11–.99" in line]
    assert len(table) == len(show.ANSWER_COLUMNS) - len(show.COSTS)  # no row is broken into two
    assert table[0].strip().startswith("recall")
    assert "28–30" in text
    four = [line.split(" -.")[0].strip() for line in text.splitlines() if line.count("-.123 [-.22, -.02]") == 4]
    assert four == [pair for pair, _, _ in pairs(ARMS_IN_ORDER)]
    assert "“Both together beat either alone” on token_recall: did not hold" in " ".join(text.split())
    assert "both - rag -.123 [-.22, -.02]" in " ".join(text.split())


DISTILLED = "Distilled: tuned reads 212 tokens fewer per request than prompt (−74 %), token_f1 tuned − prompt −0.01"


def test_what_was_distilled_is_said_in_one_sentence_below_the_table_and_on_the_page():
    told = {**COMPARISON, "distilled": {"sentence": DISTILLED}}
    assert DISTILLED in " ".join(shown(show_arms.show_comparison, told).split())
    assert DISTILLED in report.render(REPORT, told, RELEASES)
    for other in (COMPARISON, {**COMPARISON, "distilled": None}):
        assert "Distilled" not in shown(show_arms.show_comparison, other) + report.render(REPORT, other, RELEASES)


def test_skipped_arms_say_why():
    skipped = {"corpus": "tiny", "skipped": "tiny has no questions", "arms": {}}
    assert "no arms to compare: tiny has no questions" in shown(show_arms.show_comparison, skipped)


def test_a_rejection_shows_its_reasons():
    text = shown(show.show_report, REPORT)
    assert "REJECTED: 1 of 2 checks failed" in text
    assert "2 gold quotes" in text


def test_what_the_questions_could_have_shown_is_in_the_table_the_page_and_the_description():
    powered = {**REPORT, "verdict": {"passed": False, "checks": [*CHECKS, POWERED]}}
    text = shown(show.show_report, powered)
    row = next(line for line in text.splitlines() if "-0.080 to 0.060" in line)
    assert "48 (1,312)" in row and "0.136" in row
    assert "four times in five" in text
    page = report.render(powered, COMPARISON, RELEASES)
    assert '<td class="n">48 (1,312)</td><td class="n">0.136</td>' in page
    # A verdict that is older than these figures has none, and no note about them.
    assert '<td class="n">30</td><td class="n"></td>' in page
    assert "four times in five" not in shown(show.show_report, REPORT)


def test_as_many_questions_as_are_wanted_show_no_bracket():
    assert show.questions({**POWERED, "needed": 48}) == "48"
    assert show.questions({**POWERED, "n": 0}) == ""
    assert show.questions(CHECKS[0]) == "30"


def test_a_rollback_names_what_it_restores():
    assert "3 = 1" in shown(show.show_releases, RELEASES)
    assert "2026-02-01 03:04" in shown(show.show_releases, RELEASES)


def test_markup_in_an_answer_is_text():
    answer = {"answer": "[bold]no[/bold]", "arm": "rag", "citations": [], "release": {"corpus": "t", "generation": 1}}
    assert "[bold]no[/bold]" in shown(show.show_answer, "What [red]?", answer)


def test_the_page_is_self_contained_and_escapes_what_it_shows():
    page = report.render(REPORT, COMPARISON, RELEASES)
    assert "<b>q1</b>" not in page
    assert "&lt;b&gt;q1&lt;/b&gt;" in page
    assert f"<code>served</code> <code>{'5e' * 8}</code>" in page
    assert page.count("<svg") == 2
    assert "http" not in page
    assert "<script" not in page


def test_the_page_without_arms_and_releases():
    empty = {**COMPARISON, "arms": {}, "arm": None, "differences": {}, "skipped": "no questions"}
    page = report.render(REPORT, empty, {"corpus": "tiny", "releases": []})
    assert "nothing has been released yet" in page
    assert "<svg" not in page


def test_the_description_is_markdown_tables_that_hold_every_digest():
    manifest = {
        "corpus": "tiny", "generation": 3, "previous": 2, "restores": 1, "arm": "both",
        "revision": {"tag": "r1", "commit": "c" * 40}, "verdict": {"checks": CHECKS},
        "evaluation": {"arms": ARMS, "retrieval": REPORT["retrieval"]},
        "index": {"collection": "b_tiny_0", "rows": 3, "digest": "I" * 64},
        "embedder": {"name": "minilm", "digest": "E" * 64}, "adapter": {"digest": "A" * 64},
        "base": {"name": "smollm2", "digest": "B" * 64}, "prompt": {"digest": "P" * 64},
    }  # fmt: skip
    manifest["verdict"]["checks"] = [*CHECKS, POWERED]
    text = report.describe(manifest)
    assert "| 48 (1,312) | 0.136 | **no** |" in text
    assert "Rollback to generation 1. Arm" in text
    renewal = report.describe({**manifest, "withdrawn": [], "expires": "2026-02-01T03:04:05+00:00"})
    assert "Renews generation 1. Valid until 2026-02-01 03:04 UTC. Arm" in renewal
    assert all(letter * 64 in text for letter in "IEABP")
    assert "a\\|b" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        # A cell's escaped bar is text; every other bar ends a cell.
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table


def test_views_before_anything_ran(tmp_path, monkeypatch):
    settings = kit.bare_home(tmp_path)
    (row,) = views.overview(settings)["corpora"]
    assert (row["corpus"], row["revision"], row["verdict"], row["generation"]) == ("tiny", None, None, None)
    with pytest.raises(NotFound, match="tiny has no score_answers yet; run: assay run tiny"):
        views.comparison(settings, "tiny")
    with pytest.raises(NotFound, match="tiny has no judge yet"):
        views.candidate_report(settings, "tiny")


HEAVY = {
    "numpy", "pandas", "pyarrow", "torch", "transformers", "mlflow", "pymilvus", "dvc", "openvino", "pyspark",
    "great_expectations", "matplotlib",
}  # fmt: skip


@pytest.mark.parametrize("module", ["pipelines.cli", "pipelines.actions.views", "pipelines.show", "pipelines.wiring"])
def test_nothing_heavy_is_imported_by_what_must_start_at_once(module):
    code = f"import sys, json, {module}; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & HEAVY == set()


def test_rollback_publishes_before_anything_heavy():
    code = "import sys, json, pipelines.actions.rollback; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & HEAVY == set()
