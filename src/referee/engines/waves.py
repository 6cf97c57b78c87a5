"""Waves: many attempts in one submission. Each child of an array reads the manifest that lies under its index.

Manifests lie below a name that cannot be guessed, and hold the whole specification: on a bucket the worker's role may
read objects by their key but not list them, so that it learns of no attempt that is not of its own wave. The map from
index to attempt is the controller's, and is stored before anything is submitted (design invariant 2).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from referee.attempts import AttemptSpec
from referee.challenge import Frozen
from referee.errors import ObjectStoreError
from referee.objects import ObjectStore

_MANIFEST_LIMIT_BYTES = 16 << 20
_SIDE_BY_SIDE = 16  # a bucket answers a put after tens of milliseconds, and a wave has thousands


class Wave(Frozen):
    """One submission of an engine.

    Attributes:
        wave: its name, which cannot be guessed.
        machine_type: what all of its attempts run on.
        attempts: in the order of their index.
    """

    wave: str
    machine_type: str
    attempts: tuple[str, ...]


def manifest_key(wave: str, index: int) -> str:
    """Where the manifest of a wave's child lies in the object store."""
    return f"waves/{wave}/{index}.json"


def record_wave(objects: ObjectStore, engine: str, specs: Sequence[AttemptSpec]) -> Wave:
    """Store the manifests, then the map, and return it. All specifications are of one machine type.

    Args:
        objects: what controller and workers share.
        engine: whose map it is.
        specs: the attempts, in the order of their index.
    """
    wave = Wave(
        wave=secrets.token_hex(16),
        machine_type=specs[0].machine_type,
        attempts=tuple(spec.attempt for spec in specs),
    )

    def store(index: int) -> None:
        objects.put_once(manifest_key(wave.wave, index), specs[index].model_dump_json().encode())

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        list(pool.map(store, range(len(specs))))
    objects.put_once(_map_key(engine, wave.wave), wave.model_dump_json().encode())
    return wave


def recorded_waves(objects: ObjectStore, engine: str, known: Sequence[str] = ()) -> list[Wave]:
    """The waves that were recorded for an engine, but those that are `known`, in no order.

    Raises:
        ObjectStoreError: if a map is damaged.
    """
    found = []
    for key in objects.list(f"maps/{engine}"):
        name = key.rpartition("/")[2].removesuffix(".json")
        if name in known:
            continue
        try:
            found.append(Wave.model_validate_json(objects.get(key, limit_bytes=_MANIFEST_LIMIT_BYTES)))
        except ValidationError as error:
            raise ObjectStoreError(f"The map {key} of a wave is damaged.", hint="Restore it from a copy.") from error
    return found


def read_manifest(objects: ObjectStore, wave: str, index: int) -> AttemptSpec:
    """The specification of a wave's child.

    Raises:
        ObjectStoreError: if it is missing or damaged.
    """
    key = manifest_key(wave, index)
    try:
        return AttemptSpec.model_validate_json(objects.get(key, limit_bytes=_MANIFEST_LIMIT_BYTES))
    except ValidationError as error:
        raise ObjectStoreError(f"The manifest {key} is damaged.", hint="Let the controller submit it again.") from error


def _map_key(engine: str, wave: str) -> str:
    return f"maps/{engine}/{wave}.json"
