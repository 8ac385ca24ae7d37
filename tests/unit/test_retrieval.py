"""Search, rerank, cut: what a store found and a reranker scored, by hand; and definitions of rerankers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.actions.ask import Service
from pipelines.backends.reranker import read_definition, reranker_digest
from pipelines.errors import BadConfig, BadInput, IntegrityError, MissingTool
from pipelines.params import Rerank, Retrieve
from pipelines.ports import Hit
from pipelines.released import reranker_of
from pipelines.retrieval import BATCH, FUSED, fused, rerank, search
from pipelines.settings import Settings, checkout


def hit(text, score=0.0):
    return Hit(chunk=f"c-{text}", document=text, title=text, start=0, end=len(text), text=text, score=score)


class Letters:
    """Finds a, b, c, ... in this order whatever is asked; remembers how it was asked."""

    def __init__(self):
        self.asked = []

    def search(self, collection, questions, vectors, *, k, mode, filters, labels):
        self.asked.append((collection, len(questions), len(vectors), k, mode))
        self.filters, self.labels = filters, labels
        return [[hit(letter, 1 / (60 + rank)) for rank, letter in enumerate("abcdefgh", 1)][:k] for _ in questions]


class Zeros:
    def embed_batch(self, texts):
        return np.zeros((len(texts), 2), dtype=np.float32)


class Later:
    """Scores a letter by its place in the alphabet, from the question's letter on: later is better."""

    name, digest = "later", "1" * 64

    def score(self, question, texts):
        return np.array([ord(text) - ord(question) for text in texts], dtype=np.float32)


MANIFEST = {"corpus": "tiny", "generation": 1, "arm": "rag", "params": {}}


def find(served, *, depth=None, questions=("a",), **more):
    store = Letters()
    how = Retrieve(mode="hybrid", k=served, rerank=depth and Rerank(model="later", depth=depth))
    found = search(store, Zeros(), "b_x", questions, retrieve=how, reranker=Later() if depth else None, **more)
    return ["".join(h.text for h in hits) for hits in found], store, found


class Both(Letters):
    """By vector a, b, c, d; by BM25 d, b, e; by both it is not asked."""

    def search(self, collection, questions, vectors, *, k, mode, filters, labels):
        self.asked.append((mode, k, filters, labels))
        scored = {"dense": zip("abcd", (0.9, 0.8, 0.1, -1.0)), "bm25": zip("dbe", (20.0, 10.0, 0.0))}[mode]  # noqa: B905
        return [[hit(letter, score) for letter, score in scored][:k] for _ in questions]


def test_with_an_alpha_two_searches_are_fused_by_weights():
    store, how = Both(), Retrieve(mode="hybrid", alpha=0.75, k=3)
    (found,) = search(
        store, Zeros(), "b_x", ["q"], retrieve=how, reranker=None, filters={"title": "x"}, labels=["board"]
    )
    # b: 0.75 * (0.8 + 1) / (0.9 + 1) + 0.25 * 10 / 20; a: 0.75 alone; c: 0.75 * 1.1 / 1.9
    assert [(h.text, round(h.score, 6)) for h in found] == [("b", 0.835526), ("a", 0.75), ("c", 0.434211)]
    assert store.asked == [(mode, FUSED, {"title": "x"}, ["board"]) for mode in ("dense", "bm25")]


def test_what_one_search_does_not_find_counts_nothing_there():
    dense, bm25 = [hit("a", 0.5), hit("b", -1.0)], [hit("c", 3.0), hit("d", 0.0)]
    scores = {h.text: h.score for h in fused(dense, bm25, alpha=0.6)}
    assert scores == pytest.approx({"a": 0.6, "c": 0.4, "b": 0.0, "d": 0.0})
    assert fused([], [], alpha=0.6) == []
    assert [h.text for h in fused([hit("a", -1.0)], [], alpha=0.6)] == ["a"]


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 1), max_size=8),
    st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 50), max_size=8),
    st.floats(0, 1),
)
@example({"a": 0.0}, {"a": 5e-324}, 0.25)
def test_fusion_loses_and_repeats_nothing_and_keeps_to_its_scale(by_vector, by_words, alpha):
    lists = [
        [hit(key, score) for key, score in sorted(of.items(), key=lambda item: -item[1])]
        for of in (by_vector, by_words)
    ]
    found = fused(*lists, alpha=alpha)
    assert sorted(h.text for h in found) == sorted(by_vector.keys() | by_words.keys())
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 + 1e-9 for score in scores)
    dense = {h.text: h.score for h in found if h.text not in by_words}
    assert sorted(dense, key=lambda key: -by_vector[key]) == sorted(
        dense, key=lambda key: (-dense[key], -by_vector[key])
    )


