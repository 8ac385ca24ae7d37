"""What decides a tuning, without a model: which questions train, which passages are wrong, where models are kept, which
one params mean, and what is measured on what training never saw."""

import json
from types import SimpleNamespace

import pytest
import yaml

from pipelines import params as params_module
from pipelines import runner, tuned, tuning, tuning_rows
from pipelines.actions import promote
from pipelines.actions import tune as action
from pipelines.backends import reranker
from pipelines.core import manifest
from pipelines.core.contamination import Guard
from pipelines.core.splits import TEST, TRAIN, VALIDATION, split_of
from pipelines.core.tuning import Asked, by_split, hard_negatives, pairs, seen_as, steps_of, triplets, unseen
from pipelines.embedders import embedder_digest, read_definition
from pipelines.errors import BadConfig, BadInput, IntegrityError, NotFound
from pipelines.params import CorpusParams
from pipelines.settings import checkout
from pipelines.stages import score_retrieval
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace
from tests import release_kit as kit

MODELS = checkout() / "models"
SHARES = {"validation": 0.1, "test": 0.4, "seed": 7}


def params_of(**sections):
    raw = params_module.read_raw(checkout() / "params.yaml")
    raw["corpora"] = {"tiny": {"source": {"documents": "nowhere"}, **sections}}
    return CorpusParams.model_validate(params_module.corpus_block(raw, "tiny"))


def question(number, **more):
    return {"id": f"q{number:03d}", "question": f"What is {number}?", "evidence": [{"document": f"d{number}"}], **more}


QUESTIONS = [question(n) for n in range(200)]


# which questions


def test_training_reads_no_test_question_and_the_test_none_that_was_read():
    found = by_split(QUESTIONS, **SHARES)
    assert set(found) == {TRAIN, VALIDATION}
    assert all(split_of(row, **SHARES) == name for name, rows in found.items() for row in rows)
    seen = {seen_as(row["question"]) for rows in found.values() for row in rows}
    rest = unseen(QUESTIONS, seen, **SHARES)
    assert {row["id"] for row in rest} == {row["id"] for row in QUESTIONS if split_of(row, **SHARES) == TEST}
    assert 60 < len(rest) < 100  # 40 % of 200


def test_a_question_in_other_splits_in_the_same_words_is_asked_in_the_strictest():
    rows = [
        question(1, split=TRAIN, question="Who pays?"),
        question(2, split=TEST, question="who  PAYS?"),
        question(3, split=TRAIN, question="Who sends?"),
        question(4, split=VALIDATION, question="Who sends?"),
        question(5, split=TRAIN),
        question(6, split=TRAIN, evidence=[]),
    ]
    found = by_split(rows, **SHARES)
    assert [row["id"] for row in found[TRAIN]] == ["q005"]
    assert [row["id"] for row in found[VALIDATION]] == ["q004"]
    # One that training had seen before it was moved to the test is not asked there.
    assert unseen(rows, {seen_as("Who pays?")}, **SHARES) == []


# which passages

ASKED = Asked(
    "q", [("p1", 0.8), ("p2", 0.6)], [("a", 0.9), ("b", 0.59), ("c", 0.57), ("p2", 0.5), ("d", 0.4), ("d", 0.4)]
)


def test_a_negative_scores_below_the_worst_positive_by_the_margin():
    # 0.6 less 5 % of it is 0.57: `c` is at it, `b` above.
    assert hard_negatives(ASKED, count=2, margin=0.05) == ["c", "d"]
    assert hard_negatives(ASKED, count=3, margin=0.0) == ["b", "c", "d"]
    # Below zero the margin still goes down: -0.2 less 50 % of 0.2 is -0.3.
    below = Asked("q", [("p", -0.2)], [("a", -0.25), ("b", -0.31)])
    assert hard_negatives(below, count=1, margin=0.5) == ["b"]


def test_too_few_of_them_are_filled_up_from_the_least_likely_to_answer():
    assert hard_negatives(ASKED, count=4, margin=0.05) == ["c", "d", "b", "a"]
    assert hard_negatives(ASKED, count=9, margin=0.05) == ["c", "d", "b", "a"]


