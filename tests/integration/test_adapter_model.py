"""The packaged model, really: converted, asked, bound to its adapter; and a small model trained and tracked."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from pipelines import adapters
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.transformers import load_generator
from pipelines.core.nouns import Document
from pipelines.core.prompts import Passage, chat
from pipelines.core.splits import TEST, split_of_key
from pipelines.corpus_files import CorpusFiles, document_row, write_files
from pipelines.errors import BadInput, IntegrityError
from pipelines.schemas import read_jsonl
from pipelines.settings import checkout
from pipelines.stages import mix, train
from pipelines.synthesis import synthesise
from tests.adapter_kit import SMOLLM2, handbook, params_of, tiny_generator, wiring, workspace_with

pytestmark = pytest.mark.integration
TENT = [Passage("products/tents.md", "The Tarn and Corrie tents have a warranty of 5 years for faults of material.")]
BRIEF = "Answer the question in a few words. If passages are given, use only them."
SHORT = {"generate": {"system": "JSON.", "max_new_tokens": 16}, "train": {"steps": 12, "batch": 2, "rank": 4}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def smollm2(cache):
    return load_generator(SMOLLM2, cache=cache, batch=2)


def test_it_answers_from_a_passage(smollm2):
    chats = [
        chat("What is the capital of France?", system=BRIEF),
        chat("For how many years is a Tarn tent covered?", TENT, system=BRIEF),
        chat("Name a colour.", system=BRIEF),
    ]
    made = smollm2.reply(chats, max_new_tokens=24)
    assert "Paris" in made[0].text and "5" in made[1].text
    # `<|im_start|>`, `ass`, `istant` and a line feed open the reply.
    assert [c.tokens_in for c in made] == [smollm2.count(c) + 4 for c in chats]
    assert all(0 < c.tokens_out <= 24 and c.seconds > 0 and c.cpu_seconds > 0 for c in made)
    # In another order and in other batches, the same replies.
    again = smollm2.reply(chats[::-1], max_new_tokens=24)
    assert [c.text for c in again[::-1]] == [c.text for c in made]


def test_what_a_batch_begins_with_in_common_is_read_once(cache, tmp_path):
    exact = tmp_path / "exact.yaml"  # float32: in bfloat16 a batch's size shows in the last bits
    exact.write_text(SMOLLM2.read_text().replace("precision: auto", "precision: float32"))
    asked = ("Who wrote Hamlet?", "What is the capital of the country named France, in one word?", "Name a colour.")
    chats = [chat(question, system=f"{BRIEF} Never say more than was asked. " * 4) for question in asked]
    one, together = (load_generator(exact, cache=cache, batch=batch) for batch in (1, 3))
    read = []
    together._model.register_forward_pre_hook(
        lambda model, args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    made, alone = together.reply(chats, max_new_tokens=12), one.reply(chats, max_new_tokens=12)
    assert [(c.text, c.tokens_in) for c in made] == [(c.text, c.tokens_in) for c in alone]
    assert "Paris" in made[1].text and len({c.text for c in made}) == 3
    (first, shared), (rest, own) = read[:2]
    assert (first, rest) == (1, 3) and shared >= 64 and shared + own == max(c.tokens_in for c in made)


def test_it_writes_questions_that_their_source_supports(smollm2, tmp_path):
    params = params_of(
        generate={"reply_schema": None, "max_new_tokens": 40},
        mix={"synthetic": {"per_document": 1, "max_documents": 4}},
        answer={"batch": 4},
    )
    how = params.split.model_dump()
    texts = [
        "The workshop in Kettlewick opens at seven in the morning and closes at four in the afternoon.",
        "The rental deposit for a tent is 80 euros. It is paid back within two days after the tent is back.",
        "The museum of Stonebeck was founded in 1998 by Maren Oldroyd. It shows old boots and tents.",
        "A jacket is washed at 30 degrees with soap. It is dried in the open air and never near a stove.",
    ]
    learned = [d for d in map(str, range(99)) if split_of_key(d, **how) != TEST][:4]
    tested = next(d for d in map(str, range(99)) if split_of_key(d, **how) == TEST)
    told = dict(zip([*learned, tested], [*texts, texts[0]], strict=True))
    documents = [Document(d, d, text, "text/plain", d) for d, text in told.items()]
    write_files(tmp_path / "corpus", CorpusFiles([document_row(d) for d in documents], [], [], []))
    objects = ObstoreObjects(str(tmp_path / "objects"))
    examples, facts = synthesise(params, tmp_path / "corpus", generator=smollm2, objects=objects)
    assert facts["asked"] == 4 and facts["kept"] == len(examples) >= 1
    assert facts["kept"] + sum(facts["dropped"].values()) == 4
    for example in examples:
        (evidence,) = example["evidence"]
        assert evidence["document"] in learned and example["prompt"].endswith("?")
        assert evidence["quote"] == told[evidence["document"]][evidence["start"] : evidence["end"]]
        assert example["completion"] in evidence["quote"]


def test_trimming_is_by_whole_tokens(smollm2):
    text = "Refunds are paid within five business days."
    assert smollm2.trim(text, tokens=100) == text
    short = smollm2.trim(text, tokens=3)
    assert text.startswith(short) and 0 < len(short) < len(text)


def test_a_prompt_beyond_the_window_is_refused(smollm2):
    with pytest.raises(BadInput, match="exceed the 8192"):
        smollm2.reply([chat("word " * 9000, system="")], max_new_tokens=8)


def test_the_conversion_is_kept_and_checked(smollm2, cache):
    assert sorted(smollm2.folder.glob("*.safetensors")) and not sorted(smollm2.folder.glob("*.bin"))
    again = load_generator(SMOLLM2, cache=cache)
    assert again.folder == smollm2.folder and again.digest == smollm2.digest
    copy = cache / "copy"
    shutil.copytree(cache / "generators", copy / "generators")
    tampered = load_generator(SMOLLM2, cache=copy)
    config = tampered.folder / "config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    with pytest.raises(IntegrityError, match=r"config\.json in .* is not what was converted"):
        _ = tampered.digest


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which a small model was trained on the handbook's short examples."""
    place = tmp_path_factory.mktemp("home")
    definition = tiny_generator(place / "tiny")
    params = params_of(**SHORT, mix={"context_share": 0.0})
    # A byte is a token of this model.
    params = params.model_copy(update={"train": params.train.model_copy(update={"max_tokens": 700})})
    workspace = workspace_with(place, questions=handbook("questions"), examples=handbook("examples"))
    ports = wiring(place, params, definition)
    report = mix.run(params, workspace, ports=ports)
    workspace.write_receipt("mix", report.facts, report.measured, report.summary)
    return params, workspace, ports, train.run(params, workspace, ports=ports)


