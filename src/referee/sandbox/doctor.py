"""What this machine has and lacks for sandboxes: looked at, not tried out (that is `proof`)."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from referee.errors import RefereeError
from referee.sandbox import cdi, cgroups, mounts, runc, runsc
from referee.sandbox.enclosure import enclosed
from referee.sandbox.gpus import resolve_gpus
from referee.sandbox.identities import FIRST_HOST_ID, SIZE, user_namespace
from referee.sandbox.policy import Level

Status = Literal["ok", "warn", "fail"]

# Below this, known escapes work even inside a user namespace (CVE-2024-21626, mended in 1.1.12; Debian and Ubuntu
# mend their older versions in place, so that an older number is a warning). Below 1.1 the bundle's keys are not known.
_RUNC_MENDED = (1, 1, 12)
_RUNC_FLOOR = (1, 1, 0)

# openat2 and new mount calls 5.6, mount_setattr 5.12, overlay over id-mapped layers 5.19.
_KERNEL_FLOOR = (5, 12)
_KERNEL_IDMAPPED_OVERLAY = (5, 19)
_KERNEL_PEAK = (5, 19)  # memory.peak in control groups of version 2


@dataclass(frozen=True, slots=True)
class HostCheck:
    """One thing that was looked at: how it is, what was seen, how to mend it."""

    name: str
    status: Status
    seen: str
    mend: str = ""

    def as_json(self) -> dict[str, Any]:
        """The check as plain values."""
        return asdict(self)


def examine_host(level: Level = "runc") -> list[HostCheck]:
    """Look at everything that sandboxes of `level` need. Changes nothing that stays."""
    users = _user_namespaces()
    runtime = _runc(level, enclosing=users.status == "ok")
    checks = [_kernel(), _root(), runtime, users, _cgroups(), _swap(), _overlay(), _image_tools()]
    return [*checks, _gvisor(level), *_gpus()]


def _kernel() -> HostCheck:
    release, parts = platform.release(), _release()
    if platform.machine() not in {"x86_64", "aarch64"}:
        return HostCheck("kernel", "fail", f"{release} on {platform.machine()}", "Use an x86-64 or arm64 machine.")
    if parts < _KERNEL_FLOOR:
        return HostCheck("kernel", "fail", release, "Use Linux 5.12 or later (5.19 is better).")
    if parts < _KERNEL_IDMAPPED_OVERLAY:
        return HostCheck("kernel", "warn", release, 'Linux 5.19 or later is needed for contracts with user = "image".')
    return HostCheck("kernel", "ok", release)


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())


def _root() -> HostCheck:
    if os.geteuid() == 0:
        return HostCheck("root", "ok", "running as root")
    return HostCheck(
        "root", "fail", f"running as uid {os.geteuid()}",
        "Run as root: without it cgroup v1 ignores limits and mounts cannot be made.",
    )  # fmt: skip


def _runc(level: Level, *, enclosing: bool) -> HostCheck:
    """`enclosing`: user namespaces can be made here, which stand before the known escapes."""
    try:
        program = runc.find_runc()
    except RefereeError as error:
        if level != "runc":
            return HostCheck("runc", "ok", f"not installed (the level `{level}` does not need it)")
        return HostCheck("runc", "fail", "not installed", error.hint)
    version = runc.runc_version(program)
    text = f"{program} {'.'.join(map(str, version))}"
    if version < _RUNC_FLOOR:
        return HostCheck("runc", "fail", text, "Install runc 1.1 or later.")
    if version < _RUNC_MENDED and not enclosing:
        return HostCheck(
            "runc", "fail", f"{text}, which has known escapes, and no user namespace stands before them here",
            "Install runc 1.1.12 or later, and make user namespaces possible (see below).",
        )  # fmt: skip
    if version < _RUNC_MENDED:
        return HostCheck(
            "runc", "warn", text,
            "Known escapes are mended in 1.1.12: make sure that your distribution has patched this one. The user "
            "namespace and the checks of images stand before them.",
        )  # fmt: skip
    return HostCheck("runc", "ok", text)


def _tried(name: str, seen: str, mend: str, attempt: Callable[[], object], failing: Status = "fail") -> HostCheck:
    try:
        attempt()
    except (RefereeError, OSError) as error:
        return HostCheck(name, failing, str(error), mend)
    return HostCheck(name, "ok", seen)


def _user_namespaces() -> HostCheck:
    def attempt() -> None:
        with user_namespace([(0, FIRST_HOST_ID, SIZE)]):
            pass

    mend = "Set user.max_user_namespaces above 0 (sysctl), and run as root."
    return _tried("user namespaces", f"{SIZE} ids from {FIRST_HOST_ID} can be mapped", mend, attempt)


def _cgroups() -> HostCheck:
    try:
        host = cgroups.locate()
    except RefereeError as error:
        return HostCheck("cgroups", "fail", error.message, error.hint)
    memory = host.of("memory")
    if memory is None or not os.access(memory.own, os.W_OK):
        return HostCheck(
            "cgroups", "fail", f"{host.mode}, but this process's own group cannot be written to",
            "Run as root, or in a delegated group: systemd-run --scope -p Delegate=yes.",
        )  # fmt: skip
    seen = f"{host.mode}; memory, cpu and pids can be limited below {memory.own}"
    # The root of the tree has no such file: there the kernel's release tells.
    peak = (memory.own / "memory.peak").exists() or (memory.own == memory.mountpoint and _release() >= _KERNEL_PEAK)
    if host.version == 2 and not peak:
        return HostCheck(
            "cgroups", "warn", f"{seen}; this kernel does not keep the peak of memory, which is asked for every 0.05 s",
            "Use Linux 5.19 or later, so that short peaks are measured too. Limits and verdicts hold either way.",
        )  # fmt: skip
    return HostCheck("cgroups", "ok", seen)


def _swap() -> HostCheck:
    swaps = Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]
    if not swaps:
        return HostCheck("swap", "ok", "there is none")
    try:
        limited = cgroups.Leaf(cgroups.locate(), f"{cgroups.PREFIX}look", 0).can_limit_swap
    except RefereeError:
        limited = False
    if limited:
        return HostCheck("swap", "ok", "limited together with memory")
    return HostCheck(
        "swap", "warn", "memory limits do not count it here", "Type: swapoff -a (or boot with swapaccount=1)"
    )


def _overlay() -> HostCheck:
    def attempt() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            enclosed(lambda: _mount_overlay(folder))

    def idmapped() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            enclosed(lambda: _mount_overlay(folder, mapped=True))

    check = _tried("overlay", "overlays over id-mapped layers can be mounted", "", idmapped)
    if check.status == "ok":
        return check
    plain = _tried(
        "overlay", "overlays can be mounted, but not over id-mapped layers", "Load it: modprobe overlay", attempt
    )
    if plain.status == "fail":
        return plain
    return HostCheck(
        plain.name, "warn", plain.seen,
        'Contracts with user = "image" need it: Linux 5.19 and a node folder on ext4, xfs, btrfs or tmpfs.',
    )  # fmt: skip


def _mount_overlay(folder: Path, *, mapped: bool = False) -> bool:
    lower, other, target = folder / "lower", folder / "other", folder / "target"
    for place in (lower, other, target):
        place.mkdir()
    try:
        if mapped:
            with user_namespace([(0, FIRST_HOST_ID, SIZE)]) as users:
                mounts.mapped(lower, lower, users)
        mounts.overlay(target, [other, lower])
    finally:
        mounts.detach_all(folder)
    return True


def _image_tools() -> HostCheck:
    program = shutil.which("skopeo")
    if program is None:
        return HostCheck(
            "skopeo", "warn", "not installed",
            "Images cannot be imported here. Type: apt-get install --no-install-recommends skopeo",
        )  # fmt: skip
    return HostCheck("skopeo", "ok", program)


def _gpus() -> list[HostCheck]:
    """Nothing on a machine without a sign of GPUs."""
    driver, yaml = Path("/dev/nvidiactl").exists(), cdi.only_yaml(cdi.FOLDERS)
    try:
        names = [device.qualified_name for device in cdi.gpu_devices(cdi.FOLDERS)]
        for name in names:
            resolve_gpus([name])
    except RefereeError as error:
        return [HostCheck("gpus", "warn", error.message, error.hint)]
    if names:
        return [HostCheck("gpus", "ok", f"{', '.join(names)} can be given to sandboxes, one at a time")]
    if driver or yaml:
        seen = f"{yaml[0]} is YAML, which is not read" if yaml else "there is a driver, but no CDI specification"
        return [HostCheck("gpus", "warn", f"{seen}: no GPU is offered", f"Type: {cdi.GENERATE}")]
    return []


def _gvisor(level: Level) -> HostCheck:
    try:
        program = runsc.find_runsc()
    except RefereeError as error:
        if level == "gvisor":
            return HostCheck("runsc", "fail", error.message, error.hint)
        return HostCheck("runsc", "ok", "not installed (optional, for the level `gvisor`)")
    return HostCheck("runsc", "ok", f"{program} {runsc.runsc_version(program)}, platform {runsc.PLATFORM}")
