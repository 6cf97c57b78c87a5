"""`referee cloud`: the stack in AWS that the engine `aws-batch` runs on."""

from __future__ import annotations

import dataclasses
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from referee.challenge import AwsChoice, Challenge, load_challenge, markets
from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, app
from referee.cloud.smoke import NOT_RUN, smoke
from referee.cloud.stack import Account
from referee.cloud.template import template
from referee.engines import aws_batch
from referee.engines.aws_batch_calls import BatchCalls
from referee.engines.aws_batch_fleet import fleet_of
from referee.engines.aws_batch_lives import Lives
from referee.engines.machine_lives import noted_lives
from referee.errors import CheckFailedError, ConfigurationError
from referee.ledger import queries
from referee.report.machine_bill import machine_bill
from referee.workspace import Workspace

cloud = App(name="cloud", help="The stack in AWS that the engine aws-batch runs on (docs/aws.md).")
app.command(cloud)

_WAIT_SECONDS = 30.0

Mail = Annotated[
    str | None, Parameter(name="--email", help="Who is told by mail when the controller is silent or money runs out.")
]


@cloud.command(name="template")
def print_template(*, email: Mail = None, output: Path | None = None, challenge: Folder = HERE) -> None:
    """Print the CloudFormation template that `deploy` would use.

    Parameters
    ----------
    output
        Write it to this file instead.
    """
    text = json.dumps(template(load_challenge(challenge), email=email is not None), indent=2) + "\n"
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")
        screen.say(f"Written: {output}")


@cloud.command
def deploy(
    *,
    email: Mail = None,
    parameter: Annotated[
        tuple[str, ...], Parameter(negative="", help="NAME=VALUE: another value of a parameter of the template.")
    ] = (),
    challenge: Folder = HERE,
) -> None:
    """Create the stack, or bring it up to challenge.toml. Machines are started by work only: an idle stack has none."""
    loaded, choice = _opened(challenge)
    given = dict(_pair(each) for each in parameter)
    if email is not None:
        given["Email"] = email
    account = Account(choice)
    changed = account.deploy(template(loaded, email=email is not None), given, on_step=screen.note)
    seen = account.state()
    screen.say(f"The stack {seen.name} is {'up to date' if changed else 'as it was'}: {seen.status}.")
    for key, value in seen.outputs.items():
        screen.say(f"{key}: {value}")
    screen.say("Next: push the worker's image (docs/aws.md), then: referee cloud smoke")


@cloud.command
def status(
    *,
    wait: Annotated[bool, Parameter(negative="", help="Until no job is left and no machine is up.")] = False,
    as_json: AsJson = False,
    challenge: Folder = HERE,
) -> int:
    """Say what there is in the account: the stack, its queues, and the machines that are up and paid for."""
    _, choice = _opened(challenge)
    seen = Account(choice).state()
    while wait and (seen.instances or any(queue.jobs for queue in seen.queues)):
        jobs = sum(queue.jobs for queue in seen.queues)
        screen.note(f"{jobs} jobs, {len(seen.instances)} machines up")
        time.sleep(_WAIT_SECONDS)
        seen = Account(choice).state()
    if as_json:
        screen.print_json(dataclasses.asdict(seen))
        return 0 if seen.status else CheckFailedError.exit_code
    if not seen.status:
        screen.say(f"There is no stack {seen.name} in {choice.region}. Next: referee cloud deploy")
        return CheckFailedError.exit_code
    screen.say(f"{seen.name}: {seen.status} {seen.reason}".rstrip())
    screen.print_table(
        ["queue", "state", "compute environment", "vCPUs>", "at most>", "jobs>"],
        [
            (each.name, each.state, each.health, str(each.vcpus), str(each.most_vcpus), str(each.jobs))
            for each in seen.queues
        ],
    )
    up = ", ".join(seen.instances) or "none"
    screen.say(f"Instances that are up: {up}")
    return 0


