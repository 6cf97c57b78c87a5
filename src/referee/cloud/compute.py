"""The machines: a compute environment and a queue for each machine type and market, and the job that is a worker."""

from __future__ import annotations

import base64

from referee.challenge import SPOT, MachineType
from referee.cloud.network import subnet_refs
from referee.cloud.words import TAG, Json, arn, named, ref, resource, sub
from referee.engines.aws_batch_fleet import slug

NODE_FOLDER = "/var/lib/referee"
# Batch cancels by itself what has stood at the head of a queue for so long, for when there is no controller to do it.
# The first waits for longer than a controller does by default.
STUCK = {
    "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY": 7200,
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE": 600,
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT": 600,
}
# Current images for GPUs know these families no more; they stay in the catalogue for replaying old campaigns.
HISTORICAL = ("p3.", "g3.", "p2.", "g2.")

_USER_DATA = f"""MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="==REFEREE=="

--==REFEREE==
Content-Type: text/x-shellscript; charset="us-ascii"

#!/bin/bash
set -eu
install -d -m 0700 {NODE_FOLDER}
cat >> /etc/ecs/ecs.config <<'CONFIG'
ECS_ENABLE_SPOT_INSTANCE_DRAINING=true
ECS_CONTAINER_STOP_TIMEOUT=90s
ECS_IMAGE_PULL_BEHAVIOR=prefer-cached
ECS_DISABLE_PRIVILEGED=false
CONFIG

--==REFEREE==--
"""


def compute(machines: dict[str, MachineType], ceilings: dict[str, int]) -> Json:
    """The resources.

    Args:
        machines: by name, which is EC2's own; spot capacity under `NAME (spot)`.
        ceilings: how many instances of each there can be at most.
    """
    made: Json = {"Launch": _launch_template(), "Worker": _job_definition()}
    for name, machine in machines.items():
        title = "".join(part.title() for part in slug(name).split("-"))
        made[f"{title}Environment"] = _environment(name, machine, ceilings[name])
        made[f"{title}Queue"] = _queue(name, f"{title}Environment")
    return made


def queue_titles(machines: dict[str, MachineType]) -> list[str]:
    """The logical ids of the queues."""
    return ["".join(part.title() for part in slug(name).split("-")) + "Queue" for name in machines]


def _launch_template() -> Json:
    owned = [{"Key": TAG, "Value": ref("AWS::StackName")}, {"Key": "Name", "Value": named("-worker")}]
    return resource(
        "AWS::EC2::LaunchTemplate",
        {
            "LaunchTemplateData": {
                # A worker switches its machine off when nothing more is to begin there (`engines.aws_batch_machine`).
                "InstanceInitiatedShutdownBehavior": "terminate",
                # Workers have the machine's network and ask for its name and for interruptions; a container with a
                # network of its own would be one hop further away, and gets no answer.
                "MetadataOptions": {
                    "HttpTokens": "required",
                    "HttpPutResponseHopLimit": 1,
                    "HttpEndpoint": "enabled",
                    "InstanceMetadataTags": "disabled",
                },
                "BlockDeviceMappings": [
                    {
                        "DeviceName": "/dev/xvda",
                        "Ebs": {
                            "VolumeSize": ref("DiskGiB"),
                            "VolumeType": "gp3",
                            "Encrypted": True,
                            "DeleteOnTermination": True,
                        },
                    }
                ],
                "UserData": base64.b64encode(_USER_DATA.encode()).decode(),
                "TagSpecifications": [
                    {"ResourceType": "instance", "Tags": owned},
                    {"ResourceType": "volume", "Tags": owned},
                ],
            },
        },
    )


def _environment(name: str, machine: MachineType, ceiling: int) -> Json:
    kind, is_spot = name.removesuffix(SPOT), name.endswith(SPOT)
    return resource(
        "AWS::Batch::ComputeEnvironment",
        {
            "ComputeEnvironmentName": named(f"-{slug(name)}"),
            "Type": "MANAGED",
            "State": "ENABLED",
            "ReplaceComputeEnvironment": False,
            "ComputeResources": {
                "Type": "SPOT" if is_spot else "EC2",
                "AllocationStrategy": "SPOT_PRICE_CAPACITY_OPTIMIZED" if is_spot else "BEST_FIT_PROGRESSIVE",
                "MinvCpus": 0,
                "MaxvCpus": int(machine.cpus) * ceiling,
                "InstanceTypes": [kind],
                "Ec2Configuration": [{"ImageType": "ECS_AL2023_NVIDIA" if machine.gpus else "ECS_AL2023"}],
                "InstanceRole": arn("InstanceProfile"),
                "LaunchTemplate": {
                    "LaunchTemplateId": ref("Launch"),
                    "Version": arn("Launch", "LatestVersionNumber"),
                },
                "Subnets": subnet_refs(),
                "SecurityGroupIds": [ref("Instances")],
                "Tags": {TAG: ref("AWS::StackName"), "Name": named("-worker")},
            },
            "Tags": {TAG: ref("AWS::StackName")},
        },
    )


def _queue(name: str, environment: str) -> Json:
    return resource(
        "AWS::Batch::JobQueue",
        {
            "JobQueueName": named(f"-{slug(name)}"),
            "State": "ENABLED",
            "Priority": 1,
            "ComputeEnvironmentOrder": [{"Order": 1, "ComputeEnvironment": ref(environment)}],
            "JobStateTimeLimitActions": [
                {"Action": "CANCEL", "State": "RUNNABLE", "Reason": reason, "MaxTimeSeconds": seconds}
                for reason, seconds in STUCK.items()
            ],
            "Tags": {TAG: ref("AWS::StackName")},
        },
    )


def _job_definition() -> Json:
    return resource(
        "AWS::Batch::JobDefinition",
        {
            "JobDefinitionName": named("-worker"),
            "Type": "container",
            "PlatformCapabilities": ["EC2"],
            "PropagateTags": True,
            "RetryStrategy": {"Attempts": 1},
            "Timeout": {"AttemptDurationSeconds": 3600},
            "ContainerProperties": {
                "Image": sub("${Images.RepositoryUri}:${WorkerTag}"),
                "Command": ["false"],
                # It mounts, unshares and limits: see "The one idea" in ARCHITECTURE.md. The submission is its child,
                # without a network, a capability or a device.
                "Privileged": True,
                "JobRoleArn": arn("WorkerRole"),
                "ResourceRequirements": [{"Type": "VCPU", "Value": "1"}, {"Type": "MEMORY", "Value": "1024"}],
                "LinuxParameters": {"InitProcessEnabled": True},
                "Volumes": [{"Name": "node", "Host": {"SourcePath": NODE_FOLDER}}],
                "MountPoints": [{"SourceVolume": "node", "ContainerPath": NODE_FOLDER, "ReadOnly": False}],
                "LogConfiguration": {
                    "LogDriver": "awslogs",
                    "Options": {"awslogs-group": ref("WorkerLogs"), "awslogs-stream-prefix": "worker"},
                },
            },
            "Tags": {TAG: ref("AWS::StackName")},
        },
    )
