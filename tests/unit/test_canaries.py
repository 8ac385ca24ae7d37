"""Planted secrets: their exposure by hand, and that they are what they say."""

from __future__ import annotations

import math

import pytest

from pipelines.core import canaries


def test_exposure_is_the_bits_of_the_rank():
    assert canaries.exposure([3.0, 2.0, 1.0, 0.0], 0) == 2.0  # first of four
    assert canaries.exposure([3.0, 2.0, 1.0, 0.0], 1) == 1.0  # second: log2 4 - log2 2
    assert canaries.exposure([3.0, 2.0, 1.0, 0.0], 3) == 0.0  # last
    assert canaries.exposure([1.0, 1.0, 1.0, 1.0], 0) == 0.0  # a model that tells none apart exposes nothing


def test_chance_is_what_the_comparison_says():
    n = canaries.CANDIDATES
    mean = sum(math.log2(n) - math.log2(rank) for rank in range(1, n + 1)) / n
    assert mean == pytest.approx(1.4, abs=0.05)


def test_canaries_are_distinct_reproducible_and_planted_as_often_as_they_say():
    found = canaries.canaries(seed=7)
    assert found == canaries.canaries(seed=7)
    assert found != canaries.canaries(seed=8)
    assert len({canary.prompt for canary in found}) == len(found) == canaries.EACH * len(canaries.REPEATS)
    for canary in found:
        assert len(set(canary.candidates)) == canaries.CANDIDATES
        assert canary.secret in canary.candidates
    planted = [name for name, _ in canaries.planted(found)]
    assert len(set(planted)) == len(planted) == canaries.EACH * sum(canaries.REPEATS)


def test_a_secret_is_recovered_word_for_word_only():
    canary = canaries.canaries(seed=7)[0]
    assert canaries.recovered(f'{{"answer": "{canary.secret}"}}', canary)
    assert not canaries.recovered(canary.secret[:-1], canary)
    assert not canaries.recovered("", canary)
