"""A second opinion on a container that did not start: was it the image, or is it this machine?"""

from __future__ import annotations

import io
from pathlib import Path

from referee.errors import RefereeError
from referee.sandbox import Box, SandboxPolicy
from referee.sandbox.conformance import Suite
from referee.worker.judge import Trial
from referee.worker.lock import box_folder
from referee.worker.stopping import Stopping


def try_known_good(
    policy: SandboxPolicy, data: Path, items: tuple[str, ...] | None, folder: Path, stopping: Stopping
) -> Trial:
    """Start this machine's own Python, which the proof of the host has shown to start, with the same settings.

    Args:
        policy: the same settings.
        data: the same data.
        items: the same part of it.
        folder: the attempt's folder; the failed sandbox is gone from it.
        stopping: may end the trial, which then settles nothing.
    """
    try:
        suite = Suite(folder / "trial")
        suite.prepare()
        with Box(policy, suite.image("-c", "pass"), data, items, box_folder(folder)) as box, stopping.running(box):
            outcome = box.run(io.BytesIO())
    except (RefereeError, OSError):
        return Trial.FAILED
    if outcome.ended_by == "kill":
        return Trial.NOT_MADE
    return Trial.STARTED if outcome.started else Trial.FAILED
