"""The reproduction check of a challenge: what is compared, what is recorded, and who is kept off the private phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from referee.challenge import Challenge
from referee.errors import ConfigurationError
from referee.ledger import Ledger, SeriesStarted, SubmissionReproduced, queries
from referee.phases import record_phase
from referee.rulings import Ruling
from referee.scoring.boards import metric_in_force
from referee.scoring.recheck import recheck_phase
from referee.scoring.recorded import RecordedScore, find_recorded_predictions, read_recorded_scores
from referee.scoring.reproduction import Cause, Outcome, Reproduction
from referee.workspace import Workspace

SAME = frozenset({Outcome.EXACT, Outcome.WITHIN_TOLERANCE})
_WORDS = {
    Outcome.EXACT: "reproduced exactly",
    Outcome.WITHIN_TOLERANCE: "reproduced within tolerance",
    Outcome.DIFFERENT: "did not reproduce",
    Outcome.FAILED: "could not be re-run",
    Outcome.NOTHING_RECORDED: "has nothing recorded to compare with",
}


def reproduction_phase(challenge: Challenge, phase: str | None = None) -> str:
    """The public phase on which re-runs are compared: the given one, the declared one, or the last in the file.

    Raises:
        ConfigurationError: if there is no such phase, or it is private.
    """
    public = [name for name, one in challenge.phases.items() if one.visibility == "public"]
    name = phase or challenge.reproduction.phase or (public[-1] if public else None)
    if name is None:
        raise ConfigurationError(
            "This challenge has no public phase, so there is nothing that was recorded to compare with.",
            hint='Add one to challenge.toml, with visibility = "public".',
        )
    if challenge.phase(name).visibility != "public":
        raise ConfigurationError(
            f"{name} is private: nobody recorded scores on it before.",
            hint=f"Choose a public phase: {', '.join(public) or 'there is none'}.",
        )
    return name


def recorded_facts(
    ledger: Ledger, table: Path | None, folder: Path | None
) -> tuple[dict[str, RecordedScore], dict[str, Path]]:
    """What was recorded of each submission: scores (from a table, else from the manifest), and prediction files.

    Raises:
        ConfigurationError: if table or folder cannot be used.
    """
    rows = queries.submissions(ledger)
    # Names are looked up, not shown.
    names = queries.names(ledger, [row.submission for row in rows])
    blind_ids = {who.submission_name: blind for blind, who in names.items()}
    blind_ids |= {row.submission: row.submission for row in rows}
    if table is not None:
        scores = read_recorded_scores(table, blind_ids)
    else:
        scores = {row.submission: RecordedScore(row.public_score) for row in rows if row.public_score is not None}
    return scores, find_recorded_predictions(folder, blind_ids) if folder else {}


def check(
    workspace: Workspace,
    ledger: Ledger,
    phase: str,
    scores: Mapping[str, RecordedScore],
    files: Mapping[str, Path],
) -> tuple[Reproduction, ...]:
    """Compare what was evaluated on the phase with what was recorded, by blind id.

    Raises:
        ConfigurationError: if nothing was evaluated there, or it has no labels.
    """
    evaluations = queries.evaluations(ledger, phase)
    if not any(row.verdict for row in evaluations):
        raise ConfigurationError(
            f"Nothing was evaluated on {phase} yet.", hint=f"Begin with `referee run --phase {phase}`."
        )
    data = record_phase(workspace.challenge, phase)
    digest = queries.phases(ledger)[phase].labels_digest
    if digest is None:
        workspace.labels(phase, data)
    return recheck_phase(
        phase,
        evaluations=evaluations,
        further=[
            row
            for row in queries.evaluations(ledger, phase, series=None)
            if row.series and not row.series.startswith("probe-")  # which are of a few files only
        ],
        attempts=queries.attempts(ledger),
        scores=scores,
        files=files,
        store=workspace.objects,
        names=data.names,
        labels=workspace.labels_file(phase, str(digest)),
        labels_digest=str(digest),
        metric=metric_in_force(workspace.challenge, ledger, phase),
        layout=workspace.challenge.predictions,
        choice=workspace.challenge.reproduction,
        limit_bytes=workspace.challenge.limits.output,
    )


def record(workspace: Workspace, ledger: Ledger, phase: str, found: Sequence[Reproduction]) -> int:
    """Record what is new about it; how many submissions that concerns."""
    known = queries.reproductions(ledger, phase)
    tolerance = workspace.challenge.reproduction.tolerance
    events = [_event(phase, one, tolerance) for one in found]
    new = [event for event in events if known.get(event.submission) != event]
    ledger.append(new)
    return len(new)


def _event(phase: str, one: Reproduction, tolerance: float) -> SubmissionReproduced:
    return SubmissionReproduced(
        submission=one.submission,
        phase=phase,
        outcome=one.outcome.value,
        cause=one.cause.value,
        explanation=one.explanation,
        recorded_score=_text(one.recorded_score),
        rerun_score=_text(one.rerun_score),
        largest_change=_text(one.largest_change),
        run_to_run=_text(one.run_to_run),
        tolerance=repr(float(tolerance)),
    )


def _text(value: float | None) -> str | None:
    return None if value is None else repr(float(value))


def standing(ledger: Ledger, phase: str) -> tuple[Reproduction, ...]:
    """The last word on each submission, by blind id, as it was recorded."""
    return tuple(
        Reproduction(
            submission=one.submission,
            outcome=Outcome(one.outcome),
            cause=Cause(one.cause),
            recorded_score=_number(one.recorded_score),
            rerun_score=_number(one.rerun_score),
            difference=None
            if one.recorded_score is None or one.rerun_score is None
            else float(one.rerun_score) - float(one.recorded_score),
            largest_change=_number(one.largest_change),
            changed_items=None,
            run_to_run=_number(one.run_to_run),
            explanation=one.explanation,
        )
        for _, one in sorted(queries.reproductions(ledger, phase).items())
    )


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def second_run(ledger: Ledger, phase: str, found: Sequence[Reproduction]) -> queries.SeriesRow | None:
    """The series in which what did not reproduce exactly is run once more: one that was interrupted, or a new one."""
    for series in queries.series(ledger):
        if series.purpose == "reproduction" and series.phase == phase:
            status = queries.status(ledger, phase, series.series)
            if status.done < len(series.submissions):
                return series
    wanted = tuple(one.submission for one in found if one.outcome in {Outcome.DIFFERENT, Outcome.WITHIN_TOLERANCE})
    if not wanted:
        return None
    number = 1 + sum(series.purpose == "reproduction" for series in queries.series(ledger))
    name = f"reproduction-{number}"
    ledger.append([SeriesStarted(series=name, purpose="reproduction", phase=phase, submissions=wanted)])
    return next(series for series in queries.series(ledger) if series.series == name)


def kept_off(workspace: Workspace, ledger: Ledger, phase: str) -> dict[str, str]:
    """The submissions that are not to be evaluated on a private phase because they did not reproduce, with the reason.

    None where the challenge does not require it. Whom a ruling admits is not kept off, nor who has nothing recorded.

    Raises:
        ConfigurationError: if it is required, and some submissions were not checked yet.
    """
    challenge = workspace.challenge
    if not challenge.reproduction.required or challenge.phase(phase).visibility != "private":
        return {}
    public = reproduction_phase(challenge)
    checked = queries.reproductions(ledger, public)
    admitted = {row.submission for row in queries.rulings(ledger) if row.ruling is Ruling.ADMIT}
    off = queries.taken_off(ledger)
    everyone = [row.submission for row in queries.submissions(ledger) if row.submission not in {*admitted, *off}]
    if unchecked := [name for name in everyone if name not in checked]:
        raise ConfigurationError(
            f"{len(unchecked)} of {len(everyone)} submissions were not checked on {public}, and challenge.toml "
            f"requires that they reproduce before they are run on {phase}.",
            hint=f"First `referee run --phase {public}`, then `referee reproduce --phase {public}`.",
        )
    return {
        name: f"It {_WORDS[outcome]} on {public}: {checked[name].explanation}"
        for name in everyone
        if (outcome := Outcome(checked[name].outcome)) in {Outcome.DIFFERENT, Outcome.FAILED}
    }
