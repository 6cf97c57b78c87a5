"""A layer with a path that leads outside."""

from pathlib import Path

from image_layouts import layout, tar
from referee.images.store import ImageStore


def attack(folder: Path, store: ImageStore) -> dict[str, object]:
    """Import it."""
    made = layout(folder / "layout", tar(("../../../../escape", b"x")))
    store.import_image(f"oci:{made}")
    return {}
