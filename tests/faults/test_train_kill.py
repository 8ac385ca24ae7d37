"""A training killed by SIGKILL and run again ends with the very adapter of an undisturbed one, tracked once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.settings import checkout
from tests.adapter_kit import handbook, params_of, tiny_generator, wiring, workspace_with

pytestmark = pytest.mark.faults
STEPS = 60


def main(home: str) -> None:
    """One run of mix and train below `home`, as a process that a test may kill; the receipts are written last."""
    from pipelines.stages import mix, train

    place = Path(home)
    params = params_of(
        mix={"context_share": 0.0},
        generate={"system": "JSON."},
        train={"steps": STEPS, "batch": 2, "rank": 4, "max_tokens": 700},
    )
    workspace = workspace_with(place, questions=handbook("questions"), examples=handbook("examples"))
    ports = wiring(place, params, place / "tiny.yaml")
    for name, stage in (("mix", mix), ("train", train)):
        report = stage.run(params, workspace, ports=ports)
        workspace.write_receipt(name, report.facts, report.measured, report.summary)


def start(home: Path) -> subprocess.Popen:
    # Not by `-c`: there pyspark, which Great Expectations imports, believes to run its doctests, and exits.
    env = {**os.environ, "ASSAY_HOME": str(home), "PYTHONPATH": str(checkout()), "HF_HUB_OFFLINE": "1"}
    env.pop("MLFLOW_TRACKING_URI", None)
    out = (home / "out.txt").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.test_train_kill", str(home)],
        env=env,
        cwd=checkout(),
        stdout=out,
        stderr=out,
    )


def finish(home: Path) -> dict:
    assert start(home).wait(timeout=400) == 0, (home / "out.txt").read_text()[-3000:]
    return json.loads((home / "workspaces" / "handbook" / "receipts" / "train.json").read_text())


def kill_when(home: Path, ready) -> None:
    process = start(home)
    deadline = time.monotonic() + 400
    while not ready():
        assert process.poll() is None, (home / "out.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.fault("kill -9 in train")
def test_killed_trainings_end_with_the_same_adapter(tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    tiny_generator(calm / "tiny")
    shutil.copytree(calm, killed)
    (killed / "tiny.yaml").write_text((calm / "tiny.yaml").read_text().replace(str(calm), str(killed)))
    undisturbed = finish(calm)

    runs = killed / "cache" / "training-runs"
    kill_when(killed, lambda: next(runs.glob("*/checkpoints/checkpoint-*/whole"), None))
    assert not (killed / "workspaces" / "handbook" / "receipts" / "train.json").exists()
    assert not list((killed / "objects").glob("adapters/*/sealed.json"))
    # What a kill in the middle of writing a checkpoint leaves: a newer folder without its marker.
    (checkpoints,) = runs.glob("*/checkpoints")
    (checkpoints / f"checkpoint-{STEPS - 1}").mkdir()

    lost = json.loads((checkpoints / "spent-0.json").read_text())
    assert finish(killed) == undisturbed
    took = json.loads((killed / "workspaces" / "handbook" / "measured" / "train.json").read_text())
    # What the killed part took counts; loading the model once more alone takes longer than nothing.
    assert took["seconds"] > lost["seconds"] > 0 and took["cpu_hours"] * 3600 > lost["cpu_seconds"] > 0
    said = (killed / "out.txt").read_text()
    assert "train: going on from step" in said
    assert not list(runs.iterdir())
    assert len(list((killed / "objects").glob("adapters/*"))) == 1

    ports = wiring(killed, params_of())
    client = ports.registry._client
    found = client.search_runs([client.get_experiment_by_name("handbook").experiment_id])
    assert sorted(run.info.status for run in found) == ["FINISHED", "KILLED"]
    assert len(client.search_model_versions("name = 'handbook-adapter'")) == 1
    (finished,) = (run for run in found if run.info.status == "FINISHED")
    steps = [m.step for m in client.get_metric_history(finished.info.run_id, "loss")]
    assert sorted(steps) == list(range(1, STEPS + 1))


if __name__ == "__main__":
    main(sys.argv[1])