@cloud.command(name="smoke")
def run_smoke(
    *,
    machine: Annotated[
        tuple[str, ...], Parameter(negative="", help="On these machine types only (spot: NAME (spot)).")
    ] = (),
    as_json: AsJson = False,
    challenge: Folder = HERE,
) -> int:
    """Run a few cents' worth of jobs that check what only an account can. Its makers had none, and have not run it."""
    loaded, choice = _opened(challenge)
    screen.note(NOT_RUN)
    seen = Account(choice).state()
    if "JobDefinition" not in seen.outputs:
        raise ConfigurationError(f"There is no stack {choice.stack}.", hint="Make it with `referee cloud deploy`.")
    found = smoke(choice, fleet_of(loaded, choice), dict(seen.outputs), only=machine, on_step=screen.note)
    good = all(each.good for each in found)
    if as_json:
        jobs = [dataclasses.asdict(each) | {"good": each.good} for each in found]
        screen.print_json({"not_run_by_the_makers": NOT_RUN, "jobs": jobs})
        return 0 if good else CheckFailedError.exit_code
    screen.print_table(
        ["machine type", "check", "as promised", "status", "exit>", "seconds>", "reason"],
        [
            (
                each.machine_type,
                each.check,
                "yes" if each.good else "no",
                each.status,
                "" if each.exit_code is None else str(each.exit_code),
                f"{each.seconds:.0f}",
                each.reason,
            )
            for each in found
        ],
    )
    for each in found:
        screen.say(f"\n{each.machine_type} {each.check}:\n{each.log}")
    return 0 if good else CheckFailedError.exit_code


@cloud.command
def bill(
    *,
    by: Literal["type", "submission", "attempt"] = "type",
    as_json: AsJson = False,
    challenge: Folder = HERE,
) -> None:
    """Say what the machines cost over their whole lives, and into what the money went: attempts, and the waste apart.

    Parameters
    ----------
    by
        A row for each machine type with its waste, or what each submission or attempt took.
    """
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        attempts = queries.attempts(ledger)
    if (choice := workspace.challenge.engine.aws) is not None:
        # What has ended since the controller looked last: a machine outlives the last attempt on it.
        calls = BatchCalls(choice.region, choice.profile)
        if Lives(calls, workspace.objects, aws_batch.NAME, choice.stack).look() is None:
            screen.note("AWS gave no answer: this is as the machines were seen last.")
    lives = noted_lives(workspace.objects, aws_batch.NAME)
    found = machine_bill(lives, attempts, markets(workspace.challenge.machines))
    if by == "type":
        rows = [(kind, str(use), hours) for (kind, use), hours in sorted(found.hours.items())]
    else:
        taken = found.by_attempt if by == "attempt" else found.by_submission()
        rows = [(kind, name, hours) for (kind, name), hours in sorted(taken.items())]
    costs = [found.usd(kind, hours) for kind, _, hours in rows]
    if as_json:
        screen.print_json(
            [
                {"machine_type": kind, by if by != "type" else "use": name, "hours": float(hours),
                 "usd": None if cost is None else str(cost)}
                for (kind, name, hours), cost in zip(rows, costs, strict=True)
            ]
        )  # fmt: skip
        return
    screen.print_table(
        ["machine type", by if by != "type" else "use", "hours>", "USD>"],
        [
            (kind, name, f"{float(hours):,.3f}", "" if cost is None else f"{cost:,.2f}")
            for (kind, name, hours), cost in zip(rows, costs, strict=True)
        ],
    )
    if unseen := sum(life.end_unknown for life in lives):
        screen.say(f"{unseen} machines ended while nobody looked; they count until they were known to be there last.")
    up = sum(not life.gone for life in lives)
    total = sum((cost for cost in costs if cost is not None), Decimal(0))
    screen.say(f"{len(lives)} machines, {up} of them up when last seen: ${total:,.2f} at the prices of challenge.toml.")


@cloud.command
def destroy(
    *,
    force: Annotated[bool, Parameter(negative="", help="Even while jobs run or machines are up: they end.")] = False,
    challenge: Folder = HERE,
) -> None:
    """Remove the stack. Its bucket and key stay, with everything that was written; it says where."""
    _, choice = _opened(challenge)
    account = Account(choice)
    bucket = account.destroy(force=force, on_step=screen.note)
    left = account.state().instances
    screen.say(f"The stack {choice.stack} is gone. The bucket {bucket} and its key stay; remove them by hand.")
    screen.say(f"Instances that are up: {', '.join(left) or 'none'}")


def _opened(place: Path) -> tuple[Challenge, AwsChoice]:
    challenge = load_challenge(place)
    if challenge.engine.aws is None:
        raise ConfigurationError("engine.aws: this table is required.", hint="docs/aws.md has an example.")
    return challenge, challenge.engine.aws


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ConfigurationError(f"{text!r} is not NAME=VALUE.", hint="For example: --parameter DiskGiB=400.")
    return name, value
