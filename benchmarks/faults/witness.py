"""Who ran on this machine, and how long, as seen on it: folders of attempts, and control groups with processes."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Self

from faults.findings import seconds
from faults.judgement import Charge
from referee.ledger.queries import AttemptRow
from referee.sandbox.box import LEAF_NAME

_POLL_SECONDS = 0.02
_GRANULARITY = Decimal(2)  # seconds: of looking, on a machine that has much else to do
_GONE_SECONDS = 30.0


@dataclass(slots=True)
class Span:
    """When something was surely there, and when it may have been (seconds, of one clock)."""

    before: float
    first: float
    last: float
    after: float | None = None


class Witness:
    """Looks at the nodes of an engine all the time.

    Args:
        nodes: their folders, now.

    Attributes:
        folders: by attempt, when its folder was on a node, which is as long as its worker had a part of the machine.
        containers: by attempt, the cgroups of its sandboxes, and when they had processes.
    """

    def __init__(self, nodes: Callable[[], Iterable[Path]]) -> None:
        self._nodes = nodes
        self.folders: dict[str, dict[Path, Span]] = defaultdict(dict)
        self.containers: dict[str, dict[str, Span | None]] = defaultdict(dict)
        self._groups: dict[str, set[Path]] = defaultdict(set)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def executed(self) -> dict[str, int]:
        """How many sandboxes each attempt had in which anything ran."""
        ran = {
            attempt: sum(span is not None for span in spans.values()) for attempt, spans in self.containers.items()
        }  # fmt: skip
        return {attempt: times for attempt, times in ran.items() if times}

    def left(self) -> list[str]:
        """What is still there after a while: folders of attempts, and their cgroups."""
        deadline = time.monotonic() + _GONE_SECONDS
        while (found := self._left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def left_running(self) -> list[str]:
        """Processes of sandboxes that are still there, on machines that are all gone; what was theirs is removed."""
        found = []
        for group in sorted(path for paths in self._groups.values() for path in paths if path.is_dir()):
            try:
                group.rmdir()  # a real machine takes its control groups with it
            except OSError:
                found.append(str(group))
        return found

    def charges(self, attempts: Sequence[AttemptRow]) -> list[Charge]:
        """What was billed for attempts whose times are known: at least what ran, at most what was held."""
        found = []
        for row in attempts:
            billed = seconds(row)
            if billed is None and row.reported_by != "worker":
                continue  # it was lost with its times
            spans = [span for span in self.containers.get(row.attempt, {}).values() if span is not None]
            ran = Decimal(repr(sum(span.last - span.first for span in spans)))
            held = [(span.after or time.time()) - span.before for span in self.folders.get(row.attempt, {}).values()]
            most = Decimal(repr(sum(held))) + _GRANULARITY if held else None
            found.append(Charge(row.attempt, Decimal(0), billed, max(Decimal(0), ran - _GRANULARITY), most))
        return found

    def _left(self) -> list[str]:
        groups = [str(path) for paths in self._groups.values() for path in paths if path.is_dir()]
        return groups + [str(path) for node in self._nodes() for path in (node / "run").glob("*")]

    def _watch(self) -> None:
        before = time.time()
        while not self._over.wait(_POLL_SECONDS):
            now = time.time()
            there: set[tuple[str, Path]] = set()
            for node in list(self._nodes()):
                with contextlib.suppress(OSError):
                    for folder in (node / "run").iterdir():
                        there.add((folder.name, folder))
                        self._look(folder, before, now)
            for attempt, spans in self.folders.items():
                for folder, span in spans.items():
                    if (attempt, folder) in there:
                        span.last, span.after = now, None
                    elif span.after is None:
                        span.after = now
            before = now

    def _look(self, folder: Path, before: float, now: float) -> None:
        self.folders[folder.name].setdefault(folder, Span(before, now, now))
        with contextlib.suppress(OSError, ValueError):
            paths = [Path(path) for path in json.loads((folder / "box" / LEAF_NAME).read_bytes())]
            self._groups[folder.name].update(paths)
            spans = self.containers[folder.name]
            name = paths[0].name
            if any((path / "cgroup.procs").read_bytes() for path in paths if path.is_dir()):
                span = spans.get(name) or Span(before, now, now)
                span.last = now
                spans[name] = span
            else:
                spans.setdefault(name, None)
