"""Who may do what: the instance, the worker on it, the controller. Submissions have no role: they have no network."""

from __future__ import annotations

from referee.cloud.storage import READ_BY_WORKERS, WRITTEN_BY_WORKERS
from referee.cloud.words import TAG, Json, allow, arn, named, policy, ref, resource, sub, tags, trust

_OURS = {"StringEquals": {f"aws:ResourceTag/{TAG}": ref("AWS::StackName")}}


def roles() -> Json:
    """The resources."""
    return {
        "InstanceRole": _role("ec2.amazonaws.com", "Instance", _instance()),
        "InstanceProfile": resource("AWS::IAM::InstanceProfile", {"Roles": [ref("InstanceRole")]}),
        "WorkerRole": _role("ecs-tasks.amazonaws.com", "Worker", _worker()),
        "FlowLogRole": _role(
            "vpc-flow-logs.amazonaws.com",
            "FlowLogs",
            [
                allow(
                    "logs:CreateLogStream",
                    "logs:PutLogEvents",
                    "logs:DescribeLogStreams",
                    on=sub("${FlowLogs.Arn}"),
                )
            ],
        ),
        "ControllerPolicy": resource(
            "AWS::IAM::ManagedPolicy",
            {
                "ManagedPolicyName": named("-controller"),
                "Description": "What a controller of Referee may do",
                "PolicyDocument": policy(*_controller()),
            },
        ),
    }


def _role(service: str, name: str, statements: list[Json]) -> Json:
    return resource(
        "AWS::IAM::Role",
        {
            "AssumeRolePolicyDocument": trust(service),
            "Policies": [{"PolicyName": name, "PolicyDocument": policy(*statements)}],
            "Tags": tags(),
        },
    )


def _instance() -> list[Json]:
    """What the ECS agent needs. Batch names the clusters after the compute environments, and so after the stack."""
    ours = "arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:*/"
    cluster = [sub(ours + "${AWS::StackName}-*"), sub(ours + "AWSBatch-${AWS::StackName}-*")]
    return [
        allow("ecr:GetAuthorizationToken", "ecs:DiscoverPollEndpoint", on="*"),
        allow("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", on=arn("Images")),
        allow(
            "ecs:RegisterContainerInstance",
            "ecs:DeregisterContainerInstance",
            "ecs:SubmitContainerStateChange",
            "ecs:SubmitTaskStateChange",
            "ecs:SubmitAttachmentStateChanges",
            "ecs:UpdateContainerInstancesState",
            "ecs:Poll",
            "ecs:StartTelemetrySession",
            "ecs:TagResource",
            on=cluster,
        ),
        allow("logs:CreateLogStream", "logs:PutLogEvents", on=sub("${WorkerLogs.Arn}")),
    ]


def _worker() -> list[Json]:
    """Objects by their key, never a list of keys; it writes claims, results, and notes that it was one too many."""
    return [
        allow("s3:GetObject", on=[sub("${Bucket.Arn}/" + name + "/*") for name in READ_BY_WORKERS]),
        allow("s3:PutObject", on=[sub("${Bucket.Arn}/" + name + "/*") for name in WRITTEN_BY_WORKERS]),
        allow("kms:Decrypt", "kms:GenerateDataKey", on=arn("Key"), when=_through("s3")),
    ]


def _controller() -> list[Json]:
    queues = sub("arn:${AWS::Partition}:batch:${AWS::Region}:${AWS::AccountId}:job-queue/${AWS::StackName}-*")
    definitions = sub("arn:${AWS::Partition}:batch:${AWS::Region}:${AWS::AccountId}:job-definition/${AWS::StackName}-*")
    jobs = sub("arn:${AWS::Partition}:batch:${AWS::Region}:${AWS::AccountId}:job/*")
    instances = sub("arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:instance/*")
    return [
        # These know no resources.
        allow(
            "batch:DescribeJobs",
            "batch:ListJobs",
            "batch:DescribeJobQueues",
            "batch:DescribeComputeEnvironments",
            "ec2:DescribeInstances",
            on="*",
        ),
        allow("batch:SubmitJob", "batch:TagResource", on=[queues, definitions, jobs]),
        allow("batch:TerminateJob", on=jobs, when=_OURS),
        allow("ec2:TerminateInstances", on=instances, when=_OURS),
        allow("sqs:ReceiveMessage", "sqs:DeleteMessage", on=arn("Events")),
        allow("s3:GetObject", "s3:PutObject", on=sub("${Bucket.Arn}/*")),
        allow("s3:ListBucket", on=arn("Bucket")),
        allow("kms:Decrypt", "kms:GenerateDataKey", on=arn("Key"), when=_through("s3", "sqs")),
        allow("logs:GetLogEvents", on=sub("${WorkerLogs.Arn}")),
        allow("cloudformation:DescribeStacks", on=ref("AWS::StackId")),
        allow("cloudwatch:PutMetricData", on="*", when={"StringEquals": {"cloudwatch:namespace": "Referee"}}),
        allow("cloudwatch:EnableAlarmActions", "cloudwatch:DisableAlarmActions", on=arn("HeartbeatAlarm")),
    ]


def _through(*services: str) -> Json:
    return {"StringEquals": {"kms:ViaService": [sub(each + ".${AWS::Region}.amazonaws.com") for each in services]}}
