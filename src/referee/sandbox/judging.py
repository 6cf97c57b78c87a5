"""What each promise of the sandbox means in terms of what was seen: pure, one line for each promise."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from referee.challenge import Limits
from referee.sandbox.box import BoxOutcome
from referee.sandbox.promise import Promise

_REFUSED = frozenset({"EPERM", "ENOSYS"})
_FAMILIES = [1, 2, 10]
_DEVICES = frozenset({"full", "null", "ptmx", "random", "tty", "urandom", "zero"})
_ENVIRONMENT = frozenset(
    {"HOME", "LD_LIBRARY_PATH", "LOGNAME", "NVIDIA_VISIBLE_DEVICES", "PATH", "PROBE", "PYTHONDONTWRITEBYTECODE",
     "PYTHONHOME", "REFEREE_DATA", "REFEREE_GPUS", "REFEREE_OUTPUT", "USER", "LC_CTYPE"}
)  # fmt: skip
_NEUTRAL = ("/run/referee/box/", "/devices/system/")

# How much later than its wall time a tree of processes may be dead.
_DEATH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened to a probe, and what it said. `words` is its log if it said nothing that can be read."""

    outcome: BoxOutcome
    said: Mapping[str, Any]
    words: str = ""


@dataclass(frozen=True, slots=True)
class Excess:
    """What became of a probe that used more than `limits`; the runtime's own memory is granted above them."""

    limits: Limits
    outcome: BoxOutcome
    log: bytes
    runtime_bytes: int = 0


def judge_inside(first: Seen, second: Seen, reached: int) -> list[Promise]:
    """The promises about what can be seen and done inside.

    Args:
        first: the first probe; it leaves traces wherever it can write.
        second: the next probe on the same machine.
        reached: how many connections and packets the listeners on the host got.
    """
    said = first.said
    if not said or first.outcome.exit_status != 0:
        why = first.outcome.start_error or first.words or f"exit status {first.outcome.exit_status}"
        return [Promise("probe_runs", held=False, seen=f"the probe container did not run: {why[-500:]}")]
    return [
        Promise("probe_runs", held=True, seen=f"started in {first.outcome.start_seconds * 1000:.0f} ms"),
        *_network(said, reached),
        *_privileges(said),
        *_files(said),
        *_calls(said),
        *_traces(second),
    ]


def _network(said: Mapping[str, Any], reached: int) -> list[Promise]:
    sockets = said["sockets"]
    families = sockets["families"]
    return [
        Promise(
            "no_network", reached == 0 and sockets["interfaces"] == ["lo"],
            f"{reached} connections reached listeners of the host; interfaces: {', '.join(sockets['interfaces'])}",
        ),
        Promise("no_vsock", 40 not in families, "AF_VSOCK " + ("opened" if 40 in families else "refused")),
        Promise("no_netlink", 16 not in families, "AF_NETLINK " + ("opened" if 16 in families else "refused")),
        Promise("socket_families", families == _FAMILIES, f"families that open: {families}"),
        Promise("no_raw_sockets", sockets["raw"] in {"EPERM", "EACCES"}, f"raw IP socket: {sockets['raw']}"),
    ]  # fmt: skip


def _privileges(said: Mapping[str, Any]) -> list[Promise]:
    status, spaces = said["status"], said["namespaces"]
    # Kernels that know no ambient capabilities, such as gVisor's, do not list them.
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", *(("CapAmb",) if "CapAmb" in status else ()))
    capabilities = {name: int(status[name], 16) for name in sets}
    unshared = {**spaces["unshare"], "clone": spaces["clone"], "clone3": spaces["clone3"]}
    first, base, count = (int(word) for word in said["ids"]["uid_map"])
    return [
        Promise("no_new_privileges", status.get("NoNewPrivs") == "1", f"NoNewPrivs {status.get('NoNewPrivs')}"),
        Promise("no_setuid", said["setuid"] == "1000", f"a set-user-id program ran as uid {said['setuid']}"),
        Promise("no_capabilities", not any(capabilities.values()), _list(capabilities)),
        Promise("user_namespace", (first, count) == (0, 65536) and base > 65535, f"uid 0 inside is {base} on the host"),
        Promise("no_new_user_namespaces", all(r in _REFUSED for r in unshared.values()), _list(unshared)),
        Promise("system_call_filter", status["Seccomp"] == "2", f"Seccomp mode {status['Seccomp']}"),
        Promise(
            "own_processes", said["parent"] == 0 and said["processes"] == [1],
            f"{len(said['processes'])} processes visible, parent {said['parent']}",
        ),
    ]  # fmt: skip


