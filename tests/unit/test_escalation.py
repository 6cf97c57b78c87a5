"""What a plan reckons for those that will outgrow the machine type that it has for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from referee.planning.catalogue import HISTORICAL, shipped_catalogue
from referee.planning.escalation import Extra, escalations, with_escalations
from referee.planning.groups import Group
from referee.planning.observation import Observation, Requirement, groups_of
from referee.planning.planner import Wishes, make_plan

GIB = 2**30
CLOUD = shipped_catalogue(HISTORICAL).only(["g4dn.xlarge", "p3.2xlarge"])
WISHES = Wishes(timedelta(days=21), confidence=0.9)


def piloted(outgrown: int, size: int = 1000, stayed: int = 40) -> Group:
    """`stayed` ran about five hours on a T4; so many others were soon out of memory there, and took five on a V100."""
    hours = np.random.default_rng(2).uniform(4, 6, stayed)
    seen = [Observation(f"e{place}", "gpu", "g4dn.xlarge", float(each), final=True) for place, each in enumerate(hours)]
    for place in range(outgrown):
        seen.append(Observation(f"m{place}", "gpu", "g4dn.xlarge", 0.05, final=False, outgrown=True))
        seen.append(Observation(f"m{place}", "gpu", "p3.2xlarge", 5.0, final=True))
    needs = {"gpu": Requirement(4, 8 * GIB, 1)}
    (group,) = groups_of(seen, {"gpu": size}, needs, {"g4dn.xlarge": 19.0, "p3.2xlarge": 19.0})
    return group


@pytest.mark.parametrize("outgrown", [4, 20], ids=["few, counted with the others", "many, apart"])
def test_the_cost_is_that_of_where_they_end(outgrown: int) -> None:
    group = piloted(outgrown)
    share = outgrown / (40 + outgrown)
    truth = 1000 * (share * 5.05 * 3.06 + (1 - share) * 5.0 * 0.526)
    assert float(make_plan("c", "p", [group], CLOUD, WISHES).cost.mid) == pytest.approx(truth, rel=0.05)
    unaware = make_plan("c", "p", [replace(group, moved=frozenset())], CLOUD, WISHES)
    assert float(unaware.cost.mid) < 0.85 * truth


def test_its_own_uncertainty_widens_the_interval() -> None:
    group = piloted(4)
    plan, unaware = (make_plan("c", "p", [each], CLOUD, WISHES) for each in (group, replace(group, moved=frozenset())))
    widths = [float(each.cost.high - each.cost.low) for each in (plan, unaware)]
    assert widths[0] > 1.2 * widths[1]
    assert any("outgrows" in cause for cause in plan.drivers)


def test_where_nobody_outgrew_anything_nothing_is_added() -> None:
    extra = escalations([piloted(0)], CLOUD, {"gpu": 960})
    assert extra == Extra(0.0, 0.0)
    seen = object()
    assert with_escalations(seen, extra) is seen  # type: ignore[arg-type, comparison-overlap] # it is not even looked at
