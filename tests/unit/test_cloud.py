"""The stack in AWS: what its template promises, that linters accept it, and that moto makes of it what moto can."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import pytest
from cfnlint.api import ManualArgs, lint

from batch_stand_in import REGION, BatchStandIn, serving
from cloud_in_moto import DROPPED_TYPES, for_moto
from referee.challenge import Challenge, load_challenge
from referee.cli import main
from referee.cloud import smoke as smoke_module
from referee.cloud.compute import NODE_FOLDER
from referee.cloud.stack import Account, StackState
from referee.cloud.storage import ONCE, READ_BY_WORKERS, WRITTEN_BY_WORKERS
from referee.cloud.template import template
from referee.engines.aws_batch_calls import BatchCalls
from referee.engines.aws_batch_events import HIDDEN_SECONDS
from referee.engines.aws_batch_heartbeat import Heartbeat
from referee.engines.aws_batch_stack import Stack
from referee.errors import ConfigurationError, ConflictError

CHALLENGE = """
name = "dfdc"
[phases.public]
data = "data"
visibility = "public"
[engine]
name = "aws-batch"
[engine.aws]
stack = "referee-dfdc"
[quotas]
g = 340
[machines."g4dn.xlarge"]
cpus = 4
memory = "16 GiB"
gpus = 1
gpu_memory = "16 GiB"
price = "0.526"
spot_price = "0.158"
quota_pool = "g"
[machines."c5.4xlarge"]
cpus = 16
memory = "32 GiB"
price = "0.68"
count = 3
[machines."p3.2xlarge"]
cpus = 8
memory = "61 GiB"
gpus = 1
gpu_memory = "16 GiB"
price = "3.06"
"""


@pytest.fixture
def challenge(tmp_path: Path) -> Challenge:
    (tmp_path / "data").mkdir()
    (tmp_path / "challenge.toml").write_text(CHALLENGE)
    return load_challenge(tmp_path)


def of_type(found: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: each["Properties"] for name, each in found["Resources"].items() if each["Type"] == kind}


@pytest.mark.parametrize("email", [False, True])
def test_cfn_lint_finds_nothing(challenge: Challenge, email: bool) -> None:
    found = lint(json.dumps(template(challenge, email=email)), config=ManualArgs(regions=[REGION, "eu-central-1"]))
    assert [str(each) for each in found] == []


def test_a_queue_and_an_environment_for_each_type_and_market(challenge: Challenge) -> None:
    found = template(challenge)
    environments = of_type(found, "AWS::Batch::ComputeEnvironment")
    queues = of_type(found, "AWS::Batch::JobQueue")
    assert len(queues) == len(environments) == 3  # the p3 is historical
    facts = {
        each["ComputeEnvironmentName"]["Fn::Sub"]: (
            each["ComputeResources"]["Type"],
            each["ComputeResources"]["AllocationStrategy"],
            each["ComputeResources"]["InstanceTypes"],
            each["ComputeResources"]["MinvCpus"],
            each["ComputeResources"]["MaxvCpus"],
        )
        for each in environments.values()
    }
    assert facts == {
        "${AWS::StackName}-g4dn-xlarge": ("EC2", "BEST_FIT_PROGRESSIVE", ["g4dn.xlarge"], 0, 340),
        "${AWS::StackName}-g4dn-xlarge-spot": ("SPOT", "SPOT_PRICE_CAPACITY_OPTIMIZED", ["g4dn.xlarge"], 0, 340),
        "${AWS::StackName}-c5-4xlarge": ("EC2", "BEST_FIT_PROGRESSIVE", ["c5.4xlarge"], 0, 48),
    }
    for queue in queues.values():
        assert len(queue["ComputeEnvironmentOrder"]) == 1
        assert {each["Reason"].partition(":")[0] for each in queue["JobStateTimeLimitActions"]} == {
            "CAPACITY",
            "MISCONFIGURATION",
        }


def test_there_is_no_way_out_but_the_endpoints(challenge: Challenge) -> None:
    found = template(challenge)
    kinds = {each["Type"] for each in found["Resources"].values()}
    ways_out = {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route", "AWS::EC2::TransitGateway"}
    assert not kinds & ways_out
    services = {json.dumps(each["ServiceName"]) for each in of_type(found, "AWS::EC2::VPCEndpoint").values()}
    assert len(services) == 7
    policy = found["Resources"]["S3Gateway"]["Properties"]["PolicyDocument"]
    assert [each["Resource"]["Fn::Sub"].rpartition(":::")[2] for each in policy["Statement"]] == [
        "${Bucket.Arn}/*",
        "prod-${AWS::Region}-starport-layer-bucket/*",
    ]
    for group in of_type(found, "AWS::EC2::SecurityGroup").values():
        for rule in [*group.get("SecurityGroupIngress", []), *group["SecurityGroupEgress"]]:
            assert rule.get("CidrIp") != "0.0.0.0/0"
            assert rule["FromPort"] == rule["ToPort"] == 443


def test_the_bucket_admits_nothing_twice(challenge: Challenge) -> None:
    statements = template(challenge)["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    [once] = [each for each in statements if each["Action"] == ["s3:PutObject"]]
    assert once["Effect"] == "Deny"
    assert once["Condition"]["Null"] == {"s3:if-none-match": "true"}
    assert {each["Fn::Sub"] for each in once["Resource"]} == {f"${{Bucket.Arn}}/{name}/*" for name in ONCE}
    assert set(WRITTEN_BY_WORKERS) <= set(READ_BY_WORKERS) & set(ONCE)
    assert set(READ_BY_WORKERS) <= {*ONCE, "blobs"}


def test_a_worker_reads_by_key_lists_nothing_and_writes_claims_notes_and_results_alone(challenge: Challenge) -> None:
    [policy] = template(challenge)["Resources"]["WorkerRole"]["Properties"]["Policies"]
    allowed: dict[str, set[str]] = {}
    for statement in policy["PolicyDocument"]["Statement"]:
        for action in statement["Action"]:
            on = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            allowed.setdefault(action, set()).update(json.dumps(each) for each in on)
    assert set(allowed) == {"s3:GetObject", "s3:PutObject", "kms:Decrypt", "kms:GenerateDataKey"}
    assert not [each for each in allowed["s3:GetObject"] if "/specs/" in each or "/maps/" in each]
    assert len(allowed["s3:PutObject"]) == 3


def test_the_metadata_are_one_hop_away_and_disks_are_encrypted(challenge: Challenge) -> None:
    data = template(challenge)["Resources"]["Launch"]["Properties"]["LaunchTemplateData"]
    assert (data["MetadataOptions"]["HttpTokens"], data["MetadataOptions"]["HttpPutResponseHopLimit"]) == (
        "required",
        1,
    )
    assert all(each["Ebs"]["Encrypted"] for each in data["BlockDeviceMappings"])


def test_the_job_is_tried_once_and_sees_the_node_folder_where_the_engine_looks_for_it(challenge: Challenge) -> None:
    job = template(challenge)["Resources"]["Worker"]["Properties"]
    assert job["RetryStrategy"] == {"Attempts": 1}
    assert job["ContainerProperties"]["MountPoints"][0]["ContainerPath"] == NODE_FOLDER == Stack("s", "d").node_folder


def test_the_alarm_rings_when_the_signs_of_life_of_this_stack_stay_away(
    challenge: Challenge, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = template(challenge, email=True)["Resources"]
    alarm = found["HeartbeatAlarm"]["Properties"]
    sent: list[dict[str, Any]] = []
    calls = BatchCalls(REGION)
    monkeypatch.setattr(type(calls), "_metrics", property(lambda _: _Metrics(sent)))
    heartbeat = Heartbeat(calls, "referee-dfdc", "alarm")
    for second in range(2 * alarm["Period"]):
        heartbeat.beat(float(second))
    [metric] = {json.dumps(each, sort_keys=True) for each in sent}
    datum = json.loads(metric)
    assert datum["Namespace"] == alarm["Namespace"]
    assert datum["MetricData"][0]["MetricName"] == alarm["MetricName"]
    [dimension] = alarm["Dimensions"]
    assert dimension == {"Name": "Stack", "Value": {"Ref": "AWS::StackName"}}
    assert datum["MetricData"][0]["Dimensions"] == [{"Name": "Stack", "Value": "referee-dfdc"}]
    assert len(sent) >= 2 * 2  # one may be lost without a false alarm
    assert (alarm["TreatMissingData"], alarm["ComparisonOperator"]) == ("breaching", "LessThanThreshold")
    assert alarm["AlarmActions"] == [{"Ref": "Alarms"}]
    assert found["ByMail"]["Properties"]["TopicArn"] == {"Ref": "Alarms"}


class _Metrics:
    """CloudWatch, as far as a sign of life needs it."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self._sent = sent

    def put_metric_data(self, **request: Any) -> None:
        self._sent.append(request)

    def enable_alarm_actions(self, **_: Any) -> None:
        pass


