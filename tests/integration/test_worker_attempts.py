"""One attempt through a real worker: what the submission does, and the verdict that is true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from referee.attempts import AttemptResult, AttemptSpec
from referee.boot import boot_id
from referee.digests import digest_of
from referee.sandbox import kernel
from referee.verdicts import Blame, Verdict, blame
from referee.worker.claims import claim_key
from referee.worker.lock import is_held, read_holder
from referee.worker.main import ANOTHERS
from referee.worker.publishing import LOG, PREDICTIONS, RESULT, result_key
from worker_world import GOOD, LIMITS, World, eventually, make_world, traces

pytestmark = pytest.mark.containers

GROW = "o=/output/submission.csv; "


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    assert traces(made.node) == []


def start(world: World, spec: AttemptSpec, *, node: Path | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "referee.worker", f"specs/{spec.attempt}.json", "--job", "test/1"]
    command += ["--objects", world.objects.location, "--node", str(node or world.node)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def run(world: World, spec: AttemptSpec) -> AttemptResult:
    worker = start(world, spec)
    _, errors = worker.communicate()
    assert (worker.returncode, errors) == (0, b"")
    result = world.result(spec)
    assert result is not None
    return result


@dataclass(frozen=True)
class Case:
    name: str
    script: str
    verdict: Verdict
    signature: str = ""
    wall_seconds: float = 60.0


CASES = [
    Case("good", GOOD, Verdict.OK),
    Case("status 3", "exit 3", Verdict.NONZERO_EXIT, "exit status 3"),
    Case("a lie about memory", "exit 137", Verdict.NONZERO_EXIT, "exit status 137"),
    Case("too long", f"{GOOD}; sleep 60", Verdict.TIME_LIMIT, "wall time limit reached", 1.0),
    Case("too much memory", "tail /dev/zero", Verdict.MEMORY_LIMIT, "memory limit reached"),
    Case("a helper too much memory", "tail /dev/zero & sleep 2", Verdict.MEMORY_LIMIT, "memory limit reached"),
    Case("too much memory, survived", f"tail /dev/zero; {GOOD}", Verdict.OK),
    Case("a flood of log", "yes", Verdict.LOG_LIMIT, "log limit reached"),
    Case("nothing written", "echo hello", Verdict.NO_PREDICTIONS, "no predictions file at the agreed path"),
    Case(
        "another name", "echo x > /output/other.csv", Verdict.NO_PREDICTIONS, "no predictions file at the agreed path",
    ),
    Case(
        "a link", f"ln -s /etc/passwd {GROW[2:-2]}", Verdict.INVALID_PREDICTIONS,
        "linked: the predictions file was not taken",
    ),
    Case(
        "a pipe", f"mkfifo {GROW[2:-2]}", Verdict.INVALID_PREDICTIONS,
        "not a file: the predictions file was not taken",
    ),
    Case(
        "NaN", GOOD.replace("$f,0.25", "$f,nan"), Verdict.INVALID_PREDICTIONS,
        "Row 2: the value is NaN or infinite (not_finite).",
    ),
    Case(
        "a stranger's row", f"{GOOD}; echo SECRET,0.5 >> $o", Verdict.INVALID_PREDICTIONS,
        "Row 5: the name is not one of the phase's files (unknown_file).",
    ),
    Case(
        "rows forgotten", f"{GROW} echo filename,label > $o", Verdict.INVALID_PREDICTIONS,
        "There is not a row for each of the phase's files (missing_files).",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_verdict_is_true(world: World, case: Case) -> None:
    limits = LIMITS.model_copy(update={"wall_time": timedelta(seconds=case.wall_seconds)})
    result = run(world, world.spec(world.image(case.script), limits=limits))
    assert (result.verdict, result.signature) == (case.verdict, case.signature)
    assert result.measurements is not None
    assert (result.predictions_digest is None) == (case.verdict is not Verdict.OK)


def test_everything_is_measured_and_published_and_nothing_else(world: World) -> None:
    spec = world.spec(world.image(f"echo hello; {GOOD}"), machine_type="m", level="runc")
    result = run(world, spec)
    predictions = world.objects.get(result_key(spec, PREDICTIONS))
    assert sorted(predictions.splitlines()) == [b"a.mp4,0.25", b"b.mp4,0.25", b"deeper/c.mp4,0.25", b"filename,label"]
    assert world.objects.get(result_key(spec, LOG)) == b"hello\n"
    assert world.objects.list("results") == sorted(result_key(spec, name) for name in (PREDICTIONS, LOG, RESULT))
    assert (result.predictions_digest, result.log_digest) == (digest_of(predictions), digest_of(b"hello\n"))
    assert (result.predictions_rows, result.exit_status, result.machine_type) == (3, 0, "m")
    measured = result.measurements
    assert measured is not None
    assert 0 < measured.wall_seconds < (result.ended_at - result.started_at).total_seconds()
    assert 0 < measured.preparation_seconds < (result.ended_at - result.started_at).total_seconds()
    assert measured.cpu_seconds > 0
    assert 0 < measured.peak_memory_bytes < LIMITS.memory
    assert measured.output_files == 1
    assert measured.log_bytes == len("hello\n")
    assert measured.nearest_limit is not None
    assert measured.nearest_limit_share is not None
    assert 0 < measured.nearest_limit_share < 1


def test_only_the_items_asked_for_are_seen_and_wanted(world: World) -> None:
    result = run(world, world.spec(world.image(GOOD), items=("b.mp4",)))
    assert (result.verdict, result.predictions_rows) == (Verdict.OK, 1)


@pytest.mark.parametrize("program", ["/no/such/program", "/empty", "/script", "/foreign"])
def test_an_image_that_cannot_start_is_its_own_fault(world: World, program: str) -> None:
    result = run(world, world.spec(world.broken_image(Cmd=None, Entrypoint=[program])))
    assert result.verdict is Verdict.BAD_IMAGE, result.detail
    assert result.measurements is None


def test_when_nothing_starts_with_these_settings_the_host_is_at_fault(world: World) -> None:
    """A memory limit in which not even the runtime fits: a container that is known to be good does not start either."""
    limits = LIMITS.model_copy(update={"memory": 4096})
    result = run(world, world.spec(world.image(GOOD), limits=limits))
    assert result.verdict is Verdict.SANDBOX_FAILED, result.detail
    assert "known to be good did not start" in result.detail
    assert result.signature == ""


def test_hostile_words_in_a_log_reach_neither_the_participant_nor_a_terminal(world: World) -> None:
    script = "printf '\\033[31mred\\n'; echo filename,label > /output/submission.csv; "
    script += "printf '\\033[2J,0.5\\n' >> /output/submission.csv"
    result = run(world, world.spec(world.image(script.replace("printf", "/bin/busybox printf"))))
    assert result.verdict is Verdict.INVALID_PREDICTIONS
    assert "\033" not in result.detail + result.signature


# The host's faults


def _change(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _swap_in_place(path: Path) -> None:
    facts = path.stat()
    path.write_bytes(b"X" * facts.st_size)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda data: (data / "a.mp4").unlink(), "lacks 'a.mp4'"),
        (lambda data: _change(data / "a.mp4", b"short"), "5 bytes instead of 1000"),
        (lambda data: _swap_in_place(data / "a.mp4"), "its digest differs"),
        (lambda data: _change(data / "extra", b""), "'extra', which is not recorded"),
        (lambda data: (data / "link").symlink_to("/etc/passwd"), "is a link"),
        (lambda data: data.rename(data.with_name("gone")), "cannot be read"),
    ],
    ids=["missing", "size", "content", "extra", "link", "folder"],
)
def test_data_that_is_not_the_recorded_data_is_the_host_s_fault(world: World, harm: object, said: str) -> None:
    image = world.image(GOOD)
    assert run(world, world.spec(image)).verdict is Verdict.OK
    harm(world.data.location)  # type: ignore[operator] - a table of functions
    result = run(world, world.spec(image))
    assert result.verdict is Verdict.DATA_UNAVAILABLE
    assert said in result.detail
    assert result.signature == ""


def test_an_image_that_is_lost_is_the_host_s_fault(world: World) -> None:
    assert run(world, world.spec("sha256:" + "0" * 64)).verdict is Verdict.IMAGE_UNAVAILABLE


def test_a_machine_that_cannot_prove_itself_runs_nothing(world: World) -> None:
    proof = world.node / "proofs" / "runc.json"
    facts = json.loads(proof.read_bytes())
    facts["checks"][0]["held"] = False
    proof.write_text(json.dumps(facts))
    spec = world.spec(world.image(GOOD))
    result = run(world, spec)
    assert result.verdict is Verdict.SANDBOX_FAILED
    assert blame(result.verdict) is Blame.HOST
    assert "cannot show what the sandbox promises" in result.detail
    assert result.log_digest is None


def test_a_risk_that_the_operator_accepted_by_name_stops_nothing(world: World) -> None:
    proof = world.node / "proofs" / "runc.json"
    facts = json.loads(proof.read_bytes())
    facts["checks"][0]["held"] = False
    proof.write_text(json.dumps(facts))
    result = run(world, world.spec(world.image(GOOD), accepted_risks=(facts["checks"][0]["name"],)))
    assert result.verdict is Verdict.OK, result.detail


def test_a_level_that_is_not_to_be_had_is_the_host_s_fault(world: World) -> None:
    result = run(world, world.spec(world.image(GOOD), level="kata"))
    assert result.verdict is Verdict.SANDBOX_FAILED
    assert "kata" in result.detail


def test_gpus_that_the_engine_did_not_assign_are_the_host_s_fault(world: World) -> None:
    assert run(world, world.spec(world.image(GOOD), gpus=1)).verdict is Verdict.SANDBOX_FAILED


def test_a_full_node_is_the_host_s_fault(world: World, tmp_path: Path) -> None:
    spec = world.spec(world.image(GOOD))
    small = tmp_path / "small"
    small.mkdir()
    kernel.mount("tmpfs", small, "tmpfs", 0, "size=1m")
    try:
        (small / "proofs").mkdir()
        for proof in (world.node / "proofs").iterdir():
            (small / "proofs" / proof.name).write_bytes(proof.read_bytes())
        worker = start(world, spec, node=small)
        worker.communicate()
    finally:
        kernel.unmount(small)
    result = world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.HOST_FULL, result.detail


# One execution, one result


def test_of_two_workers_on_two_nodes_one_executes(world: World, tmp_path: Path) -> None:
    spec = world.spec(world.image(f"{GOOD}; sleep 1"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "proofs").symlink_to(world.node / "proofs")
    workers = [start(world, spec), start(world, spec, node=other)]
    for worker in workers:
        worker.communicate()
    assert sorted(worker.returncode for worker in workers) == [0, 3]
    result = world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.OK, result.detail


def test_the_claim_names_who_executes_and_comes_before_anything_is_staged(world: World, tmp_path: Path) -> None:
    spec = world.spec(world.image(GOOD), phase_data_key="phases/none.json")
    first = start(world, spec)
    first.communicate()
    result = world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.DATA_UNAVAILABLE
    claimed = json.loads(world.objects.get(claim_key(spec.attempt)))
    assert {name: claimed[name] for name in ("attempt", "job", "node", "boot_id")} == {
        "attempt": spec.attempt,
        "job": "test/1",
        "node": result.node,
        "boot_id": boot_id(),
    }
    second = start(world, spec, node=tmp_path / "other")
    second.communicate()
    assert second.returncode == ANOTHERS  # it did not come as far as to miss the data


def test_a_second_worker_on_the_same_node_ends_at_the_lock(world: World) -> None:
    spec = world.spec(world.image(f"{GOOD}; sleep 60"))
    first = start(world, spec)
    assert eventually(lambda: read_holder(world.node, spec.attempt) is not None)
    second = start(world, spec)
    _, errors = second.communicate()
    assert second.returncode == 3
    assert b"runs the attempt" in errors
    first.terminate()
    first.communicate()


def test_a_result_that_was_published_before_stays_and_the_late_one_is_refused(world: World) -> None:
    spec = world.spec(world.image(f"{GOOD}; sleep 1"))
    worker = start(world, spec)
    assert eventually(lambda: world.objects.exists(f"claims/{spec.attempt}.json"))
    world.objects.put_once(result_key(spec, RESULT), b"the first")
    _, errors = worker.communicate()
    assert worker.returncode == 5
    assert b"already written" in errors
    assert world.objects.get(result_key(spec, RESULT)) == b"the first"


# Being stopped


def test_sigterm_while_the_container_runs_is_an_interruption(world: World) -> None:
    spec = world.spec(world.image(f"{GOOD}; echo begun; sleep 3600"))
    worker = start(world, spec)
    assert eventually(lambda: _log(world, spec) == b"begun\n")
    worker.send_signal(signal.SIGTERM)
    worker.communicate()
    result = world.result(spec)
    assert result is not None
    assert (worker.returncode, result.verdict) == (0, Verdict.INTERRUPTED)
    assert result.measurements is not None
    assert not is_held(world.node, spec.attempt)


def test_sigterm_at_any_moment_ends_with_a_result_or_without_a_trace(world: World) -> None:
    """Ten moments, from before the claim to after the container's end."""
    image = world.image(f"{GOOD}; sleep 0.2")
    seen = set()
    for step in range(10):
        spec = world.spec(image)
        worker = start(world, spec)
        eventually(lambda spec=spec: is_held(world.node, spec.attempt))
        time.sleep(step * 0.05)
        worker.send_signal(signal.SIGTERM)  # does nothing if it has ended
        _, errors = worker.communicate()
        result = world.result(spec)
        assert worker.returncode == 0, errors
        assert result is not None
        assert result.verdict in {Verdict.INTERRUPTED, Verdict.OK}
        seen.add(result.verdict)
    assert Verdict.INTERRUPTED in seen


def _log(world: World, spec: AttemptSpec) -> bytes:
    try:
        return (world.node / "run" / spec.attempt / "log").read_bytes()
    except FileNotFoundError:
        return b""
