"""What the chaos proof would say if something were lost, doubled or billed wrongly: each is shown to be noticed."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from chaos import closing_line, facts_of
from faults.findings import most_committed_usd
from faults.judgement import Breach, Charge, Evidence, Wrong, judge
from faults.storm import Report, drawn, until_it_ends

from referee.challenge import MachineType

CHARGE = Charge("i-1", Decimal("3.06"), Decimal(60), Decimal(60), Decimal(60))


def event(kind: str, **payload: str) -> dict[str, Any]:
    return {"kind": kind, "payload": payload}


EVENTS = [
    event("attempt.planned", attempt="s.p.1"),
    event("attempt.ended", attempt="s.p.1"),
    event("attempt.planned", attempt="s.p.2"),
    event("attempt.ended", attempt="s.p.2"),
    event("evaluation.ended", evaluation="s.p"),
    event("evaluation.reopened", evaluation="s.p"),
    event("evaluation.ended", evaluation="s.p"),
    event("evaluation.scored", evaluation="s.p"),
]
ANOTHER = event("evaluation.ended", evaluation="t.p")
RIGHT = Evidence(
    calm={"s.p": "ok"},
    verdicts={"s.p": "ok"},
    events=EVENTS,
    claims=["s.p.1", "s.p.2"],
    results={"s.p.2": 1},
    executed={"s.p.1": 1, "s.p.2": 1},
    board="[]",
    calm_board="[]",
    charges=[CHARGE],
    billed_usd=Decimal("0.051"),
    committed_usd=Decimal(1),
    allowed_usd=Decimal(1),
)


def charged(**changes: Any) -> list[Charge]:
    return [dataclasses.replace(CHARGE, **changes)]


def test_what_is_right_is_not_complained_of() -> None:
    assert judge(RIGHT) == []


@pytest.mark.parametrize(
    ("breach", "doctored"),
    [
        ("lost", {"verdicts": {}}),
        ("lost", {"verdicts": {"s.p": None}}),
        ("lost", {"verdicts": {"s.p": "nonzero_exit"}}),
        ("lost", {"events": [each for each in EVENTS if each["kind"] != "evaluation.ended"]}),
        ("duplicated", {"verdicts": {"s.p": "ok", "t.p": "ok"}, "events": [*EVENTS, ANOTHER]}),
        ("duplicated", {"events": [*EVENTS, event("attempt.planned", attempt="s.p.1")]}),
        ("duplicated", {"events": [*EVENTS, event("attempt.ended", attempt="s.p.2")]}),
        ("duplicated", {"events": [*EVENTS, event("evaluation.scored", evaluation="s.p")]}),
        ("duplicated", {"events": [*EVENTS, event("evaluation.ended", evaluation="s.p")]}),
        ("duplicated", {"executed": {"s.p.1": 2}}),
        ("duplicated", {"executed": {"s.p.3": 1}}),
        ("duplicated", {"results": {"s.p.2": 2}}),
        ("duplicated", {"claims": ["s.p.1", "s.p.1"]}),
        ("duplicated", {"claims": ["s.p.9"]}),
        ("mis-billed", {"charges": [CHARGE, CHARGE], "billed_usd": Decimal("0.10")}),
        ("mis-billed", {"charges": charged(billed_seconds=None)}),
        ("mis-billed", {"charges": charged(billed_seconds=Decimal(61))}),
        ("mis-billed", {"charges": charged(billed_seconds=Decimal(59))}),
        ("mis-billed", {"charges": charged(least_seconds=Decimal(0), most_seconds=None), "billed_usd": None}),
        ("mis-billed", {"billed_usd": Decimal("0.06")}),
        ("mis-billed", {"billed_usd": Decimal("0.04")}),
        ("mis-billed", {"committed_usd": Decimal("1.01")}),
        ("other", {"board": "[ ]"}),
        ("other", {"executed": {}}),
        ("other", {"left": ["a process"]}),
        ("other", {"odd": ["a traceback"]}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_called_by_its_name(breach: str, doctored: dict[str, Any]) -> None:
    assert {str(wrong.breach) for wrong in judge(dataclasses.replace(RIGHT, **doctored))} == {breach}


def test_all_kinds_come_up_equally_often_and_the_same_ones_under_the_same_seed() -> None:
    kinds = [f"kind {number}" for number in range(15)]
    found = [kind for number in range(15) for kind in drawn(kinds, 8, number, 7, "memory")]
    assert set(Counter(found).values()) == {8}
    assert drawn(kinds, 8, 3, 7, "memory") == drawn(kinds, 8, 3, 7, "memory")
    assert all(len(set(drawn(kinds, 8, number, 7, "memory"))) == 8 for number in range(15))


def test_the_last_line_counts_faults_kinds_and_breaches() -> None:
    wrong = (Wrong(Breach.LOST, "s.p: nothing"), Wrong(Breach.OTHER, "a traceback"))
    reports = [
        Report("memory", 0, Counter({"controller killed": 2, "worker killed": 1}), wrong),
        Report("local", 0, Counter({"worker killed": 1}), ()),
    ]
    facts = facts_of(reports, seed=1, seconds=2.0)
    assert facts["faults"]["worker killed"] == {"memory": 1, "local": 1}
    assert closing_line(facts) == "4 faults of 2 kinds, 1 lost, 0 duplicated, 0 mis-billed"


def test_what_ended_without_its_time_stays_committed_with_its_whole_limit() -> None:
    machines = {"g": MachineType(cpus=1, memory=2**30, price=Decimal(3))}
    begin, end = "2026-01-01T00:00:00+00:00", "2026-01-01T00:10:00+00:00"
    planned = [event("attempt.planned", attempt=name, machine_type="g", wall_time_scale="1.0") for name in "abc"]
    events = [
        planned[0],
        event("attempt.ended", attempt="a", started_at=begin, ended_at=end),
        planned[1],
        event("attempt.ended", attempt="b"),
        planned[2],
    ]
    assert most_committed_usd(events, machines, 3600.0) == Decimal("6.5")


def test_a_controller_that_crashes_is_odd_and_one_that_was_killed_is_started_again() -> None:
    def started(*ends: str, resumes: int = 0) -> list[str]:
        programs = iter(ends)
        run = lambda: subprocess.Popen([sys.executable, "-c", next(programs)])  # noqa: E731 - one line of a table
        resumed: list[None] = []
        content = lambda: len(resumed) >= resumes  # noqa: E731 - the same
        return until_it_ends(run, lambda: resumed.append(None), lambda _run: None, itertools.repeat(60.0), content)

    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert started(killed, "raise SystemExit(3)", "") == []
    assert started("", "", resumes=1) == []
    assert started("raise SystemExit(1)", "") == ["A controller ended with 1."]
