"""What the ledger answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ledger_histories import DATA, ended, imported, new_ledger, phase, planned, requested, scored, small_campaign

from referee.attempts import Measurements
from referee.ledger import (
    AttemptFenced,
    AttemptSubmitted,
    ChallengeRecorded,
    DispatchResumed,
    DispatchStopped,
    EvaluationEnded,
    EvaluationReopened,
    Ledger,
    NodeProved,
    NodeQuarantined,
    NodeReleased,
    RiskAccepted,
    queries,
)
from referee.policy import Outcome
from referee.verdicts import Verdict

PHASE = "private_test"


@pytest.fixture
def ledger(place: Path | str) -> Iterator[Ledger]:
    with new_ledger(place) as made:
        made.append([phase(), phase("public_test"), *(imported(number) for number in range(1, 6))])
        yield made


def test_status_accounts_for_every_evaluation_once(ledger: Ledger) -> None:
    assert queries.status(ledger, PHASE) == queries.Status(0, 0, 0, 0, {})
    with ledger.lead() as lease:
        lease.append([*(requested(number) for number in range(1, 6)), requested(1, "public_test")])
        for number, verdict in ((1, Verdict.CRASHED), (2, Verdict.OK)):
            name = f"s-{number}.{PHASE}"
            lease.append([planned(name), ended(f"{name}.1", verdict)])
            lease.append([EvaluationEnded(evaluation=name, verdict=verdict, attempt=f"{name}.1")])
        lease.append([EvaluationEnded(evaluation=f"s-3.{PHASE}", verdict=Verdict.UNROUTABLE)])
        lease.append([planned(f"s-4.{PHASE}")])
    counts = {Verdict.OK: 1, Verdict.CRASHED: 1, Verdict.UNROUTABLE: 1}
    assert queries.status(ledger, PHASE) == queries.Status(total=5, done=3, running=1, waiting=1, verdicts=counts)
    assert queries.status(ledger, "public_test").waiting == 1
    assert queries.status(ledger, "nowhere").total == 0


def test_an_evaluation_row_tells_its_whole_state(ledger: Ledger) -> None:
    name = f"s-3.{PHASE}"
    with ledger.lead() as lease:
        lease.append([requested(3), planned(name)])
        (row,) = queries.evaluations(ledger, PHASE)
        assert (row.open_attempt, row.verdict, row.attempts, row.submission_kind) == (f"{name}.1", None, 1, "gpu")
        lease.append([ended(f"{name}.1", Verdict.NODE_LOST)])
        (row,) = queries.evaluations(ledger, PHASE)
        assert (row.open_attempt, row.verdict, row.last_verdict) == (None, None, Verdict.NODE_LOST)
        lease.append([planned(name, 2), ended(f"{name}.2")])
        lease.append([EvaluationEnded(evaluation=name, verdict=Verdict.OK, attempt=f"{name}.2")])
    (row,) = queries.evaluations(ledger, PHASE)
    assert (row.verdict, row.attempt, row.attempts, row.team) == (Verdict.OK, f"{name}.2", 2, "t-1")
    assert row.predictions_digest is not None
    assert row.ended_at is not None
    assert row.ended_at.tzinfo is UTC
    assert queries.evaluations(ledger) == (row,)


def test_evaluations_come_in_the_order_of_dispatch(ledger: Ledger) -> None:
    shuffled = [requested(number).model_copy(update={"order": order}) for number, order in ((1, 2), (2, 0), (3, 1))]
    with ledger.lead() as lease:
        lease.append(shuffled)
    assert [row.submission for row in queries.evaluations(ledger, PHASE)] == ["s-2", "s-3", "s-1"]
    assert list(queries.histories(ledger, PHASE)) == [f"s-2.{PHASE}", f"s-3.{PHASE}", f"s-1.{PHASE}"]


def test_an_attempt_row_gives_back_what_was_measured_bit_for_bit(ledger: Ledger) -> None:
    name = f"s-1.{PHASE}"
    with ledger.lead() as lease:
        lease.append([requested(1), planned(name), AttemptSubmitted(attempt=f"{name}.1", handle="pid 7")])
        (row,) = queries.open_attempts(ledger)
        assert (row.handle, row.verdict, row.result_key) == ("pid 7", None, f"key-{name}-1")
        lease.append([ended(f"{name}.1"), AttemptFenced(attempt=f"{name}.1", reason="a zombie")])
    assert queries.open_attempts(ledger) == ()
    (row,) = queries.attempts(ledger, evaluation=name)
    assert row.measurements == Measurements(wall_seconds=0.1 + 0.2, cpu_seconds=1e-7, peak_memory_bytes=2**40)
    assert (row.started_at, row.fenced) == (datetime(2026, 1, 1, tzinfo=UTC), "a zombie")
    assert queries.attempts(ledger, phase=PHASE) == queries.attempts(ledger) == (row,)
    assert queries.attempts(ledger, phase="public_test") == queries.open_attempts(ledger, "public_test") == ()


def test_histories_hold_what_the_policy_decides_from(ledger: Ledger) -> None:
    one, two = f"s-1.{PHASE}", f"s-2.{PHASE}"
    slow = planned(one).model_copy(
        update={"reference": False, "wall_time_scale": 2.5, "speed_ratio_upper": 3.5, "machine_type": "t4"}
    )
    with ledger.lead() as lease:
        lease.append([requested(1), requested(2), slow, ended(f"{one}.1", Verdict.TIME_LIMIT, "n-2"), planned(two)])
    outcome = Outcome(one, Verdict.TIME_LIMIT, "n-2", "t4", False, 2.5, 3.5)
    assert queries.histories(ledger, PHASE) == {one: (outcome,), two: ()}
    assert queries.histories(ledger, PHASE, undecided=True) == {one: (outcome,)}


def test_a_reopened_evaluation_begins_a_new_history(ledger: Ledger) -> None:
    name = f"s-1.{PHASE}"
    with ledger.lead() as lease:
        lease.append([requested(1), planned(name), ended(f"{name}.1", Verdict.HOST_FULL)])
        lease.append([EvaluationEnded(evaluation=name, verdict=Verdict.HOST_FULL, attempt=f"{name}.1")])
        assert queries.histories(ledger, PHASE, undecided=True) == {}
        ledger.append([EvaluationReopened(evaluation=name, reason="disk cleaned")])
        assert queries.histories(ledger, PHASE, undecided=True) == {name: ()}
        lease.append([planned(name, 2), ended(f"{name}.2")])
    assert [outcome.verdict for outcome in queries.histories(ledger, PHASE)[name]] == [Verdict.OK]
    assert [row.round for row in queries.attempts(ledger)] == [1, 2]


def test_scores_are_the_recorded_floats(ledger: Ledger) -> None:
    name = f"s-1.{PHASE}"
    with ledger.lead() as lease:
        lease.append([requested(1), planned(name), ended(f"{name}.1")])
        lease.append([EvaluationEnded(evaluation=name, verdict=Verdict.OK, attempt=f"{name}.1")])
    # Scoring needs no lease: it decides nothing about what runs.
    ledger.append([scored(name), scored(name, "brier", 5e-324)])
    assert [(row.metric, row.value) for row in queries.scores(ledger, PHASE)] == [
        ("brier", 5e-324),
        ("log_loss", 0.30000000000000004),
    ]
    assert queries.scores(ledger, "public_test") == ()


def test_the_breaker_and_the_nodes_forget_what_lies_before_they_were_released(ledger: Ledger) -> None:
    def fault(number: int, node: str) -> None:
        name = f"s-{number}.{PHASE}"
        lease.append([requested(number), planned(name), ended(f"{name}.1", Verdict.SANDBOX_FAILED, node)])

    with ledger.lead() as lease:
        fault(1, "n-1")
        fault(2, "n-2")
        assert [outcome.node for outcome in queries.recent_outcomes(ledger)] == ["n-1", "n-2"]
        ledger.append([DispatchStopped(reason="faults spread"), NodeQuarantined(node="n-1", reason="faults")])
        assert queries.dispatch_stopped(ledger) == "faults spread"
        ledger.append([DispatchResumed(), NodeReleased(node="n-1")])
        fault(3, "n-1")
    assert queries.dispatch_stopped(ledger) is None
    assert [outcome.evaluation for outcome in queries.recent_outcomes(ledger)] == [f"s-3.{PHASE}"]
    assert [outcome.evaluation for outcome in queries.recent_outcomes(ledger, limit=0)] == []
    assert [outcome.evaluation[:3] for outcome in queries.node_outcomes(ledger)] == ["s-2", "s-3"]
    assert [outcome.evaluation[:3] for outcome in queries.node_outcomes(ledger, "n-1")] == ["s-3"]
    assert [outcome.evaluation[:3] for outcome in queries.node_outcomes(ledger, limit=1)] == ["s-3"]


def test_nodes_keep_their_quarantine_through_a_new_proof(ledger: Ledger) -> None:
    ledger.append([NodeQuarantined(node="n-1", reason="two faults")])
    ledger.append([NodeProved(node="n-1", boot_id="b-2", level="runc", checks=9)])
    assert queries.nodes(ledger) == (queries.NodeRow("n-1", "b-2", "runc", True, True, "two faults"),)


def test_what_the_campaign_is_about(ledger: Ledger) -> None:
    assert queries.challenge(ledger) is None
    for content in ("a = 1", "a = 2"):
        ledger.append([ChallengeRecorded(digest=DATA, content=content)])
    ledger.append([RiskAccepted(name="b"), RiskAccepted(name="a"), RiskAccepted(name="b", reason="again")])
    found = queries.challenge(ledger)
    assert found is not None
    assert found.content == "a = 2"
    assert queries.accepted_risks(ledger) == ("b", "a")
    assert queries.campaign(ledger).challenge_name == "faces"
    assert queries.phases(ledger)[PHASE].data_digest == DATA
    assert queries.last_event_time(ledger) == ledger.events()[-1].time
    assert [row.submission for row in queries.submissions(ledger)] == [f"s-{number}" for number in range(1, 6)]


def test_rows_are_frozen(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with new_ledger(tmp_path / "other") as ledger:
        small_campaign(ledger)
        (row, _) = queries.scores(ledger)
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.value = 0.0  # type: ignore[misc]  # that it is refused is the point


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM attempts WHERE ended_seq IS NULL", "attempts_by_end"),
        ("SELECT * FROM attempts WHERE ended_seq > 5 ORDER BY ended_seq DESC LIMIT 9", "attempts_by_end"),
        ("SELECT * FROM attempts WHERE node = 'n' AND ended_seq > 5 ORDER BY ended_seq DESC", "attempts_by_node"),
        ("SELECT * FROM attempts WHERE evaluation = 'e' ORDER BY number", "sqlite_autoindex_attempts"),
        ("SELECT * FROM evaluations WHERE phase = 'p' AND series = '' ORDER BY position", "evaluations_by_phase"),
        ("SELECT * FROM events WHERE kind = 'risk.accepted' ORDER BY seq", "events_by_kind"),
    ],
)
def test_frequent_questions_are_answered_from_an_index_and_unsorted(tmp_path: Path, query: str, index: str) -> None:
    with new_ledger(tmp_path) as ledger, ledger.read() as connection:
        plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}"))
    assert index in plan
    assert "TEMP B-TREE" not in plan
