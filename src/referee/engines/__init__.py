"""Engines: where attempts run. `create_engine` finds one by the name in `challenge.toml`.

Other packages add an engine by an entry point of the group `referee.engines` whose object is called as the functions
below: with the challenge, the object store and this node's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from referee.challenge import Challenge
from referee.engines.contract import Engine
from referee.errors import ConfigurationError
from referee.objects import ObjectStore

GROUP = "referee.engines"

Factory = Callable[[Challenge, ObjectStore, Path], Engine]


def _local(challenge: Challenge, objects: ObjectStore, node_folder: Path) -> Engine:
    # Imported when it is chosen: it brings the worker and the sandbox with it, which most commands never need.
    from referee.engines.local import from_challenge  # noqa: PLC0415 - see above

    return from_challenge(challenge, objects, node_folder)


def _memory(challenge: Challenge, objects: ObjectStore, node_folder: Path) -> Engine:  # noqa: ARG001 - one signature for all
    from referee.engines.memory import MemoryEngine  # noqa: PLC0415 - see `_local`

    nodes = {name: [f"{name}-{n + 1}" for n in range(each.count or 1)] for name, each in challenge.machines.items()}
    return MemoryEngine(objects, machines=challenge.machines or None, nodes=nodes, slots=challenge.engine.slots or 1)


def _slurm(challenge: Challenge, objects: ObjectStore, node_folder: Path) -> Engine:  # noqa: ARG001 - one signature for all
    from referee.engines.slurm import from_challenge  # noqa: PLC0415 - see `_local`

    return from_challenge(challenge, objects)


def _aws_batch(challenge: Challenge, objects: ObjectStore, node_folder: Path) -> Engine:  # noqa: ARG001 - one signature for all
    from referee.engines.aws_batch import from_challenge  # noqa: PLC0415 - see `_local`

    return from_challenge(challenge, objects)


_OWN: dict[str, Factory] = {"local": _local, "memory": _memory, "slurm": _slurm, "aws-batch": _aws_batch}


# Engines whose machines are others than this one: each proves its sandbox itself, before its first attempt.
REMOTE = frozenset({"slurm", "aws-batch"})


def engine_names() -> list[str]:
    """The engines that can be chosen here, our own first."""
    return [*_OWN, *sorted(point.name for point in entry_points(group=GROUP) if point.name not in _OWN)]


def create_engine(challenge: Challenge, objects: ObjectStore, node_folder: Path) -> Engine:
    """The engine that the challenge names (`engine.name`).

    Args:
        challenge: says which engine, and how many attempts side by side.
        objects: the object store that its workers share.
        node_folder: this machine's own folder, on a local file system.

    Raises:
        ConfigurationError: if there is no such engine, or an installed one cannot be loaded.
    """
    name = challenge.engine.name
    factory = _OWN.get(name) or _installed(name)
    if factory is None:
        raise ConfigurationError(
            f"engine.name: there is no engine {name!r}.", hint=f"Choose one of: {', '.join(engine_names())}."
        )
    return factory(challenge, objects, node_folder)


def _installed(name: str) -> Factory | None:
    for point in entry_points(group=GROUP, name=name):
        try:
            return cast("Factory", point.load())
        except Exception as error:
            raise ConfigurationError(
                f"engine.name: the engine {name!r} of {point.value} cannot be loaded: {error}.",
                hint="Mend or remove the package that brings it.",
            ) from error
    return None
