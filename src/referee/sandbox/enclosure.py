"""A short-lived process that is PID 1 of its own pid and mount namespace, for callers that are not a worker."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

from referee.errors import HostError
from referee.sandbox import cgroups, kernel


def enter_mount_namespace() -> None:
    """Make all mounts private to this process and give it a /proc for its own pid namespace."""
    kernel.unshare(kernel.NEW_MOUNTS)
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)


def enclosed(work: Callable[[], Any]) -> Any:
    """What `work` returns (as JSON) when it runs as PID 1 of its own pid and mount namespace.

    Raises:
        HostError: if it raised, or was killed.
    """
    reader, writer = os.pipe()
    outer = os.fork()
    if outer == 0:
        os.close(reader)
        _outer(work, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
    except BaseException:
        os.kill(outer, signal.SIGKILL)
        raise
    finally:
        os.waitpid(outer, 0)
    answer = json.loads(said) if said else {"error": "it was killed"}
    if "error" in answer:
        raise HostError(f"Work in a namespace of its own failed: {answer['error']}", hint="See the reason above.")
    return answer["result"]


def _outer(work: Callable[[], Any], writer: int) -> None:
    try:
        # Die with the caller: the kernel then ends the inner process as its pid namespace's reaper.
        kernel.die_with_parent()
        cgroups.make_room()
        kernel.unshare(kernel.NEW_PIDS)
        inner = os.fork()
        if inner == 0:
            kernel.die_with_parent()
            _inner(work, writer)
        os.close(writer)
        os.waitpid(inner, 0)
    finally:
        os._exit(0)


def _inner(work: Callable[[], Any], writer: int) -> None:
    try:
        try:
            enter_mount_namespace()
            answer = {"result": work()}
        except BaseException as error:  # noqa: BLE001 - the other side must learn of everything
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:
        os._exit(0)
