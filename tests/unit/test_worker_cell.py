"""Which places in the control groups are a Slurm job's: those that only root can have made."""

from __future__ import annotations

from pathlib import Path

import pytest

from referee.sandbox.cgroups import CgroupHost, Hierarchy
from referee.worker.cell import NoJobError, _job

TREE = Path("/sys/fs/cgroup")


def version_1(memory: str, freezer: str) -> CgroupHost:
    places = (("memory", memory), ("freezer", freezer))
    return CgroupHost(
        1, tuple(Hierarchy(frozenset({name}), TREE / name, TREE / name / place, 1) for name, place in places)
    )


def version_2(place: str) -> CgroupHost:
    return CgroupHost(2, (Hierarchy(frozenset({"memory", "cpu", "pids"}), TREE, TREE / place, 2),))


def test_a_job_s_own_groups_are_known() -> None:
    assert _job(version_1("slurm/uid_7/job_12/step_batch/task_0", "slurm/uid_7/job_12/step_batch"), 7) == 12
    assert _job(version_1("slurm_n1/uid_7/job_12/step_0/task_0", "slurm_n1/uid_7/job_12/step_0"), 7) == 12
    assert _job(version_2("system.slice/slurmstepd.scope/job_12/step_batch/user/task_0"), 7) == 12
    assert _job(version_2("system.slice/n1_slurmstepd.scope/job_12/step_batch/user/task_0"), 7) == 12


@pytest.mark.parametrize(
    "host",
    [
        version_1("", ""),
        version_1("slurm/uid_8/job_12/step_batch", "slurm/uid_8/job_12/step_batch"),  # another user's
        version_1("slurm/uid_7/job_12/step_batch", ""),  # not held by what Slurm ends jobs by
        version_1("", "slurm/uid_7/job_12/step_batch"),  # without a limit on memory
        version_1("slurm/uid_7/job_12/step_batch", "slurm/uid_7/job_13/step_batch"),
        version_1("slurm/uid_7", "slurm/uid_7"),
        version_1("mine/slurm/uid_7/job_1/step_0", "mine/slurm/uid_7/job_1/step_0"),
        version_2("user.slice/user-7.slice/session-1.scope"),
        # A part of the tree that was delegated to the user, who may make groups of any name there.
        version_2("user.slice/user-7.slice/user@7.service/slurmstepd.scope/job_1/step_batch"),
        version_2("user.slice/user-7.slice/user@7.service/system.slice/slurmstepd.scope/job_1/step_batch"),
        version_2("system.slice/slurmstepd.scope"),
    ],
)
def test_nothing_else_is(host: CgroupHost) -> None:
    with pytest.raises(NoJobError):
        _job(host, 7)
