"""Further runs through the same controller: beside the official ones, under their own limits, never instead of them."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from campaign_world import Stage, ok

from referee.attempts import AttemptSpec
from referee.campaign import for_series
from referee.challenge import Challenge, EngineChoice, Limits, MachineType, Phase
from referee.cli.campaigns import confirm_further_runs
from referee.engines.memory import Play
from referee.errors import ConfigurationError
from referee.ledger import Ledger, SeriesStarted, SubmissionRuled, queries
from referee.rulings import Ruling
from referee.verdicts import Verdict

SERIES = SeriesStarted(
    series="rejudging-1",
    purpose="rejudging",
    phase="test",
    submissions=("s-001", "s-002"),
    limits=Limits(wall_time=timedelta(seconds=77)),
)


def test_further_runs_that_cost_money_are_not_started_unasked(stage: Stage) -> None:
    big = MachineType(cpus=4, memory=2**34, price=Decimal(3600))
    priced = stage.challenge.model_copy(update={"machines": {"big": big}, "engine": EngineChoice(name="memory")})
    with Ledger.open(stage.path) as ledger:
        ledger.append([SERIES])
        series = queries.series(ledger)
        with pytest.raises(ConfigurationError, match=r"2 further runs, which cost at most \$154\.00") as refused:
            confirm_further_runs(priced, ledger, series, yes=False)
        assert refused.value.hint == "Say yes with -y."
        confirm_further_runs(priced, ledger, series, yes=True)
        confirm_further_runs(stage.challenge, ledger, series, yes=False)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path, count=4)
    made.run(made.engine())
    return made


def test_a_series_runs_its_own_submissions_and_leaves_the_official_ones_alone(stage: Stage) -> None:
    with Ledger.open(stage.path) as ledger:
        before = queries.evaluations(ledger, "test"), queries.attempts(ledger, phase="test")
        finished = queries.phases(ledger)["test"].finished_at
    specs: list[AttemptSpec] = []

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        specs.append(spec)
        return ok(spec, chance)

    stage.run(stage.engine(script), series=SERIES)
    with Ledger.open(stage.path) as ledger:
        assert (queries.evaluations(ledger, "test"), queries.attempts(ledger, phase="test")) == before
        assert queries.phases(ledger)["test"].finished_at == finished
        assert queries.status(ledger, "test", "rejudging-1").verdicts == {Verdict.OK: 2}
        rows = queries.evaluations(ledger, "test", "rejudging-1")
        ledger.verify()
    assert {row.evaluation for row in rows} == {"s-001.test.rejudging-1", "s-002.test.rejudging-1"}
    assert {spec.limits.wall_time for spec in specs} == {timedelta(seconds=77)}
    stage.run(stage.engine())
    assert stage.verdicts() == {Verdict.OK: 4}


def test_a_killed_controller_goes_on_with_a_series_where_it_was(stage: Stage) -> None:
    engine = stage.engine(slots=1)
    stage.run(engine, series=SERIES, steps=1)
    stage.run(engine, series=SERIES)
    with Ledger.open(stage.path) as ledger:
        assert queries.status(ledger, "test", "rejudging-1").verdicts == {Verdict.OK: 2}
    assert set(engine.executed.values()) == {1}


def test_a_series_stays_on_its_machine_type(tmp_path: Path) -> None:
    machines = {
        name: MachineType(cpus=64, memory=2**40, price=Decimal(price)) for name, price in (("dear", 3), ("cheap", 1))
    }
    stage = Stage(tmp_path, count=3)
    stage.run(stage.engine(machines=machines))
    bound = SERIES.model_copy(update={"series": "confirmation-1-1", "purpose": "confirmation", "machine_type": "dear"})
    stage.run(stage.engine(machines=machines), series=bound)
    with Ledger.open(stage.path) as ledger:
        attempts = queries.attempts(ledger, phase="test", series="confirmation-1-1")
    assert {row.machine_type for row in attempts} == {"dear"}
    assert {row.machine_type for row in stage.attempts()} == {"cheap"}


def test_smoke_runs_and_shared_runs_are_for_official_evaluations() -> None:
    rows = {
        purpose: queries.SeriesRow("x", purpose, "test", ("s-001",), None, None)
        for purpose in ("rejudging", "confirmation", "reproduction")
    }
    challenge = Challenge.model_validate(
        {
            "name": "small",
            "phases": {"test": Phase(data=Path("data"), visibility="private")},
            "duplicates": "run_once",
            "smoke": {"items": 3},
        }
    )
    made = {purpose: for_series(challenge, row) for purpose, row in rows.items()}
    assert {one.smoke.items for one in made.values()} == {None}
    assert {purpose: one.duplicates for purpose, one in made.items()} == {
        "rejudging": "run_once",
        "confirmation": "run_each",
        "reproduction": "run_each",
    }


def test_whoever_is_held_or_ruled_off_is_not_run_until_let_through(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=4)
    engine = stage.engine()

    with Ledger.open(stage.path) as ledger:
        ledger.append([SubmissionRuled(submission="s-000", ruling=Ruling.WITHDRAW, reason="asked")])
    stage.run(engine, held={"s-001": "It did not reproduce."})
    stage.run(engine, held={"s-001": "It did not reproduce."})
    with Ledger.open(stage.path) as ledger:
        assert {row.submission for row in queries.evaluations(ledger, "test")} == {"s-002", "s-003"}
        assert queries.held(ledger, "test") == {"s-001": "It did not reproduce."}
        assert len([one for one in ledger.events() if one.event.kind == "evaluation.held"]) == 1
        ledger.append([SubmissionRuled(submission="s-000", ruling=Ruling.REINSTATE, reason="asked again")])
    stage.run(engine, held={})
    with Ledger.open(stage.path) as ledger:
        assert queries.held(ledger, "test") == {}
    assert stage.verdicts() == {Verdict.OK: 4}
