"""The policy and what is generated from it: pure, so that each promise of the configuration is a line here."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from referee.challenge import PRESETS, Contract, Limits
from referee.errors import ConfigurationError
from referee.sandbox import seccomp
from referee.sandbox.bundle import runtime_configuration
from referee.sandbox.identities import IdRange
from referee.sandbox.policy import SandboxPolicy, sandbox_policy
from referee.sandbox.rootfs import Process

POLICY = sandbox_policy(Contract(), Limits())
PROCESS = Process(("/bin/run", "a"), "/work", 1000, 1000, (44,), (("A", "1"),))


def configuration(policy: SandboxPolicy = POLICY, process: Process = PROCESS) -> dict[str, Any]:
    return runtime_configuration(policy, process, IdRange(2**30), "/root", "referee-x", "amd64", swap=True)


@pytest.mark.parametrize(
    ("data", "output"),
    [("/data", "/data/out"), ("/out/data", "/out"), ("/x", "/x"), ("/tmp/x", "/out"), ("/a", "/tmp")],
)
def test_paths_of_a_contract_do_not_lie_in_each_other(data: str, output: str) -> None:
    with pytest.raises(ValueError, match=r"(data|output): .* has another purpose in the sandbox"):
        Contract(data=data, output=output)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_a_policy(preset: Any) -> None:
    policy = sandbox_policy(Contract(preset=preset), Limits())
    assert policy.root_writable == policy.keep_user == (preset != "referee")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="podman"):
        sandbox_policy(Contract(), Limits(), level="podman")


def test_the_wall_time_is_scaled_and_the_rest_is_not() -> None:
    limits = Limits(wall_time=timedelta(minutes=10))
    assert sandbox_policy(Contract(), limits, 1.5).wall_seconds == 900.0
    assert replace(sandbox_policy(Contract(), limits, 1.5), wall_seconds=600.0) == sandbox_policy(Contract(), limits)


def test_equal_policies_have_equal_digests_and_others_have_not() -> None:
    assert POLICY.digest == sandbox_policy(Contract(), Limits()).digest
    assert POLICY.digest != sandbox_policy(Contract(), Limits(pids=17)).digest


def test_a_flood_is_far_beyond_what_is_kept() -> None:
    assert sandbox_policy(Contract(), Limits(log=1)).flood_bytes == 64 * 2**20
    assert sandbox_policy(Contract(), Limits(log=2**30)).flood_bytes == 64 * 2**30


def test_no_process_has_a_capability_or_can_gain_one() -> None:
    process = configuration()["process"]
    assert process["capabilities"] == {
        kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    }
    assert process["noNewPrivileges"] is True
    assert process["terminal"] is False


def test_every_namespace_is_new_and_ids_are_mapped_away_from_the_host_s() -> None:
    linux = configuration()["linux"]
    assert {space["type"] for space in linux["namespaces"]} == {
        "pid",
        "network",
        "ipc",
        "uts",
        "mount",
        "cgroup",
        "user",
    }
    assert all("path" not in space for space in linux["namespaces"])
    assert linux["uidMappings"] == linux["gidMappings"] == [{"containerID": 0, "hostID": 2**30, "size": 65536}]


def test_limits_reach_the_runtime() -> None:
    policy = sandbox_policy(Contract(), Limits(memory=2**28, cpus=1.5, pids=77, open_files=99))
    config = configuration(policy)
    resources = config["linux"]["resources"]
    assert resources["memory"] == {"limit": 2**28, "swap": 2**28}
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000}
    assert resources["pids"] == {"limit": 77}
    assert resources["devices"] == [{"allow": False, "access": "rwm"}]
    limits = {limit["type"]: limit["hard"] for limit in config["process"]["rlimits"]}
    assert limits["RLIMIT_NOFILE"] == 99
    assert limits["RLIMIT_CORE"] == 0


def test_no_resource_limit_exceeds_the_host_s() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    policy = sandbox_policy(Contract(), Limits(open_files=hard * 2))
    limits = {limit["type"]: limit["hard"] for limit in configuration(policy)["process"]["rlimits"]}
    assert limits["RLIMIT_NOFILE"] == hard


def test_the_root_is_read_only_unless_the_contract_says_otherwise() -> None:
    assert configuration()["root"]["readonly"] is True
    assert configuration(replace(POLICY, root_writable=True))["root"]["readonly"] is False


def test_no_mount_comes_from_the_host() -> None:
    assert {mount["type"] for mount in configuration()["mounts"]} == {"proc", "tmpfs", "devpts"}


@given(st.text(), st.text(), st.text(min_size=1))
def test_whatever_an_image_says_lands_in_values_only(argument: str, name: str, value: str) -> None:
    process = replace(PROCESS, arguments=(argument,), folder=name, environment=((name, value),))
    plain, other = configuration(), json.loads(json.dumps(configuration(process=process)))
    assert other["process"].pop("args") == [argument]
    assert other["process"].pop("env") == [f"{name}={value}"]
    assert other["process"].pop("cwd") == name
    for key in ("args", "env", "cwd"):
        plain["process"].pop(key)
    assert other == json.loads(json.dumps(plain))


def test_no_system_call_is_both_allowed_and_refused() -> None:
    groups = [seccomp.ALLOWED, seccomp.REFUSED, seccomp.UNKNOWN]
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))
    conditional = {"clone", "socket", "socketpair", "personality", "mknod", "mknodat"}
    assert conditional.isdisjoint(names)


PAST_THE_BOX = """keyctl add_key request_key ptrace process_vm_readv unshare setns mount umount2 bpf perf_event_open
    userfaultfd open_by_handle_at pivot_root init_module kexec_load pidfd_getfd fsopen"""


@pytest.mark.parametrize("name", PAST_THE_BOX.split())
def test_what_reaches_past_the_box_is_refused_by_name(name: str) -> None:
    assert name in seccomp.REFUSED


def test_calls_that_a_library_can_do_without_answer_that_they_are_unknown() -> None:
    profile = seccomp.filter_profile("amd64")
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["defaultErrnoRet"] == 38
    rule = next(rule for rule in profile["syscalls"] if "clone3" in rule["names"])
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_only_the_machine_s_own_architecture_is_let_in() -> None:
    assert seccomp.filter_profile("amd64")["architectures"] == ["SCMP_ARCH_X86_64"]
    with pytest.raises(KeyError):
        seccomp.filter_profile("s390x")


@given(st.integers(0, 2**64 - 1))
def test_a_socket_is_allowed_for_three_families_and_no_disguise_of_another(argument: int) -> None:
    assert _allowed("socket", argument) == (argument in {1, 2, 10})


@given(st.integers(0, 2**32 - 1))
def test_clone_makes_no_namespace(flags: int) -> None:
    assert _allowed("clone", flags) == (flags & 0x7E020000 == 0)


def _allowed(name: str, argument: int) -> bool:
    """Whether the profile lets the call through, by its first argument (seccomp_rule_add(3))."""
    for rule in seccomp.filter_profile("amd64")["syscalls"]:
        if (
            name in rule["names"]
            and rule["action"] == "SCMP_ACT_ALLOW"
            and all(_holds(a, argument) for a in rule["args"])
        ):
            return True
    return False


def _holds(condition: dict[str, Any], argument: int) -> bool:
    if condition["op"] == "SCMP_CMP_EQ":
        return argument == condition["value"]
    assert condition["op"] == "SCMP_CMP_MASKED_EQ"
    return argument & condition["value"] == condition["valueTwo"]


def test_what_the_kernel_counts_for_the_whole_machine_is_no_submission_s_to_take() -> None:
    """Each of these was taken from a neighbour by an attack in tests/hostile (`all_…_of_the_host`)."""
    assert not set(seccomp.SHARED_BY_ALL) & {*seccomp.ALLOWED, *seccomp.REFUSED}
    assert {"inotify_init1", "io_setup", "mq_open"} <= set(seccomp.SHARED_BY_ALL)
    config = configuration()
    limits = {limit["type"]: limit["hard"] for limit in config["process"]["rlimits"]}
    assert limits["RLIMIT_SIGPENDING"] <= 2048
    (terminals,) = [mount for mount in config["mounts"] if mount["type"] == "devpts"]
    assert "max=64" in terminals["options"]
    assert {"/proc/sys/fs/aio-nr", "/proc/sys/kernel/random/boot_id"} <= set(config["linux"]["maskedPaths"])
