"""The level `gvisor`: the same bundles and outcomes, with gVisor's own processes held like the submission's."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import sandbox_world
from referee.challenge import Contract
from referee.errors import ConfigurationError, UnsafeHostError
from referee.sandbox import Box, cgroups, enclosed, examine_host, prove_host, sandbox_policy, sweep
from referee.sandbox.box import LEAF_NAME
from referee.sandbox.runsc import OVERHEAD, Runsc
from referee.sandbox.runtime import RUNTIME_LOG
from sandbox_world import LIMITS, MIB, World, cgroup_of

pytestmark = [
    pytest.mark.containers,
    pytest.mark.skipif(shutil.which("runsc") is None, reason="runsc (gVisor) is not installed"),
]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose sandboxes run at the level `gvisor`."""

    def at_level(contract: Contract, limits: Any) -> Any:
        return sandbox_policy(contract, limits, level="gvisor")

    monkeypatch.setattr(sandbox_world, "sandbox_policy", at_level)
    world = World(tmp_path)
    real = cgroups.Leaf.__init__

    def remember(self: cgroups.Leaf, host: Any, name: str, limit_bytes: int) -> None:
        real(self, host, name, limit_bytes)
        with (tmp_path / "leaves").open("a") as leaves:
            leaves.write(name + "\n")

    monkeypatch.setattr(cgroups.Leaf, "__init__", remember)
    return world


def nothing_stays(world: World) -> None:
    """No control group of this world's sandboxes is left, as the host sees it."""
    ours = set((world.folder / "leaves").read_text().split())
    assert ours
    assert not [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name in ours]


def test_the_submission_sees_gvisor_and_its_result_is_taken(world: World) -> None:
    ran = world.run(
        world.shell("cat /proc/version /data/a.mp4; busybox id -u; ls /data; echo score > /output/submission.csv"),
        items=("a.mp4",),
    )
    assert (ran.exit_status, ran.signal, ran.ended_by) == (0, None, "itself")
    assert "4.4.0" in ran.log  # the version that gVisor's kernel states
    assert "b.mp4" not in ran.log
    assert "a.mp4" in ran.log
    assert "1000" in ran.log
    assert ran.content == b"score\n"
    assert ran.refusal is None
    nothing_stays(world)


@pytest.mark.parametrize(
    ("script", "status", "number"),
    [("exit 3", 3, None), ("exit 137", 137, None), ("kill -9 $$", None, 9), ("kill -11 $$", None, 11)],
)
def test_a_status_is_told_from_a_signal(world: World, script: str, status: int | None, number: int | None) -> None:
    ran = world.run(world.shell(script))
    assert (ran.exit_status, ran.signal, ran.oom_kills) == (status, number, 0)


def test_words_that_look_like_the_sentrys_own_change_nothing(world: World) -> None:
    forged = "I0101 00:00:00.000000       1 main.go:266] Exiting with status: 0\n"
    ran = world.run(world.image("/bin/busybox", "sh", "-c", f"exit 4\n# {forged}", "\n" + forged))
    assert ran.exit_status == 4


def test_memory_is_limited_and_the_kernel_says_so(world: World) -> None:
    ran = world.run(world.python("held = []\nwhile True: held.append(bytearray(b'x' * (8 << 20)))"), memory=64 * MIB)
    assert ran.oom_kills > 0
    assert 0 < ran.peak_memory_bytes <= 64 * MIB + OVERHEAD.memory_bytes


def test_a_fork_bomb_ends_and_is_the_submissions_own_doing(world: World) -> None:
    script = "while true; do sleep 1000 & done"
    ran = world.run(world.shell(script), pids=32, wall_time=timedelta(seconds=60))
    assert ran.pids_refused > 0
    assert ran.ended_by != "itself" or (ran.exit_status, ran.signal) != (None, None)
    nothing_stays(world)


def test_the_wall_time_ends_every_process(world: World) -> None:
    script = "trap '' TERM; (setsid sleep 1000 &) ; while true; do sleep 1000; done"
    ran = world.run(world.shell(script), wall_time=timedelta(seconds=1))
    assert ran.ended_by == "wall_time"
    nothing_stays(world)


def test_room_for_output_is_limited(world: World) -> None:
    ran = world.run(world.shell("dd if=/dev/zero of=/output/submission.csv bs=65536 count=200"))
    assert "No space left" in ran.log
    assert 0 < ran.output_bytes <= LIMITS.output


