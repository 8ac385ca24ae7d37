"""How many tokens a text has: what is remembered of words agrees with the tokenizer, and so do the cuts."""

from __future__ import annotations

import json
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer, models, pre_tokenizers

from pipelines.backends import splitter
from pipelines.embedders import read_definition
from pipelines.settings import checkout

HANDBOOK = sorted((checkout() / "tests" / "fixtures" / "handbook").rglob("*.md"))


@cache
def minilm() -> Tokenizer:
    folder = read_definition(checkout() / "models" / "embedders" / "minilm.yaml").folder
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@cache
def counter():  # type: ignore[no-untyped-def]
    return splitter.token_counter(minilm().to_str())


def encoded(text: str) -> int:
    return len(minilm().encode(text, add_special_tokens=False))


PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from([" ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u200b", "\x00", "\x1c", "\u0301", " \u0301"]),
    st.sampled_from(["\u6771\u4eac", "[MASK]", "[SEP] ", "na\u00efve", "it's", "self.x=1;"]),
    st.sampled_from("abcxyz").map(lambda letter: letter * 130),
)


@given(st.lists(PIECES, max_size=30))
def test_the_words_of_a_text_have_as_many_tokens_as_the_text(pieces: list[str]) -> None:
    text = "".join(pieces).encode("utf-8", "replace").decode()
    assert counter()(text) == encoded(text)


def test_cuts_are_those_of_the_librarys_own_counting() -> None:
    ours = splitter.TokenSplitter(minilm().to_str(), min_tokens=64, max_tokens=128, overlap=20)
    assert len(HANDBOOK) > 20
    for markdown, kind in ((True, MarkdownSplitter), (False, TextSplitter)):
        theirs = kind.from_huggingface_tokenizer(minilm(), (64, 128), overlap=20)
        for file in HANDBOOK:
            text = file.read_text("utf-8")
            spans = ours.split(text, markdown=markdown)
            assert [(s.start, s.text) for s in spans] == theirs.chunk_indices(text)
            assert [s.tokens for s in spans] == [encoded(s.text) for s in spans]


def test_a_tokenizer_whose_tokens_hold_spaces_reads_the_whole_text() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a b": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    assert splitter.token_counter(tokenizer.to_str())("a b|a") == 2
    bert = json.loads(minilm().to_str())
    bert["added_tokens"].append({**bert["added_tokens"][0], "id": len(bert["model"]["vocab"]), "content": "two words"})
    assert splitter.token_counter(json.dumps(bert))("two words") == 1


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitter, "_REMEMBERED", 3)
    words = splitter._WordTokens(len)
    assert [words[word] for word in ("a", "bb", "ccc", "dddd", "a", "x" * 65)] == [1, 2, 3, 4, 1, 65]
    assert len(words) <= 3 and "x" * 65 not in words
