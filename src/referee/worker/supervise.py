"""The worker's two processes: the inner is PID 1 of its own pid and mount namespace, the outer waits for it.

Whatever the inner starts lives in its pid namespace, out of which nothing can fork or `setsid`; when PID 1 dies, the
kernel kills the rest and drops the mounts. The outer does nothing that could fail: it hands on SIGTERM, and cleans up
after the inner. If the outer is killed, the kernel kills the inner (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from referee.sandbox import cgroups, enter_mount_namespace, kernel

_BROKEN = 70  # sysexits.h, EX_SOFTWARE: the worker itself failed


def hold_back_sigterm() -> None:
    """Let SIGTERM wait until there is a worker to hand it on to. To be called before the attempt's lock is held."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def supervise(body: Callable[[], int], after: Callable[[], None]) -> int:
    """Run `body` as PID 1 of new namespaces, wait for its end, then run `after` here; returns the exit status.

    Call it in a process with one thread, as root. SIGTERM to this process reaches `body` as SIGTERM, which is blocked
    there until `body` is ready for it and unblocks it.

    Args:
        body: returns the exit status.
        after: cleans up when every process that `body` started is gone.
    """
    inner_process = -1

    def hand_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(inner_process, number)

    hold_back_sigterm()
    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alive, alive_for_outer = os.pipe()
    cgroups.make_room()
    kernel.unshare(kernel.NEW_PIDS)
    inner = os.fork()
    if inner == 0:
        os.close(alive_for_outer)
        os._exit(_run_inner(body, alive))
    os.close(alive)
    inner_process = os.pidfd_open(inner)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _, status = os.waitpid(inner, 0)
    os.close(alive_for_outer)
    after()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _run_inner(body: Callable[[], int], outer_alive: int) -> int:
    status = _BROKEN
    try:
        kernel.die_with_parent()
        if select.select([outer_alive], [], [], 0)[0]:
            return _BROKEN  # the outer process died before the kernel knew that we depend on it
        enter_mount_namespace()
        os.chdir("/")
        os.umask(0o022)
        status = body()
    except BaseException:  # noqa: BLE001 - the end of a process: what is not printed here is lost
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return status