def test_without_a_reranker_the_stores_order_stands():
    assert find(3)[0] == ["abc"]
    assert find(3, k=5)[0] == ["abcde"]


def test_the_first_of_the_store_are_put_in_the_rerankers_order_and_the_best_kept():
    letters, store, found = find(2, depth=4)
    assert letters == ["dc"]  # of a b c d
    assert [h.score for h in found[0]] == [3.0, 2.0]
    assert store.asked == [("b_x", 1, 1, 4, "hybrid")]


def test_asking_for_more_than_the_depth_only_adds():
    assert find(2, depth=3, k=6)[0] == ["cbadef"]
    assert find(6, depth=3)[0] == ["cbadef"]


def test_filters_narrow_the_search_itself():
    assert find(2, filters={"document": ["a"]})[1].filters == {"document": ["a"]}
    assert find(2)[1].filters is None


def test_a_reader_without_labels_gets_what_is_public_and_only_a_stage_gets_all():
    """What the store is asked: `()` is public alone, None is no restriction."""
    assert find(2)[1].labels == ()
    assert find(2, labels=["hr"])[1].labels == ["hr"]
    assert find(2, labels=None)[1].labels is None


@pytest.mark.parametrize("labels", [None, "hr"])
def test_a_service_is_never_asked_without_restriction(labels):
    service = Service(Settings(Path("nowhere"), checkout() / "params.yaml", "local[1]"), MANIFEST)
    for asked in (service.passages, service.answer):
        with pytest.raises(BadInput, match="labels are a list of access labels"):
            asked(["Anything?"], labels=labels)


class Crowded(Letters):
    """Finds 30 passages of document a, then one of each of b to f."""

    def search(self, collection, questions, vectors, *, k, mode, filters, labels):
        self.asked.append((collection, len(questions), len(vectors), k, mode))
        passages = [*"a" * 30, *"bcdef"]
        return [[replace(hit(name), chunk=f"{name}{n}") for n, name in enumerate(passages)][:k] for _ in questions]


def crowded(quota, *, k=3, depth=None):
    store = Crowded()
    rerank = depth and Rerank(model="later", depth=depth)
    how = Retrieve(mode="dense", k=k, per_document=quota, rerank=rerank)
    (found,) = search(store, Zeros(), "b_x", ["a"], retrieve=how, reranker=Later() if depth else None)
    return "".join(h.document for h in found), [asked[3] for asked in store.asked]


def test_no_document_has_more_passages_than_its_quota_and_others_fill_the_places():
    assert crowded(None) == ("aaa", [3])
    assert crowded(1) == ("abc", [3, 12, 48])  # 3, then 12 passages are all of document a
    assert crowded(2) == ("aab", [3, 12, 48])
    assert crowded(2, k=2) == ("aa", [2])
    assert crowded(1, k=9) == ("abcdef", [9, 36])  # 36 asked for, 35 there: the store has no more
    assert crowded(1, depth=40) == ("fed", [40])  # after the reranker, by its order


def test_the_quota_is_left_out_of_params_that_have_none():
    """What was judged or released without a quota keeps its digest."""
    assert "per_document" not in Retrieve(mode="dense", k=3).model_dump()
    assert Retrieve(mode="dense", k=3, per_document=2).model_dump()["per_document"] == 2