def _files(said: Mapping[str, Any]) -> list[Promise]:
    writes = said["writes"]
    data = {name: result for name, result in writes.items() if "data" in name}
    others = {name: result for name, result in writes.items() if "data" not in name}
    masked = {name: size for name, size in said["masked"].items() if size}
    found = {path.removeprefix("/dev/"): kind for path, kind in said["devices"]["found"].items()}
    odd = [n for n, kind in found.items() if kind != "character" or (n not in _DEVICES and not n.startswith("pts/"))]
    nodes = {name: said["devices"][name] for name in ("image_node", "disk_node", "made")}
    strange = sorted(set(said["environment"]) - _ENVIRONMENT)
    leaks = _host_paths(said["mountinfo"])
    return [
        Promise("read_only_root", all(result != "ok" for result in others.values()), _list(others)),
        Promise("data_read_only", all(result != "ok" for result in data.values()), _list(data)),
        Promise("only_the_phase_files", said["data"] == ["seen"], f"in the data folder: {', '.join(said['data'])}"),
        Promise("masked_proc", not masked, f"readable: {', '.join(masked) or 'none'}"),
        Promise(
            "no_device_nodes", not odd and "ok" not in nodes.values(),
            f"odd nodes: {', '.join(odd) or 'none'}; {_list(nodes)}",
        ),
        Promise("no_host_env", not strange, f"unknown variables: {', '.join(strange) or 'none'}"),
        Promise("neutral_mounts", not leaks, f"host paths in mountinfo: {', '.join(leaks) or 'none'}"),
        Promise(
            "neutral_names", said["host_name"] == "sandbox" and not said["resolv"].strip() and _at_root(said["cgroup"]),
            f"host name {said['host_name']}, {len(said['resolv'])} bytes of name servers",
        ),
        Promise("no_open_files", said["descriptors"] == ["/dev/null", "pipe", "pipe"], f"{said['descriptors']}"),
    ]  # fmt: skip


def _at_root(cgroup: str) -> bool:
    return all(line.rsplit(":", 1)[-1] == "/" for line in cgroup.splitlines())


