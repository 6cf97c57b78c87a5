"""`challenge.toml`: what is judged, under which contract and limits, by which metric, on which machines.

| module | sections |
|---|---|
| `contract` | `[phases]`, `[contract]`, `[limits]`, `[predictions]`: what a submission meets |
| `scoring` | `[metric]`, `[reproduction]`, `[uncertainty]`: what results are judged by |
| `machines` | `[machines]` |
| `engines` | `[engine]`, `[smoke]`, `[sandbox]`: where and how attempts run |
| `places` | `[ledger]`, `[objects]`: where things are kept |
| `whole` | all of them together |
| `section` | (what every section is) |
| `record` | (as the ledger records it) |
| `loading` | (reading the file, and saying what is wrong in it) |
"""

from referee.challenge.contract import PRESETS, Contract, Limits, Phase, PredictionFormat
from referee.challenge.engines import AwsChoice, EngineChoice, SlurmChoice, SlurmMachine, SmokeChoice
from referee.challenge.loading import load_challenge
from referee.challenge.machines import SPOT, MachineType, markets
from referee.challenge.record import challenge_text, recorded_as
from referee.challenge.scoring import MetricChoice, Reduction, ReproductionChoice, UncertaintyChoice
from referee.challenge.section import Frozen
from referee.challenge.whole import FILE_NAME, Challenge

__all__ = [
    "FILE_NAME",
    "PRESETS",
    "SPOT",
    "AwsChoice",
    "Challenge",
    "Contract",
    "EngineChoice",
    "Frozen",
    "Limits",
    "MachineType",
    "MetricChoice",
    "Phase",
    "PredictionFormat",
    "Reduction",
    "ReproductionChoice",
    "SlurmChoice",
    "SlurmMachine",
    "SmokeChoice",
    "UncertaintyChoice",
    "challenge_text",
    "load_challenge",
    "markets",
    "recorded_as",
]
