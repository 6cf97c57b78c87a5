"""The self-proof: it holds here, it is quick to look up, and it notices each defence that is switched off."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundle_changes import all_devices, allow, no_filter, put, without_namespace
from referee.errors import UnsafeHostError
from referee.sandbox import box, cgroups, enclosed, examine_host, mounts, prove_host, stage
from referee.sandbox import proof as proof_module
from referee.sandbox.conformance import EXCESSES, Listeners, Suite
from referee.sandbox.judging import judge_excesses, judge_inside

pytestmark = pytest.mark.containers


def test_this_machine_keeps_every_promise(tmp_path: Path) -> None:
    proof = prove_host(tmp_path)
    assert proof.broken == ()
    assert len({check.name for check in proof.checks}) == len(proof.checks) >= 35
    assert json.loads(json.dumps(proof.as_json()))["level"] == "runc"
    assert [path.name for path in (tmp_path / "proofs").iterdir() if path.is_dir()] == []


def test_a_proof_is_taken_from_this_boot_and_made_anew_when_it_no_longer_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(folder: Path, level: str, key: str, accepted: tuple[str, ...]) -> Any:
        made.append(key)
        return proof_module.HostProof("boot", "runc", key, (proof_module.Promise("p", held=True, seen="x"),))

    monkeypatch.setattr(proof_module, "_prove", make)
    prove_host(tmp_path)
    prove_host(tmp_path)
    assert len(made) == 1
    monkeypatch.setattr(proof_module, "boot_id", lambda: "another boot")
    prove_host(tmp_path)
    assert len(set(made)) == 2
    (tmp_path / "proofs/runc.json").write_text("{broken")
    prove_host(tmp_path)
    assert len(made) == 3


def test_a_proof_waits_for_the_death_of_a_killed_one_before_it_clears_up(tmp_path: Path) -> None:
    """As long as something holds a sandbox, its cgroups are known from its folder alone."""
    sandbox = tmp_path / "suite-killed" / "box"
    sandbox.mkdir(parents=True)
    group = cgroups.locate().hierarchies[0].own / f"{cgroups.PREFIX}1-killedproof"
    group.mkdir()
    (sandbox / box.LEAF_NAME).write_text(json.dumps([str(group)]))
    holding = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", holding, str(sandbox / box.LOCK_NAME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as suite:
        try:
            assert suite.stdout is not None
            suite.stdout.readline()
            death = threading.Timer(0.5, suite.kill)
            death.start()
            proof_module._clear(tmp_path / "suite-killed")
        finally:
            suite.kill()
            left = group.exists()
            with contextlib.suppress(FileNotFoundError):
                group.rmdir()
    assert not left
    assert not (tmp_path / "suite-killed").exists()


def test_a_proof_that_is_told_to_stop_leaves_no_cgroup(tmp_path: Path) -> None:
    """Whoever is told to stop while a proof is made kills its suite in the midst of a sandbox."""
    stopping = (
        "import pathlib, signal, sys; from referee.sandbox import prove_host\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "prove_host(pathlib.Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", stopping, str(tmp_path)]) as worker:
        groups: list[Path] = []
        while worker.poll() is None and not any(group.exists() for group in groups):
            for record in tmp_path.rglob(box.LEAF_NAME):
                with contextlib.suppress(OSError, ValueError):
                    groups = [Path(path) for path in json.loads(record.read_bytes())]
        worker.terminate()
        assert worker.wait() == 3
    assert groups
    left = [group for group in groups if group.exists()]
    for group in left:
        group.rmdir()
    assert left == []
    assert list((tmp_path / "proofs").glob("suite-*")) == []


def test_a_broken_promise_stops_unless_it_is_accepted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (
        proof_module.Promise("no_network", held=False, seen="it answered", mend="Pull the plug."),
        proof_module.Promise("pids_limit", held=True, seen="fine"),
    )
    monkeypatch.setattr(
        proof_module,
        "_prove",
        lambda f, level, key, accepted: proof_module.HostProof("b", level, key, broken, 1, accepted),
    )
    with pytest.raises(UnsafeHostError, match=r"no_network \(it answered\).*Pull the plug.*--accept-risk no_network"):
        prove_host(tmp_path)
    with pytest.raises(UnsafeHostError):
        prove_host(tmp_path, accepted_risks=["pids_limit"])
    assert prove_host(tmp_path, accepted_risks=["no_network"]).accepted == ("no_network",)
    with pytest.raises(UnsafeHostError):
        prove_host(tmp_path)


def test_a_suite_that_cannot_run_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsafeHostError, match="runc is not installed"):
        prove_host(tmp_path)


@dataclass(frozen=True)
class Mutation:
    """A defence switched off, and the promises that must be seen to be broken."""

    name: str
    broken: set[str]
    configuration: Callable[[dict[str, Any]], None] | None = None
    elsewhere: Callable[[pytest.MonkeyPatch], None] | None = None
    excess: str | None = None


def capable(config: dict[str, Any]) -> None:
    config["process"]["capabilities"] = {
        kind: ["CAP_CHOWN", "CAP_NET_RAW"] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    }


def much_memory(config: dict[str, Any]) -> None:
    config["linux"]["resources"]["memory"] = {"limit": 2**30}


def no_cpu_limit(config: dict[str, Any]) -> None:
    del config["linux"]["resources"]["cpu"]


def no_rlimits(config: dict[str, Any]) -> None:
    config["process"]["rlimits"] = []


def no_pids_limit(config: dict[str, Any]) -> None:
    no_rlimits(config)
    del config["linux"]["resources"]["pids"]


def agent(config: dict[str, Any]) -> None:
    config["process"]["env"].append("SSH_AUTH_SOCK=/run/agent")


def plain_data(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stage.Stage, "_data", lambda self, data, items, user: mounts.bind(data, self._inside("/data"), 0))


def large_tmpfs(patch: pytest.MonkeyPatch) -> None:
    real = mounts.tmpfs
    patch.setattr(mounts, "tmpfs", lambda t, size, inodes, mode, **rest: real(t, 32 << 20, 10_000, mode, **rest))


def no_deadline(patch: pytest.MonkeyPatch) -> None:
    real = box.LogPipe.pump
    patch.setattr(box.LogPipe, "pump", lambda self, process, deadline: real(self, process, deadline + 1.0))


def keep_devices(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mounts, "SAFE", 0)
    real = mounts.overlay
    patch.setattr(mounts, "overlay", lambda t, lower, **rest: real(t, lower, **(rest | {"flags": 0})))


def writable_overlays(patch: pytest.MonkeyPatch) -> None:
    real = mounts.overlay

    def writable(target: Path, lower: list[Path], **rest: Any) -> None:
        place = stage.STAGE / f"upper-{target.name}"
        for name in ("files", "work"):
            (place / name).mkdir(parents=True)
            (place / name).chmod(0o777)
        real(target, lower, upper=place / "files", work=place / "work", **rest)

    patch.setattr(mounts, "overlay", writable)


FILTERED = {
    "ptrace": "no_tracing",
    "keyctl": "keyring",
    "io_uring_setup": "io_uring",
    "name_to_handle_at": "no_kernel_surface",
}

MUTATIONS = [
    Mutation("network namespace", {"no_network"}, without_namespace("network")),
    Mutation("cgroup namespace", {"neutral_names"}, without_namespace("cgroup")),
    Mutation("host name", {"neutral_names"}, put("host-17", "hostname")),
    Mutation("no new privileges", {"no_new_privileges"}, put(False, "process", "noNewPrivileges")),
    Mutation("capabilities", {"no_capabilities", "no_raw_sockets"}, capable),
    Mutation("filter", {"system_call_filter", "no_vsock", "keyring", "io_uring", "no_tracing"}, no_filter),
    *(Mutation(f"filter of {call}", {promise}, allow(call)) for call, promise in FILTERED.items()),
    Mutation("filter of sockets", {"no_netlink", "socket_families"}, allow("socket")),
    Mutation("filter of namespaces", {"no_new_user_namespaces"}, allow("unshare", "clone")),
    Mutation("masked files", {"masked_proc"}, put([], "linux", "maskedPaths")),
    Mutation("environment", {"no_host_env"}, agent),
    Mutation("data overlay", {"data_read_only", "only_the_phase_files"}, elsewhere=plain_data),
    Mutation("read-only root", {"read_only_root"}, put(False, "root", "readonly"), writable_overlays),
    Mutation("no devices", {"no_device_nodes"}, all_devices, keep_devices),
    Mutation("no set-user-id", {"no_setuid"}, put(False, "process", "noNewPrivileges"), keep_devices),
    Mutation("memory limit", {"memory_limit"}, much_memory, excess="memory"),
    Mutation("cpu limit", {"cpu_limit"}, no_cpu_limit, excess="cpu"),
    Mutation("pids limit", {"pids_limit"}, no_pids_limit, excess="processes"),
    Mutation("room of the output", {"output_limit", "output_inodes"}, elsewhere=large_tmpfs, excess="output"),
    Mutation("room of scratch", {"scratch_limit"}, no_rlimits, large_tmpfs, excess="scratch"),
    Mutation("wall time", {"wall_time_kill"}, elsewhere=no_deadline, excess="endless"),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_defence_that_is_switched_off_is_noticed(
    mutation: Mutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = box.runtime_configuration

    def configuration(*arguments: Any, **rest: Any) -> dict[str, Any]:
        config = real(*arguments, **rest)
        if mutation.configuration is not None:
            mutation.configuration(config)
        return config

    monkeypatch.setattr(box, "runtime_configuration", configuration)
    if mutation.elsewhere is not None:
        mutation.elsewhere(monkeypatch)
    checks = enclosed(lambda: _checks(tmp_path, mutation.excess))
    broken = {name for name, held in checks.items() if not held}
    assert mutation.broken <= broken, f"broken: {sorted(broken)}"


def _checks(folder: Path, excess: str | None) -> dict[str, bool]:
    suite = Suite(folder)
    suite.prepare()
    if excess is not None:
        found = suite.excess(excess)
        return {check.name: check.held for check in judge_excesses(dict.fromkeys(EXCESSES, found))}
    listeners = Listeners()
    try:
        first = suite.inside(listeners.open())
    finally:
        listeners.close()
    return {check.name: check.held for check in judge_inside(first, first, listeners.reached)}


def test_every_promise_of_the_inside_holds_without_a_mutation(tmp_path: Path) -> None:
    checks = enclosed(lambda: _checks(tmp_path, None))
    assert {name for name, held in checks.items() if not held} == set()


def test_the_doctor_looks_at_everything_that_is_needed() -> None:
    checks = {check.name: check for check in examine_host()}
    assert {"kernel", "root", "runc", "user namespaces", "cgroups", "swap", "overlay", "skopeo", "runsc"} == set(checks)
    assert all(check.status != "fail" for check in checks.values())
    assert all(check.mend or check.status == "ok" for check in checks.values())


def test_the_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    checks = {check.name: check for check in examine_host()}
    assert checks["runc"].status == "fail"
    assert "apt-get install" in checks["runc"].mend
    assert checks["skopeo"].status == "warn"
    assert checks["runsc"].status == "ok"
