"""The report's part on forecasts, and the plan's page: words follow from figures, and nothing else is loaded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from referee.planning.interval import Interval
from referee.planning.plan import DeadlineCost, Plan, PoolPlan, Range, UsdRange
from referee.planning.rehearsal import Rehearsal
from referee.prospects.hindsight import Foresight, Hindsight, Outcome, Spread, held, notable
from referee.prospects.proposal import Proposal
from referee.report import foresight

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return BEGAN + timedelta(hours=hours)


def foreseen(moment: Any, ended: int, made: float, hours: tuple[float, float], end: tuple[float, float]) -> Foresight:
    usd = (Decimal(int(hours[0])), Decimal(int(hours[0]) + 1), Decimal(int(hours[1])))
    middle = sum(hours) / 2
    ends = (at(end[0]), at(sum(end) / 2), at(end[1]))
    return Foresight(moment, at(made), at(made), ended, 10, 0.9, (hours[0], middle, hours[1]), usd, ends)


def seen(outcome: Outcome | None, **changed: Any) -> Hindsight:
    facts: dict[str, Any] = {
        "phase": "test",
        "began": BEGAN,
        "size": 10,
        "ended": tuple(at(0.5 * place) for place in range(1, 11 if outcome else 5)),
        "forecasts": (
            foreseen("pilot", 2, 1, (30, 50), (4, 6)),
            *(foreseen("run", place, place / 2, (38, 39), (4, 7)) for place in range(3, 10)),
        ),
        "outcome": outcome,
        "fleet": ((at(0), 2), (at(5), 0)),
        "spreads": (Spread("cpu", "local", (0.1, 0.2, 0.3, 0.4, 0.9)),),
        "warnings": ((at(2), "deadline", "The deadline <is> in danger."),),
        "plan": None,
    }
    return Hindsight(**facts | changed)


def test_what_held_and_what_was_missed_is_said_for_each_quantity() -> None:
    page = foresight.section(seen(Outcome(40.0, Decimal(40), at(5))))
    pilot = page[page.index("after the pilot") :].split("</tr>")[0]
    assert pilot.count("held") == 3
    running = page[page.index("while it ran") :].split("</tr>")[0]
    assert running.count("missed") == 2  # hours and cost
    assert running.count("held") == 1
    assert "what came" in page
    assert "40.0 h" in page
    assert "$40.00" in page


def test_while_it_runs_nothing_is_judged() -> None:
    page = foresight.section(seen(None))
    assert "held" not in page
    assert "missed" not in page
    assert "Not everything has ended yet" in page


def test_every_picture_is_drawn_and_nothing_comes_from_outside_or_unescaped() -> None:
    page = foresight.section(seen(Outcome(40.0, Decimal(40), at(5))))
    assert page.count("<svg") == 3
    assert "&lt;is&gt;" in page
    assert "<script" not in page
    assert "#0a0b" not in page


def test_of_many_forecasts_a_few_are_shown() -> None:
    moments = [each.moment for each in notable(seen(None).forecasts)]
    assert moments.count("pilot") == 1
    assert 1 <= moments.count("run") <= 3


@pytest.mark.parametrize(
    ("low", "high", "truth", "answer"),
    [(1, 2, 1.5, True), (1, 2, 2.001, True), (1, 2, 2.1, False), (1, 2, 0.9, False), (0, 0, 0, True)],
)
def test_an_interval_holds_what_lies_in_it(low: float, high: float, truth: float, answer: bool) -> None:
    assert held(low, high, truth) is answer


def test_the_plans_page_says_what_the_table_says_and_draws_the_costs_of_deadlines() -> None:
    money = UsdRange(low=Decimal(1), mid=Decimal(2), high=Decimal(3), confidence=0.9)
    pool = PoolPlan(
        machine_type="<b>large</b>",
        market="on_demand",
        machines=3,
        evaluations=10,
        hours=5.0,
        usd=Decimal(2),
        usd_per_hour=Decimal("0.4"),
        usd_per_evaluation=Decimal("0.2"),
        price_date=None,
        price_source="a test",
        quota_pool=None,
    )
    hours = Range(low=4, mid=5, high=6, confidence=0.9)
    plan = Plan(
        made_at=BEGAN,
        challenge="c",
        phase="test",
        evaluations=12,
        started=2,
        ended=2,
        confidence=0.9,
        deadline_hours=10.0,
        budget=None,
        pools=(pool,),
        assignment={"cpu": {"large": 10}},
        hours=hours,
        cost=money,
        end_hours=hours,
        probability_in_time=0.97,
        probability_in_budget=None,
        bound_usd=Decimal(2),
        gap=0.0,
        price_of_confidence_usd=Decimal(0),
        drivers=(),
        one_more_day="",
        changes=("A deadline 3 days later would save $1.",),
        warnings=(),
        by_deadline=tuple(DeadlineCost(days=n, usd=3.0 / n, machines=n) for n in (1, 2)),
    )
    interval = Interval(1, 2, 3, 0.9)
    rehearsal = Rehearsal(interval, interval, 1.0, None, 0.0, ((0.0, 3.0), (2.0, 1.0), (3.0, 0.0)))
    page = foresight.render_plan(Proposal(plan, rehearsal, seen(None).spreads))
    assert page.count("<svg") == 3
    assert "between $1.00 and $3.00 (90%)" in page
    assert "would save $1." in page
    assert "<b>large" not in page
    assert "default-src 'none'" in page
    bare = foresight.render_plan(Proposal(plan.model_copy(update={"by_deadline": ()}), None, ()))
    assert "<svg" not in bare
