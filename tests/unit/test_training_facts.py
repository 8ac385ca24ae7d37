"""What a training took, in figures and on the adapter's card. No model is trained here."""

import json
from types import SimpleNamespace

import pytest

from pipelines import training
from pipelines.core.costs import of_training
from pipelines.loss_log import Progress
from pipelines.params import Prices
from pipelines.report import describe_adapter
from pipelines.spent import Account
from pipelines.stages.train import _facts
from tests.adapter_kit import params_of

# An hour of wall time on two cores: 7,200 CPU-seconds.
TOOK = {"tokens": 36_000, "cpu_seconds": 7200.0, "device": "cpu", "gpus": 0}
FACTS = {
    "digest": "ab" * 32, "base": "smollm2", "base_digest": "cd" * 32, "training_digest": "ef" * 32, "steps": 36,
    "examples": 127, "loss_first": 1.9, "loss_last": 0.9,
}  # fmt: skip
MADE = {
    "corpus": "handbook",
    "task": "answer",
    "licence": "Apache-2.0",
    "recipe": {"name": "sft", "target_modules": "all-linear", "alpha_per_rank": 2, "schedule": "linear",
               "dropout": 0.0, "precision": "bfloat16", "quantize": None},
    "train": {"steps": 36, "batch": 4, "rank": 16, "learning_rate": 0.001, "seed": 7},
    "facts": {**FACTS, "validation_loss_first": 2.0, "validation_loss_last": 1.1},
    "mix": {"source": "examples", "train": 127, "validation": 32, "tokens": 23456,
            "dropped": {"repeated": 2, "too_long": 0, "near_duplicate": 1},
            "screened": {"policy": "drop", "found": {"e-mail address": 3}}, "shares_evidence": 1},
    "took": training.took({"seconds": 3600.0, "took": TOOK}, Prices()),
}  # fmt: skip


def test_what_a_training_cost():
    found = of_training(tokens=36_000, seconds=3600, cpu_seconds=7200, gpus=0, cpu_hour=0.04)
    assert found == {"tokens_per_second": 10.0, "cpu_hours": 2.0, "gpu_hours": 0.0, "cost": pytest.approx(0.08)}
    assert "cost" not in of_training(tokens=1, seconds=1, cpu_seconds=1, gpus=0, cpu_hour=None)
    on_gpus = of_training(tokens=1, seconds=1800, cpu_seconds=1, gpus=4, cpu_hour=0.04)
    assert on_gpus["gpu_hours"] == 2.0 and "cost" not in on_gpus
    how = {"tokens": 1, "seconds": 1800, "cpu_seconds": 900, "gpus": 4}
    # A quarter of a CPU-hour, two GPU-hours.
    assert of_training(**how, cpu_hour=0.04, gpu_hour=2.5)["cost"] == pytest.approx(5.01)
    assert "cost" not in of_training(**how, cpu_hour=None, gpu_hour=2.5)
    taken = {**TOOK, "cpu_seconds": 900.0, "device": "cuda", "gpus": 4}
    priced = training.took({"seconds": 1800.0, "took": taken}, Prices(gpu_hour=2.5))
    assert (priced["cost"], priced["currency"]) == (pytest.approx(5.01), "USD")


def test_a_record_without_these_figures_is_read():
    assert training.took({"seconds": 12.0, "history": []}, Prices()) == {"seconds": 12.0}
    assert training.took({"seconds": 3600.0, "took": TOOK}, Prices(currency="EUR"))["currency"] == "EUR"
    assert "currency" not in training.took({"seconds": 3600.0, "took": TOOK}, Prices(cpu_hour=None))