def test_machines_that_switch_themselves_off_are_gone(challenge: Challenge) -> None:
    data = template(challenge)["Resources"]["Launch"]["Properties"]["LaunchTemplateData"]
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_an_event_is_hidden_for_longer_than_it_is_kept_undeleted(challenge: Challenge) -> None:
    assert template(challenge)["Resources"]["Events"]["Properties"]["VisibilityTimeout"] == HIDDEN_SECONDS


def test_everything_that_takes_tags_bears_the_one_that_is_billed(challenge: Challenge) -> None:
    without = {
        "AWS::Batch::ComputeEnvironment",
        "AWS::Batch::JobQueue",
        "AWS::Batch::JobDefinition",
    }
    for name, each in template(challenge)["Resources"].items():
        tags = each["Properties"].get("Tags")
        if each["Type"] in without:
            assert tags == {"referee": {"Ref": "AWS::StackName"}}, name
        elif tags is not None:
            assert {"Key": "referee", "Value": {"Ref": "AWS::StackName"}} in tags, name


def test_a_challenge_of_historical_machines_has_no_template(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    old = CHALLENGE.partition('[machines."g4dn')[0] + '[machines."p3.2xlarge"]\ncpus = 8\nmemory = "61 GiB"\n'
    (tmp_path / "challenge.toml").write_text(old)
    with pytest.raises(ConfigurationError, match="know their families no more"):
        template(load_challenge(tmp_path))


@pytest.fixture
def account(tmp_path: Path) -> Iterator[None]:
    batch = BatchStandIn(tmp_path / "hosts", {})
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}
    with serving(batch, ticking=False, service="moto") as url, patch.dict(os.environ, keys | {"AWS_ENDPOINT_URL": url}):
        yield


