"""Rejudging in stages: choose, run or score again, look at every change, then apply or cancel.

Nothing that is published follows from what is only staged: the further runs are a series of their own, and staged
scores lie beside those that stand. Applying is one event; the history stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from referee.challenge import Limits
from referee.errors import CheckFailedError, ConfigurationError, LedgerError
from referee.ledger import (
    Event,
    Ledger,
    RejudgingApplied,
    RejudgingCancelled,
    RejudgingStaged,
    SeriesStarted,
    queries,
)
from referee.ledger.queries import EvaluationRow, RejudgingRow
from referee.phases import record_phase
from referee.scoring.boards import board_of, metric_in_force
from referee.scoring.leaderboard import Leaderboard
from referee.scoring.metric import chosen_metrics
from referee.scoring.rejudging import Change, Selection, Staged, board_digest, changes
from referee.scoring.score import Scoring
from referee.verdicts import Verdict
from referee.workspace import Workspace

_NEXT = "See it with `referee rejudge show`; then `referee rejudge apply` or `referee rejudge cancel`."


@dataclass(frozen=True, slots=True)
class Preview:
    """What a rejudging would do.

    Attributes:
        before: the board as it stands; `after` as it would be.
        changes: every verdict, score and rank that would change.
        kept: submissions whose further run ended by no doing of theirs: their result stays.
        waiting: submissions whose further run has not ended.
        unscored: submissions with a valid result that has no staged score yet.
    """

    before: Leaderboard
    after: Leaderboard
    changes: tuple[Change, ...]
    kept: tuple[EvaluationRow, ...]
    waiting: tuple[str, ...]
    unscored: tuple[str, ...]


def staged_rejudging(ledger: Ledger) -> RejudgingRow:
    """The rejudging that is staged now; there is at most one.

    Raises:
        ConfigurationError: if there is none.
    """
    for row in queries.rejudgings(ledger):
        if row.state == "staged":
            return row
    raise ConfigurationError("No rejudging is staged.", hint="Begin with `referee rejudge stage`.")


def stage(
    workspace: Workspace, ledger: Ledger, phase: str, selection: Selection, *, limits: Limits | None
) -> RejudgingRow:
    """Record that a set of evaluations is to be judged again.

    Args:
        workspace: the challenge as it is now.
        ledger: its ledger.
        phase: of which phase.
        selection: which of its evaluations.
        limits: make new attempts under these; None scores the results again that there are.

    Raises:
        ConfigurationError: if another one is staged, nothing is chosen, or scores of two kinds would be mixed.
    """
    _refuse_second(ledger)
    data, events = workspace.record(phase)
    labels = workspace.labels(phase, data)
    ledger.append(events)
    rows = queries.evaluations(ledger, phase)
    chosen = selection.chosen(rows, queries.attempts(ledger, phase=phase))
    if limits is None:
        chosen = tuple(row for row in chosen if row.verdict is Verdict.OK)
    if not chosen:
        raise ConfigurationError(
            f"Nothing on {phase} fits this choice ({selection}).", hint="`referee status` and `referee show` tell more."
        )
    changed = workspace.scoring_changed(ledger, phase, labels)
    if limits is None:
        _refuse_mixture(phase, changed, rows, chosen)
        choice, digest = workspace.challenge.metric, labels.digest
    elif changed:
        raise ConfigurationError(
            f"New runs would be scored otherwise than the results on {phase} that stand: {changed}.",
            hint="Change it back, or first rejudge all by --rescore.",
        )
    else:
        choice = metric_in_force(workspace.challenge, ledger, phase)
        digest = str(queries.phases(ledger)[phase].labels_digest)
        chosen = _with_equal_images(rows, chosen)
    name = f"rejudging-{len(queries.rejudgings(ledger)) + 1}"
    submissions = tuple(row.submission for row in chosen)
    staged: list[Event] = [
        RejudgingStaged(
            rejudging=name,
            phase=phase,
            method="rescore" if limits is None else "rerun",
            submissions=submissions,
            selection=str(selection),
            metric=choice,
            labels_digest=digest,
            before=board_digest(workspace.board(ledger, phase)),
        )
    ]
    if limits is not None:
        staged.append(
            SeriesStarted(series=name, purpose="rejudging", phase=phase, submissions=submissions, limits=limits)
        )
    ledger.append(staged)
    return staged_rejudging(ledger)


def _refuse_second(ledger: Ledger) -> None:
    other = next((row for row in queries.rejudgings(ledger) if row.state == "staged"), None)
    if other is not None:
        raise ConfigurationError(f"{other.rejudging} of {other.phase} is staged already.", hint=_NEXT)


def _refuse_mixture(
    phase: str, changed: str, rows: tuple[EvaluationRow, ...], chosen: tuple[EvaluationRow, ...]
) -> None:
    left = {row.submission for row in rows if row.verdict is Verdict.OK} - {row.submission for row in chosen}
    if changed and left:
        raise ConfigurationError(
            f"On {phase} {changed}; scoring only a part again would put scores of two kinds on one board.",
            hint="Choose --all.",
        )


def _with_equal_images(rows: tuple[EvaluationRow, ...], chosen: tuple[EvaluationRow, ...]) -> tuple[EvaluationRow, ...]:
    """Also those evaluations that share a run with a chosen one: equal images are judged alike."""
    runs = {row.copied_from or row.evaluation for row in chosen}
    return tuple(row for row in rows if (row.copied_from or row.evaluation) in runs and row.verdict is not None)


def score_staged(workspace: Workspace, ledger: Ledger, row: RejudgingRow) -> Scoring:
    """Score what the rejudging holds and has no staged score yet, and record it beside the scores that stand."""
    again = row.method == "rescore"
    evaluations = queries.evaluations(ledger, row.phase, "" if again else row.rejudging)
    scoring = workspace.score_rows(
        ledger,
        row.phase,
        record_phase(workspace.challenge, row.phase),
        evaluations=[one for one in evaluations if one.submission in row.submissions],
        attempts=queries.attempts(ledger, phase=row.phase, series="" if again else row.rejudging),
        scores=_staged_scores(ledger, row),
        choice=row.metric_choice,
        labels_digest=row.labels_digest,
        rejudging=row.rejudging if again else None,
    )
    ledger.append(scoring.events)
    return scoring


def _staged_scores(ledger: Ledger, row: RejudgingRow) -> tuple[queries.ScoreRow, ...]:
    if row.method == "rescore":
        return queries.scores(ledger, row.phase, rejudging=row.rejudging)
    return queries.scores(ledger, row.phase, series=row.rejudging)


def preview(workspace: Workspace, ledger: Ledger, row: RejudgingRow) -> Preview:
    """What would change if the rejudging were applied now."""
    scores = _staged_scores(ledger, row)
    runs = None if row.method == "rescore" else queries.evaluations(ledger, row.phase, row.rejudging)
    staged = Staged(row.phase, frozenset(row.submissions), row.metric_choice, runs, scores)
    before = workspace.board(ledger, row.phase)
    after = board_of(workspace.challenge, ledger, row.phase, staged)
    scored = {score.evaluation for score in scores}
    judged = queries.evaluations(ledger, row.phase) if runs is None else runs
    return Preview(
        before=before,
        after=after,
        changes=changes(before, after),
        kept=staged.kept,
        waiting=staged.waiting,
        unscored=tuple(
            one.submission
            for one in judged
            if one.submission in staged.submissions and one.verdict is Verdict.OK and one.evaluation not in scored
        ),
    )


def apply(workspace: Workspace, ledger: Ledger, row: RejudgingRow, reason: str) -> Preview:
    """Let what is staged stand. What changes is exactly what `preview` says.

    Raises:
        ConfigurationError: if something is not ready, or results came that would keep scores of another kind.
    """
    seen = preview(workspace, ledger, row)
    _refuse_unready(row, seen)
    if others := _of_another_kind(ledger, row):
        raise ConfigurationError(
            f"Results on {row.phase} were scored since {row.rejudging} was staged, under other labels, another metric "
            f"or another epsilon: {', '.join(sorted(others))}.",
            hint="Cancel it, and stage it again for all.",
        )
    promised = board_digest(seen.after)
    ledger.append(
        [RejudgingApplied(rejudging=row.rejudging, reason=reason, before=board_digest(seen.before), after=promised)]
    )
    if board_digest(workspace.board(ledger, row.phase)) != promised:
        raise LedgerError(
            f"{row.rejudging} was applied, but the board is not the one that was shown.",
            hint="Somebody else wrote meanwhile, or this is a defect of Referee: check `referee rejudge list`.",
        )
    return seen


def _of_another_kind(ledger: Ledger, row: RejudgingRow) -> set[str]:
    """The submissions whose scores stand as they are, and would not be of the kind that the others are then."""
    kept = [score for score in queries.scores(ledger, row.phase) if score.submission not in row.submissions]
    choice, primary = row.metric_choice, chosen_metrics(row.metric_choice)[0].name
    others = {
        score.submission
        for score in kept
        if (score.labels_digest, float(score.epsilon or choice.epsilon)) != (row.labels_digest, choice.epsilon)
    }
    return others | ({score.submission for score in kept} - {s.submission for s in kept if s.metric == primary})


def _refuse_unready(row: RejudgingRow, seen: Preview) -> None:
    if seen.waiting:
        raise ConfigurationError(
            f"{len(seen.waiting)} of {len(row.submissions)} further runs have not ended.",
            hint="`referee rejudge run` goes on with them; `referee rejudge cancel` leaves all aside.",
        )
    if seen.unscored:
        raise CheckFailedError(
            f"{len(seen.unscored)} valid results have no new score: {', '.join(seen.unscored)}.",
            hint="`referee rejudge run` scores them, or says why it cannot.",
        )


def cancel(ledger: Ledger, row: RejudgingRow, reason: str) -> None:
    """Leave aside for good what is staged."""
    ledger.append([RejudgingCancelled(rejudging=row.rejudging, reason=reason)])
