"""The template of the stack, made from the challenge: what it runs on and how much of it there can be at most."""

from __future__ import annotations

from referee.challenge import Challenge
from referee.cloud.alarms import alarms
from referee.cloud.compute import HISTORICAL, compute, queue_titles
from referee.cloud.network import network
from referee.cloud.roles import roles
from referee.cloud.storage import storage
from referee.cloud.words import Json, arn, ref
from referee.engines.aws_batch_fleet import UNBOUNDED_MACHINES, fleet_of
from referee.errors import ConfigurationError

_RETENTION_DAYS = 90


def template(challenge: Challenge, *, email: bool = False) -> Json:
    """The template.

    Args:
        challenge: for its machine types, counts and quotas.
        email: whether a person is told by mail of alarms and spending; brings the parameters `Email` and `BudgetUsd`.

    Raises:
        ConfigurationError: if the challenge names no stack, or no machine type that EC2 still offers this way.
    """
    choice = challenge.engine.aws
    if choice is None:
        raise ConfigurationError("engine.aws: this table is required.", hint="docs/aws.md has an example.")
    fleet = fleet_of(challenge, choice)
    machines = {name: machine for name, machine in fleet.machines.items() if not name.startswith(HISTORICAL)}
    if not machines:
        raise ConfigurationError(
            "machines: none of them can be offered: images for GPUs know their families no more.",
            hint="Add a current type, such as g4dn.xlarge.",
        )
    ceilings = {name: fleet.ceilings.get(name, UNBOUNDED_MACHINES) for name in machines}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Referee: machines for the challenge {challenge.name}, and what they need",
        "Parameters": _parameters(email=email),
        "Resources": network()
        | storage()
        | roles()
        | compute(machines, ceilings)
        | alarms(queue_titles(machines), email=email),
        "Outputs": {
            "Bucket": {"Description": "Objects: s3://<this>, and nothing behind it", "Value": ref("Bucket")},
            "JobDefinition": {"Description": "The worker's job", "Value": ref("Worker")},
            "EventsQueueUrl": {"Description": "State changes", "Value": ref("Events")},
            "WorkerImages": {"Description": "Push the worker's image here", "Value": arn("Images", "RepositoryUri")},
            "ControllerPolicy": {"Description": "Attach it to the controller's user or role",
                                 "Value": ref("ControllerPolicy")},
            "HeartbeatAlarm": {"Description": "Rings when a controller is silent", "Value": ref("HeartbeatAlarm")},
            "WorkerLogs": {"Description": "What workers print", "Value": ref("WorkerLogs")},
        },
    }  # fmt: skip


def _parameters(*, email: bool) -> Json:
    found: Json = {
        "VpcCidr": {"Type": "String", "Default": "10.73.0.0/16", "Description": "Addresses of the private network",
                    "AllowedPattern": r"(\d{1,3}\.){3}\d{1,3}/1[6-9]"},
        "S3PrefixList": {"Type": "String", "Description": "S3's prefix list in this region; deploy looks it up",
                         "AllowedPattern": "pl-[0-9a-f]+"},
        "WorkerTag": {"Type": "String", "Default": "1", "Description": "Tag of the worker's image in the repository"},
        "DiskGiB": {"Type": "Number", "Default": 200, "MinValue": 30, "MaxValue": 16384,
                    "Description": "Disk of each instance: images, data, scratch"},
        "LogDays": {"Type": "Number", "Default": _RETENTION_DAYS, "Description": "How long logs are kept",
                    "AllowedValues": [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731]},
    }  # fmt: skip
    if email:
        found["Email"] = {"Type": "String", "Description": "Who is told", "AllowedPattern": r"[^@\s]+@[^@\s]+"}
        found["BudgetUsd"] = {"Type": "Number", "Default": 1000, "MinValue": 1, "Description": "To be spent in a month"}
    return found