@pytest.mark.usefixtures("account")
@pytest.mark.filterwarnings("default")  # moto warns of what it passes over
def test_moto_makes_of_it_what_moto_can(challenge: Challenge) -> None:
    assert challenge.engine.aws is not None
    account = Account(challenge.engine.aws, {"Delay": 1, "MaxAttempts": 20})
    assert account.state().status == ""
    made, changed = for_moto(template(challenge))
    assert account.deploy(made, {"DiskGiB": "400"}, on_step=lambda _: None)
    seen = account.state()
    assert seen.status == "CREATE_COMPLETE"
    assert {"Bucket", "JobDefinition", "EventsQueueUrl", "WorkerImages"} <= set(seen.outputs)
    assert [each.name for each in seen.queues] == [
        "referee-dfdc-c5-4xlarge",
        "referee-dfdc-g4dn-xlarge",
        "referee-dfdc-g4dn-xlarge-spot",
    ]
    assert {each.health for each in seen.queues} == {"VALID Compute environment is available"}
    pages = boto3.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName="referee-dfdc")
    names = {each["LogicalResourceId"] for page in pages for each in page["StackResourceSummaries"]}
    assert names == set(made["Resources"])
    assert sum(each.endswith("dropped") for each in changed) == sum(
        each["Type"] in DROPPED_TYPES for each in template(challenge)["Resources"].values()
    )
    with pytest.raises(ConfigurationError, match="no parameter Diskgib"):
        account.deploy(made, {"Diskgib": "1"}, on_step=lambda _: None)


@pytest.mark.usefixtures("account")
def test_a_stack_at_work_is_not_removed(challenge: Challenge, monkeypatch: pytest.MonkeyPatch) -> None:
    assert challenge.engine.aws is not None
    account = Account(challenge.engine.aws)
    busy = StackState("referee-dfdc", "CREATE_COMPLETE", "", {"Bucket": "b"}, (), ("i-1",))
    monkeypatch.setattr(account, "state", lambda: busy)
    with pytest.raises(ConflictError, match="1 instances are up"):
        account.destroy(force=False, on_step=lambda _: None)


def test_commands_say_what_is_missing(challenge: Challenge, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--challenge", str(challenge.folder)]
    assert main(["cloud", "template", *place]) == 0
    assert json.loads(capsys.readouterr().out)["Resources"]["Bucket"]["DeletionPolicy"] == "Retain"
    (challenge.folder / "challenge.toml").write_text(CHALLENGE.replace("[engine.aws]", "[engine.ows]"))
    assert main(["cloud", "template", *place]) == 2
    assert "engine.ows" in capsys.readouterr().err


def test_status_waits_until_nothing_is_up(
    challenge: Challenge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [StackState("s", "CREATE_COMPLETE", "", {}, (), up) for up in [("i-1", "i-2"), ("i-1",), ()]]
    monkeypatch.setattr(Account, "state", lambda _: states.pop(0))
    monkeypatch.setattr("referee.cli.cloud._WAIT_SECONDS", 0.0)
    assert main(["cloud", "status", "--wait", "--challenge", str(challenge.folder)]) == 0
    assert "Instances that are up: none" in capsys.readouterr().out
    assert not states


def test_the_smoke_test_says_that_it_was_never_run() -> None:
    assert "has not been run" in smoke_module.NOT_RUN


def test_a_bucket_of_one_s_own_is_to_have_the_same_policy() -> None:
    text = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text(encoding="utf-8")
    [policy] = [json.loads(part.partition("```")[0]) for part in text.split("```json\n")[1:]]
    [once] = [each for each in policy["Statement"] if each["Action"] == "s3:PutObject"]
    assert {each.removesuffix("/*").rpartition("/")[2] for each in once["Resource"]} == set(ONCE)
    assert once["Condition"] == {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}
