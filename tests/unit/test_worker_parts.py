"""The parts of a worker that need no container: lock, staging, stopping, measuring, faults, publishing."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from referee.attempts import AttemptResult, AttemptSpec
from referee.boot import boot_id
from referee.challenge import Contract, Limits, PredictionFormat
from referee.digests import digest_of
from referee.errors import ConfigurationError, ConflictError, HostError, ObjectStoreError
from referee.images.model import NoRoomError
from referee.objects import AlreadyExistsError, ObjectStore
from referee.phases import PhaseData, PhaseFile, file_list_digest
from referee.verdicts import Verdict
from referee.worker import lock as lock_module
from referee.worker import run as run_module
from referee.worker import staging, warden
from referee.worker.cell import Caller
from referee.worker.claims import claim
from referee.worker.faults import host_fault
from referee.worker.leftovers import clear_dead, clear_if_dead
from referee.worker.lock import (
    Holder,
    attempts_on,
    is_held,
    read_holder,
    run_folder,
    start_ticks,
    take_lock,
    write_holder,
)
from referee.worker.measure import measurements
from referee.worker.publishing import LOG, PREDICTIONS, RESULT, Files, publish, result_key
from referee.worker.staging import StagingError, stage
from referee.worker.stopping import Stopped, Stopping

# The lock


def test_a_lock_is_held_by_one_and_tells_by_whom(tmp_path: Path) -> None:
    holder = Holder(os.getpid(), start_ticks(os.getpid()) or 0, boot_id(), "job", (0, 2), ("GPU-1",), 5)
    lock = take_lock(tmp_path, "a.p.1")
    assert (is_held(tmp_path, "a.p.1"), read_holder(tmp_path, "a.p.1")) == (True, None)
    write_holder(lock, holder)
    assert read_holder(tmp_path, "a.p.1") == holder
    with pytest.raises(ConflictError, match="on this node already"):
        take_lock(tmp_path, "a.p.1")
    os.close(lock)
    assert (is_held(tmp_path, "a.p.1"), read_holder(tmp_path, "a.p.1")) == (False, None)


def test_a_lock_lives_until_its_last_process_is_gone(tmp_path: Path) -> None:
    lock = take_lock(tmp_path, "a")
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    os.close(lock)
    assert is_held(tmp_path, "a")
    os.close(go)
    os.waitpid(child, 0)
    os.close(wait)
    assert not is_held(tmp_path, "a")


def test_a_lock_that_is_swept_while_it_is_taken_is_not_mistaken_for_a_held_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, somebody who cleared the folder may have removed its name."""
    real, swept = fcntl.flock, []

    def sweep_once(descriptor: int, how: int) -> None:
        if not swept:
            swept.append(True)
            (run_folder(tmp_path, "a") / "lock").unlink()
        real(descriptor, how)

    monkeypatch.setattr(lock_module.fcntl, "flock", sweep_once)
    held = take_lock(tmp_path, "a")
    assert is_held(tmp_path, "a")
    os.close(held)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".a", "a b", "x" * 300])
def test_an_attempt_s_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not an attempt's name"):
        take_lock(tmp_path, name)


def test_what_dead_workers_left_is_cleared_and_the_living_are_left_alone(tmp_path: Path) -> None:
    for name in ("dead", "alive"):
        lock = take_lock(tmp_path, name)
        (run_folder(tmp_path, name) / "box" / "deep").mkdir(parents=True)
        (run_folder(tmp_path, name) / "log").write_bytes(b"x")
        if name == "dead":
            os.close(lock)
    assert clear_if_dead(tmp_path, "alive") is False
    assert clear_dead(tmp_path) == ["dead"]
    assert attempts_on(tmp_path) == ["alive"]
    assert (run_folder(tmp_path, "alive") / "log").exists()
    assert clear_if_dead(tmp_path, "never_was") is True


def test_a_process_is_named_by_its_start() -> None:
    assert start_ticks(os.getpid()) == start_ticks(os.getpid())
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert start_ticks(child) is None


# Claims


