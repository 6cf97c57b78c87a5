"""Show on a machine with a real NVIDIA GPU that sandboxes get exactly one GPU, that it works, and that nothing is left.

One command, as root, on a machine with the NVIDIA driver, runc, and Python with Referee's packages:

    PYTHONPATH=src python benchmarks/gpu_check.py

On cgroup v2 start it in a group of its own that may limit cpu, memory and pids (`systemd-run --scope -p Delegate=yes`).

The sandbox's image is this machine's own Python. Where no CDI specification names a GPU, one is written for the time
of the check, from the driver's device nodes and libraries. Prints a line for each check and `N passed, N failed`.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from referee.challenge import Contract, Limits
from referee.errors import RefereeError
from referee.sandbox import Box, cdi, enclosed, examine_host, sandbox_policy, sweep
from referee.sandbox.conformance import Suite
from referee.sandbox.gpus import nvml, resolve_gpus
from referee.verdicts import Verdict
from referee.worker.gpu_memory import gpu_memory_reported
from referee.worker.judge import Evidence, judge

MIB = 2**20
ALLOCATED_BYTES = 512 * MIB
SLACK_BYTES = 64 * MIB
SPECIFICATION = Path("/etc/cdi/referee-gpu-check.json")
DRIVER_FOLDER = "/usr/lib/referee-driver"
LIMITS = Limits(wall_time=timedelta(seconds=90), cpus=2.0, memory=4 * 2**30, pids=512, shm=64 * MIB, scratch=256 * MIB)

# Uses the driver only: ctypes on libcuda.so.1 (CUDA Driver API).
PROGRAM = """
import ctypes, os, sys, time
print("NODES", sorted(n for n in os.listdir("/dev") if n.startswith("nvidia")), flush=True)
if sys.argv[1] == "look":
    sys.exit(0)
cuda = ctypes.CDLL("libcuda.so.1")
def check(result, what):
    if result:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(result, ctypes.byref(name))
        print(what, "failed:", (name.value or b"?").decode(), flush=True)
        sys.exit(1)
check(cuda.cuInit(0), "cuInit")
count = ctypes.c_int()
check(cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
check(cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
name = ctypes.create_string_buffer(100)
check(cuda.cuDeviceGetName(name, 100, device), "cuDeviceGetName")
total = ctypes.c_size_t()
check(cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device), "cuDeviceTotalMem")
print("DEVICES", count.value, name.value.decode(), total.value, flush=True)
check(cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device), "cuCtxCreate")
size = total.value * 2 if sys.argv[1] == "beyond" else int(sys.argv[2])
check(cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)), "cuMemAlloc")
check(cuda.cuMemsetD8_v2(pointer, ctypes.c_ubyte(7), ctypes.c_size_t(size)), "cuMemsetD8")
out = (ctypes.c_ubyte * 16)()
check(cuda.cuMemcpyDtoH_v2(out, pointer, ctypes.c_size_t(16)), "cuMemcpyDtoH")
print("ALLOCATED", size, bytes(out) == bytes([7]) * 16, flush=True)
time.sleep(600 if sys.argv[1] == "hold" else 1)
"""


class Check:
    """The sandboxes of one check run, over one folder."""

    def __init__(self, folder: Path, gpu: str) -> None:
        self.gpu = gpu
        self.folder = folder
        self._suite = Suite(folder / "suite")
        self._suite.prepare()
        self._data = folder / "data"
        self._data.mkdir()

    def sandbox(self, *arguments: str, gpus: tuple[str, ...], name: str, log: Any = None) -> dict[str, Any]:
        """One sandbox in an enclosure of its own; returns what happened, as JSON can hold it."""
        policy = sandbox_policy(Contract(), LIMITS, gpus=gpus)
        place = self.folder / name
        place.mkdir(exist_ok=True)
        kept = log or io.BytesIO()
        try:
            with Box(policy, self._suite.image("-c", PROGRAM, *arguments), self._data, None, place) as box:
                outcome = box.run(kept)
        except RefereeError as error:
            return {"refused": error.message}
        said = "" if log else kept.getvalue().decode(errors="replace")
        facts = {field: getattr(outcome, field) for field in outcome.__dataclass_fields__}
        return facts | {"log": said}

    def run(self, *arguments: str, gpus: tuple[str, ...], name: str) -> dict[str, Any]:
        """The same, seen from outside the enclosure."""
        found: dict[str, Any] = enclosed(lambda: self.sandbox(*arguments, gpus=gpus, name=name))
        return found

    @contextmanager
    def holder(self, log: Path) -> Iterator[int]:
        """A worker whose sandbox holds the GPU and memory on it; the process id of the worker."""
        child = os.fork()
        if child == 0:
            try:
                with log.open("wb", buffering=0) as file:
                    enclosed(
                        lambda: self.sandbox("hold", str(ALLOCATED_BYTES), gpus=(self.gpu,), name="holder", log=file)
                    )
            finally:
                os._exit(0)
        try:
            deadline = time.monotonic() + 60
            while not log.exists() or b"ALLOCATED" not in log.read_bytes():
                if time.monotonic() > deadline:
                    raise SystemExit(f"the holder did not allocate: {log.read_bytes() if log.exists() else 'no log'}")
                time.sleep(0.05)
            yield child
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def used_bytes(gpu: str) -> int:
    """Memory in use on the GPU, by the driver."""
    used = enclosed(lambda: _used(gpu))  # the library starts threads, and this program forks
    if used is None:
        raise SystemExit("NVML does not tell the memory in use: is libnvidia-ml.so.1 there?")
    return int(used)


def _used(gpu: str) -> int | None:
    with nvml() as driver:
        return driver.used([gpu]) if driver is not None else None


def settled(gpu: str, most: int, seconds: float = 20.0) -> int:
    """Memory in use once it is at most `most`, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while (used := used_bytes(gpu)) > most and time.monotonic() < deadline:
        time.sleep(0.1)
    return used


