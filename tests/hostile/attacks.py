"""What an attack is: one folder with `attack.toml` and the programs that the container runs."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from referee.challenge import Contract, Limits

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
    "title", "rows", "promise", "levels", "contracts", "mode", "verdicts", "signature", "said", "never", "at_least",
    "at_most", "defended_by", "limits", "image", "items", "honest", "refused",
}  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """One attack as its `attack.toml` declares it. README.md says what each key means."""

    name: str
    folder: Path
    title: str
    promise: str
    rows: tuple[int, ...] = ()
    levels: tuple[str, ...] = ("runc", "gvisor")
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

    def contract(self, name: str, role: str) -> Contract:
        """The contract that it runs under; the environment says which program is to be started."""
        environment = {"ATTACK": self.name, "ROLE": role, "PYTHONHOME": "/usr", "PYTHONPATH": "/attacks/inside"}
        return Contract.model_validate(CONTRACTS[name] | {"environment": environment | {"LD_LIBRARY_PATH": "/usr/lib"}})

    def allowed(self) -> Limits:
        """The limits that it runs under."""
        return Limits.model_validate(LIMITS | self.limits)


def load_attack(folder: Path) -> Attack:
    """The attack in `folder`. Raises `ValueError` for a declaration that makes no sense."""
    given = tomllib.loads((folder / "attack.toml").read_text(encoding="utf-8"))
    unknown = set(given) - _KEYS
    if unknown or "title" not in given or "promise" not in given:
        raise ValueError(f"{folder.name}/attack.toml: unknown keys {sorted(unknown)}, or no title or promise")
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    attack = Attack(name=folder.name, folder=folder, **facts)
    if attack.mode not in MODES or not set(attack.contracts) <= set(CONTRACTS):
        raise ValueError(f"{folder.name}/attack.toml: unknown mode or contract")
    for pattern in (attack.signature, attack.said, attack.never, attack.refused):
        re.compile(pattern)
    return attack


def load_attacks(names: tuple[str, ...] = ()) -> list[Attack]:
    """Every attack of this folder, or those whose names hold one of `names`."""
    folders = sorted(place.parent for place in HERE.glob("*/attack.toml"))
    return [load_attack(place) for place in folders if not names or any(name in place.name for name in names)]
