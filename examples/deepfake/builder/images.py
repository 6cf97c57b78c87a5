"""The submissions' images: built from Debian packages and pinned wheels, without a registry, and packed for import."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.commands import contained, run
from builder.roster import Entry

SUITE = "bookworm"
PACKAGES = (
    "base-files", "base-passwd", "coreutils", "dash", "findutils", "libc-bin", "libstdc++6", "python3", "zlib1g",
)  # fmt: skip
MERGED_USR_HOOKS = "/usr/share/mmdebstrap/hooks/merged-usr"
BASE_IMAGE = "localhost/deepfake-base"


def make_base(into: Path) -> None:
    """Write `base.tar`: the packages above and what they need, unpacked and not configured, in a few seconds."""
    run(
        contained(
            ["mmdebstrap", "--quiet", "--variant=extract", f"--hook-dir={MERGED_USR_HOOKS}",
             "--extract-hook=cd \"$1\" && rm -rf usr/share/doc usr/share/man usr/share/locale",
             f"--include={','.join(PACKAGES)}",
             SUITE, into / "base.tar"],
            network=True,
        ),
        environment=_environment(into) | {"SOURCE_DATE_EPOCH": "0"},
    )  # fmt: skip


def download_wheels(requirements: Path, into: Path) -> None:
    """Fetch the wheels that the images hold, checked by hash, for Python 3.11 on this machine's processor."""
    machine = platform.machine()
    run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--require-hashes", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp",
         "--platform", f"manylinux_2_28_{machine}", "--platform", f"manylinux2014_{machine}",
         "--dest", into, "--requirement", requirements],
    )  # fmt: skip


def build_images(
    entries: Sequence[Entry], *, submissions: Path, base: Path, wheels: Path, weights: Mapping[str, Path], into: Path
) -> None:
    """Build every entry's image and write it into `into`, under the name and in the form that its source says.

    Layouts share their blobs by hard links. The image store is private and removed again.
    """
    store = into / ".store"
    builder = _Builder(store)
    try:
        shutil.copytree(base, store / "contexts/base")
        builder.build("base", BASE_IMAGE)
        for entry in entries:
            if entry.same_image_as:
                continue
            context = store / "contexts" / entry.name
            entry.copy_program(submissions, weights.get(entry.folder), context)
            if "wheels" in (context / "Containerfile").read_text():
                shutil.copytree(wheels, context / "wheels", copy_function=os.link)
            builder.build(entry.name, f"localhost/{entry.name}", base=BASE_IMAGE)
            builder.pack(entry, into)
        for entry in entries:
            if entry.same_image_as:
                builder.pack_again(entry, into)
    finally:
        shutil.rmtree(store, ignore_errors=True)


class _Builder:
    """buildah and skopeo over a store of our own."""

    def __init__(self, store: Path) -> None:
        self._root, self._runroot, self._contexts = store / "root", store / "run", store / "contexts"
        self._layouts = store / "layouts"
        self._temporary = store / "tmp"
        for folder in (self._root, self._runroot, self._contexts, self._layouts, self._temporary):
            folder.mkdir(parents=True)

    def build(self, context: str, image: str, base: str = "scratch") -> None:
        """Build one folder's Containerfile without network; layers that another build made are used again.

        What tells images apart must be in files: buildah 1.28 takes a cached layer whatever the build arguments.
        """
        self._contained(
            ["buildah", "--root", self._root, "--runroot", self._runroot, "bud", "--quiet", "--layers",
             "--isolation", "chroot", "--pull-never", "--timestamp", "0", "--build-arg", f"BASE={base}", "--tag", image,
             self._contexts / context]
        )  # fmt: skip

    def pack(self, entry: Entry, into: Path) -> None:
        """Write an image as a layout or an archive."""
        stored = f"containers-storage:[overlay@{self._root}+{self._runroot}]localhost/{entry.name}"
        if entry.transport == "docker-archive":
            self._copy(stored, f"docker-archive:{into}/{entry.name}.tar:{entry.name}:final")
            return
        layout = self._layouts / entry.name
        self._lend_blobs(layout)
        self._copy(stored, f"oci:{layout}")
        drop_foreign_blobs(layout)
        if entry.transport == "oci":
            shutil.copytree(layout, into / entry.name, copy_function=os.link)
        else:
            self._copy(f"oci:{layout}", f"oci-archive:{into}/{entry.name}.tar")

    def pack_again(self, entry: Entry, into: Path) -> None:
        """Write an image that another entry has built, digest for digest."""
        layout = self._layouts / entry.same_image_as
        if entry.transport == "oci":
            shutil.copytree(layout, into / entry.name, copy_function=os.link)
        else:
            self._copy(f"oci:{layout}", f"{entry.transport}:{into}/{entry.name}.tar")

    def _lend_blobs(self, layout: Path) -> None:
        """Link the blobs of earlier layouts into a new one: skopeo copies no blob that is there already."""
        blobs = layout / "blobs/sha256"
        blobs.mkdir(parents=True)
        for blob in self._layouts.glob("*/blobs/sha256/*"):
            if not (blobs / blob.name).exists():
                os.link(blob, blobs / blob.name)

    def _copy(self, source: str, target: str) -> None:
        # Layers stay uncompressed: packing and importing them costs no time, and nothing travels over a network.
        self._contained(["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers",
                         source, target])  # fmt: skip

    def _contained(self, argv: Sequence[str | Path]) -> None:
        run(contained(argv), environment=_environment(self._temporary))


def drop_foreign_blobs(layout: Path) -> None:
    """Remove from an OCI layout every blob that its one image does not name."""
    blobs = layout / "blobs/sha256"
    manifests = json.loads((layout / "index.json").read_text())["manifests"]
    used = set()
    for entry in manifests:
        name = entry["digest"].removeprefix("sha256:")
        manifest = json.loads((blobs / name).read_text())
        used |= {name, manifest["config"]["digest"].removeprefix("sha256:")}
        used |= {layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]}
    for blob in blobs.iterdir():
        if blob.name not in used:
            blob.unlink()


def _environment(temporary: Path) -> dict[str, str]:
    return dict(os.environ) | {"TMPDIR": str(temporary)}
