"""The split by document: no leak, stable, near the asked shares."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    documents_of,
    fraction,
    split_of,
    split_of_key,
    strays,
    unsaid,
)
from tests.adapter_kit import handbook, params_of

HOW = {"validation": 0.1, "test": 0.4, "seed": 7}
ids = st.text(min_size=1, max_size=12)
items = st.lists(st.tuples(ids, st.lists(ids, max_size=4)), max_size=30)


def item(name, documents):
    return {"id": name, "evidence": [{"document": d} for d in documents]}


@given(items)
def test_what_is_trained_on_rests_on_training_documents_only(drawn):
    for name, documents in drawn:
        split = split_of(item(name, documents), **HOW)
        of_documents = {split_of_key(d, **HOW) for d in documents}
        if documents and split == TRAIN:
            assert of_documents == {TRAIN}
        if documents and split == VALIDATION:
            assert TEST not in of_documents
        if documents and split == TEST:
            assert TEST in of_documents


@given(ids, st.integers(0, 2**31))
def test_a_split_depends_on_key_and_seed_alone(key, seed):
    assert 0 <= fraction(key, seed=seed) < 1
    assert split_of_key(key, validation=0.1, test=0.4, seed=seed) in SPLITS
    assert split_of_key(key, validation=0, test=0, seed=seed) == TRAIN


def test_shares_are_those_asked():
    # 20,000 keys: the standard deviation of a share of 0.4 is sqrt(0.4 * 0.6 / 20000) = 0.0035; 0.015 is four of them.
    found = Counter(split_of_key(f"d{n}", **HOW) for n in range(20_000))
    for split, share in ((TEST, 0.4), (VALIDATION, 0.1), (TRAIN, 0.5)):
        assert abs(found[split] / 20_000 - share) < 0.015


def test_items_without_evidence_go_by_their_own_id():
    assert {split_of(item(f"u{n}", []), **HOW) for n in range(50)} == set(SPLITS)
    # The id of an item and the id of a document are different keys.
    assert any(split_of(item(f"k{n}", []), **HOW) != split_of_key(f"k{n}", **HOW) for n in range(50))


@given(ids, st.lists(ids, max_size=3), st.sampled_from(SPLITS))
def test_what_an_item_says_itself_wins(name, documents, said):
    assert split_of({**item(name, documents), "split": said}, **HOW) == said


def test_documents_are_distinct_and_in_order():
    assert documents_of(item("q", ["b", "a", "b"])) == ("b", "a")
    assert documents_of({"id": "q"}) == ()


@pytest.mark.parametrize("revision", ["2026-01-12", "2026-04-20", "2026-09-07"])
def test_handbook_no_test_document_is_seen_in_training(revision):
    how = params_of().split.model_dump()
    examples = handbook("examples")
    learned = {d for e in examples if split_of(e, **how) != TEST for d in documents_of(e)}
    asked = [q for q in handbook("questions", revision) if q["evidence"] and split_of(q, **how) == TEST]
    assert asked and learned
    assert not {d for d in learned if split_of_key(d, **how) == TEST}
    for question in asked:
        assert not set(documents_of(question)) <= learned, question["id"]


def test_handbook_shares_leave_enough_of_each():
    how = params_of().split.model_dump()
    assert Counter(split_of(e, **how) for e in handbook("examples"))[TRAIN] >= 100
    assert Counter(split_of(q, **how) for q in handbook("questions"))[TEST] >= 40


def named(split):
    return next(d for d in (f"d{n}" for n in range(1000)) if split_of_key(d, **HOW) == split)


def test_an_item_that_says_its_split_answers_for_its_documents():
    tested, chosen, trained = named(TEST), named(VALIDATION), named(TRAIN)
    every = item("e", [tested, chosen, trained])
    assert strays(every, TRAIN, unsaid=(), **HOW) == [tested, chosen]
    assert strays(every, VALIDATION, unsaid=(), **HOW) == [tested]
    assert strays(every, TEST, unsaid=(), **HOW) == []
    assert strays({**every, "split": TRAIN}, TRAIN, unsaid=(), **HOW) == []


def test_but_not_for_documents_that_others_rest_on_by_the_split_by_document():
    """A question that does not say its split is in the test because nobody trains on its document."""
    tested, other = named(TEST), named(VALIDATION)
    question = item("q", [tested])
    said = {**item("e", [tested, other]), "split": TRAIN}
    assert strays(said, TRAIN, unsaid=unsaid([question]), **HOW) == [tested]
    assert strays(said, TRAIN, unsaid=unsaid([{**question, "split": TEST}]), **HOW) == []  # then both were said
