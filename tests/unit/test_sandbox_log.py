"""The pipe of a run's output: how long it is waited on."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from datetime import timedelta
from io import BytesIO

from referee.challenge import Contract, Limits
from referee.sandbox.log import LogPipe
from referee.sandbox.policy import sandbox_policy


def test_a_limit_of_many_weeks_can_be_waited_for() -> None:
    """poll(2) takes milliseconds in 32 bits: 24 days."""
    policy = sandbox_policy(Contract(), Limits(wall_time=timedelta(days=90)))
    pipe, log = LogPipe(policy), BytesIO()
    wake, never = os.pipe()
    with ExitStack() as stack:
        writer = pipe.open(stack, log, wake)
        with subprocess.Popen(["echo", "done"], stdout=writer) as process:
            os.close(writer)
            descriptor = os.pidfd_open(process.pid)
            assert pipe.pump(descriptor, time.monotonic() + policy.wall_seconds) == "itself"
            os.close(descriptor)
        pipe.drain()
    for each in (wake, never):
        os.close(each)
    assert log.getvalue() == b"done\n"
