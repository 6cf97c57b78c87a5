"""What the chaos proof would say if something were lost, doubled or billed wrongly: each is shown to be noticed."""

from __future__ import annotations

import dataclasses
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from faults.judgement import Charge, Evidence, judge

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
        ("other", {"left": ["a process"]}),
        ("other", {"odd": ["a traceback"]}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_called_by_its_name(breach: str, doctored: dict[str, Any]) -> None:
    assert {str(wrong.breach) for wrong in judge(dataclasses.replace(RIGHT, **doctored))} == {breach}
