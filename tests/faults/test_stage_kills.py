"""kill -9 of every node of the graph at random moments over its whole length, and at its boundary, as `assay stage`
runs it: DVC, the stage's process and what it started die together. A new service answers after each. So small a corpus
starts no Spark; `test_index_faults` kills that.

A first revision is released. The second is then run twice, from the same home at the same path: left in peace, which
says how long each node takes, and killed. What fails says the seed; ASSAY_FAULTS_SEED sets another, and
ASSAY_FAULTS_KILLS how often each node is killed at random.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import graph
from pipelines.settings import Settings
from tests import graph_kit
from tests import release_kit as kit
from tests.adapter_kit import tiny_generator
from tests.home_kit import put_back, set_aside
from tests.kill_kit import Zygote

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("ASSAY_FAULTS_KILLS", "1"))
SEED = int(os.environ.get("ASSAY_FAULTS_SEED", "20261129"))
NODES = graph.load()
BOOKED = "dvc.dvcfile:Lockfile.dump_stages"
"""The boundary of a stage: it has written all that it makes, its receipt last, and DVC is about to book that."""


@pytest.fixture
def started(zygote: Zygote, tmp_path: Path) -> Iterator[Zygote]:
    zygote.environment[graph_kit.GENERATOR] = str(tiny_generator(tmp_path / "models" / "tiny"))
    yield zygote
    del zygote.environment[graph_kit.GENERATOR]


def killed(zygote: Zygote, settings: Settings, node: str, *, most: float, chance: random.Random) -> Iterator[str]:
    """Kill the node once at its boundary, where DVC runs it, and `KILLS` times at random; says each time when that was.
    The boundary comes first: a kill after DVC has booked the node leaves none. What ended before it could be killed is
    begun again from what was there before."""
    before, done = set_aside(settings.home, "before"), 0
    if not NODES[node].action:
        pid = zygote.start(settings, "node", node, stop=BOOKED)
        assert zygote.finish(pid, delay=0.0).killed
        yield f"{node} killed before DVC booked it"
    while done < KILLS:
        delay = chance.uniform(0.0, most)
        ended = zygote.tell(settings, "node", node, delay=delay)
        assert not ended.error, f"seed {SEED}: after {done} kills {node} said {ended.error}"
        if ended.killed:
            done += 1
            yield f"{node} killed after {delay:.3f} of {most:.3f} s"
        else:
            most = min(most, ended.seconds)
            put_back(settings.home, before)


def test_every_node_killed_anywhere_ends_as_in_an_undisturbed_home(
    started: Zygote, tmp_path: Path, faults: Any
) -> None:
    print(f"seed {SEED}")  # shown where anything fails
    chance, took = random.Random(SEED), {}
    settings = kit.bare_home(tmp_path / "home", **graph_kit.SECTIONS)
    answers: dict[int, Any] = {}
    for generation, texts in ((1, graph_kit.TEXTS), (2, graph_kit.NEWER)):
        first = set_aside(settings.home, "first")
        graph_kit.land(settings.home, texts)
        for node in NODES:
            took[node] = started.undisturbed(settings, "node", node).seconds
        answers[generation] = started.undisturbed(settings, "serve").said
        assert answers[generation]["generation"] == generation
    calm = started.undisturbed(settings, "whole").said

    put_back(settings.home, first)
    graph_kit.land(settings.home, graph_kit.NEWER)
    for node in NODES:
        for how in killed(started, settings, node, most=took[node], chance=chance):
            kind = "at the boundary of" if "before" in how else "at random in"
            with faults(f"kill -9 {kind} {node}, by the graph, a new service after it"):
                try:
                    found = started.undisturbed(settings, "serve").said
                    assert found == answers[found["generation"]] and (found["generation"] == 1 or node == "promote")
                except AssertionError as exc:
                    raise AssertionError(f"seed {SEED}: {how}") from exc
        started.undisturbed(settings, "node", node)
    assert started.undisturbed(settings, "serve").said == answers[2]
    with faults("a home after kills of every node, against an undisturbed one"):
        assert started.undisturbed(settings, "whole").said == calm, f"seed {SEED}"
