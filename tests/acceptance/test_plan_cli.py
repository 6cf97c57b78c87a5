"""Pilot, plan, simulation, the confirmed run and the report, through the command line on real containers."""

from __future__ import annotations

import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from board_world import ITEMS, REFEREE, as_json, make_challenge, predicting, referee
from referee.cli import main
from referee.ledger import Ledger, PilotDrawn, PlanConfirmed, queries

pytestmark = pytest.mark.containers

SUBMISSIONS: dict[str, tuple[str, str]] = {
    "a": (predicting("0.6", "0.2"), "ok"),
    "b": (predicting("0.61", "0.3"), "ok"),
    "c": (predicting("0.62", "0.1"), "ok"),
    "d": (predicting("0.63", "0.4"), "ok"),
    "e": (predicting("0.64", "0.2"), "ok"),
    "e again": (predicting("0.64", "0.2"), "ok"),
    "f": (predicting("0.66", "0.3"), "ok"),
    "fails at once": ("exit 3", "nonzero_exit"),
}
EXTRA = """
[machines.local]
cpus = 1
memory = "1GiB"
price = "3.60"
price_source = "a test"
[smoke]
items = 2
"""


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_challenge(tmp_path_factory.mktemp("plan") / "challenge", SUBMISSIONS)
    text = (folder / "challenge.toml").read_text()
    (folder / "challenge.toml").write_text('duplicates = "run_once"\nbudget = "5"\n' + text + EXTRA)
    referee(folder, "submissions", "import", "submissions.csv")
    return folder


@pytest.fixture(scope="module")
def piloted(challenge: Path) -> tuple[Path, Any]:
    refused(challenge, "pilot", "--count", "4", says="at most $0.01", hint="-y")
    found = json.loads(referee(challenge, "pilot", "--count", "4", "--json", "-y"))
    return challenge, found | {"status": as_json(challenge, "status"), "told": referee(challenge, "status")}


@pytest.fixture(scope="module")
def finished(piloted: tuple[Path, Any]) -> tuple[Path, Any, Any]:
    folder, _ = piloted
    refused(folder, "run", "--phase", "private_test", says="no plan was confirmed", hint="referee plan")
    plan = as_json(folder, "plan", "--deadline", "1h")
    simulated = as_json(folder, "simulate", "--replicates", "100")
    refused(folder, "run", "--plan", "plan.json", says="Execute this plan", hint="-y")
    referee(folder, "run", "--plan", "plan.json", "-y")
    referee(folder, "score", "--phase", "private_test")
    referee(folder, "report")
    return folder, plan, simulated


