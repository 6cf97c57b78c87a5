"""What the fuzzers begin with ends in a verdict, so that `make bench-fuzz` begins with something that is understood."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from fuzz_targets import TARGETS, seeds, verdict


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_has_a_verdict_and_some_are_accepted(name: str) -> None:
    assert sum(verdict(TARGETS[name], seed) for seed in seeds()[name]) > 0


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_cut_anywhere_has_a_verdict(name: str) -> None:
    for seed in seeds()[name][:6]:
        for place in range(0, len(seed), max(1, len(seed) // 40)):
            verdict(TARGETS[name], seed[:place])