def test_each_positive_and_each_negative_is_in_a_row():
    how = {"margin": 0.05, "positives": 4}
    rows = triplets([ASKED], negatives=3, **how)
    assert [(r["positive"], r["negative"]) for r in rows] == [("p1", "c"), ("p2", "d"), ("p1", "b")]
    assert [(r["passage"], r["label"]) for r in pairs([ASKED], negatives=1, **how)] == [
        ("p1", 1.0), ("p2", 1.0), ("c", 0.0),
    ]  # fmt: skip
    assert {r["positive"] for r in triplets([ASKED], negatives=3, margin=0.05, positives=1)} == {"p1"}
    assert triplets([Asked("q", [("p", 0.5)], [("p", 0.5)])], negatives=2, **how) == []


def test_steps_are_whole_epochs_up_to_a_limit():
    assert steps_of(33, batch=16, epochs=2, most=100) == 6  # 3 batches an epoch
    assert steps_of(33, batch=16, epochs=2, most=4) == 4
    assert steps_of(1, batch=16, epochs=0.1, most=4) == 1


# recipes


@pytest.mark.parametrize(("kind", "form"), [("embedder", tuning.EmbedderRecipe), ("reranker", tuning.RerankerRecipe)])
def test_the_recipes_are_valid_and_begin_with_their_command(kind, form):
    text = (MODELS / "recipes" / f"{kind}.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith(f"# assay tune NAME {kind} ")
    assert form.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"negative": 3}, r"embedder\.yaml: negative: Extra inputs .* its keys are learning_rate, schedule"),
        ({"batch": 1}, r"embedder\.yaml: batch: Input should be greater than or equal to 2"),
        ({"seed": None}, r"embedder\.yaml: seed: Input should be a valid integer"),
    ],
)
def test_recipes_are_strict(tmp_path, change, says):
    raw = yaml.safe_load((MODELS / "recipes" / "embedder.yaml").read_text(encoding="utf-8"))
    (tmp_path / "embedder.yaml").write_text(yaml.safe_dump({**raw, "precision": "float32", **change}))
    with pytest.raises(BadConfig, match=says):
        tuning.read_recipe("embedder", tmp_path / "embedder.yaml")
    with pytest.raises(BadInput, match="'sft' is no recipe that tunes; there are: embedder, reranker"):
        tuning.read_recipe("sft")


# where models are kept


