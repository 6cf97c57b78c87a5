"""What a cluster lacks for Referee, as the submitting machine sees it. Nothing is changed; one short job is run."""

from __future__ import annotations

import functools
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from referee.challenge import Limits, MachineType, SlurmChoice
from referee.engines.slurm_commands import PREFIX, SlurmCommands
from referee.engines.slurm_request import Needs, errand, need_options, place_options
from referee.errors import HostError, RefereeError
from referee.routing import limits_on
from referee.sandbox.doctor import HostCheck
from referee.sandbox.levels import gives_gpus
from referee.sandbox.policy import Level

_PROBE_SECONDS = 90.0
_UP = ("idle", "mixed", "allocated", "completing")


def examine_cluster(
    choice: SlurmChoice,
    commands: SlurmCommands | None = None,
    *,
    machines: Mapping[str, MachineType] | None = None,
    limits: Limits | None = None,
    level: Level = "runc",
) -> list[HostCheck]:
    """Look at everything that attempts on the cluster need, in the order in which it is needed.

    Args:
        choice: `[engine.slurm]`.
        commands: how Slurm is asked.
        machines: the challenge's machine types, for each of which Slurm is asked whether it could run an attempt.
        limits: the challenge's; without any, Slurm is not asked that.
        level: the isolation level.
    """
    slurm = commands or SlurmCommands()
    checks = [_tried("slurm", lambda: f"version {slurm.configuration().get('SLURM_VERSION', 'unknown')}")]
    if checks[0].status == "fail":
        return checks
    configuration = slurm.configuration()
    checks += [
        _tried("partition", lambda: _partition(slurm, choice)),
        _processes(configuration, with_gpus=any(machine.gpus for machine in (machines or {}).values())),
        _tried("shared folder", lambda: _shared(choice.shared)),
    ]
    for kind, machine in (machines or {}).items() if limits else ():
        gpus = limits.gpus if limits and machine.gpus and gives_gpus(level) else 0
        needs = Needs(kind, limits_on(limits or Limits(), machine), gpus, level)
        checks.append(_tried(f"machine type {kind}", functools.partial(_placed, slurm, choice, needs)))
    if all(check.status != "fail" for check in checks):
        checks.append(_tried("warden", lambda: _warden(slurm, choice)))
    return checks


def _tried(name: str, look: Callable[[], str]) -> HostCheck:
    try:
        return HostCheck(name, "ok", look())
    except RefereeError as error:
        return HostCheck(name, "fail", error.message, error.hint)


def _partition(slurm: SlurmCommands, choice: SlurmChoice) -> str:
    wanted = {machine.partition for machine in choice.machines.values()} | {choice.partition}
    names = sorted(name for name in wanted if name)
    rows = slurm.nodes(names)
    up = {row["node"] for row in rows if row["state"].rstrip("*~#!%$@^-").startswith(_UP)}
    if not up:
        raise HostError(
            f"No node of {', '.join(names) or 'the default partition'} is up.", hint="See `sinfo -Nl` and `sinfo -R`."
        )
    return f"{len(up)} of {len({row['node'] for row in rows})} nodes are up"


def _processes(configuration: dict[str, str], *, with_gpus: bool) -> HostCheck:
    track, plugins = configuration.get("ProctrackType", ""), configuration.get("TaskPlugin", "")
    seen = f"ProctrackType={track}, TaskPlugin={plugins}"
    if track != "proctrack/cgroup" or "task/cgroup" not in plugins:
        return HostCheck(
            "control groups", "fail", seen,
            "Jobs must be held by control groups: ProctrackType=proctrack/cgroup and TaskPlugin=task/cgroup in "
            "slurm.conf, ConstrainRAMSpace=yes in cgroup.conf.",
        )  # fmt: skip
    # cgroup.conf as slurmctld's own machine has it; a node's may differ, and its warden looks for itself.
    wanted = ["ConstrainRAMSpace", *(["ConstrainDevices"] if with_gpus else [])]
    seen = ", ".join([seen, *(f"{name}={configuration.get(name, 'unknown')}" for name in wanted)])
    if any(configuration.get(name, "yes") != "yes" for name in wanted):
        return HostCheck("control groups", "warn", seen, f"cgroup.conf: {', '.join(f'{name}=yes' for name in wanted)}.")
    return HostCheck("control groups", "ok", seen)


def _shared(folder: Path) -> str:
    if not folder.is_dir():
        raise HostError(f"There is no folder {folder}.", hint="Make it, on a file system that the nodes mount there.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HostError(f"{folder} cannot be written.", hint="Make it yours.")
    return str(folder)


def _placed(slurm: SlurmCommands, choice: SlurmChoice, needs: Needs) -> str:
    options = need_options(choice, needs)
    slurm.test(options)
    return f"Slurm would take an attempt with {' '.join(options)}"


def _warden(slurm: SlurmCommands, choice: SlurmChoice) -> str:
    """A job of a minute that asks its node's warden whether it would be served."""
    said = choice.shared / f"doctor-{secrets.token_hex(8)}.log"
    script = f"#!/bin/sh\nexec {shlex.join([*errand(choice), '--probe'])}\n"
    options = [f"--job-name={PREFIX}doctor", "--array=0", "--no-requeue", "--chdir=/", "--ntasks=1", "--mem=200M"]
    options += ["--time=1", f"--output={said}", "--export=PATH", *place_options(choice)]
    number = slurm.submit(options, script)
    try:
        ended = _wait_for(slurm, number)
        text = " ".join(said.read_text(encoding="utf-8", errors="replace").split()) if said.exists() else ""
    finally:
        slurm.cancel([number])
        said.unlink(missing_ok=True)
    if ended != "COMPLETED":
        raise HostError(
            f"The job that asked for the warden ended as {ended}: {text or 'it said nothing.'}",
            hint="See docs/slurm.md: an administrator installs the warden on every node, and names you in its file.",
        )
    return f"it answers on a node: {text}"


def _wait_for(slurm: SlurmCommands, number: str) -> str:
    deadline = time.monotonic() + _PROBE_SECONDS
    while time.monotonic() < deadline:
        child = next((child for child in slurm.children() if child.handle == f"{number}_0"), None)
        if child is None or child.has_ended:
            return child.state if child else "unknown"
        time.sleep(1.0)
    raise HostError(
        f"The job that asks for the warden did not end in {_PROBE_SECONDS:.0f} s.",
        hint="Wait until a node is free, then try again.",
    )
