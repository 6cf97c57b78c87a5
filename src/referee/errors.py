"""One root for everything that can go wrong and that a person can mend.

Each error is two sentences: what happened, and what to do next (`hint`). The command line prints
them without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

from typing import ClassVar


class RefereeError(Exception):
    """Something a person can mend.

    Args:
        message: what happened, one sentence, naming the place.
        hint: what to do next, one sentence.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigurationError(RefereeError):
    """`challenge.toml`, a manifest, or an argument is not usable as it stands."""


class CheckFailedError(RefereeError):
    """What was to be checked was checked, and the answer is no."""

    exit_code = 1


class HostError(RefereeError):
    """This machine lacks something that Referee needs (a program, a permission, room)."""

    exit_code = 3


class UnsafeHostError(HostError):
    """A promise of the sandbox cannot be shown on this machine, so nothing untrusted runs on it."""


class ConflictError(RefereeError):
    """Somebody else holds what is needed: another controller, another writer, a later epoch."""

    exit_code = 4


class LedgerError(RefereeError):
    """The ledger cannot be trusted or cannot be written."""

    exit_code = 5


class ImageError(RefereeError):
    """An image cannot be imported, or may not be run."""


class ObjectStoreError(RefereeError):
    """The object store refused or lost something."""

    exit_code = 3
