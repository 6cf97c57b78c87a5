"""The configuration says s390x."""

from pathlib import Path

from image_layouts import LAYER_TYPE, Layout, configuration, squeeze, tar
from referee.images.store import ImageStore


def attack(folder: Path, store: ImageStore) -> dict[str, object]:
    """Import it."""
    layer = tar(("bin/run", b"x"))
    made = Layout(folder / "layout")
    made.image(configuration([layer]) | {"architecture": "s390x"}, [made.put(squeeze(layer), LAYER_TYPE)])
    store.import_image(f"oci:{folder / 'layout'}")
    return {}
