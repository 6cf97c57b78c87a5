"""Machines are paid for their lives: what attempts took and the waste apart add up to the whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from referee.attempts import Measurements
from referee.challenge import MachineType
from referee.engines.machine_lives import MachineLife, note_lives, noted_lives
from referee.ledger.queries import AttemptRow
from referee.objects import ObjectStore
from referee.report.machine_bill import Use, machine_bill
from referee.verdicts import Verdict

LAUNCH = datetime(2026, 1, 1, tzinfo=UTC)
MACHINES = {"g": MachineType(cpus=4, memory=2**34, price=Decimal("0.526"))}


def at(minutes: float) -> datetime:
    return LAUNCH + timedelta(minutes=minutes)


def life(minutes: float = 60, node: str = "i-1") -> MachineLife:
    return MachineLife(node=node, machine_type="g", launched_at=LAUNCH, seen_at=at(minutes), gone=True)


def row(
    name: str,
    begin: float | None,
    end: float | None,
    verdict: Verdict | None = Verdict.OK,
    *,
    staging: float = 0,
    node: str = "i-1",
    planned: float = 0,
) -> AttemptRow:
    measured = Measurements(wall_seconds=1, cpu_seconds=1, peak_memory_bytes=1, preparation_seconds=staging * 60)
    facts: dict[str, object] = dict.fromkeys(AttemptRow.__dataclass_fields__)
    facts |= {"attempt": name, "verdict": verdict, "node": node, "planned_at": at(planned), "measurements": measured}
    facts["started_at"] = None if begin is None else at(begin)
    facts["ended_at"] = None if end is None else at(end)
    return AttemptRow(**facts)  # type: ignore[arg-type]  # what the bill does not read is left out


def minutes(bill: object) -> dict[Use, float]:
    return {use: float(hours * 60) for (_, use), hours in bill.hours.items()}  # type: ignore[attr-defined]  # a bill


def test_boot_staging_run_idle_and_tail_stand_apart() -> None:
    bill = machine_bill([life()], [row("s.p.1", 5, 20, staging=3), row("t.p.1", 25, 50)], MACHINES)
    assert minutes(bill) == {Use.BOOT: 5, Use.STAGING: 3, Use.RUN: 12 + 25, Use.IDLE: 5, Use.TAIL: 10}
    assert bill.usd("g", Fraction(1)) == Decimal("0.526000")
    assert bill.usd("c", Fraction(1)) is None


def test_what_the_host_ended_is_lost_also_without_its_times() -> None:
    lost = [
        row("s.p.1", 5, 20, Verdict.INTERRUPTED, staging=3),
        row("t.p.1", None, None, Verdict.NODE_LOST, planned=30),
    ]
    bill = machine_bill([life()], lost, MACHINES)
    assert minutes(bill) == {Use.BOOT: 5, Use.LOST: 15 + 30, Use.IDLE: 10}


def test_neighbours_share_a_machine_and_a_submission_pays_for_all_of_its_attempts() -> None:
    rows = [row("s.p.1", 0, 30), row("s.p.2", 0, 60), row("t.p.1", 30, 60)]
    bill = machine_bill([life()], rows, MACHINES)
    assert bill.by_attempt == {
        ("g", "s.p.1"): Fraction(1, 4),
        ("g", "s.p.2"): Fraction(1, 2),
        ("g", "t.p.1"): Fraction(1, 4),
    }
    assert bill.by_submission() == {("g", "s"): Fraction(3, 4), ("g", "t"): Fraction(1, 4)}


def test_a_machine_nobody_used_is_boot_and_others_attempts_are_not_its() -> None:
    assert minutes(machine_bill([life()], [row("s.p.1", 0, 30, node="i-2")], MACHINES)) == {Use.BOOT: 60}


spans = st.tuples(st.floats(-10, 100), st.floats(0, 80), st.floats(0, 50), st.sampled_from(list(Verdict)))


@given(st.lists(spans, max_size=6), st.floats(0, 90))
def test_the_parts_are_the_whole(drawn: list[tuple[float, float, float, Verdict]], length: float) -> None:
    rows = [row(f"s{n}.p.1", b, b + d, v, staging=s) for n, (b, d, s, v) in enumerate(drawn)]
    one = life(length)
    bill = machine_bill([one], rows, MACHINES)
    paid = Fraction((one.seen_at - one.launched_at) // timedelta(microseconds=1), 3_600_000_000)
    assert sum(bill.hours.values(), Fraction(0)) == paid
    used = sum((bill.hours.get(("g", use), Fraction(0)) for use in (Use.RUN, Use.STAGING, Use.LOST)), Fraction(0))
    assert sum(bill.by_attempt.values(), Fraction(0)) == used


def test_lives_are_noted_and_the_last_note_counts() -> None:
    objects = ObjectStore("memory:///")
    note_lives(objects, "aws-batch", [life(10), life(20, "i-2")])
    note_lives(objects, "aws-batch", [life(30)])
    assert {each.node: each.seen_at for each in noted_lives(objects, "aws-batch")} == {"i-1": at(30), "i-2": at(20)}