def verdict(outcome: dict[str, Any]) -> Verdict:
    """What a worker would judge."""
    reported = gpu_memory_reported(outcome["log"].encode(), outcome["log_tail"])
    return judge(
        Evidence(
            started=outcome["started"], ended_by=outcome["ended_by"], exit_status=outcome["exit_status"],
            signal=outcome["signal"], oom_kills=outcome["oom_kills"], gpu_memory_reported=reported,
        )
    ).verdict  # fmt: skip


def show(number: list[int], name: str, seen: str, *, held: bool) -> None:
    number[0 if held else 1] += 1
    print(f"{'pass' if held else 'FAIL'}  {name}: {seen.strip()[-600:]}", flush=True)


def checks(check: Check) -> list[int]:
    """Every check; returns how many passed and how many failed."""
    n, one = [0, 0], (check.gpu,)
    before = used_bytes(check.gpu)
    own = [node.path.removeprefix("/dev/") for node in resolve_gpus(one).own_nodes]

    ran = check.run("look", gpus=(), name="none")
    show(n, "without GPUs no nvidia node inside", ran.get("log") or str(ran), held="NODES []" in ran.get("log", ""))

    ran = check.run("use", str(ALLOCATED_BYTES), gpus=one, name="use")
    said = ran.get("log") or str(ran)
    nodes = re.findall(r"'(nvidia\d+)'", said)
    show(
        n,
        "only its own nvidia device is visible inside",
        said.partition("\n")[0],
        held=bool(nodes) and set(nodes) <= set(own),
    )
    show(n, "one CUDA device works: allocate, set, read back", said, held="DEVICES 1 " in said and "True" in said)
    peak = ran.get("gpu_peak_memory_bytes") or 0
    show(
        n, "peak GPU memory is measured", f"{peak} bytes", held=ALLOCATED_BYTES <= peak <= ALLOCATED_BYTES + 4096 * MIB
    )

    ran = check.run("beyond", gpus=one, name="beyond")
    judged = verdict(ran) if "started" in ran else None
    show(
        n,
        "beyond the card is gpu_out_of_memory",
        f"{judged}: {ran.get('log', ran)}",
        held=judged is Verdict.GPU_OUT_OF_MEMORY,
    )

    with check.holder(check.folder / "holder.log") as worker:
        held = used_bytes(check.gpu) - before
        ran = check.run("look", gpus=one, name="second")
        show(
            n,
            "a second sandbox cannot get the same GPU",
            str(ran.get("refused", ran)),
            held="Another sandbox" in ran.get("refused", ""),
        )
        began = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        left = settled(check.gpu, before + SLACK_BYTES) - before
    took = time.monotonic() - began
    show(
        n, "after SIGKILL of the worker no GPU allocation is left",
        f"{held} bytes while it ran, {left} left {took:.1f} s after",
        held=held >= ALLOCATED_BYTES and left <= SLACK_BYTES,
    )  # fmt: skip
    gone = [path.name for path in sweep(check.folder)]
    ran = check.run("use", str(ALLOCATED_BYTES), gpus=one, name="after")
    show(
        n, "the next sandbox gets the GPU", f"swept {gone}; {ran.get('log') or ran}", held="True" in ran.get("log", "")
    )
    return n


