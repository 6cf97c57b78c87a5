"""The command line's root: the application that every group of verbs registers with, and its exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

import referee
from referee.cli import screen
from referee.errors import HostError, RefereeError

INTERRUPTED = 130

app = App(
    name="referee",
    version=referee.__version__,
    help="Re-run untrusted, containerised submissions on private test data, score them, and publish a leaderboard.",
    help_format="plaintext",
    help_epilogue=(
        "Exit status: 0 done; 1 checked, and the answer is no; 2 wrong use, configuration or input; "
        "3 this machine cannot do it; 4 somebody else holds it; 5 the ledger cannot be trusted; 130 interrupted."
    ),
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
)

# A participant's shell files are theirs: completion is written to the place for completions, and nowhere else.
app.register_install_completion_command(add_to_startup=False)

Folder = Annotated[
    Path,
    Parameter(name=["--challenge", "-C"], help="The challenge's folder, or its challenge.toml."),
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for a script.")]
Unblind = Annotated[
    bool, Parameter(name="--unblind", negative="", help="Show names of teams and submissions; this is recorded.")
]
HERE = Path()


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status. Errors that a person can mend are printed without a traceback."""
    try:
        result = app(arguments, result_action="return_value")
    except CycloptsError as error:
        screen.print_error(RefereeError(_first_line(error), hint="`referee --help` shows the commands."))
        return RefereeError.exit_code
    except RefereeError as error:
        screen.print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        screen.note("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`referee leaderboard | head`): nothing is wrong.
        sys.stderr.close()
        return 0
    except OSError as error:
        # What the system refuses (a folder that is not there, a full disk) a person can mend; a name says where.
        place = f"{error.filename}: " if error.filename is not None else ""
        refused = HostError(f"{place}{error.strerror or error}.", hint="Check the place, its rights and its room.")
        screen.print_error(refused)
        return refused.exit_code
    return result if isinstance(result, int) else 0


def _first_line(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?", "!")) else text + "."
