"""Plans for classes of measured need: every submission is smoked first, and each goes to the cheapest type that is enough.

The world: half of the CPU submissions keep one to four CPUs busy and half sixteen; a part of the GPU submissions needs
20 GiB. The engine is the one in virtual time; what submissions take where is as their needs say.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from prospects_world import Season, lengths

from referee.attempts import AttemptSpec, Measurements
from referee.engines.memory import Play
from referee.ledger import PilotDrawn, queries
from referee.planning.classes import Measured, NeedClass, class_of, classes_of, needed
from referee.planning.plan import Plan, parse_plan
from referee.planning.planner import Wishes
from referee.planning.tables import plan_table
from referee.prospects import drawing, execution, fleet, probing, proposal
from referee.prospects.history import groups, history
from referee.prospects.outlook import outlook
from referee.verdicts import Verdict

GIB = 2**30
MACHINES = """[engine]
name = "memory"
[smoke]
items = 2
[limits]
wall_time = "6h"
cpus = 16
least_cpus = 4
[machines.four]
cpus = 4
memory = "64GiB"
price = "0.20"
count = 60
[machines.sixteen]
cpus = 16
memory = "64GiB"
price = "0.40"
count = 60
reference = true
[machines.small]
cpus = 4
memory = "64GiB"
gpus = 1
gpu_memory = "16GiB"
price = "0.60"
count = 60
[machines.large]
cpus = 8
memory = "64GiB"
gpus = 1
gpu_memory = "32GiB"
price = "3.00"
speed = 2
count = 60
"""
SIZE, PILOT, DEADLINE = 100, 56, timedelta(hours=2)


class Needs(Season):
    """A hundred submissions, half of them with GPUs, each with its own needs."""

    def __init__(self, folder: Path, text: str = MACHINES, failing: frozenset[str] = frozenset()) -> None:
        super().__init__(folder, lengths(SIZE, median=1500.0, sigma=0.35), text, failing, kinds=("cpu", "gpu"))
        self.look_every = 60.0

    @staticmethod
    def threads(submission: str) -> float:
        number = int(submission[2:])
        return 16.0 if number % 4 == 0 else 1.0 + number % 5 * 0.7

    @staticmethod
    def gpu_bytes(submission: str) -> int:
        number = int(submission[2:])
        return 20 * GIB if number % 10 == 1 else (6 + number % 5) * GIB

    def _play(self, spec: AttemptSpec, _chance: random.Random) -> Play:
        self.specs.append(spec)
        machine, seconds = self.stage.challenge.machines[spec.machine_type], self.seconds[spec.submission]
        if spec.gpus:
            peak, threads = self.gpu_bytes(spec.submission), 1.0
            if peak > (machine.gpu_memory or 0):
                return Play(seconds=20.0 if spec.items else seconds / 2, verdict=Verdict.GPU_OUT_OF_MEMORY)
            seconds = seconds / machine.speed
        else:
            peak, threads = None, self.threads(spec.submission)
            seconds = seconds * max(threads / machine.cpus, 1.0) * (0.5 if threads > 4 else 1.0)
        if spec.items is not None:
            seconds = 1 + seconds / 20
        failed = spec.submission in self.failing
        return Play(
            seconds=seconds if not failed else 15.0,
            verdict=Verdict.NONZERO_EXIT if failed else Verdict.OK,
            predictions=b"filename,label\na.mp4,0.5\n",
            rows=1,
            measurements=Measurements(
                wall_seconds=seconds - 1,
                cpu_seconds=(seconds - 1) * min(threads, machine.cpus) * 0.97,
                peak_memory_bytes=GIB,
                preparation_seconds=1,
                gpu_peak_memory_bytes=peak,
            ),
        )

    def pilot(self, *, smoke_all: bool, count: int = PILOT, until: int | None = None) -> tuple[str, ...]:
        """Run the pilot as `referee pilot` does, with its probes."""
        challenge, machines = self.stage.challenge, self.stage.challenge.machines
        with self.ledger() as ledger:
            earlier = drawing.drawn(ledger, "test")
            strata = drawing.candidates(challenge, ledger, "test", machines)
            pilot = earlier.evaluations if earlier else drawing.draw(strata, count, seed=1)
            kinds = {f"{row.submission}.test": row.kind for row in queries.submissions(ledger)}
            smoked = drawing.to_smoke(challenge, ledger, "test", machines) if smoke_all else {}
            if earlier is None:
                with ledger.lead() as lease:
                    nothing = Decimal(0)
                    lease.append(
                        [PilotDrawn(phase="test", evaluations=pilot, seed=1, most_usd=nothing, smoke_all=smoke_all)]
                    )
        self.run(drawing.pilot_orders(challenge, machines, pilot, kinds, probed=True, smoked=smoked), until=until)
        if until is None:
            with self.ledger() as ledger:
                series = probing.begin(challenge, ledger, "test", machines, pilot, 1)
            for each in series:
                self.run(series=each)
        return pilot

    def plan(self) -> Plan:
        """The plan of the moment."""
        with self.ledger() as ledger:
            wishes = Wishes(deadline=DEADLINE, confidence=0.9)
            catalogue = fleet.fleet(self.stage.challenge)
            return proposal.propose(self.stage.challenge, ledger, "test", catalogue, wishes, self.now).plan

    def execute(self, plan: Plan, until: int | None = None) -> None:
        """As `referee run --plan` does."""
        challenge = self.stage.challenge
        with self.ledger() as ledger:
            execution.check(plan, challenge, "test", challenge.machines, history(challenge, ledger, "test").started)
            with ledger.lead() as lease:
                lease.append([execution.confirmation(plan)])
            orders = execution.standing_orders(challenge, ledger, "test", challenge.machines)
        self.run(orders, until=until)

    def attempts(self) -> tuple[queries.AttemptRow, ...]:
        with self.ledger() as ledger:
            return queries.attempts(ledger, phase="test")

    def spent(self) -> float:
        """Dollars of all attempts, the probes too."""
        with self.ledger() as ledger:
            rows = (*queries.attempts(ledger, phase="test"), *probing.probe_attempts(ledger, "test"))
        return float(probing.usd_of(rows, self.stage.challenge.machines))


@pytest.fixture(scope="module")
def smoked(tmp_path_factory: pytest.TempPathFactory) -> Needs:
    """After `pilot --smoke-all`."""
    world = Needs(tmp_path_factory.mktemp("smoked"))
    world.pilot(smoke_all=True)
    return world




def test_each_goes_to_the_cheapest_type_that_is_enough_and_the_deadline_costs_less_than_by_kinds(
    smoked: Needs, tmp_path: Path
) -> None:
    plan, before = smoked.plan(), smoked.attempts()
    assert {name: set(going) for name, going in plan.assignment.items()} == {
        "cpu, up to 4 CPUs": {"four"},
        "cpu, up to 16 CPUs": {"sixteen"},
        "gpu, up to 16 GiB": {"small"},
        "gpu, up to 32 GiB": {"large"},
    }
    # Everybody was smoked, so the sizes are exact; the class between, of which there is nobody, is kept for later ones.
    assert {each.name: each.evaluations for each in plan.classes} == {
        "cpu, up to 4 CPUs": 25,
        "cpu, up to 8 CPUs": 0,
        "cpu, up to 16 CPUs": 25,
        "gpu, up to 16 GiB": 40,
        "gpu, up to 32 GiB": 10,
    }
    assert (plan.evaluations, plan.started, plan.ended) == (SIZE, PILOT, PILOT)
    told = plan_table(plan).notes
    waiting = plan.assignment["gpu, up to 32 GiB"]["large"]
    assert any(f"gpu, up to 32 GiB: 10 were measured to need so much; of those that wait, {waiting}" in x for x in told)
    with smoked.ledger() as ledger:
        rehearsed = proposal.rehearsed(smoked.stage.challenge, ledger, plan, smoked.now, 100, 0).rehearsal
    assert (rehearsed.in_time or 0) > 0.9
    began = smoked.now
    smoked.execute(plan)
    assert smoked.now - began < DEADLINE
    later = smoked.attempts()[len(before) :]
    assert {row.verdict for row in later} == {Verdict.OK}
    for row in later:
        who = row.evaluation.split(".")[0]
        if int(who[2:]) % 2:
            assert row.machine_type == ("large" if smoked.gpu_bytes(who) > 16 * GIB else "small")
        else:
            assert row.machine_type == ("sixteen" if smoked.threads(who) > 4 else "four")
    assert float(plan.cost.low) < smoked.spent() < float(plan.cost.high)

    kinds = Needs(tmp_path)
    kinds.pilot(smoke_all=False)
    by_kinds = kinds.plan()
    assert set(by_kinds.assignment) == {"cpu", "gpu"}
    kinds.execute(by_kinds)
    print(f"by classes ${smoked.spent():.2f}, by kinds ${kinds.spent():.2f}")
    assert smoked.spent() < kinds.spent()


def test_nobody_is_tried_where_its_gpu_memory_is_known_to_run_out(smoked: Needs) -> None:
    tried: dict[str, list[AttemptSpec]] = {}
    for spec in smoked.specs:
        if spec.machine_type == "small" and smoked.gpu_bytes(spec.submission) > 16 * GIB:
            tried.setdefault(spec.submission, []).append(spec)
    # Once, in the smoke run that showed it; never by a full run or a probe.
    assert len(tried) == 10
    assert all(len(specs) == 1 and specs[0].items for specs in tried.values())


def test_smoke_runs_of_cpu_submissions_go_where_all_cpus_show(smoked: Needs) -> None:
    passed = [row for row in smoked.attempts() if row.smoke and row.verdict is Verdict.OK]
    places = Counter((int(row.evaluation[2:5]) % 2, row.machine_type) for row in passed)
    assert places == {(0, "sixteen"): 50, (1, "small"): 40, (1, "large"): 10}
