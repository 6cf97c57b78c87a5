"""What is asked of AWS Batch for a wave: one job, or an array, that is tried once and ends by itself. Pure."""

from __future__ import annotations

import math
from typing import Any

from referee.attempts import AttemptSpec
from referee.engines.aws_batch_fleet import Fleet
from referee.engines.aws_batch_lives import TAG
from referee.engines.aws_batch_stack import Stack
from referee.engines.waves import Wave

JOB_PREFIX = "referee-"
_STAGING_SECONDS = 3600  # beside the submission's own time: boot of the worker, images, data, the result


def job_name(wave: str) -> str:
    """The name by which a wave's job is found again."""
    return JOB_PREFIX + wave


def limit_seconds(spec: AttemptSpec) -> int:
    """A job's time: so that nothing runs for ever when there is no controller. The worker's own limit comes first."""
    return math.ceil(spec.limits.wall_time.total_seconds() * spec.wall_time_scale) + _STAGING_SECONDS


def submission(wave: Wave, spec: AttemptSpec, stack: Stack, fleet: Fleet, objects: str) -> dict[str, Any]:
    """SubmitJob's request.

    Args:
        wave: as it was recorded.
        spec: of one of its attempts, which are all alike in what they need.
        stack: in which account.
        fleet: of which machines.
        objects: where the object store is.

    Raises:
        ConfigurationError: if no machine of the type gives as much.
    """
    needs = fleet.needs(spec.machine_type, spec.limits, spec.gpus)
    size = len(wave.attempts)
    return {
        "jobName": job_name(wave.wave),
        "jobQueue": fleet.queue(stack.name, spec.machine_type),
        "jobDefinition": stack.definition,
        **({"arrayProperties": {"size": size}} if size > 1 else {}),
        "retryStrategy": {"attempts": 1},
        "timeout": {"attemptDurationSeconds": limit_seconds(spec)},
        "containerOverrides": {
            "command": ["python", "-m", "referee.engines.aws_batch_child", stack.node_folder],
            "environment": [
                {"name": "REFEREE_WAVE", "value": wave.wave},
                {"name": "REFEREE_OBJECTS", "value": objects},
                *([{"name": "REFEREE_ALONE", "value": "1"}] if fleet.alone else []),
            ],
            "resourceRequirements": [{"type": kind, "value": str(count)} for kind, count in needs.items()],
        },
        "propagateTags": True,
        "tags": {TAG: stack.name, "referee-campaign": spec.campaign, "referee-phase": spec.phase},
    }