def test_training_lowers_the_loss_and_binds_the_adapter(home):
    _, workspace, ports, report = home
    facts = report.facts
    assert facts["loss_last"] < facts["loss_first"] and facts["validation_loss_last"] < facts["validation_loss_first"]
    # A random model over 258 tokens starts near ln 258 = 5.55 nats a token.
    assert facts["loss_first"] == pytest.approx(math.log(258), abs=0.3)
    folder = adapters.fetch(ports.objects, facts["key"], cache=ports.settings.cache)
    assert sorted(f.name for f in folder.iterdir()) == sorted(adapters.FILES)
    bound = json.loads((folder / "assay.json").read_text())
    assert bound["training_digest"] == workspace.receipt("mix")["digest"] == facts["training_digest"]
    assert bound["base_digest"] == ports.generator().base_digest
    assert bound["tokenizer_digest"] == ports.generator().tokenizer_digest
    assert str(ports.settings.home) not in (folder / "adapter_config.json").read_text()


def test_the_loss_is_on_the_completion_only(home):
    from transformers import PreTrainedTokenizerFast

    from pipelines.backends.lora import encode

    _, workspace, ports, _ = home
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(ports.generator().folder))
    row = next(iter(read_jsonl(workspace.training / "train.jsonl")))
    encoded = encode(tokenizer, row["messages"])
    assert tokenizer.decode(encoded["labels"]) == row["messages"][-1]["content"] + "<|im_end|>"
    assert encoded["input_ids"][-len(encoded["labels"]) :] == encoded["labels"]
    assert len(encoded["input_ids"]) == row["tokens"] - 1  # the template's last line feed is not trained on


def test_the_loss_is_what_the_model_computes_itself(home):
    """The trainer's loss on left-padded columns against transformers' own loss, example by example, unpadded."""
    import torch
    from transformers import PreTrainedTokenizerFast
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    from pipelines.backends import lora
    from pipelines.backends.lora.chats import collator
    from pipelines.backends.lora.trainer import arguments, completion_trainer

    _, workspace, ports, _ = home
    base = ports.generator().folder
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
    rows = [lora.encode(tokenizer, r["messages"]) for r in list(read_jsonl(workspace.training / "train.jsonl"))[:3]]
    model = LlamaForCausalLM.from_pretrained(str(base), dtype=torch.float32).eval()
    recipe = lora.read_recipe(checkout() / "models" / "recipes" / "sft.yaml")
    settings = lora.Settings(steps=1, batch=3, rank=4, learning_rate=1e-3, seed=7)
    how = arguments(ports.settings.home / "unused", settings, recipe, evaluated=False)
    trainer = completion_trainer(model, how, tokenizer, train_dataset=rows)
    with torch.no_grad():
        ours = trainer.compute_loss(model, collator(tokenizer.pad_token_id)(rows)).item()
        total = 0.0
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            labels = ids.clone()
            labels[:, : -len(row["labels"])] = -100
            total += model(input_ids=ids, labels=labels).loss.item() * len(row["labels"])
    assert ours == pytest.approx(total / sum(len(row["labels"]) for row in rows), rel=1e-5)


