"""The engine `aws-batch` under fire: real engine, workers and containers, on a STAND-IN for AWS Batch and its machines.

Machines are taken back with notice or lost without, the API throttles, fails and loses replies, state changes are not
told, there is no capacity, jobs are terminated, the bucket refuses, loses replies or is slow, workers and controllers
are killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
from demo_aws import ADDED, STACK, deploy

import s3_world
from batch_stand_in import REGION, BatchStandIn, Host, Job, Kind, serving
from board_world import REFEREE, as_json, make_challenge, referee
from faults.bucket import BucketFaults
from faults.findings import Findings, content, findings, most_committed_usd
from faults.judgement import Charge, Evidence
from faults.machine import FEW, Controller, calm_down
from faults.storm import PHASE, Pressed, until_it_ends
from faults.witness import Witness
from referee.challenge import MachineType, load_challenge
from referee.engines.machine_lives import noted_lives
from referee.workspace import Workspace
from worker_world import proofs

_ENGINE = "aws-batch"
_QUEUE = f"{STACK}-c5-large"
_RUN = ("run", "--plan", "plan.json", "--yes")
_BUDGET_USD = Decimal("0.05")
_LIMIT_SECONDS = 8.0
_GONE_SECONDS = 60.0
_GRANULARITY = Decimal(120)  # seconds: a machine's end is noted at the next look of a controller that is there
_CLOCKS = Decimal(2)


class FrailBatch(BatchStandIn):
    """The stand-in, throttled on demand."""

    throttled = False

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any], str]:
        """As the real service does when it is asked too often."""
        if self.throttled:
            return 429, {"message": "Too Many Requests"}, "TooManyRequestsException"
        return super().answer(path, body)


class CloudArena:
    """See the module."""

    name = _ENGINE
    each = 7

    def __init__(self, folder: Path, batch: FrailBatch, proxy: s3_world.Proxy) -> None:
        self._batch, self._proxy, self._folder = batch, proxy, folder
        self._challenge = folder / "challenge"
        self._machines: dict[str, MachineType] = load_challenge(self._challenge).machines
        referee(self._challenge, "submissions", "import", "submissions.csv")
        # Money is spent under a confirmed plan alone: a pilot, and a plan within a budget, are where campaigns begin.
        referee(self._challenge, "pilot", "--phase", PHASE, "--count", "4", "--yes")
        wanted = ("--deadline", "2h", "--budget", str(_BUDGET_USD), "--no-page")
        referee(self._challenge, "plan", "--phase", PHASE, *wanted)
        self._wait_until_no_machine_is_up()
        objects = Workspace.open(self._challenge).objects
        self._imported = {key for key in objects.list() if not key.startswith("nodes/")}
        self._saved = folder / "saved"
        _copy(self._challenge / ".referee", self._saved)
        self._calm = self._undisturbed()
        self.kinds = tuple(self._faults(random.Random(0)).strikes())  # noqa: S311 - asked for names

    def campaign(self, number: int, faults: Sequence[str], chance: random.Random) -> tuple[Counter[str], Evidence]:  # noqa: ARG002 - the seam's
        """A campaign of ten submissions."""
        self._restore()
        fire = self._faults(chance)
        pressed = Pressed(faults, fire.strikes())

        def press(run: subprocess.Popen[bytes]) -> None:
            fire.controller.run = run
            pressed.press()

        pauses = iter(lambda: chance.uniform(0.3, 3.0), None)
        with Witness(lambda: [host.folder for host in list(self._batch.hosts)]) as witness:
            odd = until_it_ends(
                self._start,
                lambda: referee(self._challenge, "resume"),
                press,
                pauses,
                lambda: content(Workspace.open(self._challenge)),
            )
            fire.end()
            odd += self._wait_until_no_machine_is_up()
            left = witness.left_running()
        pressed.struck["reply lost after submission"] -= self._batch.lost_replies["SubmitJob"]
        if odd:
            odd.append((self._folder / "run.log").read_text(errors="replace")[-2000:])
        referee(self._challenge, *_RUN)  # nothing to do: it looks at the machines, of which none is left
        found = findings(Workspace.open(self._challenge), lambda *words: referee(self._challenge, *words))
        bill = [row["usd"] for row in as_json(self._challenge, "cloud", "bill")]
        return +pressed.struck, Evidence(
            calm=self._calm.verdicts, verdicts=found.verdicts, events=found.events, claims=found.claims,
            results=found.results, executed=witness.executed(), board=found.board, calm_board=self._calm.board,
            charges=self._charges(), billed_usd=sum((Decimal(usd) for usd in bill), Decimal(0)), left=left, odd=odd,
            committed_usd=most_committed_usd(found.events, self._machines, _LIMIT_SECONDS), allowed_usd=_BUDGET_USD,
        )  # fmt: skip

    def _faults(self, chance: random.Random) -> _Faults:
        ledger = self._challenge / ".referee" / "ledger.sqlite"
        return _Faults(self._batch, Controller(self._start, lambda: ledger, chance), self._proxy, chance)

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._folder / "run.log").open("ab") as log:
            return subprocess.Popen([REFEREE, *_RUN], cwd=self._challenge, stdout=log, stderr=log)

    def _charges(self) -> list[Charge]:
        """What was noted of each machine's life, against the stand-in's own record of them."""
        noted = {life.node: life for life in noted_lives(Workspace.open(self._challenge).objects, _ENGINE)}
        charges = []
        for host in self._batch.hosts:
            assert host.gone is not None
            life, price = noted.pop(host.id, None), self._machines[host.kind.instance_type].price
            lived = Decimal(repr(host.gone - host.launched))
            billed = None if life is None else Decimal(repr((life.seen_at - life.launched_at).total_seconds()))
            charges.append(Charge(host.id, price, billed, max(Decimal(0), lived - _CLOCKS), lived + _GRANULARITY))
        charges += [Charge(name, Decimal(0), Decimal(0), Decimal(0), None) for name in noted]
        return charges

    def _wait_until_no_machine_is_up(self) -> list[str]:
        deadline = time.monotonic() + _GONE_SECONDS
        while (up := self._batch.living_hosts()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [f"The machine {host.id} is still up." for host in up]

    def _restore(self) -> None:
        """The state as it was imported, and machines that never were."""
        objects = boto3.client("s3", endpoint_url=self._batch.url)
        place = load_challenge(self._challenge).objects.url
        assert place is not None
        for key in set(Workspace.open(self._challenge).objects.list()) - self._imported:
            objects.delete_object(Bucket=place.removeprefix("s3://").strip("/"), Key=key)
        _copy(self._saved, self._challenge / ".referee")
        with self._batch.lock:
            for record in (self._batch.hosts, self._batch.jobs, self._batch._live, self._batch._children):
                record.clear()

    def _undisturbed(self) -> Findings:
        """The same challenge, in the very same state, on the engine `local`."""
        folder = self._folder / "calm"
        _copy(self._challenge, folder)
        before, _, after = (folder / "challenge.toml").read_text().partition("[engine]")
        (folder / "challenge.toml").write_text(
            f"{before}[engine]\nslots = 2\n[objects]{after.partition('[objects]')[2]}"
        )
        referee(folder, "run", PHASE)
        return findings(Workspace.open(folder), lambda *words: referee(folder, *words))


class _Faults:
    """What can be done to the stand-in, its machines and the bucket."""

    def __init__(self, batch: FrailBatch, controller: Controller, proxy: s3_world.Proxy, chance: random.Random) -> None:
        self._batch, self.controller, self._chance = batch, controller, chance
        self._bucket = BucketFaults(proxy, chance)
        self._threads: list[threading.Thread] = []
        batch.lost_replies.clear()

    def strikes(self) -> dict[str, Callable[[], bool]]:
        """By kind."""
        return {
            **self.controller.strikes(),
            **self._bucket.strikes(),
            "spot machine reclaimed with notice": lambda: self._to_a_host(self._batch.reclaim),
            "node lost with everything on it": lambda: self._to_a_host(self._batch.lose),
            "worker killed": self._kill_worker,
            "job cancelled by an administrator": self._terminate,
            "reply lost after submission": self._lose_reply,
            "API throttles (429)": lambda: self._for_a_moment("throttled", True, False),
            "API refuses (503)": lambda: self._for_a_moment("down", True, False),
            "state changes are not told": lambda: self._for_a_moment("events", None, self._batch.events),
            "no capacity for a while": lambda: self._for_a_moment("without_capacity", {_QUEUE}, set()),
        }

    def end(self) -> None:
        """Wait until all is as it should be."""
        self._bucket.end()
        for thread in self._threads:
            thread.join()

    def _running(self) -> list[Job]:
        return [job for job in list(self._batch.jobs.values()) if job.status == "RUNNING" and job.execution is not None]

    def _to_a_host(self, strike: Callable[[Host], None]) -> bool:
        busy = [host for host in self._batch.living_hosts() if host.jobs]
        if not busy:
            return False
        strike(self._chance.choice(busy))
        return True

    def _kill_worker(self) -> bool:
        if not (running := self._running()):
            return False
        process = getattr(self._chance.choice(running).execution, "_process", None)
        with contextlib.suppress(ProcessLookupError):
            if process is not None and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                return True
        return False

    def _terminate(self) -> bool:
        if not (running := self._running()):
            return False
        boto3.client("batch").terminate_job(jobId=self._chance.choice(running).id, reason="By an administrator.")
        return True

    def _lose_reply(self) -> bool:
        self._batch.lost_replies["SubmitJob"] += 1
        return True

    def _for_a_moment(self, name: str, bad: object, good: object) -> bool:
        if getattr(self._batch, name) == bad:
            return False
        setattr(self._batch, name, bad)
        rest = self._chance.uniform(0.5, 4.0)

        def mend() -> None:
            time.sleep(rest)
            setattr(self._batch, name, good)

        self._threads.append(threading.Thread(target=mend))
        self._threads[-1].start()
        return True


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["rm", "-rf", target], check=True)
    subprocess.run(["cp", "-a", source, target], check=True)


@contextlib.contextmanager
def arena(folder: Path) -> Iterator[CloudArena]:
    """The arena, for as long as the context lasts."""
    folder.mkdir()
    challenge = make_challenge(folder / "challenge", FEW)
    calm_down(challenge)
    text = (challenge / "challenge.toml").read_text(encoding="utf-8").partition("[engine]")[0]
    (challenge / "challenge.toml").write_text(text + ADDED, encoding="utf-8")

    def furnish(host: Host) -> None:
        subprocess.run(["cp", "-a", proofs(), host.folder / "proofs"], check=True)

    queues = {_QUEUE: Kind(vcpus=1, registered_mib=3600, most=2)}
    batch = FrailBatch(folder / "hosts", queues, furnish=furnish, notice_seconds=5.0, idle_seconds=3.0)
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}
    with (
        serving(batch) as url,
        patch.dict(os.environ, keys | {"AWS_ENDPOINT_URL": url}),
        s3_world.proxy(s3_world.Service(url)) as proxy,
    ):
        with contextlib.redirect_stdout(sys.stderr):
            deploy(challenge, batch, proxy.endpoint)
        yield CloudArena(folder, batch, proxy)
