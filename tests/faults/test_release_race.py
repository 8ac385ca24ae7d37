"""Three processes publish a hundred times each, on a folder and on S3: one winner a generation, a linear history."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.releaselog import SignedReleaseLog
from tests import s3_kit

pytestmark = pytest.mark.faults
PROCESSES, TIMES = 3, 100

RACER = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    from pipelines.backends.objects import ObstoreObjects
    from pipelines.backends.releaselog import SignedReleaseLog
    from pipelines.errors import PromotionConflict

    place, key, name, times = sys.argv[1:]
    log = SignedReleaseLog(ObstoreObjects(place), key_file=Path(key))
    print("ready", flush=True)
    sys.stdin.readline()
    said = {"won": [], "lost": []}
    for attempt in range(int(times)):
        known = log.generations("hb")
        mine = (known[-1] if known else 0) + 1
        made = {"corpus": "hb", "generation": mine, "previous": mine - 1}
        made |= {"candidate": f"{name}-{attempt}", "created": "now"}
        try:
            log.append("hb", made, generation=mine)
            said["won"].append([mine, made["candidate"]])
        except PromotionConflict as exc:
            said["lost"].append([mine, str(exc)])
    print(json.dumps(said), flush=True)
    """
)


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    if request.param == "folder":
        yield str(tmp_path / "objects")
        return
    with s3_kit.served():
        yield f"s3://{s3_kit.BUCKET}/race"


@pytest.mark.fault("publications that raced", times=PROCESSES * TIMES)
def test_every_generation_has_one_winner_and_losers_learn_which_it_was(place, tmp_path):
    key = tmp_path / "keys" / "release.pem"
    command = [sys.executable, "-c", RACER, place, str(key)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": dict(os.environ)}
    racers = [subprocess.Popen([*command, f"p{n}", str(TIMES)], **pipes) for n in range(PROCESSES)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [json.loads(racer.communicate(timeout=300)[0]) for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    won = sorted(tuple(row) for one in said for row in one["won"])
    lost = [row for one in said for row in one["lost"]]
    assert len(won) + len(lost) == PROCESSES * TIMES and lost  # they did race
    log = SignedReleaseLog(ObstoreObjects(place), key_file=key)
    assert log.generations("hb") == [generation for generation, _ in won] == list(range(1, len(won) + 1))
    history = [log.read("hb", generation) for generation, _ in won]
    assert [(row["generation"], row["candidate"]) for row in history] == won
    assert all(row["previous"] == row["generation"] - 1 for row in history)
    winners = dict(won)
    for generation, error in lost:
        assert re.match(rf"hb generation {generation} was published by another promotion at now \(candidate", error)
        assert winners[generation][:12] in error
