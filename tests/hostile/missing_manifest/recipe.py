"""An index that names a manifest which is garbage."""

from pathlib import Path

from image_layouts import MANIFEST_TYPE, Layout
from referee.images.store import ImageStore


def attack(folder: Path, store: ImageStore) -> dict[str, object]:
    """Import it."""
    made = Layout(folder / "layout")
    made.index({"schemaVersion": 2, "manifests": [made.put(b"{garbage", MANIFEST_TYPE)]})
    store.import_image(f"oci:{folder / 'layout'}")
    return {}
