"""What was done so that results stand: the reproduction check, applied rejudgings, the prize zone run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from referee.ledger.events import ConfirmationRecorded
from referee.ledger.queries import RejudgingRow
from referee.scoring.reproduction import Outcome, Reproduction, in_sentences, success_rate


@dataclass(frozen=True, slots=True)
class Review:
    """Facts for the report.

    Attributes:
        reproduction_phase: the public phase on which re-runs were compared; None if they were not.
        success: how many could be re-run and gave the recorded score again, in sentences.
        odd: the submissions that did not reproduce exactly, without those that have nothing recorded.
        rejudgings: those that were applied to this phase.
        confirmations: what came of running the prize zone again.
    """

    reproduction_phase: str | None = None
    success: tuple[str, ...] = ()
    odd: tuple[Reproduction, ...] = ()
    rejudgings: tuple[RejudgingRow, ...] = ()
    confirmations: tuple[ConfirmationRecorded, ...] = ()


def review(
    phase: str,
    reproduction_phase: str | None,
    found: Sequence[Reproduction],
    rejudgings: Sequence[RejudgingRow],
    confirmations: Sequence[ConfirmationRecorded],
) -> Review:
    """The facts about `phase`; `found` is of the reproduction phase."""
    order = (Outcome.DIFFERENT, Outcome.FAILED, Outcome.WITHIN_TOLERANCE)
    odd = sorted((one for one in found if one.outcome in order), key=lambda one: order.index(one.outcome))
    return Review(
        reproduction_phase=reproduction_phase if found else None,
        success=in_sentences(success_rate(found)) if found else (),
        odd=tuple(odd),
        rejudgings=tuple(row for row in rejudgings if row.phase == phase and row.state == "applied"),
        confirmations=tuple(one for one in confirmations if one.phase == phase),
    )