def test_equal_scores_keep_the_stores_order():
    class Same(Later):
        def score(self, question, texts):
            return np.ones(len(texts), dtype=np.float32)

    assert [h.text for h in rerank(Same(), "a", [hit("x"), hit("b"), hit("c")], depth=3)] == ["x", "b", "c"]
    assert rerank(Same(), "a", [], depth=3) == []


def test_many_questions_are_asked_in_batches_and_each_is_reranked_by_itself():
    asked = ["a"] * BATCH + ["b"]
    letters, store, found = find(1, depth=2, questions=asked)
    assert [call[1] for call in store.asked] == [BATCH, 1]
    assert letters == ["b"] * (BATCH + 1)
    assert (found[0][0].score, found[-1][0].score) == (1.0, 0.0)


def released(reranker):
    return {"corpus": "tiny", "generation": 3, "reranker": reranker}


def test_a_release_is_asked_with_the_reranker_that_it_was_judged_with():
    class Ports:
        reranker = Later()

    assert reranker_of(released(None), Ports()) is None
    assert reranker_of({"corpus": "tiny", "generation": 1}, Ports()) is None  # made before there were rerankers
    bound = {"name": "later", "digest": Later.digest}
    assert reranker_of(released(bound), Ports()) is Ports.reranker
    said = "tiny@3 was judged with reranker later 222222222222, but later is 111111111111 here"
    with pytest.raises(IntegrityError, match=said):
        reranker_of(released({"name": "later", "digest": "2" * 64}), Ports())
    Ports.reranker = None
    with pytest.raises(IntegrityError, match="but its params name none"):
        reranker_of(released(bound), Ports())


@pytest.fixture
def model(tmp_path):
    """Files that look like a cross-encoder; nothing is loaded from them."""
    folder = tmp_path / "home" / "rerankers" / "trained"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "x"}, "max_position_embeddings": 512}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def defined(tmp_path, text):
    (tmp_path / "ce.yaml").write_text(text)
    return read_definition(tmp_path / "ce.yaml", home=tmp_path / "home")


def test_a_definition_finds_its_folder_and_window(tmp_path, model):
    found = read_definition(checkout() / "models" / "rerankers" / "trained.yaml", home=tmp_path / "home")
    assert (found.name, found.folder, found.window) == ("trained", model, 512)
    assert defined(tmp_path, f"path: {model}\nwindow: 128").window == 128


def test_the_digest_covers_what_scores_and_not_the_name(tmp_path, model):
    first = reranker_digest(defined(tmp_path, f"path: {model}"))
    seen = {first, reranker_digest(defined(tmp_path, f"path: {model}\nwindow: 128"))}
    for file in ("model.safetensors", "tokenizer.json"):
        (model / file).write_bytes(b"{} ")
        seen.add(reranker_digest(defined(tmp_path, f"path: {model}")))
    assert len(seen) == 4
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "tokenizer.json").write_text("{}")
    elsewhere = model.rename(tmp_path / "elsewhere")
    assert reranker_digest(defined(tmp_path, f"path: {elsewhere}")) == first


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("path: x\nhub: y", BadConfig, "its keys are one of package, path or hub; and optionally window"),
        ("path: x\nprefix: y", BadConfig, "its keys are one of"),
        ("[1]", BadConfig, "its keys are one of"),
        ("path: nowhere", MissingTool, r"no config.json in .*nowhere; it must be a folder that sentence-transformers"),
        ("package: no_such_package_here", MissingTool, "package no-such-package-here is not installed"),
        ("path: $ASSAY_HOME/rerankers/trained\nwindow: 2", BadConfig, "does not say its window"),
    ],
)
def test_a_bad_definition_is_one_line(tmp_path, model, text, error, said):
    with pytest.raises(error, match=said) as caught:
        defined(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_classifier_of_several_labels_and_an_unknown_name_are_refused(tmp_path, model):
    (model / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    with pytest.raises(BadConfig, match="does not score with one label, so it ranks nothing"):
        defined(tmp_path, f"path: {model}")
    with pytest.raises(
        BadConfig, match=r"retrieve\.rerank\.model is 'other', but there is no models/rerankers/other\.yaml"
    ):
        read_definition(checkout() / "models" / "rerankers" / "other.yaml", home=tmp_path)
