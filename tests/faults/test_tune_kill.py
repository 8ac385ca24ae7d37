"""A tuning killed by SIGKILL leaves no model; run again it ends with the very model of an undisturbed one, once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import tuned
from pipelines.settings import checkout
from tests.integration import test_tuned_models as small

pytestmark = pytest.mark.faults


def main(home: str) -> None:
    """Index a few passages and tune below `home`, as a process that a test may kill."""
    texts = small.passages()
    small.tuned_embedder(small.indexed(Path(home), texts), small.asked(texts))


def start(home: Path) -> subprocess.Popen:
    home.mkdir(exist_ok=True)
    env = {**os.environ, "ASSAY_HOME": str(home), "PYTHONPATH": str(checkout()), "HF_HUB_OFFLINE": "1"}
    out = (home / "out.txt").open("a")
    command = [sys.executable, "-m", "tests.faults.test_tune_kill", str(home)]
    return subprocess.Popen(command, env=env, cwd=checkout(), stdout=out, stderr=out)


def finish(home: Path) -> str:
    assert start(home).wait(timeout=400) == 0, (home / "out.txt").read_text()[-3000:]
    (folder,) = [path for path in tuned.place(home, "tiny", "embedder").iterdir() if path.is_dir()]
    assert tuned.newest(home, "tiny", "embedder") == folder.name
    return folder.name


@pytest.mark.fault("kill -9 in tune")
def test_a_killed_tuning_leaves_no_model_and_is_gone_on_with(tmp_path):
    home = tmp_path / "killed"
    process, deadline = start(home), time.monotonic() + 400
    while not list(home.glob("cache/tuning/*/checkpoints/checkpoint-*/whole")):
        assert process.poll() is None and time.monotonic() < deadline, (home / "out.txt").read_text()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not tuned.place(home, "tiny", "embedder").exists()
    made = finish(home)
    assert "going on from step" in (home / "out.txt").read_text()
    assert made == finish(tmp_path / "whole")


if __name__ == "__main__":
    main(sys.argv[1])
