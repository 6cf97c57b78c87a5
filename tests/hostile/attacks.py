"""What an attack is: one folder with `attack.toml` and the programs that the container runs."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from referee.challenge import Contract, Limits
from referee.sandbox.levels import runtime_of
from referee.sandbox.policy import known_level
from referee.sandbox.runtime import Overhead

HERE = Path(__file__).parent
PROGRAMS = ("attack", "next", "victim")
CONTRACTS: dict[str, dict[str, Any]] = {
    "strict": {},
    "root": {"user": "image", "tmp_exec": True},
    "loose": {"rootfs": "scratch", "user": "image", "tmp_exec": True},
}
MODES = ("alone", "then", "beside", "neighbour", "import")

# Small enough that no bomb is felt on the machine, large enough for an ordinary Python.
LIMITS: dict[str, Any] = {
    "wall_time": "10 s", "cpus": 1.0, "memory": "96 MiB", "shm": "4 MiB", "scratch": "8 MiB", "output": "1 MiB",
    "output_files": 32, "log": "4 KiB", "pids": 32, "open_files": 256, "gpus": 0,
}  # fmt: skip

_KEYS = {
    "title", "rows", "promise", "gvisor", "contracts", "mode", "verdicts", "signature", "said", "never", "at_least",
    "at_most", "defended_by", "limits", "image", "items", "honest", "refused",
}  # fmt: skip
# What an attack may expect otherwise where gVisor's own kernel answers; `why` says why that is the true answer.
_AT_GVISOR = {"why", "claimed", "verdicts", "signature", "said", "never", "at_least", "at_most", "limits"}


@dataclass(frozen=True)
class Attack:
    """One attack as its `attack.toml` declares it. README.md says what each key means."""

    name: str
    folder: Path
    title: str
    promise: str
    rows: tuple[int, ...] = ()
    contracts: tuple[str, ...] = ("strict",)
    mode: str = "alone"
    verdicts: tuple[str, ...] = ("no_predictions",)
    signature: str = ""
    said: str = ""
    never: str = ""
    refused: str = ""
    at_least: dict[str, float] = field(default_factory=dict)
    at_most: dict[str, float] = field(default_factory=dict)
    defended_by: tuple[str, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    items: tuple[str, ...] | None = None
    honest: bool = False
    gvisor: dict[str, Any] = field(default_factory=dict)

    def at(self, level: str) -> Attack | None:
        """The attack as it is expected to end at this level; `None` where the level does not claim to stop it."""
        if level != "gvisor" or not self.gvisor:
            return self
        if not self.gvisor.get("claimed", True):
            return None
        facts = {key: value for key, value in self.gvisor.items() if key not in {"why", "claimed", "limits"}}
        return replace(self, **facts, limits=self.limits | self.gvisor.get("limits", {}))

    def contract(self, name: str, role: str, level: str) -> Contract:
        """The contract that it runs under; the environment says which program is to be started, and what the level's
        runtime is granted above the limits, so that a bomb is large enough.
        """
        extra = overhead(level)
        environment = {
            "ATTACK": self.name, "ROLE": role, "LEVEL": level, "EXTRA_MIB": str(extra.memory_bytes >> 20),
            "EXTRA_PIDS": str(extra.pids), "PYTHONHOME": "/usr", "PYTHONPATH": "/attacks/inside",
            "LD_LIBRARY_PATH": "/usr/lib",
        }  # fmt: skip
        return Contract.model_validate(CONTRACTS[name] | {"environment": environment})

    def allowed(self) -> Limits:
        """The limits that it runs under."""
        return Limits.model_validate(LIMITS | self.limits)


def overhead(level: str) -> Overhead:
    """What the level's runtime is granted above the limits."""
    return runtime_of(known_level(level)).overhead


def load_attack(folder: Path) -> Attack:
    """The attack in `folder`. Raises `ValueError` for a declaration that makes no sense."""
    given = tomllib.loads((folder / "attack.toml").read_text(encoding="utf-8"))
    unknown = set(given) - _KEYS
    if unknown or "title" not in given or "promise" not in given:
        raise ValueError(f"{folder.name}/attack.toml: unknown keys {sorted(unknown)}, or no title or promise")
    different = given.get("gvisor", {})
    if different and (set(different) - _AT_GVISOR or not different.get("why")):
        raise ValueError(f"{folder.name}/attack.toml: what differs at gvisor needs a reason, `why`, and known keys")
    facts = _frozen(given) | ({"gvisor": _frozen(different)} if different else {})
    attack = Attack(name=folder.name, folder=folder, **facts)
    if attack.mode not in MODES or not set(attack.contracts) <= set(CONTRACTS):
        raise ValueError(f"{folder.name}/attack.toml: unknown mode or contract")
    words = [different.get(key, "") for key in ("signature", "said", "never")]
    for pattern in (attack.signature, attack.said, attack.never, attack.refused, *words):
        re.compile(pattern)
    return attack


def _frozen(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}


def load_attacks(names: tuple[str, ...] = ()) -> list[Attack]:
    """Every attack of this folder, or those whose names hold one of `names`."""
    folders = sorted(place.parent for place in HERE.glob("*/attack.toml"))
    return [load_attack(place) for place in folders if not names or any(name in place.name for name in names)]
