"""The engine `memory` under fire: virtual time, but a real ledger (a file, or PostgreSQL) and a real object store.

Nodes are lost and taken back, workers killed, submissions lost, doubled and delayed, zombies write late; the controller
ends at a random line of its own code; the database's server and sessions go away; the ledger's file is locked by
another program; the bucket's answers are lost, late or refusals.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import postgresql_world
import s3_world
from faults.bucket import BucketFaults
from faults.findings import Findings, findings, most_committed_usd, said_here, seconds
from faults.judgement import Charge, Evidence
from faults.machine import lock_ledger
from faults.storm import PHASE, Pressed
from referee.attempts import AttemptSpec
from referee.campaign import Campaign
from referee.challenge import MachineType
from referee.engines.contract import Job
from referee.engines.memory import Faults, MemoryEngine, Play
from referee.errors import ConflictError, RefereeError
from referee.ledger import (
    DispatchResumed,
    EvaluationReopened,
    Event,
    Identity,
    NodeReleased,
    SubmissionImported,
    queries,
)
from referee.objects import ObjectStore, bucket_location
from referee.orders import Orders, most_usd
from referee.verdicts import Verdict
from referee.workspace import Workspace

_COUNT = 24
_ITEMS = 8
_LIMIT_SECONDS = 900.0
_MACHINES = {"gpu": MachineType(cpus=64, memory=2**40, price=Decimal("3.06"), reference=True)}
_BUDGET_USD = 60 * most_usd(_MACHINES["gpu"], timedelta(seconds=_LIMIT_SECONDS), 1.0)
_NODES, _SLOTS = 4, 2
_MOST_PASSES = 3000
_SHARE = 0.3  # of the passes, in which a fault strikes
_EDGE = Decimal("0.00001")  # what is noted is rounded to a microsecond
_ZOMBIE = "zombie that writes after it was declared lost"
_TO_COME = {"reply lost after submission", "submission doubled", "submission delayed", _ZOMBIE}
_CHALLENGE = """
name = "chaos"
[phases.private_test]
data = "data"
labels = "labels.csv"
visibility = "private"
[limits]
wall_time = "15m"
"""


class Killed(BaseException):
    """The controller's end, in the middle of anything."""