def made(folder, weights="w"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(weights)
    return folder


def facts_of(digest, **more):
    return {"digest": digest, "key": f"key of {digest}", "seen": [], "split": SHARES, **more}


def published(home, digest="a" * 64, kind="embedder", **more):
    tuned.publish(home, "tiny", kind, made(home / "scratch"), facts_of(digest, **more))
    tuned.point(home, "tiny", kind, digest)


def test_a_model_is_put_in_whole_and_never_written_again(tmp_path):
    published(tmp_path)
    place = tuned.place(tmp_path, "tiny", "embedder")
    (place / ".tune-killed").mkdir()  # what a killed process left
    made(tmp_path / "scratch", "other")
    tuned.publish(tmp_path, "tiny", "embedder", tmp_path / "scratch", facts_of("a" * 64, key="again"))
    folder = tuned.folder_of(tmp_path, "tiny", "embedder", "a" * 64)
    assert (folder / "model.safetensors").read_text() == "w"
    assert tuned.facts_of(tmp_path, "tiny", "embedder", "a" * 64)["key"] == "again"
    assert sorted(path.name for path in place.iterdir()) == ["a" * 64, "newest.json"]


def test_an_older_model_stays_where_it_is(tmp_path):
    published(tmp_path)
    published(tmp_path, "b" * 64)
    assert tuned.newest(tmp_path, "tiny", "embedder") == "b" * 64
    assert tuned.folder_of(tmp_path, "tiny", "embedder", "a" * 64).is_dir()
    assert tuned.known(tmp_path, "tiny", "embedder", "key of " + "a" * 64)["digest"] == "a" * 64
    assert tuned.known(tmp_path, "tiny", "embedder", "another") is None
    assert not tuned.point(tmp_path, "tiny", "embedder", "b" * 64)  # it is the newest already
    assert tuned.newest(tmp_path, "other", "embedder") is None


def test_what_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(
        NotFound, match=r"embed\.model names a tuned embedder, and tiny has none yet; .*: assay tune tiny"
    ):
        tuned.folder_of(tmp_path, "tiny", "embedder", None)
    made(tuned.place(tmp_path, "tiny", "reranker") / ("a" * 64))  # a folder without its facts is no model
    with pytest.raises(NotFound, match="tiny has no tuned reranker aaaaaaaaaaaa here; run: assay tune tiny reranker"):
        tuned.folder_of(tmp_path, "tiny", "reranker", "a" * 64)


# which model params mean

SEARCHED = {"mode": "hybrid", "k": 3, "rerank": {"model": "tuned", "depth": 5}}


def pinned(params, home):
    return tuned.pinned(params, "tiny", home=home, models=MODELS)


def test_params_are_filled_in_with_the_newest_and_keep_the_one_that_they_name(tmp_path):
    params = params_of(embed={"model": "tuned"}, retrieve=SEARCHED)
    assert pinned(params, tmp_path) == params  # nothing was tuned yet: whoever opens it says so
    published(tmp_path)
    published(tmp_path, "c" * 64, kind="reranker")
    found = pinned(params, tmp_path)
    assert (found.embed.tuned, found.retrieve.rerank.tuned) == ("a" * 64, "c" * 64)
    assert tuned.digests(found.model_dump()) == {"embedder": "a" * 64, "reranker": "c" * 64}
    published(tmp_path, "b" * 64)
    assert pinned(params, tmp_path).embed.tuned == "b" * 64
    assert pinned(found, tmp_path).embed.tuned == "a" * 64
    block = {"embed": {"model": "tuned"}, "retrieve": SEARCHED, "seed": 1}
    assert tuned.with_pins(block, found) == {
        "embed": {"model": "tuned", "tuned": "a" * 64},
        "retrieve": {**SEARCHED, "rerank": {"model": "tuned", "depth": 5, "tuned": "c" * 64}},
        "seed": 1,
    }


def test_params_without_a_tuned_model_are_as_they_were(tmp_path):
    published(tmp_path)
    params = params_of(retrieve={"rerank": {"model": "trained", "depth": 5}})
    assert pinned(params, tmp_path) is params
    dumped = params.model_dump(mode="json")
    assert "tuned" not in dumped["embed"] and dumped["retrieve"]["rerank"] == {"model": "trained", "depth": 5}
    block = {"embed": {"model": "minilm"}, "retrieve": {"k": 3}}
    assert tuned.with_pins(block, params) == block
    assert tuned.digests(dumped) == tuned.digests({}) == {}


def test_a_digest_belongs_to_a_tuned_definition(tmp_path):
    with pytest.raises(BadConfig, match=r"embed\.tuned is set, but embed\.model minilm is no tuned one"):
        pinned(params_of(embed={"model": "minilm", "tuned": "a" * 64}), tmp_path)


def test_a_tuned_definition_is_its_base_with_other_weights(tmp_path):
    file, base = MODELS / "embedders" / "tuned.yaml", read_definition(MODELS / "embedders" / "minilm.yaml")
    folder = tmp_path / "model"
    folder.mkdir()
    for entry in base.folder.iterdir():
        (folder / entry.name).symlink_to(entry)
    found = read_definition(file, tuned=folder)
    assert (found.name, found.folder, found.window, found.float_layers) == ("tuned", folder, 256, base.float_layers)
    assert embedder_digest(found, "fp32") == embedder_digest(base, "fp32")  # the weights are the same here
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"other")
    assert embedder_digest(found, "fp32") != embedder_digest(base, "fp32")
    with pytest.raises(BadConfig, match="embedder tuned is each corpus's own"):
        read_definition(file)
    with pytest.raises(BadConfig, match="reranker tuned is each corpus's own"):
        reranker.read_definition(MODELS / "rerankers" / "tuned.yaml", home=tmp_path)


