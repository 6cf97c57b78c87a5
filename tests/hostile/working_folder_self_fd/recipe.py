"""An image whose WORKDIR lies in /proc."""

from pathlib import Path

from image_layouts import layout, tar
from referee.images.store import ImageStore


def attack(folder: Path, store: ImageStore) -> dict[str, object]:
    """Import it."""
    made = layout(folder / "layout", tar(("bin/run", b"x")), WorkingDir="/proc/self/fd/7")
    store.import_image(f"oci:{made}")
    return {}
