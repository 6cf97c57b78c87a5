"""Changes to a generated bundle by which one defence of the sandbox is switched off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Change = Callable[[dict[str, Any]], None]


def without_namespace(kind: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != kind]

    return change


def put(value: Any, *keys: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        place = config
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def allow(*names: str) -> Change:
    """Let the calls through the filter: the rules that refuse them go, and one that allows comes."""

    def change(config: dict[str, Any]) -> None:
        rules = config["linux"]["seccomp"]["syscalls"]
        for rule in rules:
            rule["names"] = [name for name in rule["names"] if name not in names]
        config["linux"]["seccomp"]["syscalls"] = [rule for rule in rules if rule["names"]]
        config["linux"]["seccomp"]["syscalls"].append({"names": list(names), "action": "SCMP_ACT_ALLOW"})

    return change


def no_filter(config: dict[str, Any]) -> None:
    del config["linux"]["seccomp"]


def all_devices(config: dict[str, Any]) -> None:
    config["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
