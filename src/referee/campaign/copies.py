"""Equal images, run once for all who submitted them, where the challenge allows that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from referee.challenge import Challenge
from referee.ledger import EvaluationEnded, queries
from referee.orders import originals


def run_instead(
    challenge: Challenge, rows: Sequence[queries.EvaluationRow], wants: Callable[[str], bool]
) -> dict[str, str]:
    """The evaluations of an image that is run under another submission's name, and that evaluation."""
    if challenge.duplicates == "run_each":
        return {}
    return {copy: original for copy, original in originals(rows, wants).items() if copy != original}


def copied(rows: Sequence[queries.EvaluationRow], instead: Mapping[str, str]) -> list[EvaluationEnded]:
    """How the evaluations end whose image was run under another submission's name: with what came of it."""
    by_name = {row.evaluation: row for row in rows}
    pairs = [(by_name[copy], by_name[original]) for copy, original in instead.items()]
    return [
        EvaluationEnded(
            evaluation=copy.evaluation,
            verdict=original.verdict,
            attempt=original.attempt,
            reason=f"The same image as {original.submission}, which was run for both.",
            final=original.final,
            copied_from=original.evaluation,
        )
        for copy, original in pairs
        if copy.verdict is None and copy.open_attempt is None and original.verdict is not None
    ]
