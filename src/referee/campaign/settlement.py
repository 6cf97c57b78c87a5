"""How an attempt ended, by its worker's result or for want of one; and results that came too late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from referee.attempts import AttemptResult, read_claim, read_result
from referee.engines.contract import Observation
from referee.errors import HostError, ObjectStoreError, RefereeError
from referee.ledger import AttemptEnded, AttemptFenced, queries
from referee.objects import ObjectMissingError, ObjectStore, ObjectTooLargeError
from referee.verdicts import Verdict

_RESULT_LIMIT_BYTES = 1 << 20
_LATE = "A result was written after the attempt had been declared lost; it is left aside."
_DOUBLED = "Two workers were started for it; the second found the first one's claim and ended without running anything."
_TAKEN_FROM_RESULT = {
    "attempt",
    "node",
    "started_at",
    "ended_at",
    "exit_status",
    "signal",
    "signature",
    "detail",
    "predictions_digest",
    "predictions_rows",
    "log_digest",
}


def ended(objects: ObjectStore, row: queries.AttemptRow, seen: Observation, *, cancelled: bool) -> AttemptEnded:
    """How an attempt ended: by its worker's result, or as lost where there is none."""
    result = result_of(objects, row)
    if isinstance(result, AttemptResult):
        verdict = result.verdict
        if cancelled and verdict is Verdict.INTERRUPTED:
            verdict = Verdict.CANCELLED
        return AttemptEnded(
            reported_by="worker",
            verdict=verdict,
            **result.model_dump(include=_TAKEN_FROM_RESULT),
            measurements=result.measurements,
        )
    if result is None:
        verdict = Verdict.CANCELLED if cancelled else seen.lost_as
        return AttemptEnded(
            attempt=row.attempt,
            verdict=verdict,
            node=seen.node or _claimed_by(objects, row.attempt),
            detail=seen.reason or "The worker ended without a result.",
            reported_by="controller",
        )
    return AttemptEnded(
        attempt=row.attempt,
        verdict=Verdict.RESULT_LOST,
        node=seen.node or _claimed_by(objects, row.attempt),
        detail=str(result),
        reported_by="controller",
    )


def result_of(objects: ObjectStore, row: queries.AttemptRow) -> AttemptResult | RefereeError | None:
    """The attempt's result; None if there is none; the error if what is there is not a result of this attempt.

    Raises:
        ObjectStoreError: if the store does not answer, so that nothing is known: what was written counts once it does.
    """
    try:
        data = objects.get(f"results/{row.result_key}/result.json", limit_bytes=_RESULT_LIMIT_BYTES)
        return read_result(data, row.attempt)
    except ObjectMissingError:
        return None
    except (ObjectTooLargeError, HostError) as error:
        return error
    except ObjectStoreError as error:
        objects.exists(f"specs/{row.attempt}.json")  # raises if the store is away; else it is this object that is bad
        return error


def _claimed_by(objects: ObjectStore, attempt: str) -> str | None:
    try:
        return read_claim(objects.get(f"claims/{attempt}.json", limit_bytes=_RESULT_LIMIT_BYTES))
    except ObjectStoreError:
        return None


def fenced(objects: ObjectStore, rows: Sequence[queries.AttemptRow]) -> Iterator[AttemptFenced]:
    """Results that came after their attempt was declared lost, and workers too many; they change nothing."""
    doubled = {key.split("/")[1]: key for key in objects.list("duplicates")}
    for row in rows:
        if row.verdict is None or row.fenced is not None:
            continue
        if row.reported_by == "controller" and isinstance(result_of(objects, row), AttemptResult):
            yield AttemptFenced(attempt=row.attempt, reason=_LATE)
        elif row.attempt in doubled:
            yield AttemptFenced(attempt=row.attempt, reason=_DOUBLED)
