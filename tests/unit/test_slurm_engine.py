"""What a job asks of Slurm, what Slurm's words mean, and how long the words of jobs are kept: without a cluster."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from referee.challenge import Limits, MachineType, SlurmChoice
from referee.engines import slurm_logs
from referee.engines.slurm_commands import SlurmCommands, SlurmRefusedError, SlurmSilentError, SlurmUnfitError
from referee.engines.slurm_logs import JobLogs
from referee.engines.slurm_queue import SlurmQueue
from referee.engines.slurm_request import Needs, for_submissions, need_options, place_options
from referee.engines.slurm_states import (
    ENDINGS,
    HINDERED,
    IMPOSSIBLE,
    LOST,
    NOT_LAUNCHED,
    Child,
    Ended,
    ending,
    never_begins,
)
from referee.engines.waves import Wave
from referee.objects import ObjectStore
from referee.sandbox.levels import runtime_of
from referee.verdicts import Verdict

MIB = 2**20
CHOICE = SlurmChoice.model_validate(
    {
        "shared": "/shared", "partition": "cpu", "account": "judges", "reserve": "512MiB", "staging": "30m",
        "machines": {"t4": {"partition": "gpu", "gres": "t4", "constraint": "avx512"}},
    }
)  # fmt: skip
LIMITS = Limits(memory=1024 * MIB, cpus=1.5, wall_time=timedelta(hours=1))
CHILD = Child("w", 0, "1_0", "CANCELLED", "n1", "None")


def test_a_job_asks_for_what_the_submission_the_runtime_and_the_worker_need() -> None:
    options = need_options(CHOICE, Needs("slurm", LIMITS))
    assert {"--mem=1536M", "--cpus-per-task=2", "--time=91", "--partition=cpu", "--account=judges"} <= set(options)
    extra = runtime_of("gvisor").overhead.memory_bytes // MIB
    assert f"--mem={1536 + extra}M" in need_options(CHOICE, Needs("slurm", LIMITS, level="gvisor"))


def test_what_submissions_are_offered_is_what_a_job_can_ask_for() -> None:
    node = MachineType(cpus=4, memory=8192 * MIB, gpus=2)
    for level, gpus in (("runc", 2), ("gvisor", 0)):
        inside = for_submissions(CHOICE, node, level)
        limits = LIMITS.model_copy(update={"memory": inside.memory})
        assert "--mem=8192M" in need_options(CHOICE, Needs("slurm", limits, level=level))
        assert inside.gpus == gpus


def test_a_machine_type_has_a_partition_features_and_gpus_of_its_own() -> None:
    options = need_options(CHOICE, Needs("t4", LIMITS, gpus=2))
    assert {"--partition=gpu", "--constraint=avx512", "--gres=gpu:t4:2"} <= set(options)
    assert "--gres=gpu:1" in need_options(CHOICE, Needs("slurm", LIMITS, gpus=1))
    assert place_options(CHOICE) == ["--partition=cpu", "--account=judges"]


def test_a_cancelled_job_that_never_began_was_not_started_by_its_node() -> None:
    assert ending(CHILD, began=False) is NOT_LAUNCHED
    assert ending(CHILD, began=True).verdict is Verdict.INTERRUPTED
    assert ending(replace(CHILD, node=None), began=False).verdict is Verdict.INTERRUPTED  # it waited


def test_states_that_are_not_known_are_lost_nodes_and_reasons_have_mends() -> None:
    assert ending(replace(CHILD, state="NEW_IN_99"), began=True).verdict is Verdict.NODE_LOST
    assert ending(replace(CHILD, state="FAILED", reason="BadConstraints"), began=False).verdict is Verdict.UNROUTABLE
    assert all(ending(replace(CHILD, state=state), began=True).words.startswith(f"Slurm: {state}") for state in ENDINGS)
    assert not set(IMPOSSIBLE) & set(HINDERED)
    for word in ("QOSMaxWallDurationPerJobLimit", "AssocMaxMemPerJob", "QOSMinCpuNotSatisfied", "BadConstraints"):
        assert never_begins(word), word
    for word in ("AssocMaxJobsLimit", "QOSMaxCpuPerUserLimit", "AssocGrpCpuLimit", "Resources", "None"):
        assert never_begins(word) is None, word  # others' jobs end
    assert replace(CHILD, reason="(ReqNodeNotAvail, UnavailableNodes:n[1-3])").word in HINDERED


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Batch job submission failed: Requested node configuration is not available", SlurmUnfitError),
        ("Batch job submission failed: Invalid account", SlurmRefusedError),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", SlurmSilentError),
    ],
)
def test_refusals_and_silence_are_told_apart(tmp_path: Path, said: str, error: type[Exception]) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "sbatch: error: {said}" >&2\nexit 1\n')
    sbatch.chmod(0o755)
    with pytest.raises(error) as raised:
        SlurmCommands({"PATH": f"{tmp_path}:{os.environ['PATH']}"}).submit([], "")
    assert raised.type is error


def test_squeue_s_answer_is_read_and_what_is_not_ours_is_passed_over(tmp_path: Path) -> None:
    rows = [
        "12|3|RUNNING|n1|referee-abc|0|7|None|",
        "12|4|PENDING||referee-abc|1|90|(BeginTime)|",
        "13|N/A|RUNNING|n1|somebody|0|7|None|",
    ]
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\ncat <<'X'\n" + "\n".join(rows) + "\nX\n")
    squeue.chmod(0o755)
    running, waiting = SlurmCommands({"PATH": f"{tmp_path}:{os.environ['PATH']}"}).children()
    assert running == Child("abc", 3, "12_3", "RUNNING", "n1", "None")
    assert (running.waited_seconds, waiting.waited_seconds) == (7.0, 90.0)
    assert (waiting.node, waiting.restarts, waiting.word) == (None, 1, "BeginTime")


def test_what_slurm_forgets_after_min_job_age_keeps_its_last_word_or_is_lost(tmp_path: Path) -> None:
    """squeue's part is played by a file; how a real cluster forgets takes minutes."""
    shown = tmp_path / "shown"
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\ncat {shown}\n")
    squeue.chmod(0o755)
    commands = SlurmCommands({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    objects, answers = ObjectStore(tmp_path / "objects"), []
    queue = SlurmQueue(commands, objects, "slurm", timedelta(0), timedelta(0), lambda: answers.append(1))
    wave = Wave(wave="w", machine_type="slurm", attempts=("a", "b", "c"))
    queue.know(wave)
    queue.add(wave, "7")

    def show(*states: str) -> dict[str, tuple[str, Ended | None, bool]]:
        rows = (f"7|{i}|{state}|n1|referee-w|0|5|None|\n" for i, state in enumerate(states) if state)
        shown.write_text("".join(rows))
        queue.poll()
        return {entry.attempt: (entry.child.state, entry.told, entry.is_open) for entry in queue.entries}

    show("COMPLETED", "RUNNING", "RUNNING")
    forgotten = show("", "", "RUNNING")
    assert forgotten == {"a": ("COMPLETED", None, False), "b": ("RUNNING", LOST, False), "c": ("RUNNING", None, True)}
    assert show("", "RUNNING", "RUNNING")["b"] == ("RUNNING", None, True)  # it had only not been shown
    assert len(answers) == 3


def test_of_logs_the_newest_are_kept_for_a_time_and_none_of_an_open_job_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_logs, "MOST_KEPT", 3)
    folder, logs, now = tmp_path / "slurm", JobLogs(tmp_path / "slurm"), time.time()

    def after(*found: tuple[str, int]) -> set[str]:
        for index, (words, age_days) in enumerate(found):
            place = folder / f"w.{index}.log"
            place.write_text(words)
            os.utime(place, (now, now - age_days * 86400))
        logs.sweep([replace(CHILD, index=3)])
        return {path.name for path in folder.iterdir()}

    (folder / "notes.txt").write_text("somebody's")
    assert after(("x", 0), ("", 0), ("x", 31), ("", 50)) == {"w.0.log", "w.3.log", "notes.txt"}
    newest = {"w.0.log", "w.1.log", "w.3.log", "w.4.log", "notes.txt"}
    assert after(("x", 0), ("x", 2), ("x", 9), ("x", 50), ("x", 1)) == newest
    assert logs.last_words(replace(CHILD, index=0)) == "The job's last words: x"
    logs.remove(replace(CHILD, index=0))
    assert not logs.exists(replace(CHILD, index=0))