def test_of_two_claims_one_counts_even_if_they_look_alike(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    assert [claim(objects, "a", job="j", node="n", boot_id="b") for _ in range(3)] == [True, False, False]


# Staging


@pytest.fixture
def data(tmp_path: Path) -> PhaseData:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    files = []
    for name, content in {"a": b"1", "deep/b": b"22"}.items():
        (tmp_path / "data" / name).write_bytes(content)
        files.append(PhaseFile(name=name, size_bytes=len(content), sha256=digest_of(content).removeprefix("sha256:")))
    return PhaseData(location=tmp_path / "data", digest=file_list_digest(tuple(files)), files=tuple(files))


def test_every_byte_is_read_once_for_each_boot(
    data: PhaseData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = staging._read_everything

    def counted(phase: PhaseData) -> None:
        read.append(phase.digest)
        real(phase)

    monkeypatch.setattr(staging, "_read_everything", counted)
    for boot in ("boot-1", "boot-1", "boot-2", "boot-2"):
        assert stage(data, tmp_path, boot) == data.location
    assert len(read) == 2
    (data.location / "a").write_bytes(b"1")  # the same content, written anew
    stage(data, tmp_path, "boot-2")
    assert len(read) == 3


def test_a_list_of_files_that_was_changed_is_refused(data: PhaseData, tmp_path: Path) -> None:
    with pytest.raises(StagingError, match="does not have the digest"):
        stage(data.model_copy(update={"files": data.files[:1]}), tmp_path, "b")


def test_data_that_changes_back_and_forth_is_never_taken_for_proven(data: PhaseData, tmp_path: Path) -> None:
    stage(data, tmp_path, "b")
    (data.location / "a").write_bytes(b"X")
    with pytest.raises(StagingError, match="its digest differs"):
        stage(data, tmp_path, "b")
    (data.location / "a").write_bytes(b"1")
    assert stage(data, tmp_path, "b") == data.location


# Being stopped


class FakeBox:
    def __init__(self) -> None:
        self.killed = ""

    def kill(self, reason: str) -> None:
        self.killed = reason


def test_stopping_raises_in_preparation_kills_a_running_box_and_leaves_publication_alone() -> None:
    stopping, box = Stopping(), FakeBox()
    with pytest.raises(Stopped), stopping.preparing():
        stopping.stop()
    stopping = Stopping()
    with stopping.preparing():
        pass
    stopping.stop()
    with stopping.running(box):
        assert box.killed
    stopping.stop()


def test_a_stop_before_the_beginning_is_not_forgotten() -> None:
    stopping = Stopping()
    stopping.stop()
    with pytest.raises(Stopped), stopping.preparing():
        pytest.fail("it went on")


def test_sigterm_is_a_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stopping, box = Stopping(), FakeBox()
        stopping.listen()
        with stopping.running(box):
            signal.raise_signal(signal.SIGTERM)
        assert box.killed
    finally:
        signal.signal(signal.SIGTERM, before)


# Measuring


@dataclass(frozen=True)
class Used:
    wall_seconds: float = 1.0
    gpu_peak_memory_bytes: int | None = None
    cpu_seconds: float = 2.0
    start_seconds: float = 0.25
    peak_memory_bytes: int = 50
    memory_limit_bytes: int = 100
    oom_kills: int = 0
    pids_peak: int | None = 4
    pids_refused: int = 0
    output_bytes: int = 5
    output_files: int = 1
    log_bytes: int = 10**9


LIMITS = Limits(wall_time=timedelta(seconds=10), memory=100, pids=40, output=100, output_files=10)


@pytest.mark.parametrize(
    ("used", "scale", "nearest", "share"),
    [
        (Used(), 1.0, "memory", 0.5),
        (Used(wall_seconds=8.0), 1.0, "wall_time", 0.8),
        (Used(wall_seconds=8.0), 2.0, "memory", 0.5),
        (Used(pids_peak=30), 1.0, "pids", 0.75),
        (Used(pids_peak=None, pids_refused=3), 1.0, "pids", 1.0),
        (Used(pids_peak=4, pids_refused=3), 1.0, "pids", 1.0),
        (Used(output_files=9), 1.0, "output_files", 0.9),
        (Used(output_bytes=99), 1.0, "output", 0.99),
        (Used(wall_seconds=10.2), 1.0, "wall_time", 1.0),
        (Used(peak_memory_bytes=300, memory_limit_bytes=600), 1.0, "memory", 0.5),
    ],
)
def test_the_limit_that_was_nearest_is_named(used: Used, scale: float, nearest: str, share: float) -> None:
    measured = measurements(used, LIMITS, scale, timedelta(seconds=0.5))
    assert (measured.nearest_limit, measured.nearest_limit_share) == (nearest, share)
    assert measured.preparation_seconds == 0.75
    assert measured.log_bytes == 10**9


# Faults of ours


def chained(cause: BaseException) -> Exception:
    error = HostError("It failed.", hint="Mend it.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (HostError("It failed."), Verdict.IMAGE_UNAVAILABLE),
        (OSError(errno.EIO, "io"), Verdict.IMAGE_UNAVAILABLE),
        (OSError(errno.ENOSPC, "full"), Verdict.HOST_FULL),
        (OSError(errno.EDQUOT, "quota"), Verdict.HOST_FULL),
        (MemoryError(), Verdict.HOST_FULL),
        (NoRoomError("No room."), Verdict.HOST_FULL),
        (chained(OSError(errno.ENOSPC, "full")), Verdict.HOST_FULL),
        (ZeroDivisionError(), Verdict.IMAGE_UNAVAILABLE),
    ],
)
def test_what_fails_in_our_own_code_is_the_host_s(error: Exception, verdict: Verdict) -> None:
    judgement = host_fault(error, Verdict.IMAGE_UNAVAILABLE)
    assert judgement.verdict is verdict
    assert judgement.signature == ""
    assert judgement.detail


# Publishing


def spec_of(attempt: str = "s.p.1") -> AttemptSpec:
    return AttemptSpec(
        attempt=attempt, evaluation="s.p", campaign="c", submission="s", phase="p", image="i", phase_data_key="k",
        result_key="secret", private=True, contract=Contract(), limits=Limits(), predictions=PredictionFormat(),
    )  # fmt: skip


def result_of(verdict: Verdict = Verdict.OK) -> AttemptResult:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return AttemptResult(
        attempt="s.p.1", verdict=verdict, predictions_rows=1, node="n", boot_id="b", machine_type="m", level="runc",
        started_at=now, ended_at=now, worker_version="0",
    )  # fmt: skip


def test_a_clock_that_is_set_back_while_an_attempt_runs_does_not_shorten_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)])

    class Clock(datetime):
        @classmethod
        def now(cls, _zone: object = None) -> datetime:  # type: ignore[override] # the one way in which it is called
            return next(moments)

    monkeypatch.setattr(run_module, "datetime", Clock)
    objects = ObjectStore(tmp_path / "objects")
    assert claim(objects, "s.p.1", job="j", node="other", boot_id="b")
    result = run_module.run_attempt(spec_of(), objects, tmp_path / "node", run_module.Place("n", "j2"))
    assert result.verdict is Verdict.DUPLICATE
    assert result.ended_at >= result.started_at


