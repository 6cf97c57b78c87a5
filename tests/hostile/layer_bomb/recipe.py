"""A layer of zeros: 64 MiB in 64 KiB, against a store that allows 8 MiB."""

from pathlib import Path

from image_layouts import layout, tar
from referee.images.store import ImageStore


def attack(folder: Path, store: ImageStore) -> dict[str, object]:
    """Import it; what may be left is looked for afterwards."""
    small = ImageStore(folder / "small", limit_bytes=8 << 20)
    made = layout(folder / "layout", tar(("zeros", bytes(64 << 20))))
    small.import_image(f"oci:{made}")
    return {}
