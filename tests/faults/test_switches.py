"""A reader over two hundred switches between two releases, while builds are made, dropped and collected beside it.

The reader is a process with a floating `pipelines.client.Release`, and now and then a service begun anew. The
writer publishes by the release log, which is all that readers go by (promote and rollback themselves, killed and
raced, have tests of their own), at a random moment of each of the reader's rounds.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local_milvus import lite_server, running
from pipelines.actions import gc, promote
from pipelines.builds import load_build
from pipelines.core.manifest import restored
from pipelines.core.nouns import Document
from pipelines.released import now
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring
from tests import release_kit as kit

pytestmark = pytest.mark.faults
SWITCHES, BESIDE = 200, 25
"""A build is made and loaded, dropped, or collected beside the reader at every so many switches."""

READER = textwrap.dedent(
    """
    import json, sys
    from pipelines.actions import ask, views
    from pipelines.client import Release
    from pipelines.settings import Settings
    from pipelines.wiring import Wiring

    opened, real = {}, Wiring.embedder_at  # one embedder for all generations: they have the same
    Wiring.embedder_at = lambda w, p: opened.get(p) or opened.setdefault(p, real(w, p))
    asked = ["Within how many days are refunds paid?"]

    def seen(service):
        (found,) = service.passages(asked, k=50)
        texts = sorted(row["text"] for row in found["passages"])
        return [found["release"]["generation"], texts, getattr(service, "problem", None)]

    with Release("tiny", look_every=None) as release:
        for line in sys.stdin:
            release.refresh()
            rows = [seen(release)]
            if line == "anew\\n":
                manifest = views.release_manifest(Settings.from_env(), "tiny", None)
                rows.append(seen(ask.Service(Settings.from_env(), manifest)))
            print(json.dumps(rows), flush=True)
    """
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Two releases: odd generations will hold the first's texts, even ones the second's."""
    found = kit.home(tmp_path / "home", promote={"keep": 1})
    opened: dict[str, Any] = {}
    real = Wiring.embedder_at
    monkeypatch.setattr(Wiring, "embedder_at", lambda w, p: opened.get(p) or opened.setdefault(p, real(w, p)))
    for name, value in kit.environment(found).items():
        monkeypatch.setenv(name, value)
    with running(lite_server(tmp_path)) as server:
        monkeypatch.setenv("ASSAY_MILVUS_URI", server.uri)
        for texts in (kit.TEXTS, kit.NEWER):
            kit.candidate(found, texts)
            wiring = Wiring.of(found, kit.CORPUS)
            assert promote.run(wiring.params, wiring.workspace, ports=wiring)[0]
            wiring.store.close()  # type: ignore[attr-defined]
        yield found


def beside(settings: Settings, wiring: Wiring, round_: int) -> None:
    """Make a build that no release names, and load it; then let gc find and remove it."""
    document = Document("other", "Other", f"This is the other text of round {round_}.", "text/plain", "other")
    facts = kit.embedded(wiring, [document])
    load_build(wiring.store, wiring.objects, facts)
    if round_ % 2:
        wiring.store.drop(facts["collection"])
    assert [*gc.collect(settings, grace=0)][-1].endswith("1 removed")


class Reader:
    """The reading process: `go` begins a round, `saw` ends it: the generations that it saw, each of which was whole."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", READER], env=environment, cwd=checkout(), text=True, stderr=errors,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip

    def go(self, word: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def saw(self) -> list[int]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-2000:]
        for generation, texts, problem in json.loads(line):
            assert problem is None
            assert texts == sorted((kit.TEXTS if generation % 2 else kit.NEWER).values())
        return [row[0] for row in json.loads(line)]


def test_a_reader_sees_whole_generations_over_two_hundred_switches(
    settings: Settings, tmp_path: Path, faults: Any
) -> None:
    environment = {**kit.environment(settings), "ASSAY_MILVUS_URI": os.environ["ASSAY_MILVUS_URI"]}
    reader, wiring, chance = Reader(tmp_path / "log", environment), Wiring.of(settings, kit.CORPUS), random.Random(7)
    first, second = (wiring.releases.read(kit.CORPUS, generation) for generation in (1, 2))
    seen, round_ = {2}, 0.0
    try:
        reader.go("once")
        assert reader.saw() == [2]
        for generation in range(3, SWITCHES + 3):
            target, newer = (first, second) if generation % 2 else (second, first)
            made = restored(target, [newer], generation=generation, created=now().isoformat())
            with faults("a switch under a reader, with build, drop and gc beside it"):
                began = time.monotonic()
                reader.go("anew" if generation % 10 == 0 else "once")
                time.sleep(chance.uniform(0, round_))
                wiring.releases.append(kit.CORPUS, made, generation=generation)
                if generation % BESIDE == 0:
                    beside(settings, wiring, generation // BESIDE)
                at = reader.saw()
                assert set(at) <= {generation - 1, generation} and sorted(at) == at
            round_ = min(time.monotonic() - began, 0.2)
            seen |= set(at)
        reader.go("once")
        assert reader.saw() == [SWITCHES + 2]
    finally:
        reader.process.kill()
        reader.process.wait()
        wiring.store.close()  # type: ignore[attr-defined]
    assert len(seen) > SWITCHES / 2  # it did change over
