"""docs/gate.md: what it links exists, its defaults are params.yaml's, and its formulas are the code's."""

import re

import yaml

from benchmarks import gate
from pipelines.core.intervals import critical_value, detectable, needed
from pipelines.params import Judge
from pipelines.settings import checkout

PAGE = checkout() / "docs" / "gate.md"
TEXT = PAGE.read_text(encoding="utf-8")
JUDGE = yaml.safe_load((checkout() / "params.yaml").read_text(encoding="utf-8"))["defaults"]["judge"]


def test_what_it_links_exists():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(links) > 3
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_every_knob_of_judge_is_explained():
    table = TEXT[TEXT.index("| knob of `judge`") :]
    assert [knob for knob in Judge.model_fields if f"`{knob}`" not in table] == []


def test_the_defaults_it_names_are_those_of_params():
    for metric, margin in JUDGE["max_regression"].items():
        assert f"`{metric}` {margin:g}" in TEXT
    margins = {shape.name: shape.margin for shape in gate.SHAPES}
    assert margins["nDCG@10, as on the handbook"] == JUDGE["max_regression"]["retrieval.ndcg@10"]
    assert margins["token F1, as on XQuAD"] == JUDGE["max_regression"]["answers.token_f1"]
    assert JUDGE["confidence"] == gate.GATE.confidence == 0.95
    assert (JUDGE["resamples"], JUDGE["seed"]) == (gate.GATE.resamples, gate.GATE.seed)


def test_the_questions_it_says_are_needed_are():
    z = critical_value(JUDGE["confidence"])
    rows = re.findall(
        r"^\| ([\d.]+)(?: \(no question differs\))? \| ((?:[\d.]+ \| ){4})((?:[\d,]+ \| ?){4})$", TEXT, re.M
    )
    assert len(rows) == 5
    for deviation, found, wanted in rows:
        s = float(deviation)
        assert [float(v) for v in found.split(" | ") if v] == [
            round(detectable(s, n, z=z), 3) for n in (50, 100, 300, 1000)
        ]
        numbers = [int(v.replace(",", "")) for v in wanted.split(" |") if v.strip()]
        assert numbers == [needed(s, margin, z=z) for margin in (0.02, 0.03, 0.05, 0.1)]


def test_it_says_of_every_target_that_it_is_met():
    rows = [line for line in TEXT.splitlines() if re.search(r"\| at (most|least) 0\.\d\d \| \w+ \|$", line)]
    assert len(rows) == 3 * len(gate.SHAPES)
    assert all(line.endswith("| yes |") for line in rows)
