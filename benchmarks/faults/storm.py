"""A campaign under fire: which faults, when they strike, and the operator who starts it again until all has ended."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from faults.judgement import Breach, Evidence, Wrong, judge

PHASE = "private_test"
_MOST_STARTS = 60
_MOST_CRASHES = 3
_CRASHED = (1, 2)  # what `referee run` never ends with on purpose once it has begun
_SPENT = 600.0  # seconds without an end, after which a campaign counts as stuck


@dataclass(frozen=True, slots=True)
class Report:
    """One campaign: which faults struck how often, and what was wrong afterwards."""

    arena: str
    number: int
    struck: Counter[str]
    wrongs: tuple[Wrong, ...]


class Arena(Protocol):
    """An engine with everything around it, on which one campaign after the other is run.

    Attributes:
        name: the engine's.
        kinds: the faults that can be made real here.
        each: how many faults a campaign meets.
    """

    name: str
    kinds: tuple[str, ...]
    each: int

    def campaign(self, number: int, faults: Sequence[str], chance: random.Random) -> tuple[Counter[str], Evidence]:
        """Run a campaign while these faults strike; those that found nothing to strike are not counted."""
        ...


def drawn(kinds: Sequence[str], each: int, number: int, seed: int, name: str) -> list[str]:
    """The faults of the campaign with this number: over all campaigns each kind comes up equally often."""
    order = list(kinds)
    random.Random(f"{seed}:{name}").shuffle(order)  # noqa: S311 - which fault comes next, not a secret
    return [order[(number * each + place) % len(order)] for place in range(each)]


def storm(arena: Arena, number: int, seed: int) -> Report:
    """One campaign, and its judgement."""
    chance = random.Random(f"{seed}:{arena.name}:{number}")  # noqa: S311 - the same
    faults = drawn(arena.kinds, arena.each, number, seed, arena.name)
    try:
        struck, found = arena.campaign(number, faults, chance)
    except Exception as error:  # noqa: BLE001 - one campaign that cannot be judged is reported, and the others go on
        what = f"The campaign could not be judged: {error!r}"
        return Report(arena.name, number, Counter(), (Wrong(Breach.OTHER, what),))
    return Report(arena.name, number, struck, tuple(judge(found)))


class Pressed:
    """Faults that wait for their moment, by kind; `strike` says whether the fault found something to strike."""

    def __init__(self, faults: Sequence[str], strikes: Mapping[str, Callable[[], bool]]) -> None:
        self._waiting, self._strikes = list(faults), strikes
        self.struck: Counter[str] = Counter()

    def press(self) -> None:
        """Let the first one strike that can."""
        for kind in list(self._waiting):
            if self._strikes[kind]():
                self._waiting.remove(kind)
                self.struck[kind] += 1
                return


def until_it_ends(
    start: Callable[[], subprocess.Popen[bytes]],
    resume: Callable[[], object],
    press: Callable[[subprocess.Popen[bytes]], None],
    pauses: Iterator[float],
    content: Callable[[], bool],
) -> list[str]:
    """Start a controller again and again, as an operator does, until all is done; what was odd about how they ended."""
    odd: list[str] = []
    deadline = time.monotonic() + _SPENT
    for _ in range(_MOST_STARTS):
        run = start()
        while run.poll() is None:
            try:
                run.wait(next(pauses))
            except subprocess.TimeoutExpired:
                press(run)
            if time.monotonic() > deadline:
                run.kill()
                run.wait()
                return [*odd, f"The campaign did not end within {_SPENT:.0f} s."]
        if run.returncode == 0 and content():
            return odd
        if run.returncode in _CRASHED:
            odd.append(f"A controller ended with {run.returncode}.")
            if len(odd) >= _MOST_CRASHES:
                return odd
        # Three faults of hosts, a quarantine, the breaker, a refusal: the operator has a look, and lets it go on.
        if run.returncode >= 0:
            resume()
    return [*odd, f"The campaign did not end in {_MOST_STARTS} starts."]