@contextmanager
def described() -> Iterator[str]:
    """The name of a GPU that a CDI specification describes; one is written and removed again if there is none."""
    found = cdi.gpu_devices(cdi.FOLDERS)
    if found:
        yield found[0].qualified_name if not found[0].name.startswith("GPU-") else found[0].name
        return
    SPECIFICATION.parent.mkdir(parents=True, exist_ok=True)
    facts = specification()
    SPECIFICATION.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    try:
        yield facts["devices"][0]["name"]
    finally:
        SPECIFICATION.unlink()


def specification() -> dict[str, Any]:
    """A CDI specification of every NVIDIA GPU here: its node, the nodes that all share, and the driver's libraries."""
    common = [name for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools") if Path("/dev", name).exists()]
    libraries = driver_libraries()
    links = [f"{path.name}::{DRIVER_FOLDER}/{soname}" for soname, path in libraries.items() if soname != path.name]
    files = sorted(set(libraries.values()))
    return {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": uuid, "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{minor}"}]}}
            for uuid, minor in gpus().items()
        ],
        "containerEdits": {
            "deviceNodes": [{"path": f"/dev/{name}"} for name in common],
            "mounts": [{"hostPath": str(path), "containerPath": f"{DRIVER_FOLDER}/{path.name}"} for path in files],
            "hooks": [
                hook("create-symlinks", *(word for link in links for word in ("--link", link))),
                hook("update-ldcache", "--folder", DRIVER_FOLDER),
            ],
        },
    }


def hook(*words: str) -> dict[str, Any]:
    return {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", *words]}


def gpus() -> dict[str, int]:
    """Minor numbers of the device nodes by UUID."""
    found = {}
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        facts = dict(re.findall(r"(?m)^([^:]+):\s*(.+?)\s*$", file.read_text(encoding="utf-8")))
        minor = int(facts["Device Minor"])
        if Path(f"/dev/nvidia{minor}").exists():
            found[facts["GPU UUID"]] = minor
    known = _said("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader").split()
    nodes = sorted(int(path.name[6:]) for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit())
    if not found or set(known) - set(found):
        # Inside a container /proc/driver may be missing or another's: the nodes in the driver's own order.
        found = dict(zip(known, nodes, strict=False))
    return {uuid: minor for uuid, minor in found.items() if not known or uuid in known}


def driver_libraries() -> dict[str, Path]:
    """The driver's user libraries: their names for the loader, and the files."""
    found = {}
    for soname, path in re.findall(
        r"(?m)^\s*(lib(?:cuda|nvidia-[\w-]+)\.so[\w.]*) \(.*x86-64.*\) => (\S+)", _said("ldconfig", "-p")
    ):
        found.setdefault(soname, Path(path).resolve())
    if "libcuda.so.1" not in found:
        raise SystemExit("The NVIDIA driver's libcuda.so.1 is not in the loader's cache (ldconfig -p).")
    return found


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None and not Path("/sbin", command[0]).exists():
        return ""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}).stdout


def main() -> int:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    failing = [each for each in examine_host() if each.status == "fail"]
    for each in failing:
        print(f"{each.name}: {each.seen}. {each.mend}")
    if failing:
        return 3
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir="/var/tmp") as name, described() as gpu:
        folder = Path(name)
        folder.chmod(0o755)
        print(f"GPU {gpu}: {_said('nvidia-smi', '-L').strip()}")
        passed, failed = checks(Check(folder, gpu))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
