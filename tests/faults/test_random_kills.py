"""kill -9 at random moments of every step of a release's life; a fresh reader after each, one history at the end.

Two homes live the same life: three revisions, each fetched, checked, versioned, indexed, judged and promoted, the
second and third rolled back, what is unneeded collected. One is left in peace, and says how long each step takes. In
the other each step is killed at random moments (the seed is said where something fails), then run once to its end.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import Settings
from tests import release_kit as kit
from tests.kill_kit import Zygote
from tests.life_kit import land

pytestmark = pytest.mark.faults

REVISIONS = (kit.TEXTS, kit.NEWER, {**kit.NEWER, "hours": "The desk is open from nine to five."})
KILLS = {"fetch": 1, "check": 1, "snapshot": 2, "index": 2, "judge": 1, "promote": 3, "rollback": 2, "gc": 1}
"""Kills of each step, for each time that it is taken."""
SEED = int(os.environ.get("ASSAY_FAULTS_SEED", "20261129"))


def life() -> Iterator[tuple[int, str, tuple[Any, ...]]]:
    """(round, step, its arguments) in order; the arguments of rollback are the generation before the newest."""
    for number in range(len(REVISIONS)):
        for step in KILLS:
            if number or step not in ("rollback", "gc"):
                yield number, step, (2 * number - 1,) if step == "rollback" else ()


def texts_of(generation: int) -> list[str]:
    """Generation 1 and, rolled back to, 3 and 5 hold the first revision; 2 and 4 are the second and third."""
    return sorted(REVISIONS[generation // 2 if generation % 2 == 0 else 0].values())


def whole(zygote: Zygote, settings: Settings, *, before: int) -> int:
    """The generation that a fresh reader sees, whole: the one of before, or the next one. 0 when there is none yet."""
    if not list((settings.home / "objects" / "releases").glob("*/0*.json")):
        return 0
    seen = zygote.undisturbed(settings, "read").said
    assert seen["generation"] in (before, before + 1)
    assert seen["texts"] == texts_of(seen["generation"])
    return int(seen["generation"])


def test_killed_anywhere_readers_see_whole_generations_and_the_history_is_that_of_an_undisturbed_home(
    zygote: Zygote, tmp_path: Path, faults: Any
) -> None:
    chance, took, seen = random.Random(SEED), {}, 0
    calm, home = (kit.bare_home(tmp_path / name, promote={"keep": 1}) for name in ("calm", "home"))
    for number, step, arguments in life():
        land(calm.home, REVISIONS[number])
        took[number, step] = zygote.undisturbed(calm, step, *arguments).seconds
    for number, step, arguments in life():
        land(home.home, REVISIONS[number])
        # The first round of the calm home imported what later ones found imported: a later one's time is the right one.
        most, killed = took[max(number, 1), step], 0
        while killed < KILLS[step]:
            delay = chance.uniform(0.0, most)
            ended = zygote.tell(home, step, *arguments, delay=delay)
            assert not ended.error, f"seed {SEED}, round {number}: after {killed} kills {step} said {ended.error}"
            if not ended.killed:  # what was killed before had done most of it
                most = min(most, ended.seconds)
                continue
            killed += 1
            with faults(f"kill -9 at random in {step}, a reader after it"):
                try:
                    seen = whole(zygote, home, before=seen)
                except AssertionError as exc:
                    raise AssertionError(f"seed {SEED}, round {number}: {step} killed after {delay:.3f} s") from exc
        zygote.undisturbed(home, step, *arguments)
        seen = whole(zygote, home, before=seen)
    assert seen == 5
    with faults("a home after all random kills, against an undisturbed one"):
        assert zygote.undisturbed(home, "state").said == zygote.undisturbed(calm, "state").said
