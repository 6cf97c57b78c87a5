"""Plans for classes of measured need: all are smoked first, and each goes to the cheapest type that is enough.

The world: half of the CPU submissions keep one to four CPUs busy and half sixteen; a part of the GPU submissions needs
20 GiB. The engine is the one in virtual time; what submissions take where is as their needs say.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from campaign_world import Stage, ok
from prospects_world import Season, lengths

from referee.attempts import AttemptSpec, Measurements
from referee.challenge import MachineType
from referee.engines.contract import Job
from referee.engines.memory import MemoryEngine, Play
from referee.errors import HostError
from referee.ledger import PilotDrawn, queries
from referee.orders import Orders, members_of
from referee.planning.catalogue import Catalogue, Offer
from referee.planning.classes import Measured, NeedClass, class_of, classes_of, needed
from referee.planning.division import divided
from referee.planning.forecast import forecast
from referee.planning.groups import Group
from referee.planning.plan import Plan, parse_plan
from referee.planning.planner import Wishes
from referee.planning.runtime import Runtimes
from referee.planning.strata import elsewhere, strata_of
from referee.planning.tables import plan_table
from referee.policy import Demand
from referee.prospects import drawing, execution, fleet, probing, proposal
from referee.prospects.history import history
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
        self.look_every = 180.0
        self.made: Plan | None = None

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

    def plan(self, deadline: timedelta = DEADLINE) -> Plan:
        """The plan of the moment."""
        with self.ledger() as ledger:
            wishes = Wishes(deadline=deadline, confidence=0.9)
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
    world.made = world.plan()
    return world


def test_each_goes_to_the_cheapest_type_that_is_enough_and_the_deadline_costs_less_than_by_kinds(
    smoked: Needs, tmp_path: Path
) -> None:
    plan, before = smoked.made, smoked.attempts()
    assert plan is not None
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


def test_what_fails_early_has_ended_and_is_no_part_of_what_full_runs_show(tmp_path: Path) -> None:
    failing = frozenset(f"s-{number:03d}" for number in range(0, SIZE, 9))
    world = Needs(tmp_path, failing=failing)
    pilot = world.pilot(smoke_all=True, count=30)
    rows = world.attempts()
    full = {row.evaluation for row in rows if not row.smoke}
    assert full == {name for name in pilot if name.split(".")[0] not in failing}
    with world.ledger() as ledger:
        ended = {row.submission: row for row in queries.evaluations(ledger, "test") if row.verdict}
        past = history(world.stage.challenge, ledger, "test")
        seen = outlook(world.stage.challenge, ledger, "test", world.now)
        assert drawing.to_smoke(world.stage.challenge, ledger, "test", world.stage.challenge.machines) == {}
    assert {name for name, row in ended.items() if row.verdict is Verdict.NONZERO_EXIT} == failing
    assert all(ended[name].final and "smoke" in ended[name].reason for name in failing)
    # They are part of the whole and cost what they cost, but no part of what full runs show.
    assert past.started == len(full) + len(failing)
    plan = world.plan()
    assert (plan.evaluations, plan.started, plan.ended) == (SIZE, past.started, past.started)
    assert sum(sum(going.values()) for going in plan.assignment.values()) == SIZE - past.started
    assert seen is not None
    assert (seen.forecast.size, seen.forecast.started, seen.forecast.ended) == (SIZE, past.started, past.started)


def test_equal_images_are_smoked_once_and_their_copies_are_not_waited_for(tmp_path: Path) -> None:
    world = Needs(tmp_path)  # all of its images are equal, of each kind
    once = world.stage.challenge = world.stage.challenge.model_copy(update={"duplicates": "run_once"})
    with world.ledger() as ledger:
        assert len(drawing.to_smoke(once, ledger, "test", once.machines)) == 2
    world.pilot(smoke_all=True, count=2)
    assert Counter(row.smoke for row in world.attempts() if row.verdict is Verdict.OK) == {True: 2, False: 2}
    with world.ledger() as ledger:
        assert drawing.to_smoke(once, ledger, "test", once.machines) == {}


def test_smoke_runs_that_were_interrupted_go_on_and_none_is_made_twice(tmp_path: Path) -> None:
    world = Needs(tmp_path, MACHINES.replace("count = 60", "count = 6"), failing=frozenset({"s-000"}))
    challenge = world.stage.challenge
    world.pilot(smoke_all=True, count=10, until=1)
    with world.ledger() as ledger:
        left = drawing.to_smoke(challenge, ledger, "test", challenge.machines)
        open_before = {row.attempt for row in queries.open_attempts(ledger, "test")}
    assert 0 < len(left) < SIZE
    assert open_before  # left running by the controller that is gone, and adopted by the next one
    world.pilot(smoke_all=True, count=10)
    smoke = Counter(row.evaluation for row in world.attempts() if row.smoke and row.verdict is Verdict.OK)
    assert set(smoke.values()) == {1}
    assert len(smoke) == SIZE - 1
    assert len({row.evaluation for row in world.attempts() if not row.smoke}) <= 10


def test_who_is_measured_after_the_plan_goes_by_what_was_measured(smoked: Needs) -> None:
    classes = (
        NeedClass(name="gpu, up to 16 GiB", kind="gpu", measure="gpu_memory", up_to=16 * GIB, machine_types=("s", "l")),
        NeedClass(name="gpu, up to 24 GiB", kind="gpu", measure="gpu_memory", up_to=24 * GIB, machine_types=("m", "l")),
        NeedClass(name="gpu, up to 32 GiB", kind="gpu", measure="gpu_memory", up_to=32 * GIB, machine_types=("l",)),
    )
    shares = {"gpu, up to 16 GiB": {"s": 10}, "gpu": {"s": 3, "l": 1}}
    orders = Orders(shares=shares, classes=classes)
    room = {"s": 1, "m": 1, "l": 1}
    measured = {"a": Measured(gpu_memory_bytes=8 * GIB), "c": Measured(outgrown_bytes=16 * GIB)}
    members = members_of({"a": "gpu", "b": "gpu", "c": "gpu"}, measured, classes)
    assert members == {"a": "gpu, up to 16 GiB", "b": "gpu", "c": "gpu, up to 24 GiB"}
    assert orders.among(members["a"], Demand.ANY, {}, room) == {"s"}
    assert orders.among(members["b"], Demand.ANY, {("gpu", "s"): 3}, room) == {"l"}
    assert set(orders.among(members["c"], Demand.ANY, {}, room) or ()) == {"m", "l"}  # never where it ran out
    assert orders.among(members["a"], Demand.MORE_GPU_MEMORY, {}, room) is None


def test_the_outlook_of_a_running_campaign_follows_the_classes_of_its_plan(tmp_path: Path) -> None:
    world = Needs(tmp_path, MACHINES.replace("count = 60", "count = 8"))
    world.pilot(smoke_all=True)
    plan = world.plan(4 * DEADLINE)
    world.execute(plan, until=PILOT + 1)
    with world.ledger() as ledger:
        seen = outlook(world.stage.challenge, ledger, "test", world.now)
    assert seen is not None
    assert seen.forecast.size == SIZE
    assert PILOT < seen.forecast.ended < SIZE
    world.run(_orders(world))
    assert seen.forecast.cost.low < world.spent() < seen.forecast.cost.high


def _orders(world: Needs) -> Orders | None:
    with world.ledger() as ledger:
        return execution.standing_orders(world.stage.challenge, ledger, "test", world.stage.challenge.machines)


# What is measured, and what follows from it


def test_need_of_gpu_memory_has_a_margin_below_what_it_was_measured_on_and_none_above() -> None:
    assert needed(Measured(gpu_memory_bytes=10 * GIB, held_bytes=32 * GIB), "gpu_memory") == pytest.approx(11 * GIB)
    # A framework that takes all there is does not need more than it had.
    assert needed(Measured(gpu_memory_bytes=int(15.5 * GIB), held_bytes=16 * GIB), "gpu_memory") == 16 * GIB
    assert needed(Measured(outgrown_bytes=16 * GIB), "gpu_memory") == 16 * GIB + 1
    assert needed(Measured(held_bytes=16 * GIB), "gpu_memory") is None
    assert needed(Measured(cpus=3.0, granted_cpus=16), "cpus") == pytest.approx(3.0, rel=0.06)
    assert needed(Measured(cpus=3.9, granted_cpus=4), "cpus") == float("inf")  # it might use more
    assert needed(Measured(), "cpus") is None


def machine(cpus: float, gpu_memory: int | None = None) -> MachineType:
    return MachineType(cpus=cpus, memory=64 * GIB, gpus=1 if gpu_memory else 0, gpu_memory=gpu_memory)


def test_classes_are_made_only_where_they_say_more_than_the_kind() -> None:
    types = {"a": machine(4), "b": machine(16), "c": machine(64)}
    few, many = Measured(cpus=2, granted_cpus=16), Measured(cpus=15.5, granted_cpus=16)
    made = classes_of("cpu", types, [few, few, many], gpus=0, cpus=16)
    assert [(each.name, each.up_to, each.evaluations) for each in made] == [
        ("cpu, up to 4 CPUs", 4.0, 2),
        ("cpu, up to 16 CPUs", 16.0, 1),
    ]
    assert classes_of("cpu", types, [few, few], gpus=0, cpus=16) == ()
    assert classes_of("cpu", {"a": types["a"]}, [few, many], gpus=0, cpus=16) == ()
    assert classes_of("cpu", types, [], gpus=0, cpus=16) == ()
    cards = {"s": machine(4, 16 * GIB), "l": machine(4, 32 * GIB)}
    small, large = Measured(gpu_memory_bytes=8 * GIB, held_bytes=16 * GIB), Measured(outgrown_bytes=16 * GIB)
    assert classes_of("gpu", cards, [small, small], gpus=1, cpus=4) == ()
    assert [each.evaluations for each in classes_of("gpu", cards, [large], gpus=1, cpus=4)] == [0, 1]
    # Above all that there is belongs to the most that there is.
    assert class_of("gpu", Measured(outgrown_bytes=32 * GIB), classes_of("gpu", cards, [large], gpus=1, cpus=4)) == (
        "gpu, up to 32 GiB"
    )


def test_a_plan_file_of_before_is_still_read(smoked: Needs) -> None:
    plan = smoked.made
    assert plan is not None
    assert parse_plan(plan.model_dump_json(), "here") == plan
    old = json.loads(plan.model_dump_json())
    del old["classes"]
    assert parse_plan(json.dumps(old), "here").classes == ()


@pytest.mark.parametrize(
    ("pilot", "shares", "means"),
    [
        (60, (0.5, 0.0, 0.5), (1.0, 1.0, 4.0)),
        (40, (0.7, 0.25, 0.05), (1.0, 3.0, 5.0)),
        (24, (0.5, 0.2, 0.3), (1, 2, 4)),
    ],
)
def test_forecasts_by_classes_hold_what_comes_as_those_by_kinds_do(
    pilot: int, shares: tuple[float, float, float], means: tuple[float, float, float]
) -> None:
    tiers = (4, 8, 16)
    classes = [NeedClass(name=f"cpu, up to {n}", kind="cpu", measure="cpus", up_to=n) for n in tiers]
    offer = Offer(cpus=16, memory=64 * GIB, price=Decimal(1), price_source="a test", count=20)
    catalogue, generator = Catalogue(name="a test", offers={"m": offer}), np.random.default_rng(pilot)
    held, wide = {"kind": 0, "classes": 0}, {"kind": 0.0, "classes": 0.0}
    for _ in range(150):
        of = generator.choice(3, size=300, p=shares)
        hours = np.array(means)[of] * generator.lognormal(-0.18, 0.6, 300)
        drawn = generator.choice(300, pilot, replace=False)
        who = tuple(str(each) for each in drawn)
        seen = Runtimes(hours[drawn], np.ones(pilot, np.bool_), 60.0)
        group = Group("cpu", 300, 1, GIB, 0, 0, {"m": seen}, {"m": who}, {"m": np.zeros(pilot)})
        members = {str(n): classes[each].name for n, each in enumerate(of)}
        parts = divided(group, classes, members, [name for name in members if name not in who])
        assert sum(part.size for part in parts) == 300
        assert sum(part.started for part in parts) == pilot
        for name, some in (("kind", [group]), ("classes", parts)):
            going = {part.name: {"m": part.size - part.started} for part in some}
            said = forecast(strata_of(some, catalogue, going, 0.0), {"m": 20}, replicates=20)
            assert (said.size, said.started) == (300, pilot)
            held[name] += said.hours.low <= hours.sum() <= said.hours.high
            wide[name] += said.hours.half_width
    assert held["classes"] > held["kind"] - 15
    assert held["classes"] > 0.78 * 150
    assert wide["classes"] < wide["kind"]


def test_the_few_that_ran_elsewhere_cost_what_they_cost_there() -> None:
    offers = {
        name: Offer(cpus=4, memory=64 * GIB, price=Decimal(price), price_source="a test", speed=speed)
        for name, price, speed in (("cheap", "0.5", 1.0), ("dear", "4", 2.0))
    }
    catalogue = Catalogue(name="a test", offers=offers)
    many, few = np.linspace(1.0, 3.0, 30), np.array([0.5, 1.0, 1.5])
    seen = {"cheap": Runtimes(many, np.ones(30, np.bool_), 9.0), "dear": Runtimes(few, np.ones(3, np.bool_), 4.5)}
    group = Group("cpu", 33, 1, GIB, 0, 0, seen)
    said = forecast(strata_of([group], catalogue, {}, 0.0), {"cheap": 1}, replicates=20)
    assert said.cost.mid == pytest.approx((many.sum() + 2 * few.sum()) * 0.5)  # as if all had run on the cheap one
    moved = said.shifted(*elsewhere([group], catalogue))
    assert moved.cost.mid == pytest.approx(many.sum() * 0.5 + few.sum() * 4)
    assert moved.hours.mid == pytest.approx(many.sum() + few.sum())
    assert float(moved.costs.mean()) == pytest.approx(moved.cost.mid)


class Refusing(MemoryEngine):
    """It refuses the first submission."""

    refused = False

    def submit(self, specs: Sequence[AttemptSpec]) -> list[Job]:
        if not self.refused:
            self.refused = True
            raise HostError("Busy.", hint="Wait.")
        return super().submit(specs)


def test_smoke_runs_alone_are_waited_for_when_the_engine_refused_them_first(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=6, text="[smoke]\nitems = 1\n")
    engine = Refusing(stage.objects, ok, machines={"local": machine(4)})
    stage.run(engine, Orders(only=frozenset(), smoked=frozenset(f"s-{number:03d}.test" for number in range(4))))
    assert Counter((row.smoke, row.verdict) for row in stage.attempts()) == {(True, Verdict.OK): 4}
    assert stage.verdicts() == {None: 6}
