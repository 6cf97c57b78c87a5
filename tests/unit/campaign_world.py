"""A small challenge with everything that a controller needs, on the `memory` engine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from referee.attempts import AttemptSpec
from referee.campaign import Campaign, for_series
from referee.challenge import Challenge, MachineType, load_challenge
from referee.engines.contract import Engine
from referee.engines.memory import MemoryEngine, Play
from referee.ledger import Identity, Lease, Ledger, PhaseRecorded, SeriesStarted, SubmissionImported, queries
from referee.objects import ObjectStore
from referee.orders import Orders
from referee.phases import PhaseData, record_phase
from referee.verdicts import Verdict

IMAGE = "sha256:" + "0" * 64


class Stage:
    """A challenge with `count` submissions and everything a controller needs; what it ran is in `engine.executed`."""

    def __init__(
        self,
        folder: Path,
        count: int = 8,
        kinds: tuple[str, ...] = ("cpu",),
        text: str = "",
        place: Path | str | None = None,
    ) -> None:
        (folder / "data").mkdir()
        (folder / "data" / "a.mp4").write_bytes(b"x")
        (folder / "challenge.toml").write_text(
            'name = "small"\n[phases.test]\ndata = "data"\nvisibility = "private"\n' + text
        )
        self.challenge: Challenge = load_challenge(folder)
        self.data: PhaseData = record_phase(self.challenge, "test")
        self.objects = ObjectStore(folder / "objects")
        self.path = place or folder / "ledger.sqlite"
        with Ledger.create(self.path, campaign="c", challenge_name="small") as ledger:
            ledger.append([PhaseRecorded(phase="test", data_digest=self.data.digest, files=1)])
            for number in range(count):
                who = Identity.new(f"s-{number:03d}", f"t-{number:03d}", f"submission {number}", f"team {number}")
                event = SubmissionImported(
                    submission=who.submission,
                    team=who.team,
                    submission_kind=kinds[number % len(kinds)],  # type: ignore[arg-type] # from a tuple of the two kinds
                    image=IMAGE,
                    identity_commitment=who.commitment,
                )
                ledger.append([event], identities=[who])

    def engine(self, script: Any = None, **options: Any) -> MemoryEngine:
        machines = options.pop("machines", {"local": MachineType(cpus=64, memory=2**40, reference=True)})
        return MemoryEngine(self.objects, script or ok, machines=machines, **options)

    def campaign(
        self,
        lease: Lease,
        engine: Engine,
        orders: Orders | None = None,
        *,
        series: queries.SeriesRow | None = None,
        held: Mapping[str, str] | None = None,
    ) -> Campaign:
        """The campaign, or the further runs of a series."""
        challenge = for_series(self.challenge, series) if series else self.challenge
        return Campaign(challenge, lease, engine, self.objects, self.data, "test", orders, series=series, held=held)

    def run(
        self,
        engine: Engine,
        orders: Orders | None = None,
        *,
        steps: int | None = None,
        series: SeriesStarted | None = None,
        held: Mapping[str, str] | None = None,
    ) -> Campaign:
        """Run to the end, or be killed after so many passes (nothing is told to the ledger then).

        With a series, make its further runs; it is started if it was not before.
        """
        with Ledger.open(self.path) as ledger, ledger.lead() as lease:
            started = {row.series: row for row in queries.series(ledger)}
            if series is not None and series.series not in started:
                ledger.append([series])
                started = {row.series: row for row in queries.series(ledger)}
            further = started[series.series] if series else None
            campaign = self.campaign(lease, engine, orders, series=further, held=held)
            campaign.begin()
            while campaign.step():
                if steps is not None and (steps := steps - 1) <= 0:
                    break
                engine.wait(2.0)
            return campaign

    def verdicts(self) -> Counter[Verdict | None]:
        with Ledger.open(self.path) as ledger:
            ledger.verify()
            return Counter(row.verdict for row in queries.evaluations(ledger, "test"))

    def attempts(self) -> tuple[queries.AttemptRow, ...]:
        with Ledger.open(self.path) as ledger:
            return queries.attempts(ledger, phase="test")


def ok(spec: AttemptSpec, chance: random.Random) -> Play:
    return Play(seconds=1 + 9 * chance.random(), predictions=b"filename,label\na.mp4,0.5\n", rows=1)
