"""The command line: one file for each group of verbs. It parses, calls and prints; it decides nothing."""

from __future__ import annotations

from referee.cli import (
    audits,
    campaigns,
    challenges,
    cloud,
    exports,
    ledgers,
    participants,
    plans,
    rejudgings,
    reproductions,
    rulings,
    scores,
    submissions,
    views,
)
from referee.cli.app import app, main

__all__ = [
    "app",
    "audits",
    "campaigns",
    "challenges",
    "cloud",
    "exports",
    "ledgers",
    "main",
    "participants",
    "plans",
    "rejudgings",
    "reproductions",
    "rulings",
    "scores",
    "submissions",
    "views",
]
