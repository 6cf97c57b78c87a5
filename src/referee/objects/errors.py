"""What can go wrong with an object."""

from __future__ import annotations

from referee.errors import ObjectStoreError


class AlreadyExistsError(ObjectStoreError):
    """Another object is already stored under the key, with other bytes. It was not touched."""


class ObjectMissingError(ObjectStoreError):
    """There is no object under the key."""


class ObjectTooLargeError(ObjectStoreError):
    """The object is larger than its reader allows."""


def missing(key: str, location: str) -> ObjectMissingError:
    """The error of a backend that has nothing under `key`."""
    return ObjectMissingError(
        f"There is no object {key} in {location}.", hint="Check the key, and that it is the right store."
    )


def too_large(key: str, limit_bytes: int) -> ObjectTooLargeError:
    """The error of a backend that was to read more than its reader allows."""
    return ObjectTooLargeError(
        f"{key} is larger than {limit_bytes} bytes.", hint="It was not read; find out who wrote it."
    )
