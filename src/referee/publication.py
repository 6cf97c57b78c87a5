"""What goes out to others, and when: anchors beforehand, sealed and released scores, bundles."""

from __future__ import annotations

import csv
import io
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from referee.audit import Holdings, published_line, write_bundle
from referee.audit.anchor import new_anchor
from referee.audit.manifest import Manifest
from referee.digests import digest_of
from referee.errors import CheckFailedError, ConfigurationError, ConflictError, HostError
from referee.kaggle import Kaggleboard, Standing
from referee.ledger import (
    IdentitiesUnblinded,
    Identity,
    Ledger,
    PhaseSealed,
    PhaseUnsealed,
    PublicBoardRecorded,
    PublicStanding,
    queries,
)
from referee.ledger.queries import EvaluationRow
from referee.phases import file_list_text, record_phase
from referee.scoring.leaderboard import no_formula
from referee.scoring.scorer import valid_results
from referee.scoring.sealing import is_sealed, waiting
from referee.workspace import Workspace, refuse_late_seal


def seal_phase(workspace: Workspace, ledger: Ledger, phase: str, reason: str) -> None:
    """Seal a phase: from here on its scores are shown to nobody.

    Raises:
        ConflictError: if there are scores already, or it is or was sealed.
    """
    if phase in queries.seals(ledger):
        state = "is sealed" if is_sealed(ledger, phase) else "was sealed, and released"
        raise ConflictError(f"{phase} {state} already.", hint="A phase is sealed once, and released once.")
    refuse_late_seal(ledger, phase)
    events = [e for e in workspace.record(phase)[1] if not isinstance(e, PhaseSealed)]
    ledger.append([*events, PhaseSealed(phase=phase, reason=reason)])


def release(workspace: Workspace, ledger: Ledger, phase: str, reason: str) -> int:
    """Release a phase's scores: open every one that was sealed. Returns how many evaluations that were.

    Raises:
        ConflictError: if the phase is not sealed.
        ConfigurationError: if the key is not the one that they were sealed with; then nothing is released.
    """
    if not is_sealed(ledger, phase):
        raise ConflictError(f"{phase} is not sealed.", hint="`referee status` says which phases are.")
    opened = [workspace.seal_key.open_scores(event) for event in waiting(ledger, phase)]
    ledger.append([PhaseUnsealed(phase=phase, reason=reason), *opened])
    return len({event.evaluation for event in opened})


def anchor_line(workspace: Workspace, ledger: Ledger) -> str:
    """Record challenge, data and labels of every phase as they are now, commit to them, and return the line.

    Raises:
        ConfigurationError: if the files of a phase are wrong.
    """
    for phase in workspace.challenge.phases:
        if events := workspace.record(phase)[1]:
            ledger.append(events)
    campaign, recorded = queries.campaign(ledger).campaign, queries.challenge(ledger)
    phases = queries.phases(ledger)
    event = new_anchor(
        workspace.signing_key,
        campaign,
        recorded.digest if recorded else "",
        {name: phases[name].data_digest for name in workspace.challenge.phases},
        {name: phases[name].labels_digest for name in workspace.challenge.phases},
    )
    return published_line(campaign, ledger.append([event])[0])


def write_bundle_of(
    workspace: Workspace, ledger: Ledger, target: Path, *, predictions: bool = True, unblind: bool = False
) -> Manifest:
    """Write everything that an auditor needs to one signed file.

    Args:
        workspace: the challenge.
        ledger: its ledger.
        target: the file to write.
        predictions: put the prediction files in.
        unblind: put the names of teams and submissions in; this is recorded.

    Raises:
        RefereeError: as `audit.write_bundle`; and if the data are not those that were recorded.
    """
    if unblind:
        ledger.append([IdentitiesUnblinded(command="bundle --unblind")])
    data = {}
    for phase, row in queries.phases(ledger).items():
        now = record_phase(workspace.challenge, phase)
        if now.digest != row.data_digest:
            raise CheckFailedError(
                f"The data of {phase} are not those that the ledger holds: files were changed.",
                hint="Put the recorded files back; `referee ledger events` shows when they were recorded.",
            )
        data[phase] = file_list_text(now.files)
    everyone = [row.submission for row in queries.submissions(ledger)]
    everyone += [row.submission for row in queries.refusals(ledger)]
    names = queries.names(ledger, everyone) if unblind else {}
    holdings = Holdings(data, workspace.objects if predictions else None, names)
    return write_bundle(target, ledger, workspace.signing_key, holdings)


