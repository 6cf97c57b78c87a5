"""The command line: one file for each group of verbs. It parses, calls and prints; it decides nothing.

A group is imported when one of its verbs is typed: all of them together take longer to import than most commands to
run. Help, completion and mistyped words need them all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from cyclopts import App

from referee.cli.app import app as _root
from referee.cli.app import run_command

GROUP_OF = {
    "analyse": "scores",
    "bundle": "audits",
    "check": "participants",
    "cloud": "cloud",
    "confirm": "reproductions",
    "doctor": "challenges",
    "export": "exports",
    "images": "images",
    "init": "challenges",
    "leaderboard": "scores",
    "ledger": "ledgers",
    "logs": "views",
    "machines": "plans",
    "pilot": "plans",
    "plan": "plans",
    "rejudge": "rejudgings",
    "report": "scores",
    "reproduce": "reproductions",
    "resume": "campaigns",
    "ruling": "rulings",
    "run": "campaigns",
    "score": "scores",
    "seal": "audits",
    "show": "views",
    "simulate": "plans",
    "status": "views",
    "submissions": "submissions",
    "try": "participants",
    "unseal": "audits",
    "verify": "audits",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Errors that a person can mend are printed without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what an older terminal's encoding has not
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in GROUP_OF:
        import_module(f"referee.cli.{GROUP_OF[words[0]]}")
    else:
        every_command()
    return run_command(words)


def every_command() -> App:
    """The whole command line, with every group imported."""
    for group in sorted(set(GROUP_OF.values())):
        import_module(f"referee.cli.{group}")
    return _root
