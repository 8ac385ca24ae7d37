"""What counts as a text of the test, and how much of it another text holds."""

import pytest

from pipelines.core.contamination import Guard, Index, Probe, probes, words_of
from pipelines.core.splits import TEST, TRAIN, VALIDATION, split_of_key

HOW = {"validation": 0.1, "test": 0.4, "seed": 7}
TEN = "one two three four five six seven eight nine ten"


def named(split: str) -> str:
    return next(d for d in (f"d{n}" for n in range(1000)) if split_of_key(d, **HOW) == split)


def share(text: str, probe: str = TEN, *, words: int = 4) -> float:
    found = Index([Probe("t", "question", probe)], words=words).overlaps(text)
    return found[0].share if found else 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEN, 1.0),
        ("Well: ONE, two; three... Four! five six seven eight nine ten?", 1.0),
        ("three four five", 0.0),  # no run of four
        ("x three four five six x", 0.4),  # 4 of 10
        ("one two three four x seven eight nine ten", 0.8),  # 4 + 4 of 10
        ("one two three four x two three four five", 0.5),  # one to five
        ("ten nine eight seven six five four three two one", 0.0),
    ],
)
def test_words_in_common_runs_are_counted(text, expected):
    assert share(text) == pytest.approx(expected)


def test_a_short_text_is_not_looked_for():
    assert share("18 euros and more", "18 euros", words=4) == 0.0


def test_the_texts_of_a_question():
    tested, trained = named(TEST), named(TRAIN)
    question = {
        "id": "q",
        "question": "What is it?",
        "answers": ["It is so."],
        "evidence": [
            {"document": tested, "quote": "A first one. A second one!"},
            {"document": trained, "quote": "Known."},
        ],
    }
    found = [(p.kind, p.text, p.secret) for p in probes([question], **HOW)]
    assert found == [
        ("question", "What is it?", True),
        ("evidence", "A first one.", True),
        ("evidence", "A second one!", True),
        ("evidence", "Known.", False),  # of a training document: training may say it
        ("answer", "It is so.", False),
    ]
    alone = {**question, "evidence": question["evidence"][:1]}
    assert ("answer", "It is so.", True) in [(p.kind, p.text, p.secret) for p in probes([alone], **HOW)]
    label = {**question, "evidence": []}  # a label or a query recurs by its nature
    assert [p.kind for p in probes([label], **HOW)] == ["question"]
    told = {**question, "evidence": [{"document": tested}], "context": "All of it."}
    assert ("evidence", "All of it.", True) in [(p.kind, p.text, p.secret) for p in probes([told], **HOW)]


def test_the_worst_is_named_and_secrets_apart():
    texts = [
        Probe("a", "question", TEN),
        Probe("b", "evidence", "one two three four x"),
        Probe("c", "answer", TEN, False),
    ]
    index = Index(texts, words=4)
    worst = index.worst(["none", "one two three four five"], share=0.5, secret=True)
    assert worst is not None and worst.about.id == "b" and worst.share == pytest.approx(0.8)
    known = index.worst([TEN], share=1.0, secret=False)
    assert known is not None and known.about.id == "c"
    assert index.worst(["one two three four"], share=0.9, secret=True) is None


def test_words():
    assert words_of("Don't — «Straße», 4.90 €!") == ["don", "t", "strasse", "4", "90"]


def test_training_rows_are_held_against_both_evaluation_sets_and_validation_rows_against_the_test():
    said = {split: f"{split} {TEN} {split}" for split in (TEST, VALIDATION, TRAIN)}
    questions = [
        {"id": split, "question": said[split], "answers": [], "evidence": [{"document": named(split), "quote": ""}]}
        for split in said
    ]
    guard = Guard(questions, words=8, share=1.0, split=HOW)
    assert ([q["id"] for q in guard.tested], [q["id"] for q in guard.chosen]) == ([TEST], [VALIDATION])
    found = {
        of: [split for split in said if guard.overlap(["other", said[split]], of) is not None]
        for of in (TRAIN, VALIDATION)
    }
    assert found == {TRAIN: [TEST, VALIDATION], VALIDATION: [TEST]}
    most = guard.overlap([said[TRAIN]], TRAIN, share=0.0)
    assert most is not None and most.share == pytest.approx(10 / 12)
    assert str(guard.overlap([said[TEST]], TRAIN)) == "holds 1.00 of the words of test's question"


def test_what_a_training_document_says_too_is_told_of_the_test_alone():
    def asked(split):
        evidence = [{"document": named(split), "quote": "Another."}, {"document": named(TRAIN), "quote": TEN}]
        return Guard(
            [{"id": "q", "question": "What?", "answers": [], "evidence": evidence}], words=8, share=1.0, split=HOW
        )

    assert asked(TEST).shared([TEN]) is not None
    assert asked(VALIDATION).shared([TEN]) is None
    assert asked(TEST).overlap([TEN], TRAIN) is asked(VALIDATION).overlap([TEN], TRAIN) is None
