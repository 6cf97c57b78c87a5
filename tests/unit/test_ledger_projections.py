"""The projections follow from the events, whatever the history; and histories that make no sense are refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from ledger_histories import (
    digest,
    ended,
    imported,
    new_ledger,
    phase,
    planned,
    requested,
    scored,
    segments,
    small_campaign,
)

import postgresql_world
from referee.errors import LedgerError
from referee.ledger import (
    AttemptFenced,
    AttemptSubmitted,
    CampaignFinished,
    EvaluationEnded,
    EvaluationReopened,
    Event,
    Ledger,
    PhaseRecorded,
    projections,
)
from referee.verdicts import Verdict

NAME = "s-1.private_test"


@given(segments())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_incremental_projections_equal_replayed_ones(history: list[list[Event]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        incremental_equals_replayed(Path(folder), history)


# Each example takes a schema of its own.
@given(segments())
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_they_are_equal_in_postgresql(postgresql: postgresql_world.Server, history: list[list[Event]]) -> None:
    incremental_equals_replayed(postgresql.fresh(), history)


def incremental_equals_replayed(place: Path | str, history: list[list[Event]]) -> None:
    with new_ledger(place) as ledger:
        ledger.append([phase("public_test"), phase("private_test")])
        for segment in history:
            with ledger.lead(host="here") as lease:
                for event in segment:
                    lease.append([event])
        ledger.verify()
        with ledger.read() as connection:
            before = projections.contents(connection)
        ledger.rebuild()
        with ledger.read() as connection:
            assert projections.contents(connection) == before


@pytest.fixture
def ledger(place: Path | str) -> Iterator[Ledger]:
    with new_ledger(place) as made:
        made.append([phase(), imported(1), imported(2)])
        yield made


def finish(verdict: Verdict = Verdict.OK, attempt: str | None = f"{NAME}.1") -> EvaluationEnded:
    return EvaluationEnded(evaluation=NAME, verdict=verdict, attempt=attempt)


def reopen() -> EvaluationReopened:
    return EvaluationReopened(evaluation=NAME, reason="why not")


RUN: tuple[Event, ...] = (requested(1), planned(NAME))
VALID: tuple[Event, ...] = (*RUN, ended(f"{NAME}.1"), finish())
FAULT: tuple[Event, ...] = (*RUN, ended(f"{NAME}.1", Verdict.NODE_LOST), finish(Verdict.NODE_LOST))
UNPROVEN = finish(Verdict.TIME_LIMIT).model_copy(update={"final": False})
SLOW: tuple[Event, ...] = (*RUN, ended(f"{NAME}.1", Verdict.TIME_LIMIT), UNPROVEN)


@pytest.mark.parametrize(
    ("before", "event", "why"),
    [
        ((), imported(1), "imported before"),
        ((), requested(9), "no submission s-9"),
        ((), requested(1, "nowhere"), "never recorded"),
        ((requested(1),), requested(1), "requested before"),
        ((), planned(NAME), "does not wait for attempt 1"),
        ((requested(1),), planned(NAME, 2), "does not wait for attempt 2"),
        (RUN, planned(NAME, 2), "does not wait"),
        (VALID, planned(NAME, 2), "does not wait"),
        ((), AttemptSubmitted(attempt=f"{NAME}.1", handle="h"), "not open"),
        (VALID, AttemptSubmitted(attempt=f"{NAME}.1", handle="h"), "not open"),
        (RUN, ended(f"{NAME}.2"), "not open"),
        (VALID, ended(f"{NAME}.1"), "not open"),
        (RUN, ended(f"{NAME}.1").model_copy(update={"predictions_digest": None}), "without predictions"),
        ((), AttemptFenced(attempt=f"{NAME}.1", reason="late"), "no attempt"),
        (RUN, finish(Verdict.UNROUTABLE, None), "has an open attempt"),
        (RUN, finish(), "not an attempt of it that ended as ok"),
        ((*RUN, ended(f"{NAME}.1", Verdict.CRASHED)), finish(), "not an attempt of it that ended as ok"),
        ((*RUN, ended(f"{NAME}.1")), finish(Verdict.OK, None), "needs the attempt"),
        (VALID, finish(), "has ended before"),
        ((), reopen(), "has not ended"),
        (VALID, reopen(), "which is final"),
        ((*RUN, ended(f"{NAME}.1", Verdict.CRASHED), finish(Verdict.CRASHED)), reopen(), "which is final"),
        ((*RUN, ended(f"{NAME}.1")), finish().model_copy(update={"final": False}), "valid result is final"),
        ((*FAULT[:3], FAULT[3].model_copy(update={"final": True})), reopen(), "which is final"),
        (RUN, scored(NAME), "no valid result"),
        (FAULT, scored(NAME), "no valid result"),
        (VALID, scored(NAME).model_copy(update={"predictions_digest": digest(8)}), "with these predictions"),
        (VALID, scored(NAME).model_copy(update={"labels_digest": digest(8)}), "labels are not those"),
        ((*VALID, scored(NAME)), scored(NAME), "scored before by log_loss"),
        ((*VALID, scored(NAME)), scored(NAME, value=0.5), "scored before by log_loss"),
        (RUN, phase().model_copy(update={"data_digest": digest(9)}), "data of private_test changed"),
        ((*VALID, scored(NAME)), phase().model_copy(update={"labels_digest": digest(9)}), "labels of private_test"),
        ((requested(1),), CampaignFinished(phase="private_test"), "have not ended"),
    ],
)
def test_an_event_that_does_not_fit_is_refused_and_leaves_nothing(
    ledger: Ledger, before: tuple[Event, ...], event: Event, why: str
) -> None:
    with ledger.lead() as lease:
        lease.append(before)
        head = ledger.head()
        with pytest.raises(LedgerError, match=why):
            lease.append([event])
        assert ledger.head() == head
    ledger.verify()


@pytest.mark.parametrize(
    "events",
    [
        (*FAULT, reopen(), planned(NAME, 2), ended(f"{NAME}.2"), EvaluationEnded(
            evaluation=NAME, verdict=Verdict.OK, attempt=f"{NAME}.2"), scored(NAME)),
        (*SLOW, reopen(), planned(NAME, 2)),
        (*VALID, scored(NAME), scored(NAME, "brier")),
        (*VALID, AttemptFenced(attempt=f"{NAME}.1", reason="a zombie wrote once more")),
        (requested(1), finish(Verdict.UNROUTABLE, None), CampaignFinished(phase="private_test")),
        (phase(), PhaseRecorded(phase="private_test", data_digest=digest(5), files=4), requested(1)),
        (*VALID, phase().model_copy(update={"labels_digest": digest(9)})),
    ],
    ids=[
        "reopened",
        "an unproven time-out",
        "a second metric",
        "a zombie",
        "unroutable",
        "data before requests",
        "labels before scores",
    ],
)  # fmt: skip
def test_what_fits_is_recorded(ledger: Ledger, events: tuple[Event, ...]) -> None:
    with ledger.lead() as lease:
        lease.append(events)
    ledger.verify()


def test_a_whole_campaign_fits(place: Path | str) -> None:
    with new_ledger(place) as ledger:
        small_campaign(ledger, 5)
        ledger.verify()
