"""The sandbox: what the untrusted container runs in, measured from outside, proven before use."""

from referee.sandbox.box import Box, BoxOutcome
from referee.sandbox.enclosure import enclosed, enter_mount_namespace
from referee.sandbox.harvest import Refusal
from referee.sandbox.policy import SandboxPolicy, sandbox_policy

__all__ = ["Box", "BoxOutcome", "Refusal", "SandboxPolicy", "enclosed", "enter_mount_namespace", "sandbox_policy"]