def test_the_result_comes_last_and_names_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, order = ObjectStore(tmp_path), []
    real = objects.put_once
    monkeypatch.setattr(objects, "put_once", lambda key, data: order.append(key.rpartition("/")[2]) or real(key, data))
    stored = publish(objects, spec_of(), result_of(), Files(b"predictions", b"log"))
    assert order == [PREDICTIONS, LOG, RESULT]
    assert stored == AttemptResult.model_validate_json(objects.get(result_key(spec_of(), RESULT)))
    assert (stored.predictions_digest, stored.log_digest) == (digest_of(b"predictions"), digest_of(b"log"))


def test_files_that_cannot_be_stored_make_it_the_host_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = ObjectStore(tmp_path)
    real = objects.put_once

    def full(key: str, data: bytes) -> bool:
        if key.endswith(PREDICTIONS):
            raise ObjectStoreError("No room.") from OSError(errno.ENOSPC, "full")
        return real(key, data)

    monkeypatch.setattr(objects, "put_once", full)
    stored = publish(objects, spec_of(), result_of(), Files(b"predictions"))
    assert (stored.verdict, stored.predictions_digest, stored.predictions_rows) == (Verdict.HOST_FULL, None, None)


def test_the_first_result_stays(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    first = publish(objects, spec_of(), result_of(), Files())
    assert publish(objects, spec_of(), result_of(), Files()) == first  # a lost reply looks the same
    with pytest.raises(AlreadyExistsError):
        publish(objects, spec_of(), result_of(Verdict.CRASHED), Files())
    assert AttemptResult.model_validate_json(objects.get(result_key(spec_of(), RESULT))) == first


def test_a_warden_that_cannot_fork_keeps_nothing_open_and_can_still_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    ours, theirs = socket.socketpair()
    guest, who = warden._Guest(ours, 0), Caller(0, 1, 1, ())
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="temporarily"):
        warden.Warden(warden.WardenSettings(users=()))._fork(
            guest, warden.Request(attempt="a"), tmp_path, theirs.fileno(), theirs.fileno(), who
        )
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    ours.close()
    theirs.close()
