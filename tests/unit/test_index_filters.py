"""A filter's values stay values: whatever they hold, the expression says what was asked and nothing else."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milvus_lite.search.filter.tokens import TokenKind, tokenize

from pipelines.backends.milvus.filters import MOST, expression
from pipelines.core.index_choice import HNSW_FROM, choose_index
from pipelines.errors import BadInput

NASTY = st.text(st.one_of(st.sampled_from("\"'\\[](){},%=!n or"), st.characters()), min_size=1, max_size=40)


def usable(value: str) -> bool:
    return all(unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") for character in value)


@given(st.lists(NASTY, min_size=1, max_size=4), st.lists(NASTY, min_size=1, max_size=4))
def test_no_value_changes_what_an_expression_means(documents: list[str], titles: list[str]) -> None:
    """Read by milvus-lite's own lexer, it is `document in [strings] and title in [strings]`, the strings as given."""
    if not all(map(usable, documents + titles)):
        with pytest.raises(BadInput, match="control characters or surrogates"):
            expression({"document": documents, "title": titles}, labels=None)
        return
    tokens = tokenize(expression({"title": titles, "document": documents}, labels=None))
    kinds = [token.kind for token in tokens if token.kind not in (TokenKind.STRING, TokenKind.COMMA)]
    among = [TokenKind.IDENT, TokenKind.IN, TokenKind.LBRACKET, TokenKind.RBRACKET]
    assert kinds == [*among, TokenKind.AND, *among, TokenKind.EOF]
    assert [token.value for token in tokens if token.kind is TokenKind.STRING] == documents + titles
    assert [token.text for token in tokens if token.kind is TokenKind.IDENT] == ["document", "title"]


def test_what_cannot_be_filtered_by_is_said() -> None:
    assert expression(None, labels=None) == expression({}, labels=None) == ""
    assert expression({"document": "a.md"}, labels=None) == 'document in ["a.md"]'
    for filters, message in (
        ({"text": "x"}, "filtered by 'text'; one of document, title"),
        ({"document == 'x' or 1": "x"}, "one of document, title"),
        ({"document": []}, "has 0 values; give 1 to 1,000"),
        ({"document": ["x"] * (MOST + 1)}, "has 1001 values"),
        ({"document": ""}, "not text of 1 to 4,096 characters"),
        ({"document": [3]}, "not text of 1 to 4,096 characters"),
    ):
        with pytest.raises(BadInput, match=message):
            expression(filters, labels=())  # type: ignore[arg-type]


HOSTILE = st.lists(
    st.one_of(
        NASTY,
        st.sampled_from(
            ["hr", "public", "hr-eu", "", "HR", "hr\n", "hr\0", "ｈｒ", "hr\u200b", 'hr"] or access != ["', "hr or 1"]
        ),
    ),
    max_size=4,
)


@given(HOSTILE)
def test_no_label_that_is_not_valid_enters_an_expression(labels: list[str]) -> None:
    """Nor does one change what it means: by milvus-lite's own lexer it is `access in [labels]`, public among them."""
    if not all(re.fullmatch(r"[a-z](?:[a-z0-9]|[-_](?=[a-z0-9])){0,39}", label) for label in labels):
        with pytest.raises(BadInput, match=r"access label .* is not valid; a label is a lower-case letter, then"):
            expression({}, labels=labels)
        return
    tokens = tokenize(expression({"document": 'x" or access in ["hr"]'}, labels=labels))
    kinds = [token.kind for token in tokens if token.kind not in (TokenKind.STRING, TokenKind.COMMA)]
    among = [TokenKind.IDENT, TokenKind.IN, TokenKind.LBRACKET, TokenKind.RBRACKET]
    assert kinds == [*among, TokenKind.AND, *among, TokenKind.EOF]
    said = [token.value for token in tokens if token.kind is TokenKind.STRING]
    assert said == ['x" or access in ["hr"]', *sorted({"public", *labels})]


def test_a_reader_always_gets_public_and_a_label_that_is_none_is_named() -> None:
    assert expression(None, labels=()) == 'access in ["public"]'
    assert (
        expression({"title": "T"}, labels=["hr", "board"]) == 'title in ["T"] and access in ["board", "hr", "public"]'
    )
    for labels, message in (
        (
            ["HR"],
            "access label 'HR' is not valid; a label is a lower-case letter, then letters, digits and single dashes",
        ),
        ([None], "access label 'None' is not valid"),
        (["x" * 41], "is not valid"),
        ("hr", "access labels are a list of at most 1,000, not 'hr'"),
        (["hr"] * (MOST + 1), "access labels are a list of at most 1,000"),
    ):
        with pytest.raises(BadInput, match=message):
            expression(None, labels=labels)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="filtered by 'access'; one of document, title"):
        expression({"access": "hr"}, labels=None)  # labels are no filter of the reader's


def test_auto_goes_by_the_number_of_rows_and_a_wish_is_granted() -> None:
    kinds = [choose_index("auto", rows=rows)[0] for rows in (0, HNSW_FROM - 1, HNSW_FROM, 10 * HNSW_FROM)]
    assert kinds == ["FLAT", "FLAT", "HNSW", "HNSW"]
    assert "0006-index-choice" in choose_index("auto", rows=1)[1]
    assert choose_index("HNSW", rows=1) == ("HNSW", "index.type asks for it")
