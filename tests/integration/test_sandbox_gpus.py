"""GPUs by the Container Device Interface, with devices made for the test: /dev/null and others by another name."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

import sandbox_world
from referee.challenge import Contract
from referee.engines import hardware
from referee.errors import HostError, UnsafeHostError
from referee.sandbox import Box, HostCheck, cdi, enclosed, examine_host, sandbox_policy
from referee.sandbox.gpus import claim_gpus, resolve_gpus
from referee.sandbox.sweep import sweep
from sandbox_world import LIMITS, World

pytestmark = pytest.mark.containers

ONE, TWO = "referee.test/gpu=GPU-one", "referee.test/gpu=GPU-two"


class Specification:
    """A CDI specification in a folder of the test, of two GPUs that share a control node and a library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cdi"
        self.folder.mkdir()
        self.host = folder / "driver"
        self.host.mkdir()
        (self.host / "libtest.so.550").write_text("library\n")
        (self.host / "firmware").mkdir()
        (self.host / "firmware/blob").write_text("blob\n")
        for name, minor in (("control", 7), ("gpu0", 3), ("gpu1", 5)):
            os.mknod(self.host / name, stat.S_IFCHR | 0o600, os.makedev(1, minor))
        hook = ["nvidia-cdi-hook", "create-symlinks", "--link", "libtest.so.550::/opt/driver/libtest.so.1"]
        cache = ["nvidia-cdi-hook", "update-ldcache", "--folder", "/opt/driver"]
        self.facts: dict[str, Any] = {
            "cdiVersion": "0.6.0",
            "kind": "referee.test/gpu",
            "devices": [self._device("GPU-one", 0), self._device("GPU-two", 1), self._device("all", 0)],
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/testctl", "hostPath": str(self.host / "control")}],
                "env": ["TEST_DRIVER=550"],
                "mounts": [
                    {"hostPath": str(self.host / "libtest.so.550"), "containerPath": "/opt/driver/libtest.so.550",
                     "options": ["ro", "nosuid", "nodev", "bind"]},
                    {"hostPath": str(self.host / "firmware"), "containerPath": "/opt/firmware"},
                ],
                "hooks": [
                    {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": words}
                    for words in (hook, cache)
                ],
            },
        }  # fmt: skip
        self.write()

    def _device(self, name: str, number: int) -> dict[str, Any]:
        node = {"path": f"/dev/testgpu{number}", "hostPath": str(self.host / f"gpu{number}"), "permissions": "rw"}
        return {"name": name, "containerEdits": {"deviceNodes": [node], "env": [f"TEST_GPU_{number}=1"]}}

    def write(self) -> None:
        (self.folder / "test.json").write_text(json.dumps(self.facts))

    @property
    def common(self) -> dict[str, Any]:
        edits: dict[str, Any] = self.facts["containerEdits"]
        return edits


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Specification:
    made = Specification(tmp_path)
    monkeypatch.setattr(cdi, "FOLDERS", (made.folder,))
    return made


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def give(monkeypatch: pytest.MonkeyPatch, *gpus: str) -> None:
    monkeypatch.setattr(
        sandbox_world, "sandbox_policy", lambda contract, limits: sandbox_policy(contract, limits, gpus=gpus)
    )


LOOK = """
ls /dev; cat /opt/driver/libtest.so.1 /opt/firmware/blob
busybox env | busybox grep -E 'TEST|NVIDIA|REFEREE_GPUS|LD_LIB'
echo x > /dev/testgpu0 && echo wrote gpu0
echo x > /opt/driver/libtest.so.550 || echo kept
exit 0
"""


def test_a_sandbox_gets_its_gpu_and_no_other(
    world: World, spec: Specification, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, ONE)
    ran = world.run(world.shell(LOOK))
    lines = ran.log.splitlines()
    assert "testgpu0" in lines
    assert "testctl" in lines
    assert "testgpu1" not in lines
    assert {"library", "blob", "TEST_DRIVER=550", "TEST_GPU_0=1", "REFEREE_GPUS=1"} <= set(lines)
    assert f"NVIDIA_VISIBLE_DEVICES={ONE}" in lines
    assert "LD_LIBRARY_PATH=/opt/driver" in lines
    assert "wrote gpu0" in lines
    assert "kept" in lines
    assert ran.gpu_peak_memory_bytes is None  # nothing here can tell


