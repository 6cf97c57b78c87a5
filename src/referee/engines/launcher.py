"""The launcher: one process that has the worker's modules loaded and forks a worker for each order it is sent.

Starting Python and importing the worker takes half a second of processor time; a fork takes a few milliseconds. The
launcher has one thread and a session of its own, so that a Ctrl-C in the terminal does not reach its workers. Orders
come in as lines of JSON on its standard input, answers go out on its standard output. When its controller is gone (end
of input) it waits for its last worker and ends. It knows nothing that is not also in the object store and in the
attempts' locks, so its death loses nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from referee.errors import RefereeError
from referee.worker.leftovers import clear_if_dead
from referee.worker.lock import take_lock, write_holder
from referee.worker.main import Order, holder, run_worker
from referee.worker.run import Place
from referee.worker.supervise import hold_back_sigterm

_SWEEP_SECONDS = 0.2


def encode_order(order: Order) -> bytes:
    """An order as one line."""
    return json.dumps(asdict(order) | {"node_folder": str(order.node_folder)}).encode() + b"\n"


def _decode_order(line: bytes) -> Order:
    facts: dict[str, Any] = json.loads(line)
    place = facts["place"]
    place |= {"cpus": tuple(place["cpus"]), "gpus": tuple(place["gpus"])}
    return Order(**(facts | {"node_folder": Path(facts["node_folder"]), "place": Place(**place)}))


class Launcher:
    """Serves orders from one descriptor and answers on another."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders = orders
        self._answers = answers
        self._buffer = b""
        self._workers: dict[int, Order] = {}
        self._dirty: dict[str, Path] = {}

    def serve(self) -> None:
        """Until the input has ended and the last worker as well."""
        woken = self._listen_to_children()
        os.set_blocking(self._orders, False)
        waiting_for_orders = True
        while waiting_for_orders or self._workers or self._dirty:
            sources = [woken, *([self._orders] if waiting_for_orders else [])]
            ready, _, _ = select.select(sources, [], [], _SWEEP_SECONDS if self._dirty else None)
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
                self._reap()
            if self._orders in ready:
                waiting_for_orders = self._read_orders()
            self._sweep()

    def _listen_to_children(self) -> int:
        self._woken, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        return self._woken

    def _read_orders(self) -> bool:
        try:
            part = os.read(self._orders, 1 << 20)
        except BlockingIOError:
            return True
        *lines, self._buffer = (self._buffer + part).split(b"\n")
        for line in lines:
            self._start(_decode_order(line))
        return bool(part)

    def _start(self, order: Order) -> None:
        try:
            # Held before the worker exists, so that whoever was answered can see the worker live by its lock.
            lock = take_lock(order.node_folder, order.attempt)
        except (RefereeError, OSError) as error:
            self._answer({"refused": order.attempt, "reason": str(error)})
            return
        hold_back_sigterm()
        try:
            worker = os.fork()
            if worker == 0:
                self._become_worker(order)
            write_holder(lock, holder(order, worker))
        except OSError as error:
            self._answer({"refused": order.attempt, "reason": str(error)})
            return
        finally:
            os.close(lock)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self._workers[worker] = order
        self._answer({"started": order.attempt, "pid": worker})

    def _become_worker(self, order: Order) -> NoReturn:
        status = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self._orders)
            os.dup2(nothing, self._answers)
            os.close(self._woken)
            os.close(self._waker)
            status = run_worker(order)
        except BaseException as error:  # noqa: BLE001 - the end of a process: what is not printed here is lost
            print(f"{order.attempt}: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(status & 0xFF)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            order = self._workers.pop(pid, None)
            if order is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                self._dirty[order.attempt] = order.node_folder
            self._answer({"ended": order.attempt, "status": code})

    def _sweep(self) -> None:
        """After a worker was killed: its inner process, which is dying, may hold the lock for a moment still."""
        for attempt, node_folder in list(self._dirty.items()):
            try:
                if clear_if_dead(node_folder, attempt):
                    del self._dirty[attempt]
            except (OSError, RefereeError) as error:
                print(f"cannot clear {attempt}: {error}", file=sys.stderr, flush=True)

    def _answer(self, facts: dict[str, object]) -> None:
        # A controller that is gone needs no answer, and one that does not read must not stop the launcher.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._answers, json.dumps(facts).encode() + b"\n")


def main() -> int:
    """Serve standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(1, False)
    # What is loaded now stays; a worker that collected garbage would copy all of its pages.
    gc.collect()
    gc.freeze()
    Launcher(0, 1).serve()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
