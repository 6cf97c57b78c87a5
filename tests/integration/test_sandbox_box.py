"""One sandbox, from start to end: what a submission sees, what the host measures, and that nothing stays."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from referee.challenge import Contract
from referee.errors import HostError, UnsafeHostError
from referee.images.model import UnpackedImage
from referee.sandbox import Box, cgroups, enclosed, mounts, sandbox_policy, sweep
from sandbox_world import LIMITS, MIB, World, cgroup_of, traces

pytestmark = pytest.mark.containers
IMAGE_USER = Contract(user="image", rootfs="scratch", tmp_exec=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_program_reads_its_data_and_leaves_its_predictions(world: World) -> None:
    script = "cat /data/a.mp4 /data/deeper/c.mp4; echo filename,label > $REFEREE_OUTPUT/submission.csv"
    ran = world.run(world.shell(script))
    assert (ran.started, ran.exit_status, ran.signal, ran.ended_by) == (True, 0, None, "itself")
    assert ran.log == "a.mp4deeper/c.mp4"
    assert ran.content == b"filename,label\n"
    assert (ran.log_bytes, ran.output_files) == (17, 1)
    assert 0 < ran.peak_memory_bytes <= LIMITS.memory
    assert ran.cpu_seconds > 0
    assert ran.oom_kills == ran.host_oom_kills == ran.pids_refused == 0


def test_only_the_items_asked_for_are_visible(world: World) -> None:
    ran = world.run(world.shell("cd /data; ls -R; cat b.mp4 deeper/c.mp4; cat a.mp4"), items=("b.mp4", "deeper/c.mp4"))
    assert "a.mp4\n" not in ran.log.split("cat:")[0]
    assert "deeper/c.mp4" in ran.log
    assert "can't open 'a.mp4'" in ran.log


def test_nothing_of_the_host_is_in_the_environment_or_the_mounts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "canary")
    ran = world.run(world.shell("cat /proc/self/environ /proc/1/mountinfo /etc/hosts /etc/resolv.conf; hostname"))
    assert "canary" not in ran.log
    assert str(world.folder) not in ran.log
    assert world.folder.name not in ran.log
    assert os.uname().nodename not in ran.log.split()
    assert "REFEREE_DATA=/data" in ran.log
    assert "NVIDIA_VISIBLE_DEVICES=void" in ran.log


def test_the_contract_s_variables_win_over_the_image_s(world: World) -> None:
    contract = Contract(environment={"MODE": "contract"})
    ran = world.run(
        world.shell("echo $MODE $OWN $REFEREE_OUTPUT", environment=("MODE=image", "OWN=1", "REFEREE_OUTPUT=/x")),
        contract=contract,
    )
    assert ran.log == "contract 1 /output\n"


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("", "uid=0(root) gid=0(root)"),
        ("worker", "uid=77(worker) gid=78(worker) groups=44(video)"),
        ("77:44", "uid=77(worker) gid=44(video)"),
        ("1234", "uid=1234 gid=0(root)"),
    ],
)
def test_an_image_s_own_user_is_kept_if_the_contract_says_so(world: World, user: str, said: str) -> None:
    script = "id; echo x > /written && echo x > /output/submission.csv; stat -c %u /bin/busybox; cat /data/a.mp4"
    ran = world.run(world.shell(script, user=user), contract=IMAGE_USER)
    assert said in ran.log
    assert ran.log.endswith("0\na.mp4")
    assert ("can't create /written" in ran.log) == (user not in {"", "0"})
    assert ran.content == (b"x\n" if user == "" else None) or user != ""


def test_a_writable_root_is_thrown_away_and_capped(world: World) -> None:
    script = "echo x > /bin/new; dd if=/dev/zero of=/big bs=1M count=100; ls /bin/new"
    ran = world.run(world.shell(script), contract=IMAGE_USER)
    assert "No space left" in ran.log
    assert "/bin/new" in ran.log
    assert not (world.layer / "bin/new").exists()
    assert "No such file" in world.run(world.shell("ls /bin/new"), contract=IMAGE_USER).log


def test_programs_run_from_scratch_only_if_the_contract_says_so(world: World) -> None:
    script = "cat /bin/busybox > /tmp/true; chmod 755 /tmp/true; /tmp/true && echo ran"
    world.layer.joinpath("bin/chmod").symlink_to("busybox")
    assert "Permission denied" in world.run(world.shell(script)).log
    assert "ran" in world.run(world.shell(script), contract=Contract(tmp_exec=True)).log


@pytest.mark.parametrize("folder", ["/app/work", "/tmp", "/output", "", "/bin/../bin"])
def test_the_working_folder_is_the_image_s(world: World, folder: str) -> None:
    ran = world.run(world.shell("pwd", working_folder=folder))
    assert ran.log.strip() == os.path.normpath(folder or "/")


ORDINARY = """
import asyncio, ctypes, getpass, mmap, multiprocessing, os, socket, sqlite3, subprocess, tempfile, threading
with multiprocessing.Pool(4) as pool: assert sum(pool.map(abs, range(-100, 0))) == 5050
semaphore = multiprocessing.Semaphore(1)
segment = multiprocessing.shared_memory.SharedMemory(create=True, size=1 << 20); segment.unlink()
threads = [threading.Thread(target=os.getpid) for _ in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
database = sqlite3.connect(tempfile.mktemp()); database.execute("create table t (x)"); database.commit()
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
assert asyncio.run(asyncio.sleep(0, 7)) == 7
assert subprocess.run(["/bin/sh", "-c", "exit 3"]).returncode == 3
assert len(os.sched_getaffinity(0)) >= 1 and os.cpu_count() >= 1
assert os.path.exists("/sys/devices/system/cpu/online") and open("/proc/meminfo").read()
assert mmap.mmap(-1, 1 << 20) and os.urandom(8) and getpass.getuser()
assert socket.gethostbyname("localhost") == "127.0.0.1" and socket.gethostbyname(socket.gethostname())
print("all well")
"""


@pytest.mark.parametrize("contract", [Contract(), IMAGE_USER], ids=["strict", "loose"])
def test_an_ordinary_program_finds_what_it_needs(world: World, contract: Contract) -> None:
    ran = world.run(world.python("import multiprocessing.shared_memory" + ORDINARY), contract=contract)
    assert ran.log == "all well\n"


def test_an_image_that_compiles_and_writes_beside_its_code_runs_under_the_presets(world: World) -> None:
    script = "echo x > here; mkdir -p ~/.cache && echo '#!/bin/sh' > /tmp/x; chmod 755 /tmp/x; /tmp/x && echo ok"
    (world.layer / "bin/chmod").symlink_to("busybox")
    ran = world.run(world.shell(script, working_folder="/app"), contract=Contract(preset="kaggle"))
    assert ran.log == "ok\n"


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_where_owners_cannot_be_mapped_only_what_all_may_read_is_run(world: World, mode: int) -> None:
    """An overlay cannot be id-mapped: so it is in a worker that is itself in a container."""
    for path in world.data.rglob("*.mp4"):
        path.chmod(mode)
    policy = sandbox_policy(Contract(), LIMITS)

    def work() -> str:
        parts = {name: world.folder / f"over-{name}" for name in ("layer", "phase", "run", "nothing")}
        for part in parts.values():
            part.mkdir()
        mounts.overlay(parts["layer"], [world.layer, parts["nothing"]])
        mounts.overlay(parts["phase"], [world.data, parts["nothing"]])
        image = UnpackedImage(world.shell("cat /data/a.mp4").record, (parts["layer"],))
        log = io.BytesIO()
        try:
            with Box(policy, image, parts["phase"], None, parts["run"]) as box:
                box.run(log)
        except HostError as error:
            return error.hint
        return log.getvalue().decode()

    assert ("a.mp4" if mode == 0o644 else "chmod -R o+rX") in enclosed(work)


def test_an_exit_status_and_a_signal_are_told_apart(world: World) -> None:
    assert (world.run(world.shell("exit 137")).outcome | {"wall_seconds": 0})["exit_status"] == 137
    crash = "import ctypes; ctypes.string_at(0)"
    ran = world.run(world.python(crash))
    assert (ran.exit_status, ran.signal, ran.oom_kills) == (None, signal.SIGSEGV, 0)


def test_quick_runs_all_tell_their_status(world: World) -> None:
    statuses = [world.run(world.shell(f"exit {n % 256}")).exit_status for n in range(20)]
    assert statuses == list(range(20))


def test_a_kill_from_another_thread_ends_the_run(world: World) -> None:
    def later(box: Box) -> None:
        def act() -> None:
            while box._container is None:  # not started yet, on a slow machine
                time.sleep(0.01)
            box.kill("the node is going away")

        threading.Thread(target=act).start()

    ran = world.run(world.shell("sleep 1000"), during=later)
    assert (ran.started, ran.ended_by, ran.kill_reason) == (True, "kill", "the node is going away")
    assert ran.signal == signal.SIGKILL


def test_a_kill_before_the_start_starts_nothing(world: World) -> None:
    ran = world.run(world.shell("echo ran; sleep 1000"), during=lambda box: box.kill("at once"))
    assert (ran.started, ran.ended_by) == (False, "kill")


def test_the_output_cannot_be_read_before_the_run(world: World) -> None:
    def early(box: Box) -> dict[str, str]:
        try:
            box.harvest("submission.csv", 10)
        except HostError as error:
            return {"said": error.message}
        return {}

    assert "after the sandbox has ended" in world.run(world.shell("true"), during=early).steps["said"]


def test_a_sandbox_outside_a_private_mount_namespace_is_refused(world: World) -> None:
    folder = world.run_folder / "refused"
    folder.mkdir()
    program = f"""
import sys, json
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from referee.sandbox import kernel
from sandbox_world import *
kernel.unshare(kernel.NEW_MOUNTS)
kernel.mount("none", "/", None, kernel.RECURSIVE | (1 << 20))
image = ImageRecord(digest="", config_digest="", architecture=ARCHITECTURE, layers=(), diff_ids=(), stored_bytes=0,
                    unpacked_bytes=0, config=ImageConfig(entrypoint=("/bin/sh",)))
try:
    with Box(sandbox_policy(Contract(), LIMITS), UnpackedImage(image, (Path({str(world.layer)!r}),)),
             Path({str(world.data)!r}), None, Path({str(folder)!r})):
        print("entered")
except Exception as error:
    print(type(error).__name__)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == UnsafeHostError.__name__
    assert not any(traces()["mounts"])


class FullDisk(io.BytesIO):
    """A log that cannot be written."""

    def write(self, _: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("ending", ["itself", "interrupt", "error", "wall_time"])
def test_nothing_stays_however_it_ends(world: World, tmp_path: Path, ending: str) -> None:
    seen = tmp_path / "seen"

    def act(box: Box) -> None:
        def late() -> None:
            (record,) = world.run_folder.rglob("cgroups.json")
            while not (there := [str(path) for path in cgroup_of(record) if path.exists()]):
                time.sleep(0.01)  # the runtime has not made them yet
            seen.write_text(json.dumps(there))
            if ending == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)

        # A test run that a shell started in its background ignores it, and so would this process.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.3, late).start()

    wall_seconds = 0.5 if ending == "wall_time" else 30
    image = world.shell("(trap '' TERM; sleep 1000) & echo x > /tmp/x; sleep 0.6" + "; exit 3" * (ending == "itself"))
    if ending == "interrupt":
        with pytest.raises(HostError, match="KeyboardInterrupt"):
            world.run(world.shell("sleep 1000"), during=act)
    elif ending == "error":
        with pytest.raises(HostError, match="No space left"):
            world.run(world.shell("sleep 0.6; echo a; sleep 1000"), during=act, sink=FullDisk())
    else:
        assert world.run(image, during=act, wall_time=timedelta(seconds=wall_seconds)).ended_by == ending
    existed = json.loads(seen.read_text())
    assert len(existed) >= 1
    assert not [path for path in existed if Path(path).exists()]
    assert all(list(folder.iterdir()) == [] for folder in world.run_folder.iterdir())
    assert traces()["mounts"] == []


def test_cgroups_that_would_not_go_are_known_to_the_next_sweep(world: World) -> None:
    def act(_: Box) -> None:
        def stay(leaf: cgroups.Leaf, seconds: float = 0.0) -> None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

        cgroups.Leaf.remove = stay  # type: ignore[method-assign] - in a process of its own

    with pytest.raises(HostError, match="busy"):
        world.run(world.shell("true"), during=act)
    (folder,) = world.run_folder.iterdir()
    there = cgroup_of(folder / "cgroups.json")
    assert any(path.exists() for path in there)
    assert sweep(world.run_folder) == [folder]
    assert not any(path.exists() for path in there)


def test_nothing_stays_at_the_root_of_version_2_where_the_worker_is_below_it(world: World, tmp_path: Path) -> None:
    host = cgroups.locate()
    if host.mode != "hybrid":
        pytest.skip("this machine has no tree of version 2 beside version 1")
    (tree,) = (each for each in host.hierarchies if each.version == 2)
    group, seen = tree.mountpoint / f"test-{os.urandom(4).hex()}", tmp_path / "seen"
    group.mkdir()

    def act(_: Box) -> None:
        (group / "cgroup.procs").write_text("0")

        def note() -> None:
            while not (records := list(world.run_folder.rglob("cgroups.json"))):
                time.sleep(0.01)
            while not (content := records[0].read_text()).endswith("]"):
                time.sleep(0.01)
            seen.write_text(Path(json.loads(content)[0]).name)

        threading.Thread(target=note, daemon=True).start()

    try:
        assert world.run(world.shell("sleep 0.5"), during=act).exit_status == 0
        assert not (tree.mountpoint / seen.read_text()).exists()
    finally:
        group.rmdir()


@pytest.mark.parametrize("delay_seconds", [0.0, 0.02, 0.05, 0.1, 0.3])
def test_a_killed_worker_leaves_no_process_or_mount_and_a_sweep_takes_the_rest(
    world: World, delay_seconds: float
) -> None:
    started = time.monotonic()
    reader, writer = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            os.setsid()
            world.run(
                world.shell("touch /output/x; while :; do sleep 0.01; done"), during=lambda _: os.write(writer, b"x")
            )
        finally:
            os._exit(0)
    assert os.read(reader, 1) == b"x"
    time.sleep(delay_seconds)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    (box_folder,) = world.run_folder.iterdir()
    folders = cgroup_of(box_folder / "cgroups.json") if (box_folder / "cgroups.json").exists() else []
    deadline = time.monotonic() + 5
    while _processes(folders) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _processes(folders) == []
    swept = _swept(world, deadline)
    assert swept == [box_folder]
    assert not [path for path in folders if path.exists()]
    assert list(world.run_folder.iterdir()) == []
    assert not [line for line in traces()["mounts"] if line]
    assert time.monotonic() - started < 60


def _swept(world: World, deadline: float) -> list[Path]:
    # The lock is free once the last process of the worker is gone, a moment after the signal.
    while not (removed := sweep(world.run_folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return removed


def _processes(folders: list[Path]) -> list[str]:
    return [pid for f in folders if f.exists() for pid in (f / "cgroup.procs").read_text().split()]


def test_a_sweep_leaves_a_living_sandbox_alone(world: World) -> None:
    def look(box: Box) -> dict[str, Any]:
        return {"swept": [str(path) for path in sweep(world.run_folder)]}

    ran = world.run(world.shell("echo lives"), during=look)
    assert ran.steps["swept"] == []
    assert ran.log == "lives\n"


def test_a_sweep_touches_only_cgroups_of_ours(world: World) -> None:
    folder = world.run_folder / "dead"
    folder.mkdir()
    (folder / "box.lock").touch()
    memory = next(Path(m.split()[4]) for m in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in m)
    foreign = memory / "somebody-else"
    foreign.mkdir()
    try:
        (folder / "cgroups.json").write_text(json.dumps([str(foreign), f"{memory}/referee-x/../somebody-else", "/etc"]))
        assert sweep(world.run_folder) == [folder]
        assert foreign.exists()
    finally:
        foreign.rmdir()


def test_two_sandboxes_of_one_process_do_not_nest(world: World) -> None:
    def second(box: Box) -> dict[str, str]:
        folder = world.run_folder / "second"
        folder.mkdir()
        policy = sandbox_policy(Contract(), LIMITS)
        try:
            with Box(policy, world.shell("true"), world.data, None, folder):
                return {"said": "entered"}
        except HostError as error:
            return {"said": error.message}
        finally:
            folder.rmdir()

    assert "Another sandbox" in world.run(world.shell("true"), during=second).steps["said"]


def test_neighbours_share_no_host_uid(world: World) -> None:
    image = world.shell("cat /proc/self/uid_map; sleep 1")
    with ThreadPoolExecutor(3) as pool:
        logs = [ran.log for ran in pool.map(lambda _: world.run(image), range(3))]
    bases = {int(log.split()[1]) for log in logs}
    assert len(bases) == 3
    assert min(bases) >= 2**30


def test_a_sandbox_is_confined_to_the_processors_of_its_worker(world: World) -> None:
    def confine() -> str:
        one = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {one})
        return str(one)

    program = "import os; os.sched_setaffinity(0, range(64)); print(*os.sched_getaffinity(0))"
    image = world.python(program)
    with ThreadPoolExecutor(1) as pool:  # a thread's own affinity, which its children inherit
        one = pool.submit(confine).result()
        ran = pool.submit(world.run, image).result()
    assert (ran.log.strip() == one) or os.cpu_count() == 1, ran.log


def test_a_sandbox_runs_once(world: World) -> None:
    def before(box: Box) -> dict[str, str]:
        box.run(io.BytesIO())
        return {}

    with pytest.raises(HostError, match="runs once"):
        world.run(world.shell("true"), during=before)


def test_a_late_kill_writes_to_nothing_that_was_opened_since(world: World) -> None:
    def work() -> str:
        folder = world.run_folder / "late"
        folder.mkdir()
        with Box(sandbox_policy(Contract(), LIMITS), world.shell("true"), world.data, None, folder) as box:
            box.run(io.BytesIO())
        pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(8)]  # the lowest free descriptors, so those of the box too
        box.kill("too late")
        return "".join(read_all(reader) for reader, _ in pipes)

    assert enclosed(work) == ""


def read_all(descriptor: int) -> str:
    try:
        return os.read(descriptor, 100).decode()
    except BlockingIOError:
        return ""


def test_the_wall_time_is_scaled(world: World) -> None:
    policy = sandbox_policy(Contract(), LIMITS.model_copy(update={"wall_time": timedelta(seconds=10)}), 1.5)
    assert policy.wall_seconds == 15.0


def test_memory_of_output_scratch_and_shared_memory_counts(world: World) -> None:
    places = {"/output": 3, "/tmp": 7, "/dev/shm": 3}
    script = "; ".join(f"dd if=/dev/zero of={place}/x bs=1M count={count}" for place, count in places.items())
    assert world.run(world.shell(script)).peak_memory_bytes >= 13 * MIB


def test_an_enclosure_reports_errors() -> None:
    def fail() -> None:
        raise ValueError("such and such")

    with pytest.raises(HostError, match="such and such"):
        enclosed(fail)
