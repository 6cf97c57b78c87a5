"""What the operator orders of a campaign is what is done: these evaluations, on these machines, within this money."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from campaign_world import Stage, ok
from hypothesis import given
from hypothesis import strategies as st

from referee.attempts import AttemptSpec
from referee.challenge import MachineType
from referee.engines.memory import Play
from referee.errors import LedgerError
from referee.ledger import EvaluationEnded, Ledger, queries
from referee.orders import Orders, Purse, longest_first, originals, smoke_items
from referee.policy import Demand, Dispatch, Finish, Outcome, decide
from referee.verdicts import Verdict

CHEAP = MachineType(cpus=4, memory=2**34, price=Decimal("0.5"), reference=True)
DEAR = MachineType(cpus=8, memory=2**35, price=Decimal(3), speed=2)


def evaluations(stage: Stage) -> dict[str, queries.EvaluationRow]:
    with Ledger.open(stage.path) as ledger:
        return {row.submission: row for row in queries.evaluations(ledger, "test")}


# A pilot


def test_only_what_was_ordered_is_run_and_the_rest_waits_for_the_next_run(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=8)
    pilot = frozenset({"s-001.test", "s-004.test", "s-006.test"})
    stage.run(stage.engine(), Orders(only=pilot))
    assert {row.evaluation for row in evaluations(stage).values() if row.verdict} == pilot
    engine = stage.engine()
    stage.run(engine, Orders())
    assert stage.verdicts() == {Verdict.OK: 8}
    assert not pilot & {name.rsplit(".", 1)[0] for name in engine.executed}


# Machines


def test_each_machine_type_gets_its_share_of_the_plan(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=20)
    engine = stage.engine(machines={"cheap": CHEAP, "dear": DEAR}, slots=3)
    stage.run(engine, Orders(shares={"cpu": {"cheap": 14, "dear": 6}}))
    assert Counter(row.machine_type for row in stage.attempts()) == {"cheap": 14, "dear": 6}


def test_no_more_run_side_by_side_than_the_plan_has_machines(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=12)
    engine = stage.engine(nodes={"local": [f"n{number}" for number in range(6)]})
    most = 0
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        campaign = stage.campaign(lease, engine, Orders(machines={"local": 2}))
        campaign.begin()
        while campaign.step():
            most = max(most, len(queries.open_attempts(ledger, "test")))
            engine.wait(2.0)
    assert most == 2
    assert stage.verdicts() == {Verdict.OK: 12}


def test_what_the_last_attempt_needs_wins_over_the_plan(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=2, kinds=("gpu",))
    small = MachineType(cpus=8, memory=2**36, gpus=1, gpu_memory=2**34, reference=True)
    large = small.model_copy(update={"gpu_memory": 2**35, "price": Decimal(9), "reference": False})

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return ok(spec, chance) if spec.machine_type == "large" else Play(verdict=Verdict.GPU_OUT_OF_MEMORY)

    stage.run(stage.engine(script, machines={"small": small, "large": large}), Orders(shares={"gpu": {"small": 2}}))
    assert stage.verdicts() == {Verdict.OK: 2}


def test_the_order_among_types_follows_what_is_left_of_the_plan() -> None:
    orders = Orders(shares={"cpu": {"a": 10, "b": 10}})
    assert orders.among("cpu", Demand.ANY, {("cpu", "a"): 5}, {"a": 1, "b": 1}) == {"b"}
    assert orders.among("cpu", Demand.ANY, {("cpu", "a"): 5}, {"a": 1, "b": 0}) == {"a"}
    assert orders.among("cpu", Demand.REFERENCE, {}, {"a": 1}) is None
    assert orders.among("gpu", Demand.ANY, {}, {"a": 1}) is None


# Money


def test_nothing_is_started_that_could_go_beyond_the_budget_and_nothing_paid_is_ended(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=10, text='[limits]\nwall_time = "20s"\n')

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return Play(seconds=10, predictions=b"filename,label\na.mp4,0.5\n", rows=1)

    engine = stage.engine(script, machines={"paid": CHEAP.model_copy(update={"price": Decimal(540)})}, slots=2)
    campaign = stage.run(engine, Orders(budget_usd=Decimal(10)))
    # Ten seconds cost 1.50, and may cost 3 at the limit: after five 7.50 are spent and a sixth may end at 10.50.
    assert stage.verdicts() == {Verdict.OK: 5, None: 5}
    assert "budget of $10.00" in campaign.stopped_because
    assert all(row.verdict is Verdict.OK for row in stage.attempts())
    stage.run(engine, Orders(budget_usd=Decimal(20)))
    assert stage.verdicts() == {Verdict.OK: 10}


@given(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=30), st.decimals(0, 20, places=2))
def test_whatever_attempts_take_within_their_limits_the_budget_is_kept(shares: list[float], budget: Decimal) -> None:
    purse = Purse(budget, (), {"dear": DEAR}, timedelta(hours=1))
    started = sum(purse.pays("dear", share) for share in shares)
    most = sorted(shares)[:started]
    assert sum(most) * 3.0 <= float(budget) + 1e-9 or started == 0


# The last wave


def test_the_last_wave_starts_with_the_longest() -> None:
    assert longest_first(["a", "b", "c"], {"a": 1.0, "b": 3.0, "c": 2.0}.__getitem__) == ["b", "c", "a"]


# Smoke runs


SMOKE = "[smoke]\nitems = 2\n"


def smoke_stage(folder: Path, count: int) -> Stage:
    stage = Stage(folder, count=count, text=SMOKE)
    for name in ("b.mp4", "c.mp4", "d.mp4"):
        (folder / "data" / name).write_bytes(b"x")
    from referee.phases import record_phase  # noqa: PLC0415 - only here are there more files

    stage.data = record_phase(stage.challenge, "test")
    return stage


def test_every_smoke_run_comes_before_any_full_run_and_what_fails_there_ends_there(tmp_path: Path) -> None:
    stage, ran = smoke_stage(tmp_path, 6), []

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        ran.append(spec)
        if spec.submission == "s-003":
            return Play(seconds=1, verdict=Verdict.NONZERO_EXIT)
        return Play(seconds=1 if spec.items else 100, predictions=b"", rows=len(spec.items or stage.data.names))

    stage.run(stage.engine(script, slots=2), Orders())
    assert [spec.items for spec in ran[:6]] == [("a.mp4", "c.mp4")] * 6
    assert [spec.items for spec in ran[6:]] == [None] * 5
    rows = evaluations(stage)
    assert rows["s-003"].verdict is Verdict.NONZERO_EXIT
    assert rows["s-003"].final
    assert "smoke" in rows["s-003"].reason
    assert all(row.attempt == f"{row.evaluation}.2" for name, row in rows.items() if name != "s-003")
    before = stage.attempts()
    with Ledger.open(stage.path) as ledger:
        ledger.rebuild()
    assert stage.attempts() == before


def test_a_smoke_run_is_never_taken_for_a_result(tmp_path: Path) -> None:
    stage = smoke_stage(tmp_path, 1)
    stage.run(stage.engine(lambda spec, chance: Play(seconds=1, predictions=b"", rows=2)), steps=3)
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        row = queries.attempts(ledger, phase="test")[0]
        assert row.smoke
        assert row.verdict is Verdict.OK
        with pytest.raises(LedgerError, match="smoke run"):
            lease.append([EvaluationEnded(evaluation=row.evaluation, verdict=Verdict.OK, attempt=row.attempt)])


def test_after_a_host_fault_in_the_smoke_run_it_is_run_again() -> None:
    lost = Outcome("e", Verdict.NODE_LOST, "n", smoke=True)
    passed = Outcome("e", Verdict.OK, "n", smoke=True)
    assert decide([], smoke=True) == Dispatch(smoke=True)
    assert decide([lost], smoke=True) == Dispatch(avoid_nodes=frozenset({"n"}), smoke=True)
    assert decide([lost, passed], smoke=True) == Dispatch(avoid_nodes=frozenset({"n"}))
    full = decide([lost, passed, Outcome("e", Verdict.OK)], smoke=True)
    assert isinstance(full, Finish)
    assert full.position == 2


@given(st.lists(st.sampled_from(Verdict), max_size=8))
def test_smoke_runs_that_pass_change_no_decision(verdicts: list[Verdict]) -> None:
    history = [Outcome("e", verdict) for verdict in verdicts]
    passed = Outcome("e", Verdict.OK, smoke=True)
    action, before = decide([passed, *history], smoke=True), decide(history)
    if isinstance(before, Dispatch):
        assert action == before
    else:
        assert isinstance(action, type(before))
        assert (action.verdict, action.position) == (before.verdict, before.position + 1)


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=50), st.integers(1, 60))
def test_the_files_of_a_smoke_run_are_some_of_the_phases(names: list[str], count: int) -> None:
    chosen = smoke_items(names, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(names))
    assert set(chosen) <= set(names)


# Equal images


def test_of_equal_images_one_is_run_and_the_others_get_its_result_with_the_link(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=4)
    stage.challenge = stage.challenge.model_copy(update={"duplicates": "run_once"})
    engine = stage.engine()
    stage.run(engine, Orders())
    assert sum(engine.executed.values()) == 1  # all four are of one image
    rows = evaluations(stage)
    (own,) = (row for row in rows.values() if row.copied_from is None)
    for row in rows.values():
        assert (row.verdict, row.attempt, row.predictions_digest) == (own.verdict, own.attempt, own.predictions_digest)
        assert row is own or (row.copied_from == own.evaluation and own.submission in row.reason)
    with Ledger.open(stage.path) as ledger:
        ledger.rebuild()
    assert evaluations(stage) == rows


def test_copies_of_what_failed_fail_and_all_are_reopened_together(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=3)
    stage.challenge = stage.challenge.model_copy(update={"duplicates": "run_once"})
    engine: Any = stage.engine(lambda spec, chance: Play(verdict=Verdict.MEMORY_LIMIT))
    stage.run(engine, Orders())
    assert stage.verdicts() == {Verdict.MEMORY_LIMIT: 3}
    assert sum(engine.executed.values()) == 1


def test_another_image_or_kind_is_no_copy(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=2, kinds=("cpu", "gpu"))
    stage.run(stage.engine(), Orders(only=frozenset()))
    rows = tuple(evaluations(stage).values())
    assert originals(rows) == {row.evaluation: row.evaluation for row in rows}


def test_the_ledger_refuses_a_copy_of_another_phase_verdict_or_image(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=3)
    stage.run(stage.engine(), Orders(only=frozenset({"s-000.test"})))
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        first = next(row for row in queries.evaluations(ledger, "test") if row.verdict)
        for changed in ({"verdict": Verdict.CRASHED}, {"attempt": None}, {"copied_from": "s-002.test"}):
            facts = {"verdict": Verdict.OK, "attempt": first.attempt, "copied_from": first.evaluation} | changed
            with pytest.raises(LedgerError):
                lease.append([EvaluationEnded(evaluation="s-001.test", **facts)])
