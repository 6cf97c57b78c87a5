"""Moved: import from `referee.attempts` and `referee.phases`."""

from referee.attempts import AttemptResult, AttemptSpec, Measurements
from referee.phases import PhaseData, PhaseFile

__all__ = ["AttemptResult", "AttemptSpec", "Measurements", "PhaseData", "PhaseFile"]