def test_a_sandbox_without_gpus_has_none(world: World, spec: Specification) -> None:
    ran = world.run(world.shell(LOOK))
    assert "test" not in ran.log.split("cat:")[0]
    assert "NVIDIA_VISIBLE_DEVICES=void" in ran.log
    assert "wrote" not in ran.log
    assert "TEST_" not in ran.log


def test_the_device_cgroup_opens_for_these_nodes_only(
    world: World, spec: Specification, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1:11 (/dev/kmsg) has no node inside; with one in the image, it still cannot be opened."""
    from referee.sandbox import box  # noqa: PLC0415 - what is given to the runtime is looked at

    made: list[dict[str, Any]] = []
    real = box.runtime_configuration

    def record(*parts: Any, **rest: Any) -> dict[str, Any]:
        made.append(real(*parts, **rest))
        print(json.dumps(made[-1]["linux"]["resources"]["devices"]), file=(world.folder / "devices").open("w"))
        return made[-1]

    monkeypatch.setattr(box, "runtime_configuration", record)
    give(monkeypatch, TWO)
    world.run(world.shell("true"))
    devices = json.loads((world.folder / "devices").read_text())
    assert devices == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rw"},
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rw"},
    ]


def test_a_gpu_is_never_given_twice(world: World, spec: Specification) -> None:
    spec.facts["devices"].append({**spec.facts["devices"][0], "name": "0"})  # another name for the first
    spec.write()
    image = world.shell("echo ready; sleep 1000")

    def hold() -> None:
        folder = world.run_folder / "first"
        folder.mkdir()
        with (
            Box(sandbox_policy(Contract(), LIMITS, gpus=(ONE,)), image, world.data, None, folder) as box,
            (world.folder / "held").open("wb", buffering=0) as log,
        ):
            box.run(log)  # type: ignore[arg-type]

    holder = os.fork()
    if holder == 0:
        try:
            enclosed(hold)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 30
    while not (world.folder / "held").exists() or b"ready" not in (world.folder / "held").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)

    def take(name: str) -> str:
        folder = world.run_folder / f"second-{name[-3:]}"
        folder.mkdir(exist_ok=True)
        policy = sandbox_policy(Contract(), LIMITS, gpus=(name,))
        try:
            with Box(policy, world.shell("true"), world.data, None, folder) as b:
                return "ran" if b.run(io.BytesIO()).exit_status == 0 else "failed"
        except HostError as error:
            return error.message

    assert "Another sandbox has the GPU" in enclosed(lambda: take(ONE))
    assert "Another sandbox has the GPU" in enclosed(lambda: take("referee.test/gpu=0"))
    assert enclosed(lambda: take(TWO)) == "ran"
    os.kill(holder, signal.SIGKILL)  # the kernel lets go of the GPU with the worker
    os.waitpid(holder, 0)
    while (said := enclosed(lambda: take("GPU-one"))) != "ran":
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    while world.run_folder / "first" not in sweep(world.run_folder):  # as the next worker would
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_shared_gpu_has_so_many_places_and_none_beside_one_that_holds_it_alone(
    spec: Specification, tmp_path: Path
) -> None:
    edits = resolve_gpus([ONE])
    with claim_gpus(tmp_path / "claims", edits, 2), claim_gpus(tmp_path / "claims", edits, 2):
        for sharing in (1, 2):
            with pytest.raises(HostError, match="has the GPU"), claim_gpus(tmp_path / "claims", edits, sharing):
                pass
    alone, late = claim_gpus(tmp_path / "claims", edits), claim_gpus(tmp_path / "claims", edits, 2)
    with alone, pytest.raises(HostError, match="has the GPU"), late:
        pass
    with claim_gpus(tmp_path / "claims", edits, 2):  # nothing of them is left
        pass


def hook(path: str, *words: str) -> dict[str, Any]:
    return {"hookName": "createContainer", "path": path, "args": [path, *words]}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("hooks", [hook("/usr/bin/evil", "create-symlinks")], "wants to start the program /usr/bin/evil"),
        ("hooks", [hook("/usr/bin/nvidia-ctk", "hook", "something-new")], "something-new"),
        ("hooks", [hook("/usr/bin/nvidia-ctk", "hook", "create-symlinks", "--link", "x::/a/../../b")], "not a path"),
        ("deviceNodes", [{"path": "/dev/disk", "hostPath": "/dev"}], "not a character device"),
        ("deviceNodes", [{"path": "/etc/node", "hostPath": "/dev/null"}], "outside /dev"),
        ("deviceNodes", [{"path": "/dev/null", "major": 9, "minor": 9}], "other numbers"),
        ("deviceNodes", [{"path": "/dev/nothing-here"}], "not understood"),
        ("mounts", [{"hostPath": "/nowhere", "containerPath": "/x"}], "not a file or folder"),
        ("mounts", [{"hostPath": "/etc", "containerPath": "/x", "type": "overlay"}], "of the kind overlay"),
        ("mounts", [{"hostPath": "/etc", "containerPath": "../x"}], "not a path inside"),
        ("intelRdt", {"closID": "x"}, "asks for intelRdt"),
    ],
)
def test_what_a_sandbox_does_not_give_is_refused(spec: Specification, key: str, value: Any, reason: str) -> None:
    spec.common[key] = value
    spec.write()
    with pytest.raises(UnsafeHostError, match=reason):
        resolve_gpus([ONE])


def test_a_socket_of_the_hosts_daemon_is_left_out(spec: Specification) -> None:
    import socket  # noqa: PLC0415 - for this one

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(spec.host / "socket"))
        spec.common["mounts"].append({"hostPath": str(spec.host / "socket"), "containerPath": "/run/daemon"})
        spec.write()
        assert all(file.path != "/run/daemon" for file in resolve_gpus([ONE]).files)


def test_unknown_gpus_and_unreadable_specifications_are_refused_with_the_mend(spec: Specification) -> None:
    with pytest.raises(UnsafeHostError, match="names the GPU GPU-three") as refused:
        resolve_gpus(["GPU-three"])
    assert "nvidia-ctk cdi generate" in refused.value.hint
    (spec.folder / "nvidia.yaml").write_text("cdiVersion: 0.6.0")
    with pytest.raises(UnsafeHostError) as refused:
        resolve_gpus(["GPU-three"])
    assert "is YAML" in refused.value.hint
    for text in ("{", "[]", '{"cdiVersion": "0.6.0"}', '{"cdiVersion": "9.0.0", "kind": "a/gpu", "devices": []}'):
        (spec.folder / "test.json").write_text(text)
        with pytest.raises(UnsafeHostError, match=r"test\.json"):
            resolve_gpus([ONE])


def test_all_is_not_a_gpu_and_later_folders_win(spec: Specification, tmp_path: Path) -> None:
    later = tmp_path / "later"
    later.mkdir()
    (later / "other.json").write_text(
        json.dumps({"cdiVersion": "1.0.0", "kind": "referee.test/gpu", "devices": [{"name": "GPU-one"}]})
    )
    devices = cdi.gpu_devices((spec.folder, later))
    assert sorted(device.qualified_name for device in devices) == [ONE, TWO]
    assert cdi.find_device(ONE, None, devices).edits().nodes == ()


def test_gvisor_gives_no_gpus(world: World) -> None:
    policy = sandbox_policy(Contract(), LIMITS, level="gvisor", gpus=(ONE,))
    with pytest.raises(UnsafeHostError, match="gives no GPUs"):
        Box(policy, world.shell("true"), world.data, None, world.run_folder)


def test_the_end_of_a_long_log_is_kept_for_the_verdict(world: World) -> None:
    ran = world.run(world.shell("busybox yes | busybox head -c 300000; echo CUDA out of memory; exit 1"))
    assert "CUDA" not in ran.log
    assert ran.log_tail.endswith("CUDA out of memory\n")


def test_the_engine_offers_what_can_be_given(spec: Specification, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_driver_gpus", tuple)
    assert [gpu.uuid for gpu in hardware.this_machine().gpus] == [ONE, TWO]
    spec.common["hooks"] = [hook("/usr/bin/evil")]
    spec.write()
    assert hardware.this_machine().gpus == ()
    (spec.folder / "test.json").write_text("{")
    assert hardware.this_machine().gpus == ()


def test_the_doctor_says_which_gpus_can_be_given(spec: Specification) -> None:
    def look() -> HostCheck:
        return {check.name: check for check in examine_host()}["gpus"]

    assert look().status == "ok"
    assert ONE in look().seen
    spec.common["hooks"] = [hook("/usr/bin/evil")]
    spec.write()
    assert look().status == "warn"
    assert "/usr/bin/evil" in look().seen
    (spec.folder / "test.json").rename(spec.folder / "test.yaml")
    assert "YAML" in look().seen
    assert "nvidia-ctk" in look().mend
