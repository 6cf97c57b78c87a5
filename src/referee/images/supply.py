"""Where a node gets images from: records, facts of layers, and blobs, by digest."""

from __future__ import annotations

from typing import BinaryIO, Protocol

from pydantic import ValidationError

from referee.errors import ImageError
from referee.images.model import ImageLostError, ImageRecord, LayerFacts, digest_hex
from referee.objects import ObjectMissingError, ObjectStore

RECORD_LIMIT_BYTES = 16 << 20  # of what is known of an image or a layer, as JSON


def record_key(digest: str) -> str:
    """Where the record of an image lies, by its manifest's digest."""
    return f"images/{digest_hex(digest)}.json"


def layer_key(digest: str) -> str:
    """Where the facts of a layer lie."""
    return f"layers/{digest_hex(digest)}.json"


def blob_key(digest: str) -> str:
    """Where a blob lies."""
    return f"blobs/sha256/{digest_hex(digest)}"


class Supply(Protocol):
    """What `NodeImages` asks for: an `ImageStore` on this machine, or `ObjectImages` on another."""

    def get(self, digest: str) -> ImageRecord:
        """The image with that manifest digest."""
        ...

    def layer(self, digest: str) -> LayerFacts:
        """The facts of a layer, by the digest of its blob."""
        ...

    def open_blob(self, digest: str) -> BinaryIO:
        """The blob, to be read from its beginning. What is read is checked by whoever unpacks it."""
        ...


class ObjectImages:
    """The images of an object store, read through it alone: no folder need be shared.

    The keys are those that `ImageStore` gives its files, so that a store in a folder serves as it lies.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def get(self, digest: str) -> ImageRecord:
        """The image with that manifest digest.

        Raises:
            ImageError: if there is none.
            ImageLostError: if its record is damaged.
        """
        key = record_key(digest)
        try:
            record = ImageRecord.model_validate_json(self._objects.get(key, limit_bytes=RECORD_LIMIT_BYTES))
        except ObjectMissingError:
            raise ImageError(f"There is no image {digest} in the store.", hint="Import it again.") from None
        except ValidationError as error:
            raise ImageLostError(f"{key} is damaged.", hint="Remove it and import the image again.") from error
        if record.digest != digest:
            raise ImageLostError(f"{key} is the record of {record.digest}.", hint="Import the image again.")
        return record

    def layer(self, digest: str) -> LayerFacts:
        """The facts of a layer.

        Raises:
            ImageLostError: if there is no such layer, or its facts are damaged.
        """
        key = layer_key(digest)
        try:
            facts = LayerFacts.model_validate_json(self._objects.get(key, limit_bytes=RECORD_LIMIT_BYTES))
        except (ObjectMissingError, ValidationError) as error:
            raise ImageLostError(
                f"The layer {digest} is missing from the store.", hint="Import its image again."
            ) from error
        if facts.digest != digest:
            raise ImageLostError(f"{key} tells of the layer {facts.digest}.", hint="Import the image again.")
        return facts

    def open_blob(self, digest: str) -> BinaryIO:
        """The blob.

        Raises:
            ImageLostError: if it is not there.
        """
        try:
            return self._objects.open(blob_key(digest))
        except ObjectMissingError:
            raise ImageLostError(
                f"The blob {digest} is missing from the store.", hint="Import its image again."
            ) from None
