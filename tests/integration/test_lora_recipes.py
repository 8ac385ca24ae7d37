"""What a recipe's keys do to a training, on a model small enough to wait for: parts, processes, early stopping."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipelines.backends import lora
from pipelines.errors import BadConfig
from pipelines.settings import checkout
from tests.adapter_kit import tiny_generator

pytestmark = pytest.mark.integration
GPUS = torch.cuda.device_count()
STEPS = 20


def chats(said, count=12):
    """Chats of different lengths that all end with the same word, said several times."""
    return [
        [{"role": "user", "content": f"{n}" * (n + 1)}, {"role": "assistant", "content": said * (1 + n % 3)}]
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_generator(folder)
    return folder


def recipe(**over):
    found = lora.read_recipe(checkout() / "models" / "recipes" / "sft.yaml")
    return {**found, "precision": "float32", **over}


def train(base, folder, *, validation=(), steps=6, seen=None, device="cpu", learning_rate=1e-2, **over):
    return lora.train(
        base,
        folder / "adapter",
        base_name="tiny",
        training=chats("ab"),
        validation=validation,
        recipe=recipe(**over),
        settings=lora.Settings(steps=steps, batch=4, rank=4, learning_rate=learning_rate, seed=7),
        checkpoints=folder / "checkpoints",
        on_log=lambda step, values: seen.append((step, dict(values))) if seen is not None else None,
        device=device,
    )


def weights(folder):
    return load_file(str(folder / "adapter" / "adapter_model.safetensors"))


def losses(done):
    return [entry["loss"] for entry in done.history if "loss" in entry]


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return train(base, folder), folder


def alike(folder, other):
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    # Adam divides by the size of a gradient: where that is nearly nothing, the last bits of a sum decide. Each weight
    # moves by at most the learning rate a step; a wrong gradient would move most of them by some of that.
    gaps = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours])
    assert float(gaps.mean()) < 1e-4 and float((gaps > 1e-3).float().mean()) < 0.01


@pytest.mark.parametrize("parts", [2, 4])
def test_a_step_in_parts_is_the_same_step(base, plain, tmp_path, parts):
    done = train(base, tmp_path, gradient_accumulation=parts)
    # The chats' completions differ in length: a mean of the parts' means would be another loss.
    assert losses(done) == pytest.approx(losses(plain[0]), rel=1e-3)
    assert (done.steps, done.tokens) == (plain[0].steps, plain[0].tokens) == (6, plain[0].tokens)
    alike(tmp_path, plain[1])


def test_two_processes_train_as_one_does(base, plain, tmp_path):
    """On a CPU, where a recipe cannot ask for it, over gloo: what several GPUs do over NCCL."""
    seen = []
    done = train(base, tmp_path, devices=2, seen=seen)
    assert losses(done) == pytest.approx(losses(plain[0]), rel=1e-3) and done.tokens == plain[0].tokens
    alike(tmp_path, plain[1])
    assert [step for step, values in seen if "loss" in values] == [1, 2, 3, 4, 5, 6]
    assert len(list((tmp_path / "checkpoints").glob("spent-*.json"))) == 2 and done.cpu_seconds > 0
    whole = sorted((tmp_path / "checkpoints").glob("checkpoint-*/whole"))
    assert whole
    shutil.rmtree(whole[-1].parent)
    again = train(base, tmp_path, devices=2, seen=seen)
    assert again.history == done.history and any("resumed_from" in values for _, values in seen)


def test_what_fails_in_a_process_fails_here(base, tmp_path):
    with pytest.raises(BadConfig, match="goes by the validation loss"):
        train(base, tmp_path, devices=2, early_stopping=1)


@pytest.fixture(scope="module")
def stopped(base, tmp_path_factory):
    """Validation chats that end otherwise: the more is learned, the worse they are met. Evaluated every second step: 2
    is the best, 4 and 6 are worse, and two worse ones end it."""
    folder = tmp_path_factory.mktemp("stopped")
    how = {"validation": chats("zyx", 3), "steps": STEPS, "evaluations": 10, "early_stopping": 2}
    done = train(base, folder, **how)
    return done, folder, how, weights(folder)


def test_it_stops_early_and_keeps_the_best_weights(stopped):
    done, folder, _, kept = stopped
    assert (done.steps, done.kept_step) == (6, 2) and len(losses(done)) == 6
    measured = {e["step"]: e["validation_loss"] for e in done.history if "validation_loss" in e}
    assert list(measured) == [0, 2, 4, 6] and measured[2] < measured[4] < measured[6]
    best = load_file(str(folder / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors"))
    last = load_file(str(folder / "checkpoints" / "checkpoint-6" / "adapter_model.safetensors"))
    assert all(torch.equal(kept[name], best[name]) for name in kept)
    assert not all(torch.equal(kept[name], last[name]) for name in kept)


@pytest.mark.parametrize("lost", [[], ["checkpoint-6"], ["checkpoint-6", "checkpoint-4"]])
def test_killed_before_at_or_after_its_stop_it_ends_alike(base, stopped, lost):
    """Gone on from a checkpoint, it knows how often it was no better; stopped already, it takes no step more."""
    done, folder, how, kept = stopped
    for name in lost:
        shutil.rmtree(folder / "checkpoints" / name)
    seen = []
    again = train(base, folder, seen=seen, **how)
    resumed = next(step for step, values in seen if "resumed_from" in values)
    assert resumed == 6 - 2 * len(lost)
    assert again.history == done.history and (again.steps, again.kept_step) == (6, 2)
    assert again.tokens == done.tokens and again.seconds > done.seconds
    found = weights(folder)
    assert all(torch.equal(kept[name], found[name]) for name in kept)


def test_early_stopping_needs_a_validation_set(base, tmp_path):
    with pytest.raises(BadConfig, match="no chat is held out"):
        train(base, tmp_path, early_stopping=1)


@pytest.mark.skipif(not GPUS, reason="torch sees no GPU on this machine")
def test_a_gpu_trains_nearly_as_the_cpu_does(base, plain, tmp_path):
    done = train(base, tmp_path, device="cuda:0")
    assert (done.device, done.gpus) == ("cuda", 1)
    assert losses(done) == pytest.approx(losses(plain[0]), rel=1e-2)


@pytest.mark.skipif(GPUS < 2, reason="torch sees fewer than two GPUs on this machine")
def test_two_gpus_train_as_one_does(base, plain, tmp_path):
    done = train(base, tmp_path, device="cuda", devices=2)
    assert done.gpus == 2 and losses(done) == pytest.approx(losses(plain[0]), rel=1e-2)


@pytest.mark.skipif(not GPUS, reason="torch sees no GPU on this machine, and a 4-bit base needs one")
def test_a_base_in_4_bits_is_trained_on(base, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    file = tmp_path / "qlora.yaml"
    raw = yaml.safe_load((checkout() / "models" / "recipes" / "sft.yaml").read_text())
    file.write_text(yaml.safe_dump({**raw, "quantize": "nf4"}))
    found = lora.read_recipe(file, device="cuda:0")
    done = train(base, tmp_path, device="cuda:0", quantize="nf4", precision=found["precision"], steps=STEPS)
    assert losses(done)[-1] < losses(done)[0]
