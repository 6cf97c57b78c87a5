"""Manifests, indexes and configurations as strangers write them, read strictly (OCI image specification)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from referee.errors import ImageError
from referee.images.model import shown

MAX_JSON_BYTES = 4 << 20
MAX_LAYERS = 120  # overlayfs takes more, but its mount options are one page
_LAYER_TYPES = {f"application/vnd.oci.image.layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")} | {
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
}

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=32768)]


class _Foreign(BaseModel):
    """JSON of a stranger: known keys have their type, unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Platform(_Foreign):
    """For which machines a manifest of an index is."""

    system: Annotated[str, Field(alias="os", max_length=64)] = ""
    architecture: Annotated[str, Field(max_length=64)] = ""


class Descriptor(_Foreign):
    """A pointer to a blob."""

    media_type: Annotated[str, Field(alias="mediaType", max_length=255)] = ""
    digest: Digest
    size_bytes: Annotated[int, Field(alias="size", ge=0, le=2**53)]
    urls: list[str] | None = None
    platform: Platform | None = None


class Manifest(_Foreign):
    """An image's manifest."""

    config: Descriptor
    layers: Annotated[list[Descriptor], Field(max_length=MAX_LAYERS)]


class Index(_Foreign):
    """A list of manifests (a multi-architecture image, or the index of a layout)."""

    manifests: Annotated[list[Descriptor], Field(max_length=10_000)]


class RunConfig(_Foreign):
    """`config` in an image's configuration: what `docker inspect` shows."""

    user: Annotated[Text | None, Field(alias="User")] = None
    environment: Annotated[list[Text] | None, Field(alias="Env", max_length=1024)] = None
    entrypoint: Annotated[list[Text] | None, Field(alias="Entrypoint", max_length=1024)] = None
    command: Annotated[list[Text] | None, Field(alias="Cmd", max_length=1024)] = None
    working_folder: Annotated[Text | None, Field(alias="WorkingDir")] = None
    volumes: Annotated[dict[str, Any] | None, Field(alias="Volumes")] = None
    ports: Annotated[dict[str, Any] | None, Field(alias="ExposedPorts")] = None
    healthcheck: Annotated[dict[str, Any] | None, Field(alias="Healthcheck")] = None
    on_build: Annotated[list[Any] | None, Field(alias="OnBuild")] = None
    stop_signal: Annotated[Text | None, Field(alias="StopSignal")] = None


class RootFiles(_Foreign):
    """`rootfs` in an image's configuration."""

    type: str
    diff_ids: Annotated[list[Digest], Field(max_length=MAX_LAYERS)]


class Configuration(_Foreign):
    """An image's configuration."""

    architecture: Annotated[str, Field(max_length=64)]
    system: Annotated[str, Field(alias="os", max_length=64)]
    config: RunConfig | None = None
    rootfs: RootFiles


def read_small(path: Path, what: str) -> bytes:
    """A file of at most 4 MiB that is a plain file.

    Raises:
        ImageError: if it is not.
    """
    if path.is_symlink() or not path.is_file():
        raise ImageError(f"The image's {what} is missing or is not a plain file.", hint="Export the image again.")
    with path.open("rb") as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    return bounded(data, what)


def bounded(data: bytes, what: str) -> bytes:
    """`data`, if it is not larger than 4 MiB."""
    if len(data) > MAX_JSON_BYTES:
        raise ImageError(f"The image's {what} is larger than 4 MiB.", hint="Build the image again.")
    return data


def strict_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN or infinities.

    Raises:
        ImageError: if it is anything else.
    """
    try:
        value = json.loads(bounded(data, what).decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ImageError(
            f"The image's {what} is not valid JSON: {shown(reason)}.", hint="Export the image again."
        ) from error
    if not isinstance(value, dict):
        raise ImageError(f"The image's {what} is not a JSON object.", hint="Export the image again.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


Model = TypeVar("Model", bound=BaseModel)


def read_model(model: type[Model], data: bytes, what: str) -> Model:
    """`data` as a model of this module.

    Raises:
        ImageError: with the first thing that is wrong.
    """
    value = strict_json(data, what)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ImageError(
            f"The image's {what} is not usable: {shown(place)}: {first['msg']}.", hint="Build the image again."
        ) from error


def read_manifest(data: bytes) -> Manifest:
    """An image's manifest, with layers of known types and no addresses to fetch them from.

    Raises:
        ImageError: if it is anything else.
    """
    manifest = read_model(Manifest, data, "manifest")
    for number, layer in enumerate(manifest.layers, start=1):
        if layer.urls or layer.media_type not in _LAYER_TYPES:
            raise ImageError(
                f"The image's layer {number} has the type {shown(layer.media_type)} or comes from elsewhere.",
                hint="Only ordinary image layers (tar, gzip, zstd) inside the image itself are accepted.",
            )
    return manifest
