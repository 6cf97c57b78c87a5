"""Which promises mean something else, or nothing, where the submission's system calls end in gVisor's own kernel.

A probe inside cannot see the host there, so that some promises are judged by another sign, and some do not apply:
what the submission opens, unshares or traces is made of the sentry's own memory. That the sentry itself is held (a
system call filter, a user namespace, no network) is seen from outside, in tests/integration/test_sandbox_gvisor.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from referee.sandbox.promise import Promise

_DOES_NOT_APPLY = {
    "no_netlink": "netlink sockets are the sentry's own, and know its loopback only",
    "socket_families": "sockets are the sentry's own, in a kernel without interfaces but loopback",
    "no_new_privileges": "set-user-id programs are judged by no_setuid; the sentry does not list the flag",
    "user_namespace": "ids inside are the sentry's; on the host it runs as nobody in a user namespace",
    "no_new_user_namespaces": "new namespaces are made in the sentry, without any in the host's kernel",
    "system_call_filter": "system calls do not reach the host's kernel; the sentry is filtered itself",
    "masked_proc": "/proc is the sentry's own and tells nothing of the host",
    "no_tracing": "only processes of the same sandbox exist for the sentry",
}
_OWN_DEVICES = ("fuse", "net/tun")


def claimed_by_gvisor(checks: Sequence[Promise], said: Mapping[str, Any]) -> list[Promise]:
    """The promises as the level `gvisor` makes them. A probe that did not run is left as it is."""
    if not said:
        return list(checks)
    return [_claimed(check, said) for check in checks]


def _claimed(check: Promise, said: Mapping[str, Any]) -> Promise:  # noqa: PLR0911 - one case for each promise
    calls, devices = said["calls"], said["devices"]
    match check.name:
        case "no_device_nodes":
            nodes = [devices[name] for name in ("image_node", "disk_node", "made")]
            found = {path.removeprefix("/dev/"): kind for path, kind in devices["found"].items()}
            blocks = [name for name, kind in found.items() if kind != "character" and name not in _OWN_DEVICES]
            return replace(check, held="ok" not in nodes and not blocks)
        case "no_open_files":
            return replace(check, held=len(said["descriptors"]) == 3)
        case "keyring":
            return replace(check, held="ok" not in (calls["keyctl"], calls["add_key"]))
        case "io_uring":
            return replace(check, held=calls["io_uring_setup"] != "ok")
        case "no_kernel_surface":
            rest = [name for name in calls if name not in {"keyctl", "add_key", "ptrace", "process_vm_readv"}]
            return replace(check, held=all(calls[name] != "ok" for name in rest))
        case name if name in _DOES_NOT_APPLY:
            reason = f"does not apply to gvisor: {_DOES_NOT_APPLY[name]} (seen: {check.seen})"
            return replace(check, held=True, applies=False, seen=reason)
        case _:
            return check
