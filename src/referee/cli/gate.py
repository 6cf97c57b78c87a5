"""The one place that keeps commands from showing scores of a phase that is sealed."""

from __future__ import annotations

from referee.errors import ConflictError
from referee.ledger import Ledger, queries


def refuse_sealed(ledger: Ledger, phase: str) -> None:
    """Do nothing, unless the phase is sealed.

    Raises:
        ConflictError: if it is: then nobody sees, compares or changes scores on it, the operator included.
    """
    row = queries.seals(ledger).get(phase)
    if row is not None and row.sealed:
        raise ConflictError(
            f"The scores on {phase} are sealed, and this command would show them.",
            hint=f"When they may be seen: `referee unseal --phase {phase} --reason TEXT`.",
        )
