"""What goes out to others, and when: anchors beforehand, sealed and released scores, bundles."""

from __future__ import annotations

from pathlib import Path

from referee.audit import Holdings, published_line, write_bundle
from referee.audit.anchor import new_anchor
from referee.audit.manifest import Manifest
from referee.errors import CheckFailedError, ConflictError
from referee.ledger import IdentitiesUnblinded, Ledger, PhaseSealed, PhaseUnsealed, queries
from referee.phases import file_list_text, record_phase
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
