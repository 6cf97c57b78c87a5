"""What is told: state changes to the controller, and to a person when the controller is silent or money runs out."""

from __future__ import annotations

from referee.cloud.words import TAG, Json, allow, arn, deny, named, policy, ref, resource, sub, tags
from referee.engines.aws_batch_events import HIDDEN_SECONDS

TOLD = ("SUCCEEDED", "FAILED")
HEARTBEAT_SECONDS = 900


def alarms(queues: list[str], *, email: bool) -> Json:
    """The resources.

    Args:
        queues: logical ids of the job queues.
        email: whether a person is told by mail (the parameter `Email`).
    """
    made: Json = {
        "Events": resource(
            "AWS::SQS::Queue",
            {
                "QueueName": named("-events"),
                "KmsMasterKeyId": ref("Key"),
                "MessageRetentionPeriod": 1209600,
                "VisibilityTimeout": HIDDEN_SECONDS,
                "RedrivePolicy": {"deadLetterTargetArn": arn("LostEvents"), "maxReceiveCount": 5},
                "Tags": tags(),
            },
        ),
        "LostEvents": resource(
            "AWS::SQS::Queue",
            {
                "QueueName": named("-events-lost"),
                "KmsMasterKeyId": ref("Key"),
                "MessageRetentionPeriod": 1209600,
                "Tags": tags(),
            },
        ),
        "EventsPolicy": resource(
            "AWS::SQS::QueuePolicy",
            {
                "Queues": [ref("Events")],
                "PolicyDocument": policy(
                    {"Principal": {"Service": "events.amazonaws.com"}}
                    | allow(
                        "sqs:SendMessage", on=arn("Events"), when={"ArnEquals": {"aws:SourceArn": arn("JobsEnded")}}
                    ),
                    deny("sqs:*", on=arn("Events"), when={"Bool": {"aws:SecureTransport": "false"}}),
                ),
            },
        ),
        "JobsEnded": resource(
            "AWS::Events::Rule",
            {
                "Name": named("-jobs-ended"),
                "Description": "Jobs of this stack that ended, for the controller",
                "State": "ENABLED",
                "EventPattern": {
                    "source": ["aws.batch"],
                    "detail-type": ["Batch Job State Change"],
                    "detail": {"status": list(TOLD), "jobQueue": [ref(name) for name in queues]},
                },
                "Targets": [{"Id": "events", "Arn": arn("Events")}],
            },
        ),
        "Alarms": resource(
            "AWS::SNS::Topic",
            {"TopicName": named("-alarms"), "KmsMasterKeyId": ref("Key"), "Tags": tags()},
        ),
        "HeartbeatAlarm": resource(
            "AWS::CloudWatch::Alarm",
            {
                "AlarmName": named("-heartbeat"),
                "AlarmDescription": "The controller of Referee is silent: nobody starts, retries or ends anything.",
                "Namespace": "Referee",
                "MetricName": "Heartbeat",
                "Dimensions": [{"Name": "Stack", "Value": ref("AWS::StackName")}],
                "Statistic": "SampleCount",
                "Period": HEARTBEAT_SECONDS,
                "EvaluationPeriods": 1,
                "Threshold": 1,
                "ComparisonOperator": "LessThanThreshold",
                "TreatMissingData": "breaching",
                # A controller switches them on when it begins, and off when it ends in order.
                "ActionsEnabled": False,
                "AlarmActions": [ref("Alarms")],
                "OKActions": [ref("Alarms")],
            },
        ),
        "LostEventsAlarm": resource(
            "AWS::CloudWatch::Alarm",
            {
                "AlarmName": named("-events-lost"),
                "AlarmDescription": "Events about jobs could not be handed on; states are still looked up.",
                "Namespace": "AWS/SQS",
                "MetricName": "ApproximateNumberOfMessagesVisible",
                "Dimensions": [{"Name": "QueueName", "Value": arn("LostEvents", "QueueName")}],
                "Statistic": "Maximum",
                "Period": 300,
                "EvaluationPeriods": 1,
                "Threshold": 0,
                "ComparisonOperator": "GreaterThanThreshold",
                "TreatMissingData": "notBreaching",
                "AlarmActions": [ref("Alarms")],
            },
        ),
    }
    if email:
        made["ByMail"] = resource(
            "AWS::SNS::Subscription", {"TopicArn": ref("Alarms"), "Protocol": "email", "Endpoint": ref("Email")}
        )
        made["Budget"] = _budget()
    return made


def _budget() -> Json:
    told = [{"SubscriptionType": "EMAIL", "Address": ref("Email")}]
    return resource(
        "AWS::Budgets::Budget",
        {
            "Budget": {
                "BudgetName": named(),
                "BudgetType": "COST",
                "TimeUnit": "MONTHLY",
                "BudgetLimit": {"Amount": ref("BudgetUsd"), "Unit": "USD"},
                "CostFilters": {"TagKeyValue": [sub("user:" + TAG + "$${AWS::StackName}")]},
            },
            "NotificationsWithSubscribers": [
                {
                    "Notification": {
                        "NotificationType": kind,
                        "ComparisonOperator": "GREATER_THAN",
                        "Threshold": percent,
                        "ThresholdType": "PERCENTAGE",
                    },
                    "Subscribers": told,
                }
                for kind, percent in (("ACTUAL", 50), ("ACTUAL", 80), ("FORECASTED", 100))
            ],
        },
    )
