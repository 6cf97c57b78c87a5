"""What moto 5.2 cannot make of the stack's template, taken out or put in its own words, and named."""

from __future__ import annotations

import copy
import json
from typing import Any

# Types that moto's CloudFormation passes over or refuses; they are shown by cfn-lint alone.
DROPPED_TYPES = {
    "AWS::Budgets::Budget",
    "AWS::CloudWatch::Alarm",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SQS::QueuePolicy",
}


def for_moto(template: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The template as moto takes it, and what was left out or changed for it."""
    found = copy.deepcopy(template)
    resources = found["Resources"]
    changed = [f"{name}: dropped" for name in resources if resources[name]["Type"] in DROPPED_TYPES]
    found["Resources"] = resources = {
        name: each for name, each in resources.items() if each["Type"] not in DROPPED_TYPES
    }
    resources["Key"]["Properties"].pop("Tags")
    changed.append("Key: tags (moto wants KMS's own words for them)")
    for number in (1, 2):
        resources[f"Subnet{number}"]["Properties"]["CidrBlock"] = f"10.73.{16 * number}.0/20"
    changed.append("Subnets: Fn::Cidr")
    policy = resources["ControllerPolicy"]["Properties"]["PolicyDocument"]
    policy["Statement"] = [each for each in policy["Statement"] if "HeartbeatAlarm" not in json.dumps(each)]
    found["Outputs"].pop("HeartbeatAlarm")
    for name, each in resources.items():
        if each["Type"] == "AWS::Batch::ComputeEnvironment":
            each["Properties"]["ServiceRole"] = {"Fn::GetAtt": ["InstanceRole", "Arn"]}
            changed.append(f"{name}: a service role, which Batch's own takes the place of")
    return found, changed
