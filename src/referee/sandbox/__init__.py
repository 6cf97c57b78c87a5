"""The sandbox: what the untrusted container runs in, measured from outside, proven before use."""

from referee.sandbox.box import Box, BoxOutcome
from referee.sandbox.doctor import HostCheck, examine_host
from referee.sandbox.enclosure import enclosed, enter_mount_namespace
from referee.sandbox.harvest import Refusal
from referee.sandbox.policy import SandboxPolicy, sandbox_policy
from referee.sandbox.promise import Promise
from referee.sandbox.proof import HostProof, prove_host
from referee.sandbox.sweep import sweep

__all__ = [
    "Box",
    "BoxOutcome",
    "HostCheck",
    "HostProof",
    "Promise",
    "Refusal",
    "SandboxPolicy",
    "enclosed",
    "enter_mount_namespace",
    "examine_host",
    "prove_host",
    "sandbox_policy",
    "sweep",
]
