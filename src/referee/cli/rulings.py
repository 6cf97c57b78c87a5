"""`referee ruling …`: disqualify, withdraw, reinstate and admit submissions by hand, with a reason that is kept."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from cyclopts import App, Parameter

from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, Unblind, app
from referee.errors import ConfigurationError
from referee.ledger import IdentitiesUnblinded, Ledger, SubmissionRuled, queries
from referee.rulings import PAST, Ruling, objection
from referee.workspace import Workspace

ruling_app = App(name="ruling", help="Decide about submissions by hand; nothing is deleted, and the board says so.")
app.command(ruling_app)


@Parameter(name="*")
@dataclass(frozen=True)
class Asked:
    """What every ruling is asked with.

    Parameters
    ----------
    submission
        Its blind id (with --unblind also its own name).
    """

    submission: str
    _: KW_ONLY
    reason: Annotated[str, Parameter(help="Why; kept in the ledger, and shown on the board and in the report.")]
    challenge: Folder = HERE
    unblind: Unblind = False


@ruling_app.command
def disqualify(asked: Asked) -> None:
    """Take a submission off the board by the host's decision; all others are ranked without it."""
    _rule(Ruling.DISQUALIFY, asked)


@ruling_app.command
def withdraw(asked: Asked) -> None:
    """Take a submission off the board by its team's wish; all others are ranked without it."""
    _rule(Ruling.WITHDRAW, asked)


@ruling_app.command
def reinstate(asked: Asked) -> None:
    """Put a disqualified or withdrawn submission back onto the board, with the results that it has."""
    _rule(Ruling.REINSTATE, asked)


@ruling_app.command
def admit(asked: Asked) -> None:
    """Let a submission that did not reproduce be run on private phases all the same, by the next `referee run`."""
    _rule(Ruling.ADMIT, asked)


@ruling_app.command(name="list")
def list_rulings(*, challenge: Folder = HERE, json: AsJson = False) -> None:
    """List every ruling there was, in order; the last one on a submission counts."""
    with Workspace.open(challenge).ledger() as ledger:
        rows = queries.rulings(ledger)
        off = {row.seq for row in queries.taken_off(ledger).values()}
    if json:
        screen.print_json(
            [
                {
                    "submission": row.submission,
                    "team": row.team,
                    "ruling": row.ruling,
                    "reason": row.reason,
                    "ruled_at": row.ruled_at.isoformat(),
                    "off_the_board": row.seq in off,
                }
                for row in rows
            ]
        )
        return
    if not rows:
        screen.say("There are no rulings.")
        return
    screen.print_table(
        ["when", "submission", "team", "ruling", "off the board now", "reason"],
        [
            (
                f"{row.ruled_at:%Y-%m-%d %H:%M}",
                row.submission,
                row.team,
                PAST[row.ruling],
                "yes" if row.seq in off else "",
                row.reason,
            )
            for row in rows
        ],
    )


def _rule(ruling: Ruling, asked: Asked) -> None:
    reason = asked.reason.strip()
    if not reason:
        raise ConfigurationError("A ruling needs a reason.", hint='Give one: --reason "shared code across teams".')
    with Workspace.open(asked.challenge).ledger() as ledger:
        blind = find_submission(ledger, asked.submission, f"ruling {ruling} --unblind" if asked.unblind else None)
        earlier = [row.ruling for row in queries.rulings(ledger) if row.submission == blind]
        if why := objection(earlier, ruling):
            raise ConfigurationError(
                f"{blind} cannot be {PAST[ruling]}: {why}.", hint="`referee ruling list` shows what was ruled."
            )
        ledger.append([SubmissionRuled(submission=blind, ruling=ruling, reason=reason)])
    screen.say(
        f"{blind} is {PAST[ruling]}. See `referee leaderboard`; a report that was written before says otherwise."
    )


def find_submission(ledger: Ledger, text: str, unblinding: str | None = None) -> str:
    """The blind id that is meant.

    Args:
        ledger: the ledger.
        text: a blind id, or a submission's own name where `unblinding` says by which command names are asked for.
        unblinding: the command, which is then recorded.

    Raises:
        ConfigurationError: if there is no such submission, or several have that name.
    """
    known = [row.submission for row in queries.submissions(ledger)]
    if text in known:
        return text
    if text in {row.submission for row in queries.refusals(ledger)}:
        raise ConfigurationError(
            f"The image of {text} was refused at import, so it is on no board.",
            hint="Import a mended image first, or leave it.",
        )
    if unblinding is None:
        raise ConfigurationError(
            f"There is no submission {text!r}.",
            hint="`referee submissions list` shows the blind ids; with --unblind a name is understood too.",
        )
    ledger.append([IdentitiesUnblinded(command=unblinding)])
    meant = [blind for blind, who in queries.names(ledger, known).items() if who.submission_name == text]
    if len(meant) != 1:
        raise ConfigurationError(
            f"{len(meant) or 'No'} submissions have the name {text!r}.",
            hint="Give the blind id: `referee submissions list --unblind` shows both.",
        )
    return meant[0]
