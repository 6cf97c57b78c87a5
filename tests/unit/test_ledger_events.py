"""Every kind of event survives being written and read, and refuses what has no place in a ledger."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_histories import digest, ended, imported, planned, scored
from pydantic import ValidationError

from referee.attempts import Measurements
from referee.errors import LedgerError
from referee.ledger import AttemptEnded, AttemptPlanned, EvaluationScored, Event, NodeRefused, RiskAccepted, read_event
from referee.ledger.chain import canonical_json
from referee.ledger.events import KINDS, MAX_PROSE

EXAMPLES: list[Event] = [imported(1), planned("s-1.p"), ended("s-1.p.1"), scored("s-1.p"), RiskAccepted(name="shared")]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind)
def test_an_event_reads_back_as_it_was(event: Event) -> None:
    text = canonical_json(event.payload())
    again = read_event(event.kind, text)
    assert again == event
    assert canonical_json(again.payload()) == text


def test_every_kind_is_named_by_noun_and_past() -> None:
    assert len(KINDS) > 30
    assert all(kind == KINDS[kind].kind and kind.count(".") == 1 for kind in KINDS)


def test_a_kind_cannot_be_taken_twice() -> None:
    with pytest.raises(TypeError, match="two events are called"):

        class _Again(Event, kind="risk.accepted"):
            pass


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_scores_are_kept_bit_for_bit(value: float) -> None:
    event = read_event("evaluation.scored", canonical_json(scored("e", value=value).payload()))
    assert isinstance(event, EvaluationScored)
    again = float(event.scores["log_loss"])
    assert math.copysign(1, again) == math.copysign(1, value)
    assert again == value


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1", "0.10", "1e-3", " 0.1", "zero", "1_0.0", "٠.١"])
def test_a_score_is_written_as_repr_writes_it(text: str) -> None:
    with pytest.raises(ValidationError):
        EvaluationScored(
            evaluation="e",
            scores={"log_loss": text},
            predictions_digest=digest(1),
            labels_digest=digest(2),
            scorer_version="1",
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_event_holds_nan_or_infinity(value: float) -> None:
    with pytest.raises(ValidationError):
        AttemptPlanned.model_validate(planned("e").payload() | {"wall_time_scale": value})
    measured = Measurements.model_construct(wall_seconds=value, cpu_seconds=0, peak_memory_bytes=0)
    with pytest.raises((LedgerError, ValidationError)):
        canonical_json(ended("e.1").model_copy(update={"measurements": measured}).payload())


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_prose_that_quotes_a_submission_is_inert(text: str) -> None:
    event = AttemptEnded.model_validate({**ended("e.1").payload(), "detail": text + "\x1b[2J\0\ud800"})
    assert "\x1b" not in event.detail
    assert "\0" not in event.detail
    assert event.detail.encode()
    assert read_event(event.kind, canonical_json(event.payload())) == event


def test_prose_has_an_end() -> None:
    reason = NodeRefused(node="n", boot_id="b", level="runc", reason="x" * 10**6).reason
    assert len(reason) == MAX_PROSE
    assert reason.endswith("…")


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "x" * 301, "\ud800"])
def test_names_are_names(name: str) -> None:
    with pytest.raises(ValidationError):
        RiskAccepted(name=name)


def test_times_are_kept_in_utc_and_naive_ones_refused() -> None:
    there = datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    event = AttemptEnded.model_validate({**ended("e.1").payload(), "started_at": there})
    assert event.payload()["started_at"] == "2026-01-01T12:00:00.000000Z"
    assert event.started_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
    with pytest.raises(ValidationError):
        AttemptEnded.model_validate({**ended("e.1").payload(), "started_at": there.replace(tzinfo=None)})


def test_unknown_kinds_and_unfitting_payloads_are_refused_with_a_way_out() -> None:
    with pytest.raises(LedgerError, match="unknown kind") as unknown:
        read_event("quantum.entangled", "{}")
    assert "later" in unknown.value.hint
    with pytest.raises(LedgerError, match="cannot be read"):
        read_event("risk.accepted", '{"nome":"x"}')
