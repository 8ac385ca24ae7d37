"""Digests and names: what identity rests on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.digests import combine_sets, digest_json, digest_row, digest_set
from pipelines.core.names import collection_name, parse_reference, valid_corpus_name
from pipelines.core.nouns import Check, Chunk, Verdict

rows = st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=8)


@given(rows, st.randoms())
def test_set_digest_ignores_order_and_partitioning(items, random):
    hashed = [digest_row(*item) for item in items]
    shuffled = hashed[:]
    random.shuffle(shuffled)
    cut = random.randint(0, len(hashed))
    assert digest_set(hashed) == digest_set(shuffled)
    assert combine_sets([digest_set(hashed[:cut]), digest_set(hashed[cut:])]) == digest_set(hashed)


@given(rows.filter(bool))
def test_set_digest_sees_loss_and_duplication(items):
    hashed = [digest_row(*item) for item in items]
    assert digest_set(hashed) != digest_set(hashed[1:])
    assert digest_set(hashed) != digest_set([*hashed, hashed[0]])


def test_row_fields_are_not_joined():
    assert digest_row(b"ab", b"c") != digest_row(b"a", b"bc")


def test_nan_has_no_canonical_form():
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json(float("nan"))


def test_chunk_identity_is_document_ordinal_and_text():
    chunk = Chunk("d", 0, 0, 4, "text", 1)
    assert chunk.id == Chunk("d", 0, 9, 13, "text", 1).id != Chunk("d", 1, 0, 4, "text", 1).id
    assert len(chunk.id) == 32


@pytest.mark.parametrize("name", ["a", "support_en", "b2b", "x" * 30])
def test_names_accepted(name):
    assert valid_corpus_name(name)


@given(st.text(max_size=50))
def test_accepted_names_are_safe_everywhere(name):
    if valid_corpus_name(name):
        assert name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and len(name) <= 40


@pytest.mark.parametrize("name", ["", "A", "a-b", "a__b", "_a", "1a", "../x", "a/b", "é", "a\n", "x" * 41])
def test_names_refused(name):
    assert not valid_corpus_name(name)


def test_references():
    assert parse_reference("support") == ("support", None)
    assert parse_reference("support@12") == ("support", 12)
    for wrong in ("support@0", "support@x", "@1", "a@1@2"):
        with pytest.raises(ValueError, match="is not NAME or NAME@GENERATION"):
            parse_reference(wrong)


def test_collection_names_carry_corpus_and_digest():
    assert collection_name("support", "0123456789abcdef99") == "b_support_0123456789abcdef"


def test_a_verdict_without_checks_does_not_pass():
    assert not Verdict("c", []).passed
    assert Verdict("c", [Check("a", 1, 0, True, "")]).passed
    assert not Verdict("c", [Check("a", 1, 0, True, ""), Check("b", None, 0, False, "")]).passed
