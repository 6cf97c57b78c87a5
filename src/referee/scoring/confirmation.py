"""The prize zone, run again: how each further run compares with the official result. Pure; no score changes by it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from referee.ledger.events import ConfirmationRecorded, ConfirmedRun
from referee.ledger.queries import EvaluationRow, ScoreRow
from referee.scoring.leaderboard import Leaderboard
from referee.verdicts import Verdict


def prize_zone(board: Leaderboard, top: int) -> tuple[str, ...]:
    """The submissions ranked `top` or better; with a tie at the border more than `top`."""
    return tuple(row.submission for row in board.rows if row.rank <= top)


def confirmed_runs(
    board: Leaderboard,
    official: Sequence[EvaluationRow],
    runs: Sequence[EvaluationRow],
    scores: Sequence[ScoreRow],
    *,
    nodes: Mapping[str, str | None],
    fresh: Collection[str],
) -> tuple[ConfirmedRun, ...]:
    """Each further run beside the official result, by submission and series.

    Args:
        board: the official board.
        official: the official evaluations.
        runs: the further evaluations.
        scores: theirs.
        nodes: the machine of each attempt that any of them rests on.
        fresh: the attempts that ran on a machine which had never run their submission on this phase.
    """
    stands = {row.submission: row for row in official}
    known = {score.evaluation: score.value for score in scores if score.metric == board.metric}
    others = {row.submission: row.score for row in board.rows}
    found = []
    for run in sorted(runs, key=lambda run: (run.submission, run.series)):
        valid = run.verdict is Verdict.OK
        node = nodes.get(run.attempt or "")
        standing = stands[run.submission]
        score = known.get(run.evaluation) if valid else None
        beside = [value for submission, value in others.items() if submission != run.submission]
        found.append(
            ConfirmedRun(
                submission=run.submission,
                series=run.series,
                verdict=run.verdict or Verdict.CANCELLED,
                node=node,
                same_predictions=run.predictions_digest == standing.predictions_digest if valid else None,
                score=None if score is None else repr(score),
                rank=None if score is None else _rank(score, beside, greater_is_better=board.greater_is_better),
                official_node=nodes.get(standing.attempt or ""),
                fresh_node=None if node is None else run.attempt in fresh,
            )
        )
    return tuple(found)


def machines_in_words(event: ConfirmationRecorded) -> tuple[str, ...]:
    """Whether the runs were on fresh machines, in sentences, for everyone who reads the result."""
    ran = [run for run in event.runs if run.node is not None]
    known = [run for run in ran if run.fresh_node is not None]  # older ledgers do not say
    machines = sorted({str(run.node) for run in ran})
    if not known:
        return (f"They ran on {', '.join(machines)}.",) if machines else ()
    fresh = sum(run.fresh_node is True for run in known)
    if {*machines, *(run.official_node for run in known)} == {machines[0]}:
        only = f"All ran on the one machine {machines[0]}, the official runs too"
        return (f"{only}: how other machines would do is not shown.",)
    if fresh == len(known):
        return (f"Each of the {fresh} runs was on a machine that had not run its submission before.",)
    again = [f"{run.submission} on {run.node} ({run.series})" for run in known if not run.fresh_node]
    return (
        f"{fresh} of {len(known)} runs were on a machine that had not run their submission before.",
        f"Not on a fresh machine, since there was none: {', '.join(again)}.",
    )


def _rank(score: float, others: Sequence[float], *, greater_is_better: bool) -> int:
    return 1 + sum(other > score if greater_is_better else other < score for other in others)