def test_a_tuned_definition_is_read_strictly(tmp_path):
    file = tmp_path / "embedders" / "mine.yaml"
    file.parent.mkdir()
    assert tuned.base_of(file) is None
    for text in ("tuned: false\nbase: minilm\n", "tuned: true\n", "tuned: true\nbase: minilm\nprefix: x\n"):
        file.write_text(text)
        with pytest.raises(BadConfig, match=r"models/embedders/mine\.yaml: its keys are tuned: true and base: NAME"):
            tuned.base_of(file)
    file.write_text("tuned: true\nbase: other\n")
    assert tuned.base_of(file) == tmp_path / "embedders" / "other.yaml"


# which model a run, a release and a promotion take


def workspace_params(wiring):
    return yaml.safe_load((wiring.workspace.root / "params.yaml").read_text())


def test_a_run_names_the_newest_and_a_release_keeps_its_own(tmp_path):
    settings = kit.bare_home(tmp_path, embed={"model": "tuned"})
    corpus = {"home": tmp_path, "corpus": kit.CORPUS, "kind": "embedder"}
    for digest in ("a" * 64, "b" * 64):
        made(tmp_path / "scratch", digest)
        tuned.publish(**corpus, made=tmp_path / "scratch", facts=facts_of(digest))
        tuned.point(**corpus, digest=digest)
        wiring = Wiring.of(settings, kit.CORPUS)
        runner._sync(wiring)
        # `embed.tuned` is a param of the stage embed, so DVC sees that there is another model.
        assert workspace_params(wiring)["embed"]["tuned"] == wiring.params.embed.tuned == digest
        if digest == "a" * 64:
            sections = wiring.params.model_dump(mode="json")
            released = {"corpus": kit.CORPUS, "params": {name: sections[name] for name in manifest.SERVING}}
    assert Wiring.released(settings, released).params.embed.tuned == "a" * 64
    file = MODELS / "embedders" / "tuned.yaml"
    served = Wiring.released(settings, released)._tuned_folder(file, "embedder", "a" * 64)
    assert (served / "model.safetensors").read_text() == "a" * 64


def test_a_run_without_a_tuned_model_names_none(tmp_path):
    wiring = Wiring.of(kit.bare_home(tmp_path), kit.CORPUS)
    runner._sync(wiring)
    assert workspace_params(wiring)["embed"].keys() == {"model", "precision", "batch_tokens", "partitions"}
    with pytest.raises(BadConfig, match=r"embed\.model is minilm, which is not tuned from another"):
        wiring.base_embedder()


def test_a_candidate_made_by_an_earlier_tuning_is_not_promoted(tmp_path):
    judged = {"index": {"collection": "b_tiny_0", "embedder_digest": "a" * 64}}
    ports = SimpleNamespace(embedder=SimpleNamespace(digest="b" * 64))
    promote._require_embedder(params_of(), judged, ports)  # not asked: no tuned model
    with pytest.raises(IntegrityError, match=r"b_tiny_0 was embedded by aaaaaaaaaaaa, but .* bbbbbbbbbbbb now"):
        promote._require_embedder(params_of(embed={"model": "tuned", "tuned": "b" * 64}), judged, ports)


# what is measured on what


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspaces" / "tiny", "tiny")


def held_out(workspace, home, **sections):
    ports = SimpleNamespace(settings=SimpleNamespace(home=home))
    found = tuned.held_out(QUESTIONS, params=params_of(**sections), workspace=workspace, ports=ports)
    return [row["id"] for row in found]


def test_without_a_tuned_model_every_question_is_asked(workspace, tmp_path):
    assert held_out(workspace, tmp_path) == [row["id"] for row in QUESTIONS]


def test_a_tuned_model_is_asked_what_it_was_not_trained_on(workspace, tmp_path):
    test = [row["id"] for row in QUESTIONS if split_of(row, **SHARES) == TEST]
    first = next(row for row in QUESTIONS if row["id"] == test[0])
    published(tmp_path, seen=[seen_as(first["question"])])
    published(tmp_path, "c" * 64, kind="reranker")
    chosen = {"model": "tuned", "tuned": "a" * 64}
    assert held_out(workspace, tmp_path, embed=chosen) == test[1:]
    reranked = {"rerank": {"model": "tuned", "depth": 5, "tuned": "c" * 64}}
    assert held_out(workspace, tmp_path, retrieve=reranked) == test
    with pytest.raises(
        BadConfig, match=r"`split` is not what embedder aaaaaaaaaaaa was tuned by; run: assay tune tiny"
    ):
        held_out(workspace, tmp_path, embed=chosen, split={"seed": 8})
    with pytest.raises(NotFound, match="tiny has no tuned embedder bbbbbbbbbbbb here"):
        held_out(workspace, tmp_path, embed={"model": "tuned", "tuned": "b" * 64})


