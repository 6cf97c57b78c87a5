"""What is kept: the bucket that admits each object once, the worker's image, logs, and the key of them all."""

from __future__ import annotations

from referee.cloud.words import Json, allow, arn, deny, named, policy, ref, resource, sub, tags

# Keys under which an object is written once and never again. Those of blobs bear the digest of what they hold, which
# every reader checks; they are uploaded in parts, which our client does without a condition.
ONCE = (
    "claims", "duplicates", "results", "waves", "maps", "specs", "phases", "data", "images", "layers", "probes",
)  # fmt: skip
# What they write they also read back: after a lost reply, to know whether it was their own.
READ_BY_WORKERS = ("waves", "phases", "data", "images", "layers", "blobs", "claims", "duplicates", "results")
WRITTEN_BY_WORKERS = ("claims", "duplicates", "results")


def storage() -> Json:
    """The resources."""
    return {
        "Key": resource(
            "AWS::KMS::Key",
            {
                "Description": named(": bucket, images and logs"),
                "EnableKeyRotation": True,
                "KeyPolicy": policy(
                    {"Sid": "Account", "Principal": {"AWS": sub("arn:${AWS::Partition}:iam::${AWS::AccountId}:root")}}
                    | allow("kms:*", on="*"),
                    {"Sid": "Logs", "Principal": {"Service": sub("logs.${AWS::Region}.amazonaws.com")}}
                    | allow(
                        "kms:Encrypt",
                        "kms:Decrypt",
                        "kms:ReEncrypt*",
                        "kms:GenerateDataKey*",
                        "kms:DescribeKey",
                        on="*",
                        when={
                            "ArnLike": {
                                "kms:EncryptionContext:aws:logs:arn": sub(
                                    "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:/referee/*"
                                )
                            }
                        },
                    ),
                    # A topic is told by alarms, and the queue by a rule; both must be able to write under the key.
                    {
                        "Sid": "Alarms",
                        "Principal": {"Service": ["cloudwatch.amazonaws.com", "events.amazonaws.com"]},
                    }
                    | allow(
                        "kms:Decrypt",
                        "kms:GenerateDataKey*",
                        on="*",
                        when={"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}},
                    ),
                ),
                "Tags": tags(),
            },
            DeletionPolicy="Retain",
            UpdateReplacePolicy="Retain",
        ),
        "Bucket": resource(
            "AWS::S3::Bucket",
            {
                "VersioningConfiguration": {"Status": "Enabled"},
                "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
                "PublicAccessBlockConfiguration": {
                    "BlockPublicAcls": True,
                    "BlockPublicPolicy": True,
                    "IgnorePublicAcls": True,
                    "RestrictPublicBuckets": True,
                },
                "BucketEncryption": {
                    "ServerSideEncryptionConfiguration": [
                        {
                            "BucketKeyEnabled": True,
                            "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": arn("Key")},
                        }
                    ]
                },
                "LifecycleConfiguration": {
                    "Rules": [
                        {
                            "Id": "unfinished-uploads",
                            "Status": "Enabled",
                            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
                        }
                    ]
                },
                "Tags": tags(),
            },
            # The evidence outlives the machines; `referee cloud destroy` says where it stays.
            DeletionPolicy="Retain",
            UpdateReplacePolicy="Retain",
        ),
        "BucketPolicy": resource(
            "AWS::S3::BucketPolicy",
            {
                "Bucket": ref("Bucket"),
                "PolicyDocument": policy(
                    deny(
                        "s3:*",
                        on=[arn("Bucket"), sub("${Bucket.Arn}/*")],
                        when={"Bool": {"aws:SecureTransport": "false"}},
                    ),
                    # Whoever writes, our programs or others: only what is not there yet. Uploads in parts are asked at
                    # their completion, which is what the second condition says.
                    deny(
                        "s3:PutObject",
                        on=[sub("${Bucket.Arn}/" + name + "/*") for name in ONCE],
                        when={
                            "Null": {"s3:if-none-match": "true"},
                            "Bool": {"s3:ObjectCreationOperation": "true"},
                        },
                    ),
                ),
            },
        ),
        "Images": resource(
            "AWS::ECR::Repository",
            {
                "RepositoryName": named("-worker"),
                "ImageTagMutability": "IMMUTABLE",
                "ImageScanningConfiguration": {"ScanOnPush": True},
                "EncryptionConfiguration": {"EncryptionType": "KMS", "KmsKey": arn("Key")},
                "EmptyOnDelete": True,
                "Tags": tags(),
            },
        ),
        "WorkerLogs": _log_group("worker"),
        "FlowLogs": _log_group("flows"),
    }


def _log_group(name: str) -> Json:
    return resource(
        "AWS::Logs::LogGroup",
        {
            "LogGroupName": sub("/referee/${AWS::StackName}/" + name),
            "RetentionInDays": ref("LogDays"),
            "KmsKeyId": arn("Key"),
            "Tags": tags(),
        },
    )
