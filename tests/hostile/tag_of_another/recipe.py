"""Import a victim's image, then another image under the same name: the victim's stays what it was."""

import shutil
from pathlib import Path

from image_layouts import layout, tar
from referee.images.store import ImageStore


def attack(folder: Path, store: ImageStore) -> dict[str, object]:
    """Import both from the same place."""
    place = folder / "base"
    victim = store.import_image(f"oci:{layout(place, tar(('bin/run', b'victim')))}")
    before = store.get(victim.digest), store.blob_path(victim.layers[0]).read_bytes()
    shutil.rmtree(place)
    other = store.import_image(f"oci:{layout(place, tar(('bin/run', b'attacker')))}")
    after = store.get(victim.digest), store.blob_path(victim.layers[0]).read_bytes()
    return {"the victim's image changed": before != after, "the images are one": other.digest == victim.digest}