def test_a_champion_that_was_tuned_is_not_asked_what_it_was_trained_on_either(workspace, tmp_path):
    test = [row["id"] for row in QUESTIONS if split_of(row, **SHARES) == TEST]
    workspace.root.mkdir(parents=True)
    workspace.champion_file.write_text(json.dumps({"params": {"embed": {"model": "tuned", "tuned": "a" * 64}}}))
    assert held_out(workspace, tmp_path) == test  # its model is gone, so it cannot be asked anything
    first = next(row for row in QUESTIONS if row["id"] == test[0])
    published(tmp_path, seen=[seen_as(first["question"])])
    assert held_out(workspace, tmp_path) == test[1:]


def test_a_tuned_reranker_is_compared_with_the_search_without_it(monkeypatch):
    asked = []

    def plain(ports, embedder, build, questions, *, retrieve, reranker):
        asked.append((retrieve.rerank, reranker))
        return {}, {}, {"q1": {"ndcg@10": 0.5}}

    monkeypatch.setattr(score_retrieval, "score_build", plain)
    ports, ours = SimpleNamespace(embedder=None), {"q1": {"ndcg@10": 0.75}}
    reranked = {"rerank": {"model": "tuned", "depth": 5, "tuned": "c" * 64}}
    found = score_retrieval.compared(params_of(retrieve=reranked), ports, {}, [], {}, ours)
    assert found == {"tuned_reranker": {"q1": {"base": 0.5, "own": 0.75}}}
    assert asked == [(None, None)]
    facts = score_retrieval._differences(found)
    assert facts == {"tuned_reranker": {"value": 0.25, "low": 0.25, "high": 0.25, "n": 1}}
    given = {"rerank": {"model": "trained", "depth": 5}}
    assert score_retrieval.compared(params_of(retrieve=given), ports, {}, [], {}, ours) == {}


def rows_of(monkeypatch, asked, questions=(), kind="embedder"):
    """The rows of what was found for the questions of each split."""
    monkeypatch.setattr(tuning_rows, "mined", lambda ports, build, rows, **_: asked[rows[0]["id"]])
    recipe = {"min_questions": 20, "depth": 5, "negatives": 1, "positives": 1, "margin": 0.0, "validation_rows": 4}
    guard = Guard(questions, words=4, share=0.8, split=SHARES)
    by = {name: [{"id": name, "question": name}] for name in (TRAIN, VALIDATION)}
    return tuning_rows.material(None, {}, by, guard=guard, kind=kind, recipe=recipe, params=SimpleNamespace())


def found(count, **over):
    return [
        Asked(**{"question": str(n), "positives": [("p", 0.5)], "others": [("a", 0.1)], **over}) for n in range(count)
    ]


def test_too_few_training_questions_are_refused(monkeypatch):
    with pytest.raises(
        BadInput, match=r"19 gold questions of the training split .* at least 20 are needed to tune"
    ) as error:
        rows_of(monkeypatch, {TRAIN: found(19), VALIDATION: []})
    assert "\n" not in str(error.value)
    rows = rows_of(monkeypatch, {TRAIN: found(20), VALIDATION: found(2)})
    assert (len(rows.training), rows.questions, len(rows.seen)) == (20, {TRAIN: 20, VALIDATION: 2}, 2)
    assert rows.contaminated == {"questions": 0, "rows": 0}