class Executioner:
    """Ends this thread's controller after so many more lines of `referee.campaign`."""

    def __init__(self) -> None:
        self.lines = 0

    def arm(self, lines: int) -> None:
        """Let it happen."""
        self.lines = lines
        sys.settrace(self._call)

    def disarm(self) -> None:
        """Let it not happen any more."""
        self.lines = 0
        sys.settrace(None)

    def _call(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        return self._line if "/referee/campaign" in frame.f_code.co_filename else None

    def _line(self, _frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        if event == "line" and self.lines:
            self.lines -= 1
            if not self.lines:
                sys.settrace(None)
                raise Killed
        return self._line


def _value(submission: str) -> int:
    return int(submission.removeprefix("s-"))


class FrailEngine(MemoryEngine):
    """The simulated engine with faults on demand: of the next submission, and of the next worker that begins."""

    def __init__(self, objects: ObjectStore, seed: int) -> None:
        super().__init__(
            objects, self._play, machines=_MACHINES, nodes={"gpu": [f"n{number}" for number in range(_NODES)]},
            slots=_SLOTS, seed=seed,
        )  # fmt: skip
        self.next_submission: list[tuple[str, Faults]] = []
        self.zombies = 0
        self.happened: Counter[str] = Counter()
        self._started = _NODES

    def submit(self, specs: Sequence[AttemptSpec]) -> list[Job]:
        """The next fault that waits for a submission happens to this one."""
        if not self.next_submission:
            return super().submit(specs)
        kind, self._faults = self.next_submission.pop(0)
        self.happened[kind] += 1
        try:
            return super().submit(specs)
        finally:
            self._faults = Faults()

    def fresh_node(self) -> None:
        """In the place of one that is gone."""
        self._started += 1
        self.start_node("gpu", f"n{self._started}")

    def running(self) -> list[str]:
        """The attempts whose workers run now."""
        return [each.attempt for each in self.executions if each.ended is None]

    def _play(self, spec: AttemptSpec, chance: random.Random) -> Play:
        value, took = _value(spec.submission), 20 + 100 * chance.random()
        zombie = None
        if self.zombies:
            self.zombies -= 1
            self.happened[_ZOMBIE] += 1
            zombie = 30 + 300 * chance.random()
        if value % 7 == 3:
            return Play(took, Verdict.NONZERO_EXIT, zombie_seconds=zombie)
        if value % 11 == 5:
            return Play(took, Verdict.MEMORY_LIMIT, zombie_seconds=zombie)
        rows = "".join(f"item-{item}.mp4,{(1 + value) / (2 + _COUNT + item):.6f}\n" for item in range(_ITEMS))
        return Play(
            took, predictions=f"filename,label\n{rows}".encode(), rows=_ITEMS, zombie_seconds=zombie
        )  # fmt: skip


class _Campaign:
    """One campaign under fire."""

    def __init__(self, arena: VirtualArena, folder: Path, tables: str, chance: random.Random) -> None:
        self.arena, self.chance = arena, chance
        self.workspace = make(folder, tables)
        choice = self.workspace.challenge.objects
        direct = self.workspace.objects
        if choice.url is not None:  # workers have a way to the bucket of their own, which is not disturbed here
            direct = ObjectStore(
                bucket_location(choice.url, region=choice.region, endpoint=arena.service.endpoint)
            )  # fmt: skip
        self.engine = FrailEngine(direct, chance.randrange(2**32))
        self.executioner = Executioner()
        self.odd: list[str] = []
        self._threads: list[threading.Thread] = []
        self._bucket = BucketFaults(arena.proxy, chance, used=choice.url is not None)

    def strikes(self) -> dict[str, Callable[[], bool]]:
        """What can be done to it; those of another ledger or object store find nothing to strike."""
        return {
            "controller killed": self._kill,
            "second controller started": self._second,
            "worker killed": self._kill_worker,
            "node lost with everything on it": self._lose_node,
            "spot machine reclaimed with notice": self._reclaim,
            "reply lost after submission": lambda: self._next("reply lost after submission", Faults(lose_reply=1.0)),
            "submission doubled": lambda: self._next("submission doubled", Faults(double=1.0)),
            "submission delayed": lambda: self._next("submission delayed", Faults(delay=1.0, delay_seconds=90.0)),
            _ZOMBIE: self._zombie,
            "database server restarted": self._restart_database,
            "database session ended": self._end_sessions,
            "ledger locked by another program": self._lock_ledger,
        } | self._bucket.strikes()

    def run(self, faults: Sequence[str]) -> Counter[str]:
        """Until every evaluation has ended by its submission's own doing."""
        # What happens to a submission or a worker to come is ordered first, while there are any to come.
        pressed = Pressed(sorted(faults, key=lambda kind: kind not in _TO_COME), self.strikes())
        passes = 0
        while passes < _MOST_PASSES:
            try:
                with self.workspace.ledger() as ledger, ledger.lead() as lease:
                    data, events = self.workspace.record(PHASE)
                    lease.append(events)
                    campaign = Campaign(
                        self.workspace.challenge, lease, self.engine, self.workspace.objects, data, PHASE,
                        Orders(budget_usd=_BUDGET_USD),
                    )  # fmt: skip
                    campaign.begin()
                    while campaign.step() and passes < _MOST_PASSES:
                        passes += 1
                        if self.chance.random() < _SHARE:
                            pressed.press()
                        self.engine.wait(2.0)
            except Killed:
                self.engine.advance(self.chance.uniform(0, 90))
            except RefereeError:
                self.engine.advance(self.chance.uniform(0, 30))
            finally:
                self.executioner.disarm()
            if self._operator_is_content():
                break
        else:
            self.odd.append(f"The campaign did not end in {_MOST_PASSES} passes.")
        for thread in self._threads:
            thread.join()
        self._bucket.end()
        self.engine.advance(1000.0)  # zombies write what they have
        return pressed.struck

    def _operator_is_content(self) -> bool:
        with self.workspace.ledger() as ledger:
            events: list[Event] = []
            if queries.dispatch_stopped(ledger):
                events.append(DispatchResumed(reason="It was us."))
            events += [
                NodeReleased(node=row.node, reason="It was us.") for row in queries.nodes(ledger) if row.quarantined
            ]
            rows = queries.evaluations(ledger, PHASE)
            events += [
                EvaluationReopened(evaluation=row.evaluation, reason="It was us.")
                for row in rows
                if row.verdict and not row.final
            ]
            ledger.append(events)
            return len(rows) == _COUNT and all(row.final for row in rows)

    # The faults

    def _kill(self) -> bool:
        self.executioner.arm(self.chance.randint(1, 600))
        return True

    def _second(self) -> bool:
        with self.workspace.ledger() as ledger:
            try:
                with ledger.lead():
                    self.odd.append("A second controller was let in.")
            except ConflictError:
                return True
        return False

    def _kill_worker(self) -> bool:
        if not (running := self.engine.running()):
            return False
        self.engine.kill(self.chance.choice(running))
        return True

    def _lose_node(self) -> bool:
        self.engine.lose_node(self.chance.choice(list(self.engine.nodes())))
        self.engine.fresh_node()
        return True

    def _reclaim(self) -> bool:
        node = self.chance.choice(list(self.engine.nodes()))
        for attempt in [each.attempt for each in self.engine.executions if each.ended is None and each.node == node]:
            self.engine.interrupt(attempt)
        self.engine.lose_node(node)
        self.engine.fresh_node()
        return True

    def _next(self, kind: str, faults: Faults) -> bool:
        self.engine.next_submission.append((kind, faults))
        return True

    def _zombie(self) -> bool:
        self.engine.zombies += 1
        return True

    def _restart_database(self) -> bool:
        if self.workspace.challenge.ledger.url is None:
            return False
        self.arena.database.restart()
        return True

    def _end_sessions(self) -> bool:
        if self.workspace.challenge.ledger.url is None:
            return False
        self.arena.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return True

    def _lock_ledger(self) -> bool:
        with self.workspace.ledger() as ledger:
            place = ledger.where
        if not isinstance(place, Path):
            return False
        self._threads.append(lock_ledger(place, self.chance.uniform(0.2, 1.0)))
        return True


class VirtualArena:
    """See the module. Campaigns take turns between the kinds of ledger and of object store."""

    name = "memory"
    each = 8

    def __init__(
        self, folder: Path, database: postgresql_world.Server, service: s3_world.Service, proxy: s3_world.Proxy
    ) -> None:
        self.database, self.service, self.proxy = database, service, proxy
        self._folder = folder
        self._calm: Findings | None = None
        self.kinds = tuple(_Campaign(self, folder / "kinds", "", random.Random(0)).strikes())  # noqa: S311 - asked for names

    def campaign(self, number: int, faults: Sequence[str], chance: random.Random) -> tuple[Counter[str], Evidence]:
        """A campaign of two dozen submissions."""
        if self._calm is None:
            calm = _Campaign(self, self._folder / "calm", "", random.Random(0))  # noqa: S311 - a simulation
            calm.run([])
            self._calm = findings(calm.workspace, said_here(self._folder / "calm"))
        folder = self._folder / f"campaign-{number}"
        made = _Campaign(self, folder, self._tables(faults, number), chance)
        struck = made.run(faults)
        # What was ordered of a submission or worker that never came did not happen.
        for kind in (_ZOMBIE, *(kind for kind, _ in made.engine.next_submission)):
            struck[kind] = made.engine.happened[kind]
        struck += Counter()
        return struck, self._evidence(made, findings(made.workspace, said_here(folder)))

    def _tables(self, faults: Sequence[str], number: int) -> str:
        """Where this campaign's ledger and objects lie: such that its faults find what they strike."""
        tables = ""
        of_a_server = sum(kind.startswith("database") for kind in faults)
        of_a_file = "ledger locked by another program" in faults and number % 2 == 0
        if of_a_server > of_a_file:
            tables += f'[ledger]\nurl = "{self.database.fresh()}"\n'
        if any(kind.startswith("object store") for kind in faults):
            tables += f'[objects]\nurl = "s3://{s3_world.BUCKET}/campaign-{number}-{time.monotonic_ns()}"\n'
            tables += f'region = "us-east-1"\nendpoint = "{self.proxy.endpoint}"\n'
        return tables

    def _evidence(self, made: _Campaign, found: Findings) -> Evidence:
        assert self._calm is not None
        used: dict[str, list[Decimal]] = defaultdict(list)
        for each in made.engine.executions:
            used[each.attempt].append(Decimal(repr((each.ended or 0.0) - each.began)))
        price = _MACHINES["gpu"].price
        charges = []
        for row in found.attempts:
            billed = seconds(row)
            took = sum(used[row.attempt], Decimal(0)) if row.attempt in used else None
            if billed is not None or row.reported_by == "worker":
                most = None if took is None else took + _EDGE
                charges.append(Charge(row.attempt, price, billed, (took or Decimal(0)) - _EDGE, most))
        return Evidence(
            calm=self._calm.verdicts, verdicts=found.verdicts, events=found.events, claims=found.claims,
            results=found.results, executed=made.engine.executed, board=found.board, calm_board=self._calm.board,
            charges=charges, committed_usd=most_committed_usd(found.events, _MACHINES, _LIMIT_SECONDS),
            allowed_usd=_BUDGET_USD, odd=made.odd,
        )  # fmt: skip


def make(folder: Path, tables: str) -> Workspace:
    """A challenge with data, labels, and submissions in its ledger; `tables` are added to challenge.toml."""
    (folder / "data").mkdir(parents=True)
    for item in range(_ITEMS):
        (folder / "data" / f"item-{item}.mp4").write_bytes(bytes([item]))
    labels = "".join(f"item-{item}.mp4,{item % 2}\n" for item in range(_ITEMS))
    (folder / "labels.csv").write_text(f"filename,label\n{labels}")
    (folder / "challenge.toml").write_text(_CHALLENGE + tables)
    workspace = Workspace.open(folder)
    with workspace.ledger_or_new() as ledger:
        for number in range(_COUNT):
            name = f"s-{number:03d}"
            who = Identity.new(name, f"t-{number:03d}", f"submission {number}", f"team {number}")
            event = SubmissionImported(
                submission=name, team=who.team, submission_kind="cpu", image=f"sha256:{number:064x}",
                identity_commitment=who.commitment,
            )  # fmt: skip
            ledger.append([event], identities=[who])
    return workspace


@contextlib.contextmanager
def arena(folder: Path) -> Iterator[VirtualArena]:
    """The arena, with a PostgreSQL server and a bucket of its own."""
    folder.mkdir()
    with (
        patch.dict(os.environ, s3_world.CREDENTIALS),
        postgresql_world.server() as database,
        s3_world.service() as service,
        s3_world.proxy(service) as proxy,
    ):
        yield VirtualArena(folder, database, service, proxy)
