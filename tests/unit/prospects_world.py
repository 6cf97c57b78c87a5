"""Campaigns in virtual time with a ledger that keeps the same time: what a forecast says at a moment can be checked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from campaign_world import Stage

from referee.attempts import AttemptSpec, Measurements
from referee.engines.memory import MemoryEngine, Play
from referee.ledger import Ledger, queries
from referee.orders import Orders
from referee.verdicts import Verdict

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
MACHINES = """[engine]
name = "memory"
[limits]
wall_time = "2h"
[machines.slow]
cpus = 8
memory = "64GiB"
price = "0.60"
count = 4
reference = true
"""


def lengths(count: int, seed: int = 3, median: float = 600.0, sigma: float = 0.8) -> dict[str, float]:
    """Seconds of each submission, lognormal, cut at the limit."""
    drawn = np.minimum(np.random.default_rng(seed).lognormal(np.log(median), sigma, count), 7000.0)
    return {f"s-{number:03d}": round(float(seconds), 3) for number, seconds in enumerate(drawn)}


class Season:
    """A challenge whose submissions take these seconds; its ledger's clock is the engine's.

    `speeds` are the true ones of each submission on each machine type; without them the declared ones are true.
    """

    def __init__(
        self,
        folder: Path,
        seconds: Mapping[str, float],
        text: str = MACHINES,
        failing: frozenset[str] = frozenset(),
        speeds: Mapping[str, Mapping[str, float]] | None = None,
        cpus_used: float = 0.5,
        failing_as: Verdict = Verdict.NONZERO_EXIT,
        kinds: tuple[str, ...] = ("cpu",),
    ) -> None:
        self.failing_as = failing_as
        self.speeds, self.cpus_used = dict(speeds or {}), cpus_used
        self.specs: list[AttemptSpec] = []
        self.look_every: float | None = None  # seconds between the controller's passes; None: whenever something ends
        self.stage = Stage(folder, count=len(seconds), kinds=kinds, text=text)
        self.seconds, self.failing = dict(seconds), failing
        machines = self.stage.challenge.machines
        nodes = {name: [f"{name}-{n}" for n in range(each.count or 1)] for name, each in machines.items()}
        self.engine: MemoryEngine = self.stage.engine(self._play, machines=machines, nodes=nodes)

    def _play(self, spec: AttemptSpec, _chance: random.Random) -> Play:
        self.specs.append(spec)
        declared = {spec.machine_type: self.stage.challenge.machines[spec.machine_type].speed}
        seconds = self.seconds[spec.submission] / self.speeds.get(spec.submission, declared)[spec.machine_type]
        if spec.items is not None:
            seconds = 1 + seconds / 20  # a few files; start-up is as long
        failed = spec.submission in self.failing
        return Play(
            seconds=seconds,
            verdict=self.failing_as if failed else Verdict.OK,
            predictions=b"filename,label\na.mp4,0.5\n",
            rows=1,
            measurements=Measurements(
                wall_seconds=seconds - 1,
                cpu_seconds=(seconds - 1) * self.cpus_used,
                peak_memory_bytes=2**30,
                preparation_seconds=1,
            ),
        )

    @property
    def now(self) -> datetime:
        """The engine's moment."""
        return EPOCH + timedelta(seconds=self.engine.now)

    def ledger(self) -> Ledger:
        """The ledger, which keeps the engine's time."""
        return Ledger.open(self.stage.path, clock=lambda: self.now)

    def run(
        self,
        orders: Orders | None = None,
        until: int | None = None,
        on_step: Callable[[Ledger], object] = lambda _: None,
        series: queries.SeriesRow | None = None,
    ) -> None:
        """Run to the end, or until so many evaluations have ended; or the further runs of a series."""
        with self.ledger() as ledger, ledger.lead() as lease:
            campaign = self.stage.campaign(lease, self.engine, orders, series=series)
            campaign.begin()
            while campaign.step():
                on_step(ledger)
                if until is not None and queries.status(ledger, "test").done >= until:
                    return
                if self.look_every is None:
                    self.engine.wait(3600.0)
                else:
                    self.engine.advance(self.look_every)
