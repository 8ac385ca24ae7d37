"""A filter's values stay values: whatever they hold, the expression says what was asked and nothing else."""

from __future__ import annotations

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
            expression({"document": documents, "title": titles})
        return
    tokens = tokenize(expression({"title": titles, "document": documents}))
    kinds = [token.kind for token in tokens if token.kind not in (TokenKind.STRING, TokenKind.COMMA)]
    among = [TokenKind.IDENT, TokenKind.IN, TokenKind.LBRACKET, TokenKind.RBRACKET]
    assert kinds == [*among, TokenKind.AND, *among, TokenKind.EOF]
    assert [token.value for token in tokens if token.kind is TokenKind.STRING] == documents + titles
    assert [token.text for token in tokens if token.kind is TokenKind.IDENT] == ["document", "title"]


def test_what_cannot_be_filtered_by_is_said() -> None:
    assert expression(None) == expression({}) == ""
    assert expression({"document": "a.md"}) == 'document in ["a.md"]'
    for filters, message in (
        ({"text": "x"}, "filtered by 'text'; one of document, title"),
        ({"document == 'x' or 1": "x"}, "one of document, title"),
        ({"document": []}, "has 0 values; give 1 to 1,000"),
        ({"document": ["x"] * (MOST + 1)}, "has 1001 values"),
        ({"document": ""}, "not text of 1 to 4,096 characters"),
        ({"document": [3]}, "not text of 1 to 4,096 characters"),
    ):
        with pytest.raises(BadInput, match=message):
            expression(filters)  # type: ignore[arg-type]


def test_auto_goes_by_the_number_of_rows_and_a_wish_is_granted() -> None:
    kinds = [choose_index("auto", rows=rows)[0] for rows in (0, HNSW_FROM - 1, HNSW_FROM, 10 * HNSW_FROM)]
    assert kinds == ["FLAT", "FLAT", "HNSW", "HNSW"]
    assert "0006-index-choice" in choose_index("auto", rows=1)[1]
    assert choose_index("HNSW", rows=1) == ("HNSW", "index.type asks for it")
