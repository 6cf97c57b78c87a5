"""A secret in a file that only this user can read: made whole or not at all, read without following links."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from referee.durable import make_once
from referee.errors import ConfigurationError, HostError

_MAX_BYTES = 4096


def open_secret(path: Path, what: str, make: Callable[[], bytes]) -> bytes:
    """The secret in `path`, made if there is none; empty if what is there is no ordinary file.

    Args:
        path: where it lies.
        what: what it is called in errors, such as "signing key".
        make: gives a new one, of at most 4096 bytes.

    Raises:
        HostError: it cannot be read or made.
        ConfigurationError: others can read it.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make_once(path, make())
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            found = file.read(_MAX_BYTES + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise HostError(
            f"The {what} {path} cannot be read or made: {error.strerror}.", hint="Mend its owner and mode (0600)."
        ) from error
    if found and mode & 0o077:
        raise ConfigurationError(f"{path} can be read by other users.", hint=f"Type `chmod 600 {path}`.")
    return found
