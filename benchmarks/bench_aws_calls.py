"""How many calls to AWS a campaign of 4,200 submissions takes on the engine `aws-batch`; `make bench-aws-calls`.

The engine is the real one, over boto3 and HTTP, on the tests' stand-in for AWS Batch: 85 GPUs (the Deepfake Detection
Challenge's fleet for its deadline), runs of two hours on average, one in a hundred lost and run once more. Time is
virtual: nothing runs. The controller polls every two seconds, as a campaign does.

"Naive" is one SubmitJob for each attempt and, to be told as soon (events are fetched once a minute), one DescribeJobs
for each open job and minute. Every request that leaves is counted. To follow are those to Batch, SQS and EC2 (the
machines' lives); the controller's signs of life (CloudWatch) tell it nothing, and stand apart.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from batch_stand_in import Host, Kind
from batch_world import STACK, batch_world
from referee.attempts import AttemptSpec
from referee.challenge import MachineType
from referee.engines.contract import Job, JobState
from worker_world import LIMITS

SUBMISSIONS, GPUS, MEAN_SECONDS, LOST = 4200, 85, 2 * 3600.0, 0.01
STEP_SECONDS = 60.0
_LIMITS = LIMITS.model_copy(update={"wall_time": timedelta(hours=18)})
_BATCH = {"DescribeJobs", "ListJobs"}
_SIGNS_OF_LIFE = {"PutMetricData", "EnableAlarmActions", "DisableAlarmActions"}
RESULTS = Path(__file__).with_name("results") / "aws_calls.json"


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Run:
    """An attempt that takes as long as it is told, and ends well or not."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._clock, self._code = clock, 1 if chance.random() < LOST else 0
        self._until = clock.now + chance.lognormvariate(math.log(MEAN_SECONDS) - 0.18, 0.6)

    def poll(self) -> int | None:
        """Its exit status; `None` while it runs."""
        return self._code if self._clock.now >= self._until else None

    def terminate(self) -> None:
        """End it."""
        self._until, self._code = self._clock.now, 143

    kill = terminate


def main() -> None:
    """Run the campaign and print the counts."""
    clock, chance, began = Clock(), random.Random(2020), time.monotonic()  # noqa: S311 - a simulation

    def start(_host: Host, _command: Sequence[str], _environment: Mapping[str, str]) -> Run:
        return Run(clock, chance)

    machine = MachineType(cpus=4, memory=16 * 2**30, gpus=1, gpu_memory=16 * 2**30, price="0.526", reference=True)  # type: ignore[arg-type]  # validated
    queues = {f"{STACK}-g4dn-xlarge": Kind(4, 15_500, 1, GPUS)}
    settings = {"start": start, "clock": clock, "boot_seconds": 180.0, "idle_seconds": 600.0}
    with (
        tempfile.TemporaryDirectory() as folder,
        batch_world(Path(folder), queues, proven=False, ticking=False, **settings) as aws,
    ):
        engine = aws.engine(
            machines={"g4dn.xlarge": machine}, slots=None, ceilings={"g4dn.xlarge": GPUS}, clock=clock,
            pause=clock.pass_by, alarm="heartbeat", listen=60.0, look=300.0,
        )  # fmt: skip
        template = aws.world.spec("sha256:0", machine_type="g4dn.xlarge", gpus=1, stored=False, limits=_LIMITS)
        waiting = [_named(template, number, 1) for number in range(SUBMISSIONS)]
        open_jobs: dict[str, Job] = {}
        naive: Counter[str] = Counter()
        retried = 0
        while waiting or open_jobs:
            free = min(engine.capacity().free["g4dn.xlarge"], len(waiting))
            if free:
                open_jobs |= {job.attempt: job for job in engine.submit(waiting[:free])}
                naive["SubmitJob"] += free
                waiting = waiting[free:]
            for seen in engine.observe(list(open_jobs.values())):
                if seen.state is JobState.ENDED:
                    del open_jobs[seen.job.attempt]
                    if "exited" in seen.reason:
                        name, number = seen.job.attempt.split(".")[0], int(seen.job.attempt.rpartition(".")[2])
                        waiting.append(_named(template, int(name[2:]), number + 1))
                        retried += 1
            naive["DescribeJobs"] += len(open_jobs)
            clock.now += STEP_SECONDS
            aws.batch.tick()
            engine.wait(2.0)
        _report(engine.calls.counts, naive, clock.now, retried, time.monotonic() - began)


def _named(template: AttemptSpec, number: int, attempt: int) -> AttemptSpec:
    name = f"s-{number}.private_test.{attempt}"
    return template.model_copy(update={"attempt": name, "evaluation": name.rpartition(".")[0]})


def _report(counts: Counter[str], naive: Counter[str], seconds: float, retried: int, took: float) -> None:
    follow = sum(count for name, count in counts.items() if name not in {"SubmitJob", *_SIGNS_OF_LIFE})
    batch = sum(counts[name] for name in _BATCH)
    share = follow / naive["DescribeJobs"]
    facts = {
        "submissions": SUBMISSIONS,
        "retried": retried,
        "virtual_days": round(seconds / 86_400, 1),
        "calls": dict(sorted(counts.items())),
        "to_submit": counts["SubmitJob"],
        "to_follow": follow,
        "to_follow_batch": batch,
        "signs_of_life": sum(counts[name] for name in _SIGNS_OF_LIFE),
        "naive_to_submit": naive["SubmitJob"],
        "naive_to_follow": naive["DescribeJobs"],
        "share": round(share, 5),
        "share_batch": round(batch / naive["DescribeJobs"], 5),
        "took_seconds": round(took),
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=1))
    print(
        f"{counts['SubmitJob']} calls to submit (aim: under 100), {share:.2%} of the naive count to follow (under 1%)"
    )
    print(f"took {took:.0f} s; no call reached AWS: the service was the tests' stand-in")
    if counts["SubmitJob"] >= 100 or share >= 0.01:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
