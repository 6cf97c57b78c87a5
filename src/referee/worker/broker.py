"""The object store of a worker that may not reach it: its user's process fetches and stores, over a socket.

On a cluster the worker is root on its node, and the object store is the user's: a shared folder that root may not even
read, or a bucket whose credentials only the user has. So the worker touches no path that a user named. It asks the
user's process (`serve`) over a pair of sockets; large objects come as descriptors, opened by the user. The worker
believes nothing that it gets: specifications are validated, layers and data checked against their digests.

A request is a line of JSON, followed by as many bytes as its `size` says; so is an answer, which may bring a
descriptor.
"""

from __future__ import annotations

import array
import contextlib
import io
import json
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from referee.errors import ObjectStoreError, RefereeError
from referee.objects import AlreadyExistsError, ObjectMissingError, ObjectStore, ObjectTooLargeError, missing, too_large

LOCATION = "the user's object store"

_LINE_BYTES = 64 << 10
_OBJECT_BYTES = 1 << 30
_ERRORS = {"exists": AlreadyExistsError, "missing": ObjectMissingError, "large": ObjectTooLargeError}


def brokered(channel: socket.socket) -> ObjectStore:
    """The object store behind the channel."""
    return ObjectStore.over(_BrokeredBackend(channel), LOCATION)


def serve(channel: socket.socket, objects: ObjectStore) -> None:
    """Answer the worker's requests until it has closed its end."""
    pipe = _Pipe(channel)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, EOFError):
        while True:
            request, body, _ = pipe.receive()
            try:
                pipe.send(*_answer(objects, request, body))
            except RefereeError as error:
                kind = next((name for name, cls in _ERRORS.items() if isinstance(error, cls)), "failed")
                pipe.send({"error": kind, "message": error.message, "hint": error.hint}, b"", None)


def _answer(objects: ObjectStore, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes, int | None]:
    match request:
        case {"do": "create", "key": str(key)}:
            return {"new": objects.put_once(key, body)}, b"", None
        case {"do": "replace", "key": str(key)}:
            objects.put(key, body)
            return {}, b"", None
        case {"do": "read", "key": str(key), "limit": limit}:
            return {}, objects.get(key, limit_bytes=limit), None
        case {"do": "size", "key": str(key)}:
            return {"bytes": objects.size(key)}, b"", None
        case {"do": "list", "key": str(prefix)}:
            return {"keys": objects.list(prefix)}, b"", None
        case {"do": "open", "key": str(key)}:
            with objects.open(key) as source:
                return {}, b"", _descriptor(source)
        case _:
            raise ObjectStoreError(f"{request!r} is not a request.", hint="Use the same version on every machine.")


def _descriptor(source: BinaryIO) -> int:
    """A descriptor to give away; what comes out of a bucket is laid into a file without a name."""
    with contextlib.suppress(OSError, io.UnsupportedOperation):
        return os.dup(source.fileno())
    with tempfile.TemporaryFile() as copy:
        while part := source.read(1 << 20):
            copy.write(part)
        copy.seek(0)
        return os.dup(copy.fileno())


class _BrokeredBackend:
    """The worker's side."""

    def __init__(self, channel: socket.socket) -> None:
        self._pipe = _Pipe(channel)
        self._turn = threading.Lock()

    def create(self, key: str, data: bytes) -> bool:
        answer, _, _ = self._ask({"do": "create", "key": key}, data)
        return bool(answer.get("new"))

    def replace(self, key: str, data: bytes) -> None:
        self._ask({"do": "replace", "key": key}, data)

    def upload(self, key: str, path: Path) -> None:
        self.replace(key, path.read_bytes())

    def read(self, key: str, limit_bytes: int | None) -> bytes:
        _, body, _ = self._ask({"do": "read", "key": key, "limit": limit_bytes})
        if limit_bytes is not None and len(body) > limit_bytes:
            raise too_large(key, limit_bytes)
        return body

    def size(self, key: str) -> int | None:
        answer, _, _ = self._ask({"do": "size", "key": key})
        return int(answer["bytes"]) if answer.get("bytes") is not None else None

    def keys(self, prefix: str) -> Iterator[str]:
        answer, _, _ = self._ask({"do": "list", "key": prefix})
        return iter([str(key) for key in answer.get("keys", ())])

    def open(self, key: str) -> BinaryIO:
        _, _, descriptor = self._ask({"do": "open", "key": key})
        if descriptor is None:
            raise missing(key, LOCATION)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ObjectStoreError(f"{key} is not an ordinary file.", hint="Find out who put it there.")
        return os.fdopen(descriptor, "rb")

    def _ask(self, request: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes, int | None]:
        try:
            with self._turn:
                self._pipe.send(request, body, None)
                answer, content, descriptor = self._pipe.receive()
        except (OSError, EOFError) as error:
            raise ObjectStoreError(
                "The user's process that reaches the object store is gone.", hint="Look at the job's log."
            ) from error
        if descriptor is not None and ("error" in answer or request["do"] != "open"):
            os.close(descriptor)  # nobody asked for it
        if "error" in answer:
            kind = _ERRORS.get(str(answer["error"]), ObjectStoreError)
            raise kind(str(answer.get("message")), hint=str(answer.get("hint", "")))
        return answer, content, descriptor


class _Pipe:
    """Lines of JSON with bytes behind them, over a stream socket; a descriptor may come with a line."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = b""
        self._descriptors: list[int] = []

    def send(self, head: dict[str, Any], body: bytes, descriptor: int | None) -> None:
        line = json.dumps(head | {"size": len(body)}).encode() + b"\n"
        if descriptor is None:
            self._channel.sendall(line)
        else:
            try:
                sent = socket.send_fds(self._channel, [line], [descriptor])
                self._channel.sendall(line[sent:])
            finally:
                os.close(descriptor)
        self._channel.sendall(body)

    def receive(self) -> tuple[dict[str, Any], bytes, int | None]:
        """Raises `EOFError` at the end, `ObjectStoreError` for what cannot be a message."""
        while b"\n" not in self._buffer:
            # A list of keys is one line, which may be long; nothing else is.
            if len(self._buffer) > _OBJECT_BYTES:
                raise ObjectStoreError("A line has no end.", hint="Use the same version on every machine.")
            self._fill(_LINE_BYTES)
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            head = json.loads(line)
            size = int(head["size"])
        except (ValueError, TypeError, KeyError) as error:
            raise ObjectStoreError("A message cannot be read.", hint="Use the same version everywhere.") from error
        if not 0 <= size <= _OBJECT_BYTES:
            raise ObjectStoreError(f"A message of {size} bytes is too long.", hint="Lower the challenge's limits.")
        parts, have = [self._buffer], len(self._buffer)
        while have < size:
            self._buffer = b""
            self._fill(min(1 << 20, size - have))
            parts.append(self._buffer)
            have += len(self._buffer)
        whole = b"".join(parts)
        self._buffer = whole[size:]
        descriptor = self._descriptors.pop(0) if self._descriptors else None
        for other in self._descriptors:
            os.close(other)
        self._descriptors = []
        return head, whole[:size], descriptor

    def _fill(self, limit: int) -> None:
        part, ancillary, _, _ = self._channel.recvmsg(limit, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors += numbers
        if not part:
            raise EOFError
        self._buffer += part
