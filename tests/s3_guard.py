"""A STAND-IN for IAM in front of moto's S3, which asks nobody: what the stack's template says of objects is kept to.

It knows the actions on objects that Referee uses, keys that end with `*`, and the conditions of the bucket's policy.
Whatever else a statement on objects says is an error, so that nothing is passed over. What S3 really makes of the
words it cannot show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from s3_world import BUCKET

_BUCKET = f"arn:aws:s3:::{BUCKET}"
_KEY_ID = re.compile(r"Credential=([^/]+)/")

Statements = list[dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """What a request asks for, in the words of policies."""

    action: str
    resource: str
    context: Mapping[str, str]


@dataclass(frozen=True)
class Guard:
    """Who may do what.

    Attributes:
        roles: the statements of each role, by the key id that it signs with.
        denied: the statements of the bucket's policy.
        gateway: the statements of the endpoint that requests out of the private network pass.
        behind_gateway: the key ids that are in that network.
    """

    roles: Mapping[str, Statements]
    denied: Statements
    gateway: Statements
    behind_gateway: frozenset[str]

    def admits(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the request may be done; headers by their names in small letters."""
        who, asked = _who(headers), _asked(method, path, headers)
        if any(_applies(each, asked) for each in self.denied):
            return False
        if who in self.behind_gateway and not any(_applies(each, asked) for each in self.gateway):
            return False
        return any(_applies(each, asked) for each in self.roles.get(who, []))

    def hides_what_is_missing(self, headers: Mapping[str, str]) -> bool:
        """Whoever may not list is told "forbidden" of what is not there (S3, GetObject, Permissions)."""
        listing = Asked("s3:ListBucket", _BUCKET, {})
        return not any(_applies(each, listing) for each in self.roles.get(_who(headers), []))


def guard_of(template: Mapping[str, Any], *, worker: str, controller: str) -> Guard:
    """The guard of a stack, for two key ids."""
    found = {name: each["Properties"] for name, each in template["Resources"].items()}
    [worker_policy] = found["WorkerRole"]["Policies"]
    roles = {
        worker: worker_policy["PolicyDocument"]["Statement"],
        controller: found["ControllerPolicy"]["PolicyDocument"]["Statement"],
    }
    return Guard(
        {who: _of_objects(statements) for who, statements in roles.items()},
        _of_objects(found["BucketPolicy"]["PolicyDocument"]["Statement"]),
        _of_objects(found["S3Gateway"]["PolicyDocument"]["Statement"]),
        frozenset({worker}),
    )


def _of_objects(statements: Statements) -> Statements:
    return [each for each in statements if any(action.startswith("s3:") for action in each["Action"])]


def _who(headers: Mapping[str, str]) -> str:
    signed = _KEY_ID.search(headers.get("authorization", ""))
    return signed[1] if signed else ""


def _asked(method: str, path: str, headers: Mapping[str, str]) -> Asked:
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/")
    context = {"aws:SecureTransport": "true"}
    if "if-none-match" in headers:
        context["s3:if-none-match"] = headers["if-none-match"]
    match method:
        case "GET" | "HEAD":
            action = "s3:GetObject" if key else "s3:ListBucket"
        case "PUT" | "POST":
            action = "s3:PutObject"
            # Parts are not objects yet: their completion is (S3, enforcing conditional writes).
            makes_none = "uploads" in query or "partNumber" in query
            context["s3:ObjectCreationOperation"] = "false" if makes_none else "true"
        case "DELETE":
            action = "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"
        case _:
            raise AssertionError(f"{method} {path} is not known here.")
    return Asked(action, f"{_BUCKET}/{key}" if key else _BUCKET, context)


def _applies(statement: Mapping[str, Any], asked: Asked) -> bool:
    return (
        any(_matches(pattern, asked.action) for pattern in statement["Action"])
        and any(_matches(pattern, asked.resource) for pattern in _resources(statement["Resource"]))
        and all(_holds(*each, asked.context) for each in statement.get("Condition", {}).items())
    )


def _resources(given: Any) -> Iterator[str]:
    for each in given if isinstance(given, list) else [given]:
        match each:
            case {"Fn::GetAtt": ["Bucket", "Arn"]}:
                yield _BUCKET
            case {"Fn::Sub": str(text)}:
                yield text.replace("${Bucket.Arn}", _BUCKET)
            case _:
                raise AssertionError(f"{each} is not known here.")


def _holds(operator: str, wanted: Mapping[str, str], context: Mapping[str, str]) -> bool:
    match operator:
        case "Bool":
            return all(context.get(key) == value for key, value in wanted.items())
        case "Null":
            return all((key not in context) == (value == "true") for key, value in wanted.items())
    raise AssertionError(f"The condition {operator} is not known here.")


def _matches(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern
