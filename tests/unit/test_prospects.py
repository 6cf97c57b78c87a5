"""From the ledger's attempts to forecasts, plans and warnings, and from plans back to what the controller does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from prospects_world import EPOCH, MACHINES, Season, lengths

from referee.challenge import load_challenge
from referee.errors import ConfigurationError
from referee.ledger import CampaignWarned, ForecastMade, Ledger, queries
from referee.orders import Orders
from referee.planning.assignment import NoPlanError
from referee.planning.pilot import draw_in_bands
from referee.planning.planner import Wishes
from referee.prospects import drawing, execution, fleet, proposal
from referee.prospects.hindsight import hindsight, notable
from referee.prospects.history import groups, history
from referee.prospects.lessons import lessons, lessons_table
from referee.prospects.outlook import outlook
from referee.prospects.watch import Watch, forecast_made
from referee.verdicts import Verdict

HALF = frozenset(f"s-{number:03d}.test" for number in range(0, 60, 2))
TWO_TYPES = (
    MACHINES
    + """[machines.fast]
cpus = 8
memory = "64GiB"
price = "1.50"
speed = 2
count = 4
"""
)


@pytest.fixture(scope="module")
def piloted(tmp_path_factory: pytest.TempPathFactory) -> Season:
    """Sixty submissions, thirty of them run as a pilot."""
    season = Season(tmp_path_factory.mktemp("season"), lengths(60), failing=frozenset({"s-004", "s-010"}))
    season.run(Orders(only=HALF))
    return season


# What the ledger holds


def test_hours_are_those_of_the_bill_and_what_runs_is_counted_with_its_age(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(12))
    season.run(until=5)
    with season.ledger() as ledger:
        past = history(season.stage.challenge, ledger, "test")
        (group,) = groups(season.stage.challenge, past, fleet.fleet(season.stage.challenge), season.now)
        ended = [row for row in past.attempts if row.verdict]
    seen = group.seen["slow"]
    assert (group.size, group.started) == (12, len(past.attempts))
    truth = sorted(season.seconds[row.evaluation.split(".")[0]] / 3600 for row in ended)
    assert sorted(seen.hours[seen.ended]) == pytest.approx(truth, abs=1e-6)
    started = {row.evaluation: row.submitted_at for row in past.attempts if row.verdict is None}
    ages = sorted((season.now - at).total_seconds() / 3600 for at in started.values() if at)
    assert sorted(seen.hours[~seen.ended]) == pytest.approx(ages, abs=1e-6)


def test_what_no_machine_could_run_says_nothing_of_how_long_the_others_take(tmp_path: Path) -> None:
    none = frozenset(f"s-{number:03d}" for number in range(8))
    season = Season(tmp_path, lengths(12), failing=none, failing_as=Verdict.UNROUTABLE)
    season.run()
    with season.ledger() as ledger:
        past = history(season.stage.challenge, ledger, "test")
    assert {row.submission for row in past.evaluations} == {f"s-{number:03d}" for number in range(8, 12)}
    assert {row.evaluation for row in past.attempts} == {row.evaluation for row in past.evaluations}
    assert past.finished


def test_copies_of_an_equal_image_take_no_hours(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(5))
    season.stage.challenge = season.stage.challenge.model_copy(update={"duplicates": "run_once"})
    season.run()
    with season.ledger() as ledger:
        past = history(season.stage.challenge, ledger, "test")
    assert len(past.evaluations) == len(past.attempts) == 1
    assert past.finished


def test_the_local_engine_is_this_machine_in_as_many_parts_as_it_takes_attempts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "challenge.toml").write_text(
        'name = "x"\n[phases.p]\ndata = "data"\nvisibility = "private"\n[limits]\nmemory = "64MiB"\n'
        '[engine]\nslots = 3\nmachine = "desk"\n[machines.desk]\ncpus = 2\nmemory = "1GiB"\nprice = "0.1"\n'
        '[machines.elsewhere]\ncpus = 2\nmemory = "1GiB"\n'
    )
    challenge = load_challenge(tmp_path)
    offers = fleet.fleet(challenge).offers
    assert {name: (offer.count, offer.price) for name, offer in offers.items()} == {"desk": (3, Decimal("0.1"))}
    table = fleet.everything(challenge, "aws-2022-03").offers
    assert list(table)[:2] == ["desk", "elsewhere"]
    assert "g4dn.xlarge" in table


def test_a_quota_for_no_machine_type_is_refused(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(2), MACHINES + '[quotas]\n"P and Q" = 8\n')
    with pytest.raises(ConfigurationError, match="P and Q") as caught:
        fleet.chosen(season.stage.challenge, (), "aws-2022-03")
    assert "Standard" in caught.value.hint


# The pilot


def test_a_pilot_is_a_random_sample_in_proportion_from_bands_of_public_runtimes() -> None:
    seconds: dict[str, float | None] = {f"e{number:03d}": float(number) for number in range(80)}
    seconds |= {f"u{number:03d}": None for number in range(20)}
    counts: Counter[str] = Counter()
    for seed in range(200):
        drawn = draw_in_bands(seconds, 10, seed)
        assert len(set(drawn)) == 10
        in_bands = Counter("u" if name[0] == "u" else str(int(name[1:]) // 20) for name in drawn)
        assert all(in_bands[band] == 2 for band in "0123u")
        counts.update(drawn)
    assert draw_in_bands(seconds, 10, 7) == draw_in_bands(seconds, 10, 7)
    # Everybody is drawn about as often: 20 times of 200, give or take four standard deviations.
    assert all(20 - 17 < counts[name] < 20 + 17 for name in seconds)


def test_a_pilot_is_drawn_from_what_was_not_started_and_fits(piloted: Season) -> None:
    challenge = piloted.stage.challenge
    with piloted.ledger() as ledger:
        strata = drawing.candidates(challenge, ledger, "test", challenge.machines)
        assert set(strata) == {"cpu"}
        assert not set(strata["cpu"]) & HALF
        assert drawing.candidates(challenge, ledger, "test", {}) == {}
        fewer = drawing.candidates(challenge, ledger, "test", challenge.machines, {"s-001": "It did not reproduce."})
        assert set(strata["cpu"]) - set(fewer["cpu"]) == {"s-001.test"}
    assert len(set(drawing.draw(strata, 7, seed=0))) == 7
    with pytest.raises(ConfigurationError, match="30 evaluations were not started"):
        drawing.draw(strata, 31, seed=0)
    assert drawing.most_that_it_costs(challenge, challenge.machines, 10) == Decimal("12.00")  # 10 x 2 h x $0.60


def test_what_still_runs_is_not_drawn_again(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(12))
    season.run(until=5)
    challenge = season.stage.challenge
    with season.ledger() as ledger:
        strata = drawing.candidates(challenge, ledger, "test", challenge.machines)
        running = {row.evaluation for row in queries.open_attempts(ledger, "test")}
    assert running
    assert not running & set(strata["cpu"])


def test_a_pilot_runs_on_every_machine_type_and_measures_their_speed(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(60, sigma=0.3), TWO_TYPES)
    challenge = season.stage.challenge
    pilot = sorted(HALF)
    season.run(drawing.pilot_orders(challenge, challenge.machines, pilot, dict.fromkeys(pilot, "cpu")))
    with season.ledger() as ledger:
        past = history(challenge, ledger, "test")
        found = lessons(challenge, past, fleet.fleet(challenge), 1, season.now)
    assert {each.machine_type: each.ended for each in found} == {"slow": 15, "fast": 15}
    (slower,) = (each.slower for each in found if each.slower)
    ratio = 0.5 if found[0].machine_type == "slow" else 2.0
    assert abs(slower[0] - ratio) < 3 * slower[1]


def test_lessons_say_what_was_measured(piloted: Season) -> None:
    with piloted.ledger() as ledger:
        past = history(piloted.stage.challenge, ledger, "test")
        (lesson,) = lessons(piloted.stage.challenge, past, fleet.fleet(piloted.stage.challenge), 10, piloted.now)
    ran = np.array([seconds for name, seconds in piloted.seconds.items() if f"{name}.test" in HALF]) - 1
    went = [s - 1 for n, s in piloted.seconds.items() if f"{n}.test" in HALF and n not in piloted.failing]
    assert (lesson.ended, lesson.valid) == (30, 28)
    assert lesson.failure_low < 2 / 30 < lesson.failure_high
    assert lesson.seconds == pytest.approx(np.median(ran))
    assert lesson.item_seconds == pytest.approx(np.median(went) / 10)
    assert (lesson.start_up_seconds, lesson.memory_bytes) == (1.0, 2**30)
    (row,) = lessons_table([lesson]).rows
    assert "2 (" in row[3]


# The plan


def plan_of(season: Season, ledger: Ledger, **wishes: object) -> proposal.Proposal:
    challenge = season.stage.challenge
    asked = replace(Wishes(confidence=0.9), **wishes)  # type: ignore[arg-type] # any of its fields
    return proposal.propose(challenge, ledger, "test", fleet.fleet(challenge), asked, season.now)


def test_the_plan_from_the_pilot_covers_what_comes_and_says_what_other_deadlines_cost(piloted: Season) -> None:
    with piloted.ledger() as ledger:
        made = plan_of(piloted, ledger, deadline=timedelta(hours=6))
    truth = sum(piloted.seconds.values()) / 3600
    plan = made.plan
    assert plan.hours.low < truth < plan.hours.high
    assert float(plan.cost.low) < truth * 0.6 < float(plan.cost.high)
    assert (plan.evaluations, plan.started, plan.assignment) == (60, 30, {"cpu": {"slow": 30}})
    assert any(point.usd for point in plan.by_deadline)
    assert any("machine" in change or "slow" in change for change in plan.changes)
    assert made.rehearsal
    assert made.rehearsal.in_time == pytest.approx(1.0, abs=0.05)


def test_a_plan_that_cannot_be_made_says_why(piloted: Season, tmp_path: Path) -> None:
    with piloted.ledger() as ledger, pytest.raises(NoPlanError):
        plan_of(piloted, ledger, deadline=timedelta(minutes=20))
    fresh = Season(tmp_path, lengths(3))
    with fresh.ledger() as ledger, pytest.raises(ConfigurationError, match="0 have ended") as caught:
        plan_of(fresh, ledger)
    assert "referee pilot" in caught.value.hint
    fresh.run()
    with fresh.ledger() as ledger, pytest.raises(ConfigurationError, match="nothing to plan"):
        plan_of(fresh, ledger)


def test_machines_that_nothing_ran_on_can_be_planned_with_and_the_plan_says_so(piloted: Season) -> None:
    challenge = piloted.stage.challenge
    with piloted.ledger() as ledger:
        table = fleet.chosen(challenge, ("c5.2xlarge",), "aws-2022-03")
        made = proposal.propose(challenge, ledger, "test", table, Wishes(), piloted.now)
    assert made.plan.assignment == {"cpu": {"c5.2xlarge": 30}}
    assert any("Nothing has run on c5.2xlarge" in warning for warning in made.plan.warnings)
    assert any("2022-03-24" in warning for warning in made.plan.warnings)


def test_a_confirmed_plan_becomes_the_controllers_orders_and_only_that_plan(piloted: Season) -> None:
    challenge = piloted.stage.challenge
    with piloted.ledger() as ledger:
        plan = plan_of(piloted, ledger, budget=Decimal(40)).plan
        with pytest.raises(ConfigurationError, match="no plan was confirmed"):
            execution.standing_orders(challenge, ledger, "test", challenge.machines)
        execution.check(plan, challenge, "test", challenge.machines, 30)
        for changed, said in (
            ({"phase": "other"}, "for the phase 'other'"),
            ({"challenge": "other"}, "of 'other'"),
            ({"started": 29}, "when 29 evaluations had started"),
            ({"pools": (plan.pools[0].model_copy(update={"machine_type": "none"}),)}, "does not have"),
            ({"pools": (plan.pools[0].model_copy(update={"market": "spot"}),)}, "does not rent"),
            ({"pools": (plan.pools[0].model_copy(update={"usd_per_hour": Decimal("0.1")}),)}, r"costs \$0.60"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                execution.check(plan.model_copy(update=changed), challenge, "test", challenge.machines, 30)
        spot = plan.model_copy(update={"pools": (plan.pools[0].model_copy(update={"market": "spot"}),)})
        name = f"{plan.pools[0].machine_type} (spot)"
        bought = {**challenge.machines, name: challenge.machines[plan.pools[0].machine_type]}
        execution.check(spot, challenge, "test", bought, 30)
        assert set(execution.orders_of(execution.Confirmed(spot, piloted.now), challenge).machines) == {name}
        with ledger.lead() as lease:
            lease.append([execution.confirmation(plan)])
        orders = execution.standing_orders(challenge, ledger, "test", challenge.machines)
    assert orders is not None
    assert orders.shares == {"cpu": {"slow": 30}}
    assert orders.budget_usd == Decimal(40)


def test_a_rehearsal_of_a_plan_that_is_out_of_date_is_refused(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(20))
    season.run(until=8)
    with season.ledger() as ledger:
        plan = plan_of(season, ledger).plan
        rehearsed = proposal.rehearsed(season.stage.challenge, ledger, plan, season.now, 100, 0)
        assert len(rehearsed.sentences()) >= 2
        other = plan.model_copy(update={"challenge": "other"})
        with pytest.raises(ConfigurationError, match="not for 'small'"):
            proposal.rehearsed(season.stage.challenge, ledger, other, season.now, 100, 0)
    season.run(until=12)
    with season.ledger() as ledger, pytest.raises(ConfigurationError, match="evaluations had started; now"):
        proposal.rehearsed(season.stage.challenge, ledger, plan, season.now, 100, 0)


# While it runs


def test_an_outlook_needs_two_that_have_ended_and_something_left(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(6))
    challenge = season.stage.challenge
    with season.ledger() as ledger:
        assert outlook(challenge, ledger, "test", season.now) is None
    season.run(until=3)
    with season.ledger() as ledger:
        assert outlook(challenge, ledger, "test", season.now) is not None
    season.run()
    with season.ledger() as ledger:
        assert outlook(challenge, ledger, "test", season.now) is None


def test_a_deadline_in_danger_is_said_with_what_would_help(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(40), TWO_TYPES)
    season.run(Orders(shares={"cpu": {"slow": 40}}), until=15)
    late = season.stage.challenge.model_copy(update={"deadline": season.now + timedelta(minutes=50)})
    with season.ledger() as ledger:
        seen = outlook(late, ledger, "test", season.now)
        assert seen is not None
        (advice,) = seen.advice
        assert advice.danger == "deadline"
        assert "Add " in advice.proposal
        assert any("AT RISK" in line for line in seen.sentences())
        assert seen.as_json()["at_risk"]
        calm = outlook(
            season.stage.challenge.model_copy(update={"deadline": season.now + timedelta(days=2)}),
            ledger,
            "test",
            season.now,
        )
    assert calm is not None
    assert not calm.advice
    assert any("not at risk" in line for line in calm.sentences())


def test_retries_of_what_could_not_be_told_are_named_where_time_is_short_and_nowhere_else(tmp_path: Path) -> None:
    failing = frozenset(f"s-{number:03d}" for number in range(0, 40, 4))
    season = Season(tmp_path, lengths(40), failing=failing, failing_as=Verdict.CANNOT_START)
    short = season.stage.challenge.model_copy(update={"deadline": EPOCH + timedelta(minutes=30)})
    said: list[tuple[int, str]] = []

    def look(ledger: Ledger) -> None:
        rows = queries.evaluations(ledger, "test")
        again = sum(row.verdict is None and row.last_verdict is Verdict.CANNOT_START for row in rows)
        ended = sum(row.verdict is not None for row in rows)
        if ended < 5 or said or not again:
            return
        for challenge in (season.stage.challenge, short):
            seen = outlook(challenge, ledger, "test", season.now)
            assert seen is not None
            said.extend((again, advice.proposal) for advice in seen.advice)

    season.run(on_step=look)
    assert said
    for again, proposal_said in said:
        assert again > 0
        assert f"Stop {again} retries of what could not be told" in proposal_said


def test_the_watch_records_forecasts_and_each_danger_once(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(40))
    challenge = season.stage.challenge.model_copy(update={"deadline": EPOCH + timedelta(minutes=40)})
    watches: list[Watch] = []

    def look(ledger: Ledger) -> None:
        if not watches:
            watches.append(Watch(challenge, ledger, "test", lambda: season.now))
        watches[0].look()

    season.run(on_step=look)
    with season.ledger() as ledger:
        made = [each.event for each in ledger.events(ForecastMade)]
        warned = [each.event for each in ledger.events(CampaignWarned)]
    assert 10 <= len(made) <= 40
    assert [event.danger for event in warned if isinstance(event, CampaignWarned)].count("deadline") == 1


def test_drift_is_announced_and_the_forecast_follows_it(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(200, sigma=0.3))
    season.run(until=1)
    with season.ledger() as ledger:
        order = [row.submission for row in sorted(queries.evaluations(ledger, "test"), key=lambda row: row.order)]
    for late in order[40:]:
        season.seconds[late] *= 2.0
    season.run(until=120)
    with season.ledger() as ledger:
        seen = outlook(season.stage.challenge, ledger, "test", season.now)
    assert seen is not None
    assert [advice.danger for advice in seen.advice] == ["drift"]
    truth = sum(season.seconds.values()) / 3600
    assert seen.forecast.hours.low < truth < seen.forecast.hours.high
    assert any("drift" in line for line in seen.sentences())


# Afterwards


def test_hindsight_sets_forecasts_beside_what_came(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(60, seed=5))
    challenge = season.stage.challenge
    season.run(Orders(only=HALF))
    with season.ledger() as ledger:
        seen = outlook(challenge, ledger, "test", season.now)
        assert seen is not None
        ledger.append([forecast_made(seen, "pilot")])
        season.engine.advance(7200)  # the operator reads, and sleeps
        plan = plan_of(season, ledger).plan
        with ledger.lead() as lease:
            lease.append([execution.confirmation(plan)])
        began = season.now
        orders = execution.standing_orders(challenge, ledger, "test", challenge.machines)
    season.run(orders)
    with season.ledger() as ledger:
        found = hindsight(challenge, ledger, "test", season.now)
    assert found is not None
    assert found.outcome is not None
    assert found.outcome.hours == pytest.approx(sum(season.seconds.values()) / 3600, rel=1e-6)
    assert float(found.outcome.usd) == pytest.approx(found.outcome.hours * 0.6, abs=0.01)
    pilot, planned = notable(found.forecasts)
    assert (pilot.moment, planned.moment) == ("pilot", "plan")
    for each in (pilot, planned):
        assert each.hours[0] < found.outcome.hours < each.hours[2]
        assert each.ends[0] <= found.outcome.end <= each.ends[2]
        assert abs(each.begins - began) < timedelta(seconds=5)
    assert len(found.ended) == 60
    assert found.fleet[-1][1] == 0
    assert max(number for _, number in found.fleet) == 4


def test_without_forecasts_there_is_no_hindsight(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(3))
    season.run()
    with season.ledger() as ledger:
        assert hindsight(season.stage.challenge, ledger, "test", season.now) is None
