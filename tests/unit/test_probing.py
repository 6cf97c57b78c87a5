"""Probes: a few files on every machine type tell how fast each is for each submission, and the plan uses it."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from campaign_world import Stage
from prospects_world import MACHINES, Season, lengths

from referee.attempts import AttemptSpec
from referee.campaign import Campaign, for_series
from referee.challenge import Challenge, Limits, MachineType
from referee.engines.local import LocalEngine
from referee.engines.memory import Play
from referee.ledger import Ledger, queries
from referee.objects import ObjectStore
from referee.orders import Orders
from referee.planning.pilot import PROBES_OF_A_KIND
from referee.planning.planner import Wishes, make_plan
from referee.planning.speeds import LEAST_PAIRS, Probe, speeds
from referee.policy import Demand
from referee.prospects import drawing, execution, fleet, probing, proposal
from referee.prospects.history import groups, history, spent_aside
from referee.prospects.outlook import outlook
from referee.prospects.speeds import Pace, paces, paces_table
from referee.report import report_data
from referee.routing import NoRoute, Route, limits_on, route
from referee.scoring.boards import board_of
from referee.verdicts import Verdict

PILOT = tuple(f"s-{number:03d}.test" for number in range(0, 60, 3))
SMALL = Challenge.model_validate(
    {"name": "x", "folder": Path(), "phases": {"test": {"data": Path("data"), "visibility": "private"}}}
)
KINDS = {f"s-{number:03d}.test": "cpu" for number in range(60)}
# Twice as fast by its price list, but really three and a half times: then it is the cheaper one.
TWO = (
    MACHINES
    + """[machines.fast]
