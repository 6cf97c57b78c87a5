"""The cloud: the CloudFormation stack that the engine `aws-batch` runs on, from template to destruction."""