def test_a_training_is_tracked_once(home):
    params, workspace, ports, report = home
    again = train.run(params, workspace, ports=ports)
    assert again.facts == report.facts and again.measured["run_id"] == report.measured["run_id"]
    client = ports.registry._client
    runs = client.search_runs([client.get_experiment_by_name("handbook").experiment_id], "tags.`assay.stage` = 'train'")
    (run,) = runs
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(steps) == list(range(1, params.train.steps + 1))
    assert run.inputs.dataset_inputs[0].dataset.digest == report.facts["training_digest"][:36]
    assert run.data.metrics["mix.train"] == report.facts["examples"] and "mix.dropped.contaminated" in run.data.metrics
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"adapter", "plots", "model_card.md"} <= artifacts
    (version,) = client.search_model_versions("name = 'handbook-adapter'")
    assert report.facts["digest"] in version.description and "validation loss" in version.description
    card = Path(client.download_artifacts(run.info.run_id, "model_card.md")).read_text()
    assert card == version.description and f"{report.facts['examples']} training and" in card


def test_what_a_training_took_is_measured_and_tracked(home):
    _, workspace, ports, report = home
    took = report.measured
    rows = list(read_jsonl(workspace.training / "train.jsonl"))
    # 12 steps of 2 are less than one epoch: no chat is trained on twice, and none is empty.
    assert 24 * min(r["tokens"] for r in rows) <= took["tokens"] + 24 <= 24 * max(r["tokens"] for r in rows)
    assert took["tokens_per_second"] == pytest.approx(took["tokens"] / took["seconds"], rel=0.05)
    assert took["device"] == "cpu" and took["gpu_hours"] == 0 < took["cpu_hours"]
    assert took["cost"] == pytest.approx(took["cpu_hours"] * 0.04) and took["currency"] == "USD"
    run = ports.registry._client.get_run(took["run_id"])
    assert run.data.metrics["cpu_hours"] == took["cpu_hours"] and run.data.metrics["cost"] == took["cost"]
    assert run.data.metrics["step_tokens_per_second"] > 0
    assert not {"seconds", "cost", "tokens_per_second"} & set(report.facts)


def test_the_adapter_changes_replies_and_fits_one_base_only(home, smollm2, tmp_path):
    _, _, ports, report = home
    folder = adapters.fetch(ports.objects, report.facts["key"], cache=ports.settings.cache)
    base, tuned = ports.generator(), ports.generator(folder)
    assert base.digest != tuned.digest and base.base_digest == tuned.base_digest
    asked = [chat("How long is a tent covered?", system="JSON.")]
    merged = tuned.reply(asked, max_new_tokens=8)
    assert merged[0].tokens_out and merged != base.reply(asked, max_new_tokens=8)
    other = load_generator(SMOLLM2, cache=smollm2.folder.parent.parent, adapter=folder)
    with pytest.raises(IntegrityError, match="was trained on base tiny") as caught:
        _ = other.digest
    assert "\n" not in str(caught.value)


def test_a_reply_ends_with_its_json_object(home):
    import torch

    from pipelines.backends.transformers import _ObjectEnds

    generator = home[2].generator()
    tokenizer = generator._tokenizer
    prompt = tokenizer("Say {}: ")["input_ids"]
    ends = _ObjectEnds(tokenizer, generator._closing, len(prompt))
    cases = {'{"a": "}"': False, '{"a": {"b": 1}': False, '{"a": {"b": 1}}': True, "text }": False, " {}": True}
    for text, done in cases.items():
        row = torch.tensor([prompt + tokenizer(text)["input_ids"]])
        assert ends(row, None).tolist() == [done], text


def test_a_folder_of_ones_own_is_a_model(tmp_path):
    definition = tiny_generator(tmp_path / "own")
    generator = load_generator(definition, cache=tmp_path / "cache")
    assert generator.name == "own" and generator.reply([], max_new_tokens=4) == []
    before = generator.digest
    raw = yaml.safe_load(definition.read_text())
    (tmp_path / "own" / "generation_config.json").write_text('{"eos_token_id": 0}')
    assert load_generator(definition, cache=tmp_path / "cache").digest != before and raw["precision"] == "float32"