def hand_back(
    workspace: Workspace, ledger: Ledger, phase: str, folder: Path, *, unblind: bool = False
) -> list[Returned]:
    """Write each submission's prediction file to `folder`, as the platform that it came from takes it, with a manifest.

    The bytes are the recorded ones; `manifest.csv` names every submission, with verdict, file and digest.

    Raises:
        ConfigurationError: if the folder holds something already, or nothing on the phase has ended.
        CheckFailedError: if a file is missing, or is not the one that the ledger holds.
        HostError: if it cannot be written.
    """
    evaluations = sorted(queries.evaluations(ledger, phase), key=lambda row: row.submission)
    if not any(row.verdict for row in evaluations):
        raise ConfigurationError(f"Nothing was evaluated on {phase} yet.", hint=f"Begin with `referee run {phase}`.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} holds something already.", hint="Name a new folder; nothing was changed.")
    if unblind:
        ledger.append([IdentitiesUnblinded(command=f"export kaggle --phase {phase} --unblind")])
    names = queries.names(ledger, [row.submission for row in evaluations]) if unblind else {}
    attempts = queries.attempts(ledger)
    places = {result.evaluation: result for result in valid_results(phase, evaluations, attempts)}
    rows = {attempt.attempt: attempt.predictions_rows for attempt in attempts}
    folder = folder.absolute()  # `.` has no name
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        draft.mkdir(parents=True)
        returned = []
        for row in evaluations:
            place = places.get(row.evaluation)
            data = None if place is None else workspace.objects.get(place.key)
            if place is not None and data is not None and digest_of(data) != place.predictions_digest:
                raise CheckFailedError(
                    f"The predictions of {row.evaluation} are not those that the ledger holds: they were changed.",
                    hint="Restore them from a copy, and find out who changed them.",
                )
            one = Returned(row, names.get(row.submission), data, rows.get(row.attempt or ""))
            if one.file and data is not None:
                (draft / one.file).write_bytes(data)
            returned.append(one)
        (draft / "manifest.csv").write_text(_manifest(returned, named=unblind), encoding="utf-8", newline="")
        if folder.is_dir():
            folder.rmdir()
        draft.rename(folder)
    except OSError as error:
        raise HostError(
            f"{folder} cannot be written: {error.strerror}.", hint="Check the place's permissions and room."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return returned


@dataclass(frozen=True, slots=True)
class Returned:
    """A submission as it is handed back; `data` is its prediction file, None if it has no valid one."""

    evaluation: EvaluationRow
    identity: Identity | None
    data: bytes | None
    rows: int | None

    @property
    def file(self) -> str:
        """The file's name in the folder: the blind id, since a name of the team's own choice could be any path."""
        return "" if self.data is None else f"{self.evaluation.submission}.csv"


def _manifest(returned: Sequence[Returned], *, named: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    header = ["submission", "team", "verdict", "file", "sha256", "size_bytes", "rows"]
    writer.writerow(header + (["name", "team_name"] if named else []))
    for one in returned:
        row = one.evaluation
        facts: list[object] = [row.submission, row.team, row.verdict or "", one.file]
        if one.data is None:
            facts += ["", "", ""]
        else:
            facts += [digest_of(one.data).removeprefix("sha256:"), len(one.data), "" if one.rows is None else one.rows]
        who = one.identity
        names = ["", ""] if who is None else [no_formula(who.submission_name), no_formula(who.team_name)]
        writer.writerow(facts + (names if named else []))
    return text.getvalue()


def record_public_board(ledger: Ledger, board: Kaggleboard, matched: Mapping[str, Standing]) -> bool:
    """Record what Kaggle's leaderboard says of submissions, by blind id; False if the same was recorded last."""
    event = PublicBoardRecorded(
        platform="kaggle",
        digest=board.digest,
        teams=board.teams,
        standings={
            name: PublicStanding(score=repr(standing.score), rank=standing.rank)
            for name, standing in sorted(matched.items())
        },
    )
    earlier = ledger.events(PublicBoardRecorded)
    if earlier and earlier[-1].event == event:
        return False
    ledger.append([event])
    return True
