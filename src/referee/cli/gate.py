"""The gate that keeps commands from showing scores of a phase that is sealed, for those who import it from here."""

from __future__ import annotations

from referee.scoring.sealing import refuse_sealed

__all__ = ["refuse_sealed"]
