"""The plans that a campaign was run by are files of its bundle, and no others pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_world import make_campaign, members, opened, signed
from referee.audit import verify_bundle
from referee.errors import CheckFailedError
from referee.ledger import PlanConfirmed
from referee.planning.plan import Plan, Range, UsdRange, parse_plan
from referee.prospects.execution import confirmation
from referee.publication import write_bundle_of

HOURS = Range(low=1, mid=2, high=3, confidence=0.9)
PLAN = Plan(
    challenge="small", phase="private_test", evaluations=4, started=0, ended=0, confidence=0.95, deadline_hours=None,
    budget=None, pools=(), assignment={}, hours=HOURS, end_hours=HOURS,
    cost=UsdRange(low="0", mid="0", high="0", confidence=0.9),  # type: ignore[arg-type] # money is read from text
    probability_in_time=None, probability_in_budget=None, bound_usd="0", gap=0.0,  # type: ignore[arg-type] # the same
    price_of_confidence_usd="0", drivers=("a\nb\u2028c",), one_more_day="", changes=(),  # type: ignore[arg-type] # the same
    warnings=(),
)  # fmt: skip


def test_a_confirmed_plan_is_a_file_of_the_bundle_and_another_in_its_place_is_found(tmp_path: Path) -> None:
    workspace, ledger = opened(make_campaign(tmp_path / "challenge"))
    with ledger:
        with ledger.lead() as lease:
            lease.append([confirmation(PLAN)])
        (recorded,) = list(ledger.events(PlanConfirmed))
        write_bundle_of(workspace, ledger, tmp_path / "bundle.tar")
    found = members(tmp_path / "bundle.tar")
    name = f"plans/private_test-{recorded.seq}.json"
    assert parse_plan(found[name].decode(), name) == PLAN
    verify_bundle(tmp_path / "bundle.tar")
    for changed in (found[name].replace(b'"evaluations":4', b'"evaluations":5'), None):
        others = {key: data for key, data in found.items() if key != name}
        forged = others if changed is None else others | {name: changed}
        (tmp_path / "forged.tar").write_bytes(signed(forged, workspace.signing_key))
        with pytest.raises(CheckFailedError, match=name):
            verify_bundle(tmp_path / "forged.tar")
