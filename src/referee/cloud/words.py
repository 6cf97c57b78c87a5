"""CloudFormation's own words, as Python."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def ref(name: str) -> Json:
    """The physical id of a resource, or a parameter's value."""
    return {"Ref": name}


def arn(name: str, attribute: str = "Arn") -> Json:
    """An attribute of a resource."""
    return {"Fn::GetAtt": [name, attribute]}


def sub(text: str) -> Json:
    """Text with `${names}` filled in."""
    return {"Fn::Sub": text}


def named(text: str = "") -> Json:
    """A name that begins with the stack's."""
    return sub("${AWS::StackName}" + text)


def tags() -> list[Json]:
    """The one tag that finds and bills everything."""
    return [{"Key": TAG, "Value": ref("AWS::StackName")}]


TAG = "referee"


def resource(kind: str, properties: Json, **more: Any) -> Json:
    """A resource of the template."""
    return {"Type": kind, **more, "Properties": properties}


def allow(*actions: str, on: Any, when: Json | None = None) -> Json:
    """A statement of a policy that allows."""
    return _statement("Allow", actions, on, when)


def deny(*actions: str, on: Any, when: Json | None = None) -> Json:
    """A statement of a policy of a resource that denies, to everybody."""
    return {"Principal": "*", **_statement("Deny", actions, on, when)}


def policy(*statements: Json) -> Json:
    """A policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def trust(service: str) -> Json:
    """Who may take a role: a service of AWS."""
    return policy(
        {
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": "sts:AssumeRole",
        }
    )


def _statement(effect: str, actions: tuple[str, ...], on: Any, when: Json | None) -> Json:
    statement: Json = {"Effect": effect, "Action": list(actions), "Resource": on}
    return statement | ({"Condition": when} if when else {})