def _host_paths(mountinfo: str) -> list[str]:
    """Sources and overlay folders that are not below the neutral stage."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        root = fields.split(" ")[3]
        if kind == "overlay":
            folders = [o.split("=", 1)[1] for o in options.split(",") if "dir=/" in o]
            found += [p for f in folders for p in f.split(":") if not p.startswith(_NEUTRAL)]
        elif kind not in {"proc", "devtmpfs"} and root != "/" and not root.startswith(_NEUTRAL):
            found.append(root)
    return found


def _calls(said: Mapping[str, Any]) -> list[Promise]:
    calls = said["calls"]
    keys = {name: calls[name] for name in ("keyctl", "add_key")}
    tracing = {name: calls[name] for name in ("ptrace", "process_vm_readv")}
    rings = calls["io_uring_setup"]
    rest = {name: result for name, result in calls.items() if name not in {*keys, *tracing, "io_uring_setup"}}
    return [
        Promise("keyring", all(result in _REFUSED for result in keys.values()), _list(keys)),
        Promise("no_tracing", all(result in _REFUSED for result in tracing.values()), _list(tracing)),
        Promise("io_uring", rings == "ENOSYS", f"io_uring_setup: {rings}"),
        Promise("no_kernel_surface", all(result in _REFUSED for result in rest.values()), _list(rest)),
        Promise("threads_work", said["threads"] == 1, f"{said['threads']} thread started"),
        Promise(
            "own_file_locks", said["lock"] == "ok", f"locking a data file that a neighbour may lock: {said['lock']}"
        ),
    ]


def _traces(second: Seen) -> list[Promise]:
    found = second.said.get("found")
    left = {place: names for place, names in (found or {}).items() if names}
    held = found is not None and not left
    seen = f"the next sandbox found: {left or 'nothing'}" if found is not None else f"no second probe: {second.words}"
    return [Promise("nothing_stays", held, seen)]


def judge_excesses(excesses: Mapping[str, Excess]) -> list[Promise]:
    """The promises about limits, by the kernel's counters."""
    memory, false = excesses["memory"], excesses["false_status"].outcome
    cpu, processes, endless = excesses["cpu"], excesses["processes"], excesses["endless"]
    log, output, scratch = excesses["log"], excesses["output"], excesses["scratch"]
    late = endless.outcome.wall_seconds - endless.limits.wall_time.total_seconds()
    # The runtime's own start is counted in the same cgroup, and begins before the limit is set: it says nothing.
    used = (cpu.outcome.cpu_seconds - cpu.outcome.start_cpu_seconds) / max(cpu.outcome.wall_seconds, 1e-9)
    peak, most = memory.outcome.peak_memory_bytes, memory.limits.memory + memory.runtime_bytes
    pids_peak = processes.outcome.pids_peak
    counts = _numbers(output)
    scratched = _numbers(scratch)
    rooms = (scratch.limits.scratch, scratch.limits.shm)
    return [
        Promise(
            "memory_limit", memory.outcome.oom_kills > 0 and 0 < peak <= most,
            f"{memory.outcome.oom_kills} kills by the kernel at {peak} of {most} bytes",
        ),
        Promise(
            "memory_verdict", false.oom_kills == 0 and false.exit_status == 128 + signal.SIGKILL,
            f"exit status {false.exit_status} without memory: {false.oom_kills} kills counted",
        ),
        # Half again: the limit is kept over periods of 0.1 s, and a run this short may begin with a full one.
        Promise(
            "cpu_limit", 0 < used <= 1.5 * cpu.limits.cpus and cpu.outcome.cpu_throttled > 0,
            f"{used:.2f} of {cpu.limits.cpus} processors used; held back in {cpu.outcome.cpu_throttled} periods",
        ),
        Promise(
            "pids_limit", processes.outcome.pids_refused > 0 and (pids_peak or 0) <= processes.limits.pids,
            f"{processes.outcome.pids_refused} refused; most at once: {pids_peak or 'not counted'}",
        ),
        Promise(
            "wall_time_kill", endless.outcome.ended_by == "wall_time" and late < _DEATH_SECONDS,
            f"every process dead {late * 1000:.0f} ms after the limit",
        ),
        Promise(
            "log_limit", log.outcome.ended_by == "log_limit" and len(log.log) <= log.limits.log,
            f"{len(log.log)} bytes kept of {log.outcome.log_bytes}; ended by {log.outcome.ended_by}",
        ),
        Promise(
            "output_limit", 0 < output.outcome.output_bytes <= output.limits.output,
            f"{output.outcome.output_bytes} of {output.limits.output} bytes",
        ),
        Promise(
            "output_inodes", 0 < output.outcome.output_files <= output.limits.output_files,
            f"the probe could make {counts[-1:]} files; {output.outcome.output_files} of {output.limits.output_files}",
        ),
        Promise(
            "scratch_limit",
            len(scratched) == 3 and all(0 < used <= room for used, room in zip(scratched[:2], rooms, strict=True)),
            f"bytes of scratch and shared memory, and the error of a sparse file: {scratched}",
        ),
    ]  # fmt: skip


def _numbers(excess: Excess) -> list[int]:
    return [int(word) for word in excess.log.split() if word.isdigit()]


def _list(results: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {result}" for name, result in dict(results).items())
