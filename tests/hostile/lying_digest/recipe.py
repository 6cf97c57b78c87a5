"""The manifest names one layer, the folder holds another."""

from pathlib import Path

from image_layouts import LAYER_TYPE, Layout, configuration, squeeze, tar
from referee.images.store import ImageStore


def attack(folder: Path, store: ImageStore) -> dict[str, object]:
    """Import it."""
    layer = tar(("bin/run", b"#!/bin/sh\n"))
    made = Layout(folder / "layout")
    described = made.put(squeeze(layer), LAYER_TYPE)
    made.image(configuration([layer]), [described])
    (made.blobs / described["digest"].removeprefix("sha256:")).write_bytes(squeeze(tar(("bin/run", b"evil"))))
    store.import_image(f"oci:{folder / 'layout'}")
    return {}