def refused(folder: Path, *arguments: str, says: str, hint: str) -> None:
    done = subprocess.run([REFEREE, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pilot_runs_a_sample_and_says_what_it_has_learned(piloted: tuple[Path, Any]) -> None:
    folder, found = piloted
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger:
        (drawn,) = [each.event for each in ledger.events(PilotDrawn)]
        assert isinstance(drawn, PilotDrawn)
        rows = {row.evaluation: row for row in queries.evaluations(ledger, "private_test")}
    assert len(drawn.evaluations) == 4
    assert all(rows[name].verdict for name in drawn.evaluations)
    (lesson,) = found["lessons"]
    assert (lesson["kind"], lesson["machine_type"]) == ("cpu", "local")
    assert lesson["start_up_seconds"] > 0
    assert lesson["item_seconds"] > 0
    assert lesson["memory_bytes"] > 0


def test_status_forecasts_end_and_cost_and_says_whether_anything_is_at_risk(piloted: tuple[Path, Any]) -> None:
    _, found = piloted
    forecast = found["status"]["forecasts"]["private_test"]
    assert (forecast["ended"], forecast["at_risk"]) == (4, False)
    assert forecast["machine_hours"] == sorted(forecast["machine_hours"])
    assert forecast["end"] == sorted(forecast["end"])
    assert forecast["probability_in_budget"] == 1.0
    assert "not at risk; the budget holds with a probability of 100%" in found["told"]


def test_a_pilot_that_has_ended_is_not_run_again(piloted: tuple[Path, Any]) -> None:
    folder, found = piloted
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger:
        before = len(queries.attempts(ledger))
    again = json.loads(referee(folder, "pilot", "--count", "3", "--json", "-y"))
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger:
        assert len(queries.attempts(ledger)) == before
    assert again["lessons"] == found["lessons"]


def test_the_plan_counts_the_pilot_and_is_what_the_run_executes(finished: tuple[Path, Any, Any]) -> None:
    folder, plan, simulated = finished
    assert plan["started"] == plan["ended"] == 4
    assert plan["assignment"]["cpu"] == {"local": plan["evaluations"] - 4}
    assert Decimal(plan["cost"]["low"]) <= Decimal(plan["cost"]["mid"]) <= Decimal(plan["cost"]["high"])
    assert plan["probability_in_time"] == 1.0
    assert any("gpu" in warning for warning in plan["warnings"])
    assert simulated["in_time"] == 1.0
    assert simulated["replicates"] == 100
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger:
        (confirmed,) = [each.event for each in ledger.events(PlanConfirmed)]
    assert isinstance(confirmed, PlanConfirmed)
    assert json.loads(confirmed.content)["assignment"] == plan["assignment"]
    status = as_json(folder, "status", "--phase", "private_test")
    assert status["done"] == status["total"]
    assert (folder / "plan.html").read_text().startswith("<!doctype html>")


def test_nothing_is_run_twice_and_equal_images_once(finished: tuple[Path, Any, Any]) -> None:
    folder, _, _ = finished
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger:
        full = [row.evaluation for row in queries.attempts(ledger, phase="private_test") if not row.smoke]
        rows = queries.evaluations(ledger, "private_test")
        scores = {row.evaluation: row.value for row in queries.scores(ledger, "private_test")}
    assert len(full) == len(set(full))
    (copy,) = [row for row in rows if row.copied_from]
    assert copy.evaluation not in full
    assert scores[copy.evaluation] == scores[str(copy.copied_from)]


def test_what_fails_on_a_few_files_is_not_run_on_all(finished: tuple[Path, Any, Any]) -> None:
    folder, _, _ = finished
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger:
        attempts = queries.attempts(ledger, phase="private_test")
        failed = [row for row in queries.evaluations(ledger, "private_test") if row.verdict == "nonzero_exit"]
    (row,) = failed
    assert "smoke" in row.reason
    assert [attempt.smoke for attempt in attempts if attempt.evaluation == row.evaluation] == [True]
    passed = [attempt for attempt in attempts if attempt.smoke and attempt.verdict == "ok"]
    assert passed
    assert all(attempt.predictions_rows == 2 < len(ITEMS) for attempt in passed)


def test_the_report_sets_the_forecasts_beside_what_came(finished: tuple[Path, Any, Any]) -> None:
    folder, _, _ = finished
    page = (folder / "report.html").read_text()
    for words in ("Forecast and outcome", "after the pilot", "the plan", "what came", "4 of 7"):
        assert words in page
    assert "held" in page or "missed" in page


def test_the_pilots_cost_is_on_the_bill(finished: tuple[Path, Any, Any]) -> None:
    folder, _, _ = finished
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger:
        attempts = queries.attempts(ledger, phase="private_test")
    hours = sum((a.ended_at - a.started_at).total_seconds() for a in attempts if a.ended_at and a.started_at) / 3600
    assert f"${hours * 3.6:,.2f}" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pilot", "--phase", "nowhere"), "There is no phase 'nowhere'"),
        (("pilot", "--phase", "public_test"), "A pilot has a fraction or a count"),
        (("pilot", "--phase", "public_test", "--count", "80"), "A pilot of 80 of 7"),
        (("pilot", "--phase", "public_test", "--fraction", "much"), "--fraction much is not a share"),
        (("pilot", "--phase", "public_test", "--fraction", "2%", "--count", "3"), "A pilot has a fraction or a count"),
        (("plan", "--phase", "public_test"), "0 have ended"),
        (("plan", "--deadline", "soon"), "--deadline"),
        (("plan", "--budget", "-3"), "--budget"),
        (("plan", "--confidence", "30%"), "A confidence of 30%"),
        (("plan", "--machine", "none"), "no machine type 'none'"),
        (("plan", "--catalogue", "none"), "no catalogue 'none'"),
        (("simulate", "--plan", "missing.json"), "There is no plan at missing.json"),
        (("simulate", "--plan", "challenge.toml"), "not a plan of this version"),
        (("simulate", "--replicates", "0"), "--replicates 0"),
        (("run",), "Which phase?"),
        (("run", "--plan", "missing.json"), "There is no plan"),
    ],
)
def test_wrong_use_is_one_sentence_and_what_to_do(
    challenge: Path,
    arguments: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(challenge)
    assert main(list(arguments)) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert says in error
    assert "Traceback" not in error


def test_the_machines_are_shown_with_their_sources_inside_a_challenge_and_outside(
    challenge: Path, tmp_path: Path
) -> None:
    inside, outside = as_json(challenge, "machines"), as_json(tmp_path, "machines", "--catalogue", "aws-2020-08")
    assert next(iter(inside["offers"])) == "local"
    assert inside["offers"]["local"]["price_source"] == "a test"
    assert outside["offers"]["g4dn.xlarge"]["price"] == "0.526"
    assert all(offer["price_source"] and offer["price_date"] for offer in outside["offers"].values())
    assert "g4dn.xlarge" in referee(challenge, "machines")