cpus = 8
memory = "64GiB"
price = "1.50"
speed = 2
count = 4
"""
)
# Sixteen vCPUs are granted; where it saves money four will do. The price of a vCPU is the same.
CPUS = """[engine]
name = "memory"
[limits]
wall_time = "2h"
cpus = 16
least_cpus = 4
[machines.four]
cpus = 4
memory = "8GiB"
price = "0.154"
count = 8
[machines.sixteen]
cpus = 16
memory = "32GiB"
price = "0.616"
count = 4
reference = true
"""


def by_type(fast: float, seed: int = 1, spread: float = 0.25) -> dict[str, dict[str, float]]:
    """How fast each submission is on the type `fast`, about its mean."""
    drawn = np.random.default_rng(seed).lognormal(np.log(fast), spread, 60)
    return {f"s-{n:03d}": {"slow": 1.0, "fast": float(each)} for n, each in enumerate(drawn)}


def scaling() -> dict[str, dict[str, float]]:
    """Every other submission uses sixteen vCPUs, the others never more than four."""
    return {f"s-{n:03d}": {"four": 1.0, "sixteen": 4.0 if n % 2 else 1.0} for n in range(60)}


def pilot(season: Season, *, probed: bool = True) -> None:
    challenge = season.stage.challenge
    season.run(drawing.pilot_orders(challenge, challenge.machines, PILOT, KINDS, probed=probed))
    if probed:
        with season.ledger() as ledger:
            started = probing.begin(challenge, ledger, "test", challenge.machines, PILOT, 100)
        for series in started:
            season.run(series=series)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Season:
    season = Season(tmp_path_factory.mktemp("two"), lengths(60), TWO, speeds=by_type(3.5))
    pilot(season)
    return season


def plan_of(season: Season) -> proposal.Proposal:
    challenge = season.stage.challenge
    with season.ledger() as ledger:
        return proposal.propose(challenge, ledger, "test", fleet.fleet(challenge), Wishes(), season.now)


# What is run


def test_the_pilots_own_runs_go_where_work_is_cheapest_and_twelve_are_probed_on_every_type(probed: Season) -> None:
    with probed.ledger() as ledger:
        official = queries.attempts(ledger, phase="test")
        further = probing.probe_attempts(ledger, "test")
        rows = queries.evaluations(ledger, "test")
        ledger.verify()
    assert {row.machine_type for row in official} == {"slow"}  # $0.60 against $1.50 at the declared speed of 2
    assert {row.evaluation for row in official} == set(PILOT)
    assert sum(row.verdict is not None for row in rows) == len(PILOT)  # no result comes of a probe
    counts = {name: sum(row.machine_type == name for row in further) for name in ("slow", "fast")}
    assert counts == {"slow": PROBES_OF_A_KIND, "fast": PROBES_OF_A_KIND}


def test_a_probe_is_on_a_few_files_with_little_time_and_is_not_repeated(probed: Season) -> None:
    specs = [spec for spec in probed.specs if ".probe-" in spec.evaluation]
    assert {spec.items for spec in specs} == {("a.mp4",)}
    # 4 of 100 files, four times over: 16% of 2 h.
    assert {spec.limits.wall_time for spec in specs} == {timedelta(hours=2) * 0.16}
    challenge = probed.stage.challenge
    with probed.ledger() as ledger:
        before = len(queries.series(ledger))
        assert probing.begin(challenge, ledger, "test", challenge.machines, PILOT, 100) == ()
        assert len(queries.series(ledger)) == before


def test_a_smoke_run_on_the_same_type_is_a_probe_already(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(60), TWO + "[smoke]\nitems = 4\n", speeds=by_type(3.5))
    pilot(season)
    with season.ledger() as ledger:
        types = [one.machine_type for one in queries.series(ledger)]
        (fast,) = [each for each in paces_of(season, ledger) if each.machine_type == "fast"]
    assert types == ["fast"]
    assert len(fast.each) == PROBES_OF_A_KIND


def test_a_probe_ends_with_its_first_run_unless_the_host_failed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=3, text=TWO)
    seen: list[str] = []

    def script(spec: AttemptSpec, _chance: random.Random) -> Play:
        passed = Play(predictions=b"filename,label\na.mp4,0.5\n", rows=1)
        if ".probe-" not in spec.evaluation:
            return passed
        seen.append(spec.attempt)
        first = spec.attempt.endswith(".1")
        worst = {"s-000": Verdict.TIME_LIMIT, "s-001": Verdict.NODE_LOST, "s-002": Verdict.CANNOT_START}
        return Play(verdict=worst[spec.submission]) if first else passed

    machines = stage.challenge.machines
    nodes = {name: [f"{name}-{n}" for n in range(3)] for name in machines}
    engine = stage.engine(script, machines=machines, nodes=nodes)
    stage.run(engine)
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        names = tuple(f"s-{n:03d}.test" for n in range(3))
        for one in probing.begin(stage.challenge, ledger, "test", machines, names, 4):
            if one.machine_type == "fast":
                challenge = for_series(stage.challenge, one)
                campaign = Campaign(challenge, lease, engine, stage.objects, stage.data, "test", series=one)
                campaign.run()
                verdicts = queries.status(ledger, "test", one.series).verdicts
    assert sorted(name.split(".")[0] + name[-2:] for name in seen) == ["s-000.1", "s-001.1", "s-001.2", "s-002.1"]
    assert verdicts == {Verdict.TIME_LIMIT: 1, Verdict.OK: 1, Verdict.CANNOT_START: 1}


def test_probes_are_asked_for_where_the_choice_costs_money_and_at_what_price() -> None:
    priced = {"a": MachineType(cpus=8, memory=2**40, price=Decimal(1)), "b": MachineType(cpus=8, memory=2**40)}
    free = {name: MachineType(cpus=8, memory=2**40) for name in "ab"}
    small = {"a": priced["a"], "b": MachineType(cpus=0.5, memory=2**40, price=Decimal(1))}
    of = SMALL
    assert probing.worth_it(of, priced, ["cpu"])
    assert not probing.worth_it(of, free, ["cpu"])
    assert not probing.worth_it(of, small, ["cpu"])
    runs, usd = probing.most_that_probes_cost(of, priced, ["cpu"] * 5, 16)
    assert (runs, usd) == (10, Decimal("45.00"))  # five on each; 9 h at $1, as 4 of 16 files may take all of the time
    assert probing.most_that_probes_cost(of, priced, ["cpu"] * 80, 160)[0] == 2 * PROBES_OF_A_KIND


# What is learned


def paces_of(season: Season, ledger: Ledger) -> tuple[Pace, ...]:
    challenge = season.stage.challenge
    past = history(challenge, ledger, "test")
    return paces(challenge, past, fleet.fleet(challenge), season.now)


def test_each_submission_has_a_speed_of_its_own_on_each_type(probed: Season) -> None:
    with probed.ledger() as ledger:
        found = {each.machine_type: each for each in paces_of(probed, ledger)}
    fast = found["fast"]
    assert fast.known_from == "probes"
    assert abs(fast.factor - 1 / 3.5) < 3 * fast.error
    assert fast.error < 0.15 * fast.factor
    assert len(fast.each) == PROBES_OF_A_KIND
    truth = np.array([1 / probed.speeds[one.submission]["fast"] for one in fast.each])
    own = np.array([one.factor for one in fast.each])
    errors = np.array([one.error for one in fast.each])
    assert (np.abs(own - truth) < 3 * errors).all()
    # Each one's own speed says more of it than the mean of all.
    assert np.abs(own - truth).mean() < 0.5 * np.abs(fast.factor - truth).mean()
    assert "probes" in paces_table(tuple(found.values())).rows[1]


def test_few_pairs_say_little_of_one_and_a_little_of_all() -> None:
    def of(ratios: list[float]) -> list[Probe]:
        return [
            Probe(f"e{n}", "cpu", name, seconds)
            for n, each in enumerate(ratios)
            for name, seconds in (("a", 100.0), ("b", 100.0 * each))
        ]

    assert speeds(of([2.0] * (LEAST_PAIRS - 1)), "cpu") == {}
    assert speeds(of([2.0] * 3), "gpu") == {}
    few, many = (speeds(of([1.8, 2.0, 2.2] * times), "cpu")["a", "b"] for times in (1, 10))
    assert few.error > many.error
    # With three pairs everybody is drawn further towards the mean than with thirty.
    assert few.each["e0"][0] > many.each["e0"][0] > 1.8
    alike = speeds(of([2.0, 2.01, 1.99, 2.0]), "cpu")["a", "b"]
    assert alike.spread == 0.0
    assert len({round(factor, 9) for factor, _ in alike.each.values()}) == 1
    back = speeds(of([2.0] * 5), "cpu")
    assert back["a", "b"].factor == pytest.approx(1 / back["b", "a"].factor)


def test_the_error_of_a_speed_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    held = held_each = total = 0
    for _ in range(400):
        truth = rng.lognormal(np.log(2.1), 0.25, PROBES_OF_A_KIND)
        noise = rng.lognormal(0, 0.05, (2, PROBES_OF_A_KIND))
        probes = [
            Probe(f"e{n}", "gpu", name, float(seconds))
            for n in range(PROBES_OF_A_KIND)
            for name, seconds in (("v100", 60 * noise[0, n]), ("t4", 60 * truth[n] * noise[1, n]))
        ]
        found = speeds(probes, "gpu")["v100", "t4"]
        held += abs(found.factor - 2.1 * np.exp(0.25**2 / 2)) < 1.645 * found.error
        for n, (factor, error) in enumerate(found.each.values()):
            held_each += abs(factor - truth[n]) < 1.645 * error
            total += 1
    assert 0.85 < held / 400 < 0.95
    assert 0.87 < held_each / total < 0.96


# What comes of it


def test_the_plan_takes_the_type_that_the_probes_showed_to_be_cheaper(probed: Season, tmp_path: Path) -> None:
    made = plan_of(probed)
    assert made.plan.assignment == {"cpu": {"fast": 40}}
    truth = sum(
        seconds / probed.speeds[name]["fast"] * 1.5 if f"{name}.test" not in PILOT else seconds * 0.6
        for name, seconds in probed.seconds.items()
    )
    with probed.ledger() as ledger:
        past = history(probed.stage.challenge, ledger, "test")
        hours, usd = spent_aside(past, fleet.fleet(probed.stage.challenge), probed.now)
    assert hours > 0
    assert float(made.plan.cost.low) < truth / 3600 + usd < float(made.plan.cost.high)
    # Without probes the declared speed is believed, and the dear choice made.
    unprobed = Season(tmp_path, lengths(60), TWO, speeds=by_type(3.5))
    unprobed.run(Orders(only=frozenset(PILOT), shares={"cpu": {"slow": len(PILOT)}}))
    assert plan_of(unprobed).plan.assignment == {"cpu": {"slow": 40}}


def test_probes_are_on_the_bill_of_plan_outlook_and_budget(probed: Season) -> None:
    challenge = probed.stage.challenge
    with probed.ledger() as ledger:
        past = history(challenge, ledger, "test")
        _, usd = spent_aside(past, fleet.fleet(challenge), probed.now)
        seen = outlook(challenge, ledger, "test", probed.now)
        assert float(execution.aside_usd(ledger, "test", challenge.machines)) == pytest.approx(usd)
        spent = float(probing.probe_orders(challenge, ledger, "test").aside_usd)
    assert seen is not None
    official = sum(probed.seconds[name.split(".")[0]] for name in PILOT) / 3600 * 0.6
    assert spent == pytest.approx(official + usd, rel=1e-3)
    assert seen.forecast.cost.low > spent
    known = groups(challenge, past, fleet.fleet(challenge), probed.now)
    without, with_them = (
        make_plan("c", "test", known, fleet.fleet(challenge), Wishes(aside_hours=hours, aside_usd=usd)).cost
        for hours, usd in ((0.0, 0.0), (3.0, 10.0))
    )
    assert (with_them.low - without.low, with_them.mid - without.mid) == (10, 10)


def test_probes_are_on_the_bill_of_the_report(probed: Season) -> None:
    challenge = probed.stage.challenge
    with probed.ledger() as ledger:
        official, further = queries.attempts(ledger, phase="test"), probing.probe_attempts(ledger, "test")
        data = report_data(
            challenge,
            board_of(challenge, ledger, "test"),
            evaluations=queries.evaluations(ledger, "test"),
            attempts=(*official, *further),
            as_of=probed.now,
        )
    assert data.attempts == len(official)
    spent = probing.usd_of((*official, *further), challenge.machines)
    assert data.bill.cost_usd == pytest.approx(spent, abs=Decimal("0.02"))
    assert sum(row.attempts for row in data.bill.rows) == len(official) + len(further)


def test_jobs_go_to_machines_with_as_many_cpus_as_they_use(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(60), CPUS, speeds=scaling())
    pilot(season)
    with season.ledger() as ledger:
        found = {each.machine_type: each for each in paces_of(season, ledger)}
        official = queries.attempts(ledger, phase="test")
    assert {row.machine_type for row in official} == {"four"}
    assert {spec.limits.cpus for spec in season.specs if spec.machine_type == "four"} == {4.0}
    assert {spec.limits.cpus for spec in season.specs if spec.machine_type == "sixteen"} == {16.0}
    sixteen = found["sixteen"]
    assert abs(sixteen.factor - 0.625) < 3 * sixteen.error
    own = {one.submission: one.factor for one in sixteen.each}
    assert all((factor < 0.45) == bool(int(name[2:]) % 2) for name, factor in own.items())
    # Sixteen cost four times as much and are at best four times as fast.
    assert plan_of(season).plan.assignment == {"cpu": {"four": 40}}


@pytest.mark.parametrize(("used", "factor"), [(1.0, 1.0), (8.0, 2.0)])
def test_without_probes_the_cpus_that_were_used_say_what_fewer_would_do(
    tmp_path: Path, used: float, factor: float
) -> None:
    season = Season(tmp_path, lengths(60), CPUS, speeds=scaling(), cpus_used=used)
    season.run(Orders(only=frozenset(PILOT), shares={"cpu": {"sixteen": len(PILOT)}}))
    with season.ledger() as ledger:
        found = {each.machine_type: each for each in paces_of(season, ledger)}
    assert found["four"].known_from == "CPUs used"
    assert found["four"].factor == pytest.approx(factor, rel=0.01)
    made = plan_of(season)
    assert made.plan.assignment == {"cpu": {"four": 40}}
    assert not any("Nothing has run on four" in warning for warning in made.plan.warnings)


def test_fewer_cpus_only_where_the_challenge_allows_it() -> None:
    machines = {"four": MachineType(cpus=4, memory=2**40), "two": MachineType(cpus=2, memory=2**40)}
    of = SMALL.model_copy(update={"limits": Limits(cpus=16)})
    assert isinstance(route(of, machines, "cpu", Demand.ANY), NoRoute)
    less = SMALL.model_copy(update={"limits": Limits(cpus=16, least_cpus=3)})
    found = route(less, machines, "cpu", Demand.ANY)
    assert isinstance(found, Route)
    assert found.machine_type == "four"
    assert limits_on(less.limits, machines["four"]).cpus == 4
    assert limits_on(less.limits, MachineType(cpus=64, memory=2**40)).cpus == 16
    with pytest.raises(ValueError, match="least_cpus"):
        Limits(cpus=2, least_cpus=3)


def test_this_machine_takes_what_may_have_fewer_cpus_instead_of_letting_it_wait_for_ever(tmp_path: Path) -> None:
    few = LocalEngine(
        ObjectStore(tmp_path / "objects"),
        tmp_path / "node",
        Limits(cpus=4096, least_cpus=0.5, memory=2**20),
        slots=2,
    )
    try:
        assert few.capacity().free["local"] >= 1
    finally:
        few.close()
