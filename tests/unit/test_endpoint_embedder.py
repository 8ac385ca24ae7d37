"""A hosted embedding model against a real HTTP server on loopback: vectors, counts, and what is not believed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipelines.backends.endpoint import EndpointEmbedder
from pipelines.core.costs import Spent
from pipelines.embedders import read_definition
from pipelines.endpoints import HostedEmbedder
from pipelines.errors import BackendError, BadInput, IntegrityError
from pipelines.ports import Paid
from pipelines.settings import checkout
from tests.endpoint_kit import KEY, PRICE, Misbehaviour, Server, embedding_answer

MINILM = read_definition(checkout() / "models" / "embedders" / "minilm.yaml").folder / "tokenizer.json"


def directions(texts: Sequence[str]) -> np.ndarray:
    """A vector per text, by its length and first letter; none of unit length."""
    return np.array([[len(text), ord(text[0]), 1.0, 0.5] for text in texts])


def tokens_of(embedder: EndpointEmbedder, texts: Sequence[str], *, special: bool = True) -> int:
    return sum(len(e.ids) for e in embedder._tokenizer.encode_batch(list(texts), add_special_tokens=special))


@pytest.fixture
def embedder(server: Server) -> EndpointEmbedder:
    return embedder_of(server)


def embedder_of(server: Server, *, read: int = 0, **keys: Any) -> EndpointEmbedder:
    """An embedder of `directions`; the server says it read `read` tokens more than it was sent."""
    shape = {"endpoint": "openai", "model": "e", "tokenizer": "minilm", "dim": 4, "window": 12, "batch": 3, **keys}
    hosted = HostedEmbedder.model_validate({"price": PRICE, "limits": {"retries": 0}, **shape})
    made = EndpointEmbedder(hosted, name="hosted", url=server.url, tokenizer=MINILM.read_text(encoding="utf-8"))
    server.answer = embedding_answer(lambda texts: (directions(texts), tokens_of(made, texts) + read))
    return made


def test_vectors_are_unit_in_order_and_their_tokens_counted(server: Server, embedder: EndpointEmbedder) -> None:
    texts = ["tent", "a stove", "rope and lamp", "unaffable", "mat", "boots", "z"]
    vectors, read = embedder.embed_counted(texts)
    expected = directions(texts) / np.linalg.norm(directions(texts), axis=1, keepdims=True)
    assert vectors.dtype == np.float32 and vectors.shape == (7, 4)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert read.tolist() == [1, 2, 3, 3, 1, 1, 1]  # una, ##ffa, ##ble are three
    assert int(read.sum()) == tokens_of(embedder, texts, special=False)
    assert sorted(len(asked["input"]) for _, asked, _ in server.asked) == [1, 3, 3]
    assert embedder.spent().tokens_in == tokens_of(embedder, texts)
    assert isinstance(embedder, Paid) and embedder.cost(1_000_000) == Spent(1_000_000, 0, 2.0, "EUR")


def test_no_texts_no_request(server: Server, embedder: EndpointEmbedder) -> None:
    vectors, read = embedder.embed_counted([])
    assert vectors.shape == (0, 4) and read.shape == (0,) and not server.asked


def test_a_prefix_is_sent_and_takes_of_the_window(server: Server) -> None:
    embedder = embedder_of(server, prefix="query: ")
    assert embedder.window == 12 - 2  # `query` and `:`
    _, read = embedder.embed_counted(["tent rope"])
    assert server.asked[-1][1]["input"] == ["query: tent rope"] and read.tolist() == [2]


def test_a_text_above_the_window_is_refused_before_it_is_sent(server: Server, embedder: EndpointEmbedder) -> None:
    with pytest.raises(BadInput, match=r"'a a a a a.*has 13 tokens; embedder hosted takes 12"):
        embedder.embed_batch(["a " * 11])
    assert not server.asked


@pytest.mark.parametrize("read", [-3, 1])
def test_a_server_that_reads_other_than_was_sent_is_refused(server: Server, read: int) -> None:
    embedder = embedder_of(server, read=read)
    with pytest.raises(IntegrityError, match="it cuts texts, or its tokenizer is another"):
        embedder.embed_batch(["tent rope lamp"])


def test_a_server_that_counts_no_special_tokens_is_fine(server: Server) -> None:
    assert embedder_of(server, read=-2).embed_batch(["tent rope lamp"]).shape == (1, 4)


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ([[1.0, 2.0, 3.0]], "a vector of width 3, its definition says 4"),
        ([[1.0, 2.0, 3.0, float("nan")]], "zero or not finite"),
        ([[1.0, 2.0, 3.0, float("inf")]], "zero or not finite"),
        ([[0.0, 0.0, 0.0, 0.0]], "zero or not finite"),
    ],
)
def test_vectors_that_are_none_are_refused(server: Server, vectors: Any, says: str) -> None:
    embedder = embedder_of(server)
    server.answer = embedding_answer(lambda texts: (vectors, tokens_of(embedder, texts)))
    with pytest.raises(IntegrityError, match=says):
        embedder.embed_batch(["tent"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": []},
        {"data": [{"index": 1, "embedding": [1, 2, 3, 4]}], "usage": {"prompt_tokens": 3}},
        {"data": [{"index": 0, "embedding": [1, 2, 3, 4]}]},
        {"data": [{"index": 0, "embedding": [1, 2, 3, 4]}], "usage": {"prompt_tokens": None}},
    ],
)
def test_embeddings_of_another_form_are_a_backend_error(server: Server, body: Any) -> None:
    embedder = embedder_of(server)
    server.next = [Misbehaviour(body=json.dumps(body).encode())]
    with pytest.raises(BackendError, match="answers in another form"):
        embedder.embed_batch(["tent"])


def test_its_copy_in_another_process_holds_no_key(server: Server, embedder: EndpointEmbedder) -> None:
    first = embedder.embed_batch(["tent"])
    copied = pickle.dumps(embedder)
    assert KEY.encode() not in copied
    again_ = pickle.loads(copied)  # noqa: S301 -- our own, made above
    assert again_.digest == embedder.digest and again_.window == embedder.window
    np.testing.assert_array_equal(again_.embed_batch(["tent"]), first)


def test_a_worker_is_answered_by_the_model_of_the_digest(server: Server, embedder: EndpointEmbedder) -> None:
    assert embedder.digest
    copied, answer = pickle.dumps(embedder), server.answer
    server.answer = lambda path, asked: {**answer(path, asked), "model": "served-2"}
    with pytest.raises(BackendError, match="answered with 'served-1', and now with 'served-2'"):
        pickle.loads(copied).embed_batch(["tent"])  # noqa: S301 -- our own, made above


def test_its_digest_follows_what_shapes_a_vector(server: Server) -> None:
    digests = {embedder_of(server, **keys).digest for keys in ({}, {"prefix": "q "}, {"window": 11}, {"model": "f"})}
    assert len(digests) == 4 and embedder_of(server, batch=1).digest in digests