def test_the_parts_of_a_killed_training_add_up(tmp_path):
    file = tmp_path / "spent-0.json"
    file.write_text(json.dumps({"seconds": 100.0, "cpu_seconds": 150.0}))
    account = Account(tmp_path)
    account.keep()
    kept = json.loads(file.read_text())
    assert 100 < kept["seconds"] < 160 and 150 < kept["cpu_seconds"] < 210
    assert account.cpu_seconds() == kept["cpu_seconds"] and Account(tmp_path).seconds >= kept["seconds"]
    # A process beside it: CPU-seconds add up, wall seconds do not.
    other = Account(tmp_path, rank=1)
    other.keep()
    assert 150 < other.cpu_seconds() < 210 and other.seconds < 60


def test_the_card_says_what_a_reader_must_know():
    card = describe_adapter(MADE)
    assert "The base is under Apache-2.0" in card and "`sft`: 36 steps of 4 chats" in card
    assert "127 training and 32 validation chats from examples, 23,456 tokens" in card
    assert "left out: 2 repeated, 1 near duplicate\n" in card
    assert "(policy `drop`): 3 of e-mail address\n" in card
    assert "| validation loss | 2.000 | 1.100 |" in card
    assert "3600 s on cpu, 36,000 useful tokens (10 a second), 2 CPU-hours, 0 GPU-hours, 0.08 USD." in card
    assert "Intended use" in card and "Limits" in card and "ab" * 32 in card
    assert len(card) < 5000


def test_the_card_of_what_is_not_known():
    mix = {**MADE["mix"], "dropped": {"repeated": 0}, "screened": {"policy": "refuse", "found": {}}}
    card = describe_adapter({**MADE, "licence": None, "facts": FACTS, "mix": mix, "took": {"seconds": 12.0}})
    assert "names no licence" in card and "left out: nothing\n" in card and "nothing found\n" in card
    assert "**Took.** 12 s.\n" in card and "no validation set" in card


def test_the_card_and_the_receipt_name_the_step_whose_weights_are_kept():
    history = [{"step": n, "loss": 2.0} for n in range(1, 7)]
    history += [{"step": n, "validation_loss": loss} for n, loss in ((0, 3.0), (2, 1.0), (4, 1.2), (6, 1.4))]
    history.sort(key=lambda entry: entry["step"])
    record = {"digest": "ab" * 32, "key": "k", "history": history, "seconds": 1.0, "steps": 6, "kept_step": 2}
    base, mix = SimpleNamespace(name="b", base_digest="cd" * 32), {"digest": "ef" * 32, "train": 9}
    facts = _facts(params_of(), base, mix, record)
    assert (facts["steps"], facts["kept_step"]) == (6, 2)
    assert (facts["validation_loss_last"], facts["validation_loss_kept"]) == (1.4, 1.0)
    card = describe_adapter({**MADE, "facts": facts})
    assert "6 steps of 4 chats (of 36, stopped early)" in card
    assert "weights are those of step 2, where the validation loss was lowest: 1.000." in card
    # Trained to its end, or by a record of before: nothing is said of it.
    for plain in ({**record, "kept_step": 6}, {k: v for k, v in record.items() if k not in ("steps", "kept_step")}):
        assert not {"kept_step", "validation_loss_kept"} & set(_facts(params_of(), base, mix, plain))


def test_a_distilled_set_is_on_the_card():
    taught = {"prompt": "12" * 32, "asked": 159, "kept": 150, "dropped": {"empty": 0, "format": 9}}
    card = describe_adapter({**MADE, "mix": {**MADE["mix"], "teacher": taught}})
    assert "replies to a long prompt (`121212121212`): 150 of 159 asked for, 9 format\n" in card


def test_progress_says_the_speed_where_it_is_known(capsys):
    progress = Progress("train", lambda step, values: None)
    progress(1, 3, {"loss": 2.0, "step_tokens_per_second": 311.4})
    progress(2, 3, {"resumed_from": 2})
    progress(3, 3, {"loss": 1.0})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "train: step 1 of 3, loss 2.000, 311 tokens/s"
    assert said[2] == "train: step 3 of 3, loss 1.000"
