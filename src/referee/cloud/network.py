"""The network: private subnets without a way out, but to the services of AWS that a worker needs."""

from __future__ import annotations

from referee.cloud.words import Json, allow, arn, policy, ref, resource, sub, tags

ZONES = 2
# What the ECS agent, the image pull and the log driver of an instance talk to. Credentials of the worker's role come
# through the agent; encryption of the bucket is S3's own. Nothing else is reachable, so nothing is installed at boot.
ENDPOINTS = {
    "EcrApi": "ecr.api",
    "EcrDocker": "ecr.dkr",
    "Ecs": "ecs",
    "EcsAgent": "ecs-agent",
    "EcsTelemetry": "ecs-telemetry",
    "Logs": "logs",
}
_LAYERS = "arn:${AWS::Partition}:s3:::prod-${AWS::Region}-starport-layer-bucket/*"


def network() -> Json:
    """The resources."""
    subnets = [f"Subnet{number}" for number in range(1, ZONES + 1)]
    made: Json = {
        "Vpc": resource(
            "AWS::EC2::VPC",
            {"CidrBlock": ref("VpcCidr"), "EnableDnsHostnames": True, "EnableDnsSupport": True, "Tags": tags()},
        ),
        "Routes": resource("AWS::EC2::RouteTable", {"VpcId": ref("Vpc"), "Tags": tags()}),
        "DefaultSecurityGroupEgress": resource(
            # An own rule takes the place of "everything to everywhere" of the group that a VPC comes with.
            "AWS::EC2::SecurityGroupEgress",
            {
                "GroupId": arn("Vpc", "DefaultSecurityGroup"),
                "Description": "Nothing: nobody uses the default group",
                "IpProtocol": "icmp",
                "FromPort": 0,
                "ToPort": 0,
                "CidrIp": "127.0.0.1/32",
            },
        ),
        "Instances": resource(
            "AWS::EC2::SecurityGroup",
            {
                "GroupDescription": "Instances: out to the endpoints and to S3, nothing in",
                "VpcId": ref("Vpc"),
                "SecurityGroupEgress": [
                    _https("To the endpoints", DestinationSecurityGroupId=ref("Endpoints")),
                    _https("To S3 through its gateway", DestinationPrefixListId=ref("S3PrefixList")),
                ],
                "Tags": tags(),
            },
        ),
        "Endpoints": resource(
            "AWS::EC2::SecurityGroup",
            {
                "GroupDescription": "Endpoints: in from the VPC",
                "VpcId": ref("Vpc"),
                "SecurityGroupIngress": [_https("From the VPC", CidrIp=ref("VpcCidr"))],
                "SecurityGroupEgress": [_https("Answers need no rule; nothing is begun", CidrIp="127.0.0.1/32")],
                "Tags": tags(),
            },
        ),
        "S3Gateway": resource(
            "AWS::EC2::VPCEndpoint",
            {
                "VpcId": ref("Vpc"),
                "VpcEndpointType": "Gateway",
                "ServiceName": sub("com.amazonaws.${AWS::Region}.s3"),
                "RouteTableIds": [ref("Routes")],
                "PolicyDocument": policy(
                    {"Principal": "*"} | allow("s3:GetObject", "s3:PutObject", on=sub("${Bucket.Arn}/*")),
                    # Where ECR keeps the layers of images.
                    {"Principal": "*"} | allow("s3:GetObject", on=sub(_LAYERS)),
                ),
            },
        ),
        "FlowLog": resource(
            "AWS::EC2::FlowLog",
            {
                "ResourceId": ref("Vpc"),
                "ResourceType": "VPC",
                "TrafficType": "ALL",
                "LogGroupName": ref("FlowLogs"),
                "DeliverLogsPermissionArn": arn("FlowLogRole"),
                "Tags": tags(),
            },
        ),
    }
    for number, name in enumerate(subnets):
        made[name] = resource(
            "AWS::EC2::Subnet",
            {
                "VpcId": ref("Vpc"),
                "CidrBlock": {"Fn::Select": [number, {"Fn::Cidr": [ref("VpcCidr"), ZONES, 12]}]},
                "AvailabilityZone": {"Fn::Select": [number, {"Fn::GetAZs": ""}]},
                "MapPublicIpOnLaunch": False,
                "Tags": tags(),
            },
        )
        made[f"{name}Routes"] = resource(
            "AWS::EC2::SubnetRouteTableAssociation", {"SubnetId": ref(name), "RouteTableId": ref("Routes")}
        )
    for name, service in ENDPOINTS.items():
        made[f"{name}Endpoint"] = resource(
            "AWS::EC2::VPCEndpoint",
            {
                "VpcId": ref("Vpc"),
                "VpcEndpointType": "Interface",
                "ServiceName": sub("com.amazonaws.${AWS::Region}." + service),
                "SubnetIds": [ref(subnet) for subnet in subnets],
                "SecurityGroupIds": [ref("Endpoints")],
                "PrivateDnsEnabled": True,
                "PolicyDocument": policy(
                    {"Principal": "*"}
                    | allow("*", on="*", when={"StringEquals": {"aws:PrincipalAccount": ref("AWS::AccountId")}})
                ),
            },
        )
    return made


def subnet_refs() -> list[Json]:
    """The private subnets."""
    return [ref(f"Subnet{number}") for number in range(1, ZONES + 1)]


def _https(description: str, **other: object) -> Json:
    return {"Description": description, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, **other}
