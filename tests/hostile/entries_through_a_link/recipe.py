"""First a link to the host's /tmp, then a file below it."""

from pathlib import Path

from image_layouts import entry, layout, tar
from referee.images.store import ImageStore


def attack(folder: Path, store: ImageStore) -> dict[str, object]:
    """Import it."""
    made = layout(folder / "layout", tar(entry("out", b"2", linkname="/tmp"), ("out/escape", b"x")))
    store.import_image(f"oci:{made}")
    return {}