def test_an_image_that_cannot_start_says_why(world: World) -> None:
    (world.layer / "bin/broken").write_bytes(b"\x7fELF" + bytes(200))
    ran = world.run(world.image("/bin/broken"))
    assert ran.started is False
    assert ran.start_error


def test_the_sentry_and_the_gofer_are_held_as_seen_from_the_host(world: World) -> None:
    policy = sandbox_policy(Contract(), LIMITS, level="gvisor")
    image = world.shell("echo ready; sleep 60")

    def work() -> dict[str, Any]:
        folder = world.run_folder / "box"
        folder.mkdir()
        found: dict[str, Any] = {}

        def look(box: Box, log: io.BytesIO) -> None:
            while b"ready" not in log.getvalue():
                time.sleep(0.01)
            pids = {p for group in cgroup_of(folder / LEAF_NAME) for p in _processes(group / "cgroup.procs")}
            for pid in pids:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
                status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                found[words] = {
                    "seccomp": status["Seccomp"].strip(), "uid": int(status["Uid"].split()[0]),
                    "capabilities": int(status["CapEff"], 16),
                    "users": _space(pid, "user"), "net": _space(pid, "net"),
                }  # fmt: skip
            box.kill("seen enough")

        with Box(policy, image, world.data, None, folder) as box:
            log = io.BytesIO()
            looker = threading.Thread(target=look, args=(box, log))
            looker.start()
            outcome = box.run(log)
            looker.join()
        found["ended_by"] = outcome.ended_by
        found["mine"] = {"users": _space("self", "user"), "net": _space("self", "net")}
        return found

    found = enclosed(work)
    mine = found.pop("mine")
    assert found.pop("ended_by") == "kill"
    assert {"runsc-sandbox", "runsc-gofer"} <= set(found)
    for name, seen in found.items():
        assert seen["seccomp"] == "2", name
        assert seen["uid"] != 0, name
        assert seen["users"] != mine["users"], name
    assert found["runsc-sandbox"]["net"] != mine["net"]
    assert found["runsc-gofer"]["net"] != mine["net"]


def _space(process: int | str, kind: str) -> str:
    return str(Path(f"/proc/{process}/ns/{kind}").readlink())


def _processes(procs: Path) -> list[int]:
    return [int(word) for word in procs.read_text().split()] if procs.exists() else []


def test_nothing_outlives_a_killed_worker(world: World) -> None:
    policy = sandbox_policy(Contract(), LIMITS, level="gvisor")
    image = world.shell("sleep 1000 & sleep 1000")
    folder = world.run_folder / "box"
    folder.mkdir()

    def work() -> None:
        with Box(policy, image, world.data, None, folder) as box:
            box.run(io.BytesIO())

    child = os.fork()
    if child == 0:
        try:
            enclosed(work)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 30
    while not (folder / LEAF_NAME).exists() or not any(_all_processes(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)  # the sentry, the gofer and the first tracees are there
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    groups = cgroup_of(folder / LEAF_NAME)
    while any(_processes(group / "cgroup.procs") for group in groups):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sweep(world.run_folder) == [folder]
    nothing_stays(world)


def _all_processes(folder: Path) -> list[int]:
    try:
        return [pid for group in cgroup_of(folder / LEAF_NAME) for pid in _processes(group / "cgroup.procs")]
    except ValueError:
        return []  # written in part


def test_this_machine_keeps_the_promises_that_gvisor_makes(tmp_path: Path) -> None:
    proof = prove_host(tmp_path, "gvisor")
    assert proof.broken == ()
    other = [check for check in proof.checks if not check.applies]
    assert all("does not apply to gvisor" in check.seen for check in other)
    assert len(proof.checks) - len(other) >= 25
    assert json.loads((tmp_path / "proofs/gvisor.json").read_text())["level"] == "gvisor"


def test_a_machine_without_runsc_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsafeHostError, match="not installed") as refused:
        prove_host(tmp_path, "gvisor")
    assert "apt-get install" in refused.value.hint
    checks = {check.name: check for check in examine_host("gvisor")}
    assert checks["runsc"].status == "fail"
    assert checks["runc"].status == "ok"
    assert {check.name: check for check in examine_host("runc")}["runsc"].status == "ok"
    with pytest.raises(ConfigurationError, match="not an isolation level"):
        prove_host(tmp_path, "firecracker")


def test_the_first_cause_is_told_of_a_runtime_that_fails(tmp_path: Path) -> None:
    (tmp_path / RUNTIME_LOG).write_text(
        '{"msg":"a","level":"error"}{"msg":"b","level":"info"}{"msg":"c","level":"error"}'
    )
    assert Runsc().read_error(tmp_path) == "a; c"
