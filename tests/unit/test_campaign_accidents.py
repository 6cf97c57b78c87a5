"""What happens between two steps of a campaign: a store that cannot be read, a controller killed halfway, lost jobs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from campaign_world import Stage, ok

from referee.attempts import AttemptSpec
from referee.challenge import MachineType
from referee.engines.contract import Job, SilentError
from referee.engines.memory import Faults, Play
from referee.errors import HostError, ObjectStoreError
from referee.ledger import Ledger, NodeQuarantined, SeriesStarted, SubmissionRuled, queries
from referee.orders import Orders, Purse
from referee.prospects.drawing import candidates
from referee.rulings import Ruling
from referee.verdicts import Verdict

DEAR = MachineType(cpus=8, memory=2**35, price=Decimal(3))


def test_a_store_that_cannot_be_read_for_a_moment_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, count=2)
    engine = stage.engine(slots=2)
    stage.run(engine, steps=1)
    engine.advance(20)

    def unreachable(key: str, *_: object, **__: object) -> bytes:
        raise ObjectStoreError(f"Cannot read {key}.", hint="Is the network there?")

    with Ledger.open(stage.path) as ledger, ledger.lead() as lease, monkeypatch.context() as outage:
        campaign = stage.campaign(lease, engine)
        campaign.begin()
        for name in ("get", "exists", "size"):
            outage.setattr(stage.objects, name, unreachable)
        with pytest.raises(ObjectStoreError, match="Cannot read"):
            campaign.step()
    stage.run(engine)
    assert [row.verdict for row in stage.attempts()] == [Verdict.OK, Verdict.OK]


def test_a_result_that_alone_cannot_be_read_is_lost_and_holds_up_nobody(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=2)
    engine = stage.engine(slots=2)
    stage.run(engine, steps=1)
    engine.advance(20)
    bad, _ = stage.attempts()
    place = tmp_path / "objects" / "results" / bad.result_key / "result.json"
    place.unlink()
    place.mkdir()  # reading it is an error, as on a damaged disk
    stage.run(engine)
    assert sorted(row.verdict or "" for row in stage.attempts()) == [Verdict.OK, Verdict.OK, Verdict.RESULT_LOST]
    assert {row.node for row in stage.attempts()} == {"local-1"}


def test_a_controller_killed_before_the_specifications_were_stored_costs_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, count=3)
    engine = stage.engine(slots=3)
    put_once = stage.objects.put_once

    def killed(key: str, data: bytes) -> bool:
        if key == "specs/s-001.test.1.json":
            raise KeyboardInterrupt
        return put_once(key, data)

    with monkeypatch.context() as crash:
        crash.setattr(stage.objects, "put_once", killed)
        with pytest.raises(KeyboardInterrupt):
            stage.run(engine)
    with Ledger.open(stage.path) as ledger:
        ledger.append([NodeQuarantined(node="elsewhere", reason="It went wrong.")])
    stage.run(engine)
    stored = AttemptSpec.model_validate_json(stage.objects.get("specs/s-001.test.1.json"))
    assert stored.avoid_nodes == ("elsewhere",)
    assert [row.verdict for row in stage.attempts()] == [Verdict.OK] * 3
    assert set(engine.executed.values()) == {1}


def test_what_no_worker_ever_began_is_paid_by_nobody(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=5)
    engine = stage.engine(machines={"dear": DEAR}, slots=5, faults=Faults(delay=1.0, delay_seconds=3600))
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        campaign = stage.campaign(lease, engine)
        campaign.begin()
        campaign.step()
        campaign.cancel()
        while campaign.step():
            engine.wait(2.0)
    attempts = stage.attempts()
    assert {row.verdict for row in attempts} == {Verdict.CANCELLED}
    assert len(attempts) == 5
    purse = Purse(Decimal(6), attempts, {"dear": DEAR}, timedelta(hours=1))
    assert sum(purse.pays("dear", 1.0) for _ in range(9)) == 2


def test_a_clock_that_was_set_back_gives_no_money_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=1)
    stage.run(stage.engine(machines={"dear": DEAR}))
    [row] = stage.attempts()
    assert row.started_at is not None
    turned = replace(row, ended_at=row.started_at - timedelta(days=1))
    purse = Purse(Decimal(3), [turned], {"dear": DEAR}, timedelta(hours=1))
    assert sum(purse.pays("dear", 1.0) for _ in range(9)) == 1


SLOW = MachineType(cpus=8, memory=2**35, speed=0.5)
FAST = MachineType(cpus=8, memory=2**35, reference=True)


def test_a_series_on_another_machine_type_does_not_make_that_the_reference(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=1)

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return Play(verdict=Verdict.TIME_LIMIT) if spec.machine_type == "slow" else ok(spec, chance)

    engine = stage.engine(script, machines={"fast": FAST, "slow": SLOW})
    stage.run(engine)
    series = SeriesStarted(series="r", purpose="rejudging", phase="test", submissions=("s-000",), machine_type="slow")
    stage.run(engine, series=series)
    with Ledger.open(stage.path) as ledger:
        [row] = queries.evaluations(ledger, "test", series="r")
        assert (row.verdict, row.final) == (Verdict.TIME_LIMIT, False)
        assert not any(attempt.reference for attempt in queries.attempts(ledger, phase="test", series="r"))


def test_an_equal_image_that_came_after_the_pilot_was_drawn_does_not_hold_it_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=2)
    stage.challenge = stage.challenge.model_copy(update={"duplicates": "run_once"})
    engine = stage.engine()
    stage.run(engine, Orders(only=frozenset({"s-001.test"})), steps=50)
    assert stage.verdicts() == {Verdict.OK: 1, None: 1}
    stage.run(engine)
    assert stage.verdicts() == {Verdict.OK: 2}
    assert engine.executed == {"s-001.test.1": 1}


@pytest.mark.parametrize("bad", [["c1"], ["c1", "c2"]])
def test_a_machine_type_of_which_every_node_is_quarantined_is_left_alone(tmp_path: Path, bad: list[str]) -> None:
    stage = Stage(tmp_path, count=12)
    machines = {"cheap": DEAR.model_copy(update={"price": Decimal(1)}), "dear": DEAR}

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return Play(verdict=Verdict.SANDBOX_FAILED) if spec.machine_type == "cheap" else ok(spec, chance)

    engine = stage.engine(script, machines=machines, nodes={"cheap": bad, "dear": ["d1"]})
    stage.run(engine)
    # Who is tried first may meet the only node of its type three times before anybody else meets it.
    assert stage.verdicts()[Verdict.OK] >= 11
    assert len([row for row in stage.attempts() if row.node in bad]) <= 4 * len(bad)


def test_who_needs_a_machine_type_of_which_every_node_is_quarantined_waits_for_the_operator(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=6, kinds=("gpu", "cpu"))
    gpu = DEAR.model_copy(update={"gpus": 1})

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return Play(verdict=Verdict.SANDBOX_FAILED) if spec.gpus else ok(spec, chance)

    engine = stage.engine(script, machines={"cpu": FAST, "gpu": gpu}, nodes={"cpu": ["c1"], "gpu": ["g1"]})
    campaign = stage.run(engine)
    assert stage.verdicts() == {Verdict.OK: 3, Verdict.SANDBOX_FAILED: 1, None: 2}
    assert campaign.stopped_because.startswith("Every node of gpu is quarantined.")
    assert len([row for row in stage.attempts() if row.machine_type == "gpu"]) == 4


def test_no_pilot_is_drawn_from_whom_a_ruling_took_off_before_anything_was_requested(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=3)
    machines = {"fast": FAST}
    with Ledger.open(stage.path) as ledger:
        ledger.append([SubmissionRuled(submission="s-001", ruling=Ruling.WITHDRAW, reason="Its team asked.")])
        assert candidates(stage.challenge, ledger, "test", machines)["cpu"].keys() == {"s-000.test", "s-002.test"}


def test_an_engine_that_answers_neither_a_submission_nor_where_it_went_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, count=2)
    engine = stage.engine(slots=2)
    silent = iter([True, True, False])  # the submission, the question what became of it, and the next question
    submit, adopt = engine.submit, engine.adopt

    def answered(call: Callable[[Any], list[Job]]) -> Callable[[Any], list[Job]]:
        def asked(about: Any) -> list[Job]:
            if next(silent, False):
                raise HostError("The engine does not answer.", hint="Is the network there?")
            return call(about)

        return asked

    monkeypatch.setattr(engine, "submit", answered(submit))
    monkeypatch.setattr(engine, "adopt", answered(adopt))
    campaign = stage.run(engine)
    assert stage.verdicts() == {Verdict.OK: 2}
    assert not campaign.stopped_because


@pytest.mark.parametrize(("error", "most"), [(HostError, 5), (SilentError, 600)])
def test_an_engine_that_refuses_stops_the_dispatch_soon_and_one_that_is_silent_after_a_quarter_of_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[HostError], most: int
) -> None:
    stage = Stage(tmp_path, count=2)
    engine = stage.engine(slots=2)
    stage.run(engine, steps=1)
    asked = []

    def silent(_about: object) -> list[Job]:
        asked.append(len(asked))
        raise error("The engine says no word.", hint="Is the network there?")

    with monkeypatch.context() as outage:
        outage.setattr(engine, "adopt", silent)
        campaign = stage.run(engine, steps=most)
        assert "says no word" in campaign.stopped_because
        assert most / 20 < len(asked) < most / 4 or most < 20  # ever more rarely
    stage.run(engine)
    assert stage.verdicts() == {Verdict.OK: 2}


def test_an_outage_of_some_minutes_needs_no_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, count=4)
    engine = stage.engine(slots=2)
    answers, passes = engine.submit, []

    def unanswered(specs: Any) -> list[Job]:
        if len(passes) < 150:  # of two seconds
            raise SilentError("No word.", hint="Is the network there?")
        return answers(specs)

    monkeypatch.setattr(engine, "submit", unanswered)
    monkeypatch.setattr(engine, "wait", lambda seconds, wait=engine.wait: (passes.append(0), wait(seconds))[1])
    campaign = stage.run(engine)
    assert not campaign.stopped_because
    assert campaign.trouble == ""
    assert stage.verdicts() == {Verdict.OK: 4}
    assert {len(stage.attempts()), sum(engine.executed.values())} == {4}


def test_an_engine_without_any_node_is_said_to_have_none(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=1)
    campaign = stage.run(stage.engine(nodes={"local": []}))
    assert campaign.stopped_because == "The engine memory has no node now."