@pytest.mark.parametrize("kind", ["embedder", "reranker"])
def test_what_holds_texts_of_an_evaluation_set_is_left_out_and_counted(monkeypatch, kind):
    tested, chosen = (
        question(n, split=split, question=text, answers=[])
        for n, (split, text) in enumerate(
            {TEST: "how long does the tent last", VALIDATION: "who pays for a lost parcel"}.items()
        )
    )
    said = {split: f"So: {row['question'].upper()}?" for split, row in ((TEST, tested), (VALIDATION, chosen))}
    asked = {
        TRAIN: [
            *found(20),
            *found(1, question=said[TEST]),
            *found(1, question=said[VALIDATION]),
            *found(1, positives=[(said[TEST], 0.5)]),
            *found(1, others=[(said[VALIDATION], 0.1)]),
        ],
        VALIDATION: [*found(1, question=said[TEST]), *found(1, question=said[VALIDATION])],
    }
    rows = rows_of(monkeypatch, asked, [tested, chosen], kind)
    assert rows.questions == {TRAIN: 22, VALIDATION: 1}  # the validation split may ask what it asks
    assert rows.contaminated == {"questions": 3, "rows": 2}
    assert not any(text in str(rows.training) for text in said.values())
    clean = {TRAIN: found(20), VALIDATION: found(1, question="v")}
    assert rows_of(monkeypatch, clean, [tested, chosen], kind).digest == rows_of(monkeypatch, clean, (), kind).digest


# what a tuning says of itself

TUNED = {
    "kind": "embedder",
    "digest": "ab" * 32,
    "base": {"name": "minilm", "digest": "cd" * 32},
    "rows": {"train": 40, "validation": 4, "digest": "ef" * 32},
    "questions": {"train": 20, "validation": 2},
    "contaminated": {"questions": 1, "rows": 2},
    "split": SHARES,
    "steps": 4,
    "seconds": 3600.0,
    # An hour of wall time on two cores.
    "took": {"tokens": 36_000, "cpu_seconds": 7200.0, "device": "cpu", "gpus": 0},
    "recipe": {
        "rank": 16, "target_modules": "all-linear", "batch": 16, "learning_rate": 0.0005, "schedule": "linear",
        "negatives": 2, "precision": "float32", "seed": 7,
    },
    "libraries": {},
    "history": [{"step": 0, "validation_loss": 2.0}, {"step": 1, "loss": 1.5}, {"step": 1, "validation_loss": 1.25}],
}  # fmt: skip


class Log:
    """What was logged, by name."""

    def __init__(self):
        self.found, self.texts = {}, {}

    def metrics(self, values, *, step=None):
        self.found.update(values)

    def text(self, name, text):
        self.texts[name] = text

    def dataset(self, name, *, profile, **_):
        self.found["profile"] = profile

    def params(self, values): ...
    def figure(self, name, figure): ...
    def tags(self, values): ...


@pytest.mark.parametrize(
    ("kind", "is_a"), [("embedder", "An embedder of **tiny**"), ("reranker", "A cross-encoder of")]
)
def test_a_run_has_what_the_tuning_took_and_a_card(tmp_path, kind, is_a):
    log, facts = Log(), {**TUNED, "kind": kind}
    action._track(log, Wiring.of(kit.home(tmp_path), kit.CORPUS), facts)
    assert log.found["tokens_per_second"] == 10.0 and log.found["cpu_hours"] == 2.0 and log.found["gpu_hours"] == 0.0
    assert log.found["cost"] == pytest.approx(0.08)
    assert (log.found["contaminated.questions"], log.found["contaminated.rows"]) == (1, 2)
    assert log.found["profile"]["contaminated"] == facts["contaminated"]
    card = log.texts["model_card.md"]
    assert is_a in card and "20 gold questions of the training split in 40 rows" in card
    assert "evaluation set: 1 questions, 2 rows\n" in card and "| validation loss | 2.000 | 1.250 |" in card
    assert "3600 s on cpu, 36,000 useful tokens (10 a second), 2 CPU-hours, 0 GPU-hours, 0.08 USD.\n\n" in card
    said = action._said("tiny", facts, again=False)
    assert "tuned in 7200 CPU-seconds" in said
    assert "2.000 to 1.250; left out, for texts of an evaluation set: 1 questions, 2 rows; use it by" in said
    clean = {**facts, "contaminated": {"questions": 0, "rows": 0}, "history": facts["history"][1:2]}
    assert "evaluation set" not in action._said("tiny", clean, again=False)
    log = Log()
    action._track(log, Wiring.of(kit.home(tmp_path), kit.CORPUS), clean)
    assert "| validation loss | no validation set | |\n" in log.texts["model_card.md"]
