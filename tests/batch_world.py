"""A small real world on the stand-in for AWS Batch: workers are processes of this machine, hosts are folders."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3

from batch_stand_in import REGION, BatchStandIn, Host, Kind, serving
from cloud_in_moto import for_moto
from referee.challenge import MachineType, load_challenge
from referee.cloud.alarms import TOLD
from referee.cloud.stack import Account
from referee.cloud.template import template
from referee.engines.aws_batch import AwsBatchEngine
from referee.engines.aws_batch_calls import BatchCalls
from referee.engines.aws_batch_events import HIDDEN_SECONDS
from referee.engines.aws_batch_fleet import Fleet
from referee.engines.aws_batch_stack import Patience, Stack
from worker_world import LIMITS, World, make_world, proofs, watch_leaves

STACK, NODE_FOLDER = "stand-in", "/var/lib/referee"
MACHINES = {"c5.large": MachineType(cpus=2, memory=4 * 2**30, price=Decimal("0.085"), reference=True)}
KIND = Kind(vcpus=2, registered_mib=3600, most=1)
DEFINITION = {
    "jobDefinitionName": f"{STACK}-worker",
    "type": "container",
    "retryStrategy": {"attempts": 1},
    "containerProperties": {
        "image": "referee-worker",
        "command": ["false"],
        "privileged": True,
        "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "1024"}],
        "environment": [{"name": "REFEREE_NOTICE_SECONDS", "value": "0.2"}],
        "volumes": [{"name": "node", "host": {"sourcePath": NODE_FOLDER}}],
        "mountPoints": [{"sourceVolume": "node", "containerPath": NODE_FOLDER}],
    },
}


@dataclass
class BatchWorld:
    """The world of workers, the service, and the events' queue."""

    world: World
    batch: BatchStandIn
    events_url: str

    def engine(
        self,
        *,
        machines: dict[str, MachineType] | None = None,
        slots: int | None = 2,
        ceilings: dict[str, int] | None = None,
        alone: bool = False,
        alarm: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        **patience: float,
    ) -> AwsBatchEngine:
        """A controller's engine; by default two attempts of each machine type at once."""
        return AwsBatchEngine(
            self.world.objects,
            BatchCalls(REGION, pause=lambda _seconds: None, event_seconds=0),
            Stack(STACK, f"{STACK}-worker", self.events_url, NODE_FOLDER, heartbeat_alarm=alarm),
            Fleet(machines or MACHINES, ceilings or {}, slots, alone=alone),
            LIMITS,
            patience=Patience(**{"listen": 0.1, "look": 0.5, **patience}),
            clock=clock,
            pause=pause,
        )

    def hosts(self) -> list[Path]:
        """The disks of all machines that there ever were."""
        return [host.folder for host in self.batch.hosts]


def deploy(folder: Path, batch: BatchStandIn, url: str, on_step: Callable[[str], None] = lambda _: None) -> None:
    """The stack of a challenge, as far as moto makes it; its bucket goes into the challenge, its jobs to the stand-in.

    Args:
        folder: the challenge's.
        batch: the service, which tells the stack's queue from now on.
        url: where it is served.
        on_step: told what goes on.
    """
    challenge = load_challenge(folder)
    assert challenge.engine.aws is not None
    account = Account(challenge.engine.aws, {"Delay": 1, "MaxAttempts": 60})
    stack, changed = for_moto(template(challenge))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        account.deploy(stack, {}, on_step=on_step)
    on_step(f"moto made {len(stack['Resources'])} resources; not made, or in its own words: {'; '.join(changed)}")
    outputs = account.state().outputs
    definition = dict(DEFINITION, jobDefinitionName=f"{challenge.engine.aws.stack}-worker")
    boto3.client("batch").register_job_definition(**definition)
    batch.events = partial(tell, outputs["EventsQueueUrl"])
    with (folder / "challenge.toml").open("a", encoding="utf-8") as file:
        file.write(f'[objects]\nurl = "s3://{outputs["Bucket"]}"\nregion = "{REGION}"\nendpoint = "{url}"\n')


def tell(events_url: str, events: list[dict[str, Any]]) -> None:
    """Hand state changes to a queue, those that the stack's rule lets through."""
    events = [event for event in events if event["detail"]["status"] in TOLD]
    for begin in range(0, len(events), 10):
        entries = [
            {"Id": str(number), "MessageBody": json.dumps(event)}
            for number, event in enumerate(events[begin : begin + 10])
        ]
        _sqs().send_message_batch(QueueUrl=events_url, Entries=entries)


def _sqs() -> Any:
    return _clients(os.environ["AWS_ENDPOINT_URL"])


@functools.cache
def _clients(_url: str) -> Any:
    return boto3.client("sqs")


@contextlib.contextmanager
def batch_world(
    folder: Path, queues: dict[str, Kind] | None = None, *, proven: bool = True, ticking: bool = True, **settings: Any
) -> Iterator[BatchWorld]:
    """The world for as long as the context lasts."""
    world = make_world(folder, proven=False)

    def furnish(host: Host) -> None:
        if ticking:  # with time of the caller's own nothing runs
            watch_leaves(host.folder, host)
        if proven:
            shutil.copytree(proofs(), host.folder / "proofs")

    batch = BatchStandIn(folder / "hosts", queues or {f"{STACK}-c5-large": KIND}, furnish=furnish, **settings)
    keys = {"AWS_ACCESS_KEY_ID": "stand-in", "AWS_SECRET_ACCESS_KEY": "stand-in", "AWS_DEFAULT_REGION": REGION}
    with serving(batch, ticking=ticking) as url, patch.dict(os.environ, keys | {"AWS_ENDPOINT_URL": url}):
        boto3.client("batch").register_job_definition(**DEFINITION)
        # A queue of its own: moto is one for all worlds of a process, and gives out again what was not deleted.
        name, hidden = f"{STACK}-events-{secrets.token_hex(4)}", {"VisibilityTimeout": str(HIDDEN_SECONDS)}
        events_url = boto3.client("sqs").create_queue(QueueName=name, Attributes=hidden)["QueueUrl"]
        batch.events = partial(tell, events_url)
        made = BatchWorld(world, batch, events_url)
        made.engine().bring(world.data)
        try:
            yield made
        finally:
            batch.events = None
