"""Our metrics against implementations by others: SQuAD's script as torchmetrics has it, ROUGE-L as Google does."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.backends.rouge import RougeL
from pipelines.core import answers
from pipelines.core.prompts import Reply

pytestmark = pytest.mark.integration
WORDS = [
    "the",
    "a",
    "an",
    "The",
    "30",
    "days",
    "days.",
    '"owl"',
    "co-op",
    "l'été",
    "Größe",
    "—",
    "的",
    "…",
    "a.m.",
    "x",
]
phrase = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))


@pytest.fixture(scope="module")
def squad():
    """Exact match and F1, in shares, of one answer and its gold answers."""
    from torchmetrics.functional.text import squad

    def scored(answer, gold):
        target = {"answers": {"answer_start": [0] * len(gold), "text": gold}, "id": "q"}
        found = squad([{"prediction_text": answer, "id": "q"}], [target])
        return float(found["exact_match"]) / 100, float(found["f1"]) / 100

    return scored


def ours(reply, gold):
    form = {"passages": [], "format_valid": True, "style": None, "rouge_l": lambda answer, wanted: 0.0}
    found = answers.score(reply, gold, [], **form)
    return found["exact_match"], found["token_f1"]


@given(answer=phrase, gold=st.lists(phrase, min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_exact_match_and_f1_are_those_of_squads_script(squad, answer, gold):
    assert ours(Reply(answer, (), False), gold) == pytest.approx(squad(answer, gold), abs=1e-6)


@given(gold=st.lists(phrase, max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_refusal_is_the_empty_answer_of_version_2(squad, gold):
    """There, a question without an answer has the one gold answer "", and whoever abstains says ""."""
    stated = [g for g in gold if answers.normalised(g)]
    assert ours(Reply("I could not find this.", (), True), stated) == pytest.approx(squad("", stated or [""]), abs=1e-6)


printable = st.text(
    alphabet=string.ascii_letters + string.digits + string.punctuation.replace("_", "") + " ", max_size=60
)


@given(answer=printable, gold=printable)
@settings(max_examples=200, deadline=None)
def test_rouge_l_is_googles_on_ascii(answer, gold):
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(["rougeL"]).score(gold, answer)["rougeL"].fmeasure
    assert RougeL()(answer, gold) == pytest.approx(theirs, abs=1e-9)


def test_rouge_l_reads_every_script():
    rouge = RougeL()
    # Two of three words in order on either side: P = R = F = 2/3.
    assert rouge("Größe ist Ärmel", "Größe war Ärmel") == pytest.approx(2 / 3)
    assert rouge("", "x") == 0 and rouge("дом", "дом") == 1
