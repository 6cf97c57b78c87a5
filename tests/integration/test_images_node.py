"""A node lays layers out once, as overlayfs reads them, within its room, and never takes one from under an attempt."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_layouts import digest, entry, layout, tar
from referee.images.model import ImageLostError, ImageRecord, NoRoomError, UnpackedImage
from referee.images.node import NodeImages
from referee.images.store import ImageStore

pytestmark = [
    pytest.mark.containers,
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root, as files belong to the image's own ids"),
]

_CLONE_NEWNS = 0x20000
_DIR, _SYM, _HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
_ROOM_BYTES = 1 << 30


def _noise(size: int, seed: int) -> bytes:
    return tar((f"noise-{seed}", random.Random(seed).randbytes(size)))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "objects", architecture="amd64")


@pytest.fixture
def node(tmp_path: Path, store: ImageStore) -> NodeImages:
    return NodeImages(tmp_path / "node", store, _ROOM_BYTES)


def _import(store: ImageStore, tmp_path: Path, *layers: bytes) -> ImageRecord:
    place = tmp_path / f"image-{digest(b''.join(layers))[7:20]}"
    return store.import_image(str(place if place.exists() else layout(place, *layers)))


def _show(image: UnpackedImage, place: Path, command: str) -> str:
    """What a shell command prints inside the mounted image, in a mount namespace that ends with it."""
    place.mkdir(exist_ok=True)
    lower = ":".join(path.name for path in image.layers)
    # overlayfs takes one layer only together with another: an empty folder does
    (place.parent / "empty").mkdir(exist_ok=True)
    script = (
        f"cd {image.layers[0].parent} && mount -t overlay overlay"
        f" -o lowerdir={lower}:{place.parent}/empty {place} && cd {place} && {command}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout


def test_layers_are_laid_out_with_owners_modes_times_and_links(
    store: ImageStore, node: NodeImages, tmp_path: Path
) -> None:
    layer = tar(
        entry("./", _DIR, mode=0o711, uid=7, gid=8),
        entry("tmp", _DIR, mode=0o1777),
        entry("shared", _DIR, mode=0o2775, uid=10, gid=65535, mtime=12345),
        (entry("shared/file", uid=1000, gid=1001, mode=0o640, mtime=99), b"content"),
        (entry("su", mode=0o6755), b"root?"),
        entry("twin", _HARD, linkname="shared/file"),
        entry("link", _SYM, linkname="/etc/passwd", uid=5),
        entry("dev/sda", tarfile.BLKTYPE, mode=0o666, devmajor=8),
        entry("dev/whiteout", tarfile.CHRTYPE, mode=0o666),
        entry("pipe", tarfile.FIFOTYPE),
        entry("caps", pax_headers={"SCHILY.xattr.security.capability": "\x01\0\0\2", "SCHILY.xattr.user.x": "y"}),
        entry("trusted", _DIR, pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"}),
        (entry("big", uid=1_000_660_000, gid=1), b""),
        (b"n\xff\xfe".decode("utf-8", "surrogateescape"), b"not UTF-8"),
    )
    record = _import(store, tmp_path, layer)
    with node.acquire(record.digest) as image:
        root = image.layers[0]
        facts = {
            str(path.relative_to(root)): (f"{stat.S_IMODE(found.st_mode):o}", found.st_uid, found.st_gid)
            for path in [root, *root.rglob("*")]
            if (found := path.lstat()) is not None
        }
        assert facts == {
            ".": ("711", 7, 8),
            "tmp": ("1777", 0, 0),
            "shared": ("2775", 10, 65535),
            "shared/file": ("640", 1000, 1001),
            "su": ("755", 0, 0),
            "twin": ("640", 1000, 1001),
            "link": ("777", 5, 0),
            "caps": ("644", 0, 0),
            "trusted": ("755", 0, 0),
            "big": ("644", 65534, 1),
            "n\udcff\udcfe": ("644", 0, 0),
        }
        assert (root / "twin").stat().st_ino == (root / "shared" / "file").stat().st_ino
        assert ((root / "shared").stat().st_mtime, (root / "twin").stat().st_mtime) == (12345, 99)
        assert str((root / "link").readlink()) == "/etc/passwd"
        assert (root / "twin").read_bytes() == b"content"
        for path in root.rglob("*"):
            assert os.listxattr(path, follow_symlinks=False) == []
        assert stat.S_IMODE(root.parent.parent.stat().st_mode) == 0o700


def test_whiteouts_hide_what_lies_below(store: ImageStore, node: NodeImages, tmp_path: Path) -> None:
    base = tar(
        *((name, name.encode()) for name in ("keep", "gone", "tree/old", "again/old", "swap/old", "same", "late/old"))
    )
    top = tar(
        entry(".wh.gone"),
        entry("tree/.wh..wh..opq"),
        ("tree/new", b"new"),
        entry(".wh.again"),
        ("again/new", b"new"),  # the whiteout comes first, the folder after it
        ("swap/new", b"new"),
        entry(".wh.swap"),  # and the other way round
        ("same", b"mine"),
        entry(".wh.same"),
        entry(".wh.late"),
        entry("late", _DIR, mode=0o700),
    )
    record = _import(store, tmp_path, base, top)
    with node.acquire(record.digest) as image:
        shown = _show(image, tmp_path / "mounted", "find . -type f | sort; cat same; echo; stat -c %a late")
    assert shown.split() == ["./again/new", "./keep", "./same", "./swap/new", "./tree/new", "mine", "700"]


def test_equal_layers_are_one_folder_and_120_fit_into_the_mount_options(
    store: ImageStore, node: NodeImages, tmp_path: Path
) -> None:
    layers = [tar((f"f{number}", b"x")) for number in range(119)]
    record = _import(store, tmp_path, *layers, layers[0])
    with node.acquire(record.digest) as image:
        assert len(record.layers) == 120
        assert len(image.layers) == 119
        assert image.layers[0].name == digest(layers[0])[7:33]
        assert _show(image, tmp_path / "mounted", "ls | wc -l").strip() == "119"


def test_a_layer_is_unpacked_once_and_kept(store: ImageStore, node: NodeImages, tmp_path: Path) -> None:
    base, one, two = tar(("base", b"x")), tar(("one", b"x")), tar(("two", b"x"))
    first, second = _import(store, tmp_path, base, one), _import(store, tmp_path, base, two)
    with node.acquire(first.digest) as image, node.acquire(second.digest) as other, node.acquire(first.digest) as same:
        assert image.layers[1] == other.layers[1]
        assert image.layers == same.layers
        made = image.layers[1].stat().st_ino
    with node.acquire(first.digest) as image:
        assert image.layers[1].stat().st_ino == made
    assert node.state().layers == 3


def test_the_longest_unused_is_evicted_and_what_is_in_use_is_not(store: ImageStore, tmp_path: Path) -> None:
    images = [_import(store, tmp_path, _noise(1 << 20, seed)) for seed in range(4)]
    node = NodeImages(tmp_path / "node", store, 3 * (1 << 20) + 200_000)
    for image in images[:3]:
        with node.acquire(image.digest):
            time.sleep(0.02)
    with node.acquire(images[0].digest) as held:
        assert node.state().layers == 3
        with node.acquire(images[3].digest):
            assert held.layers[0].is_dir()  # the oldest, but in use
            kept = {path.name for path in held.layers[0].parent.iterdir()}
    assert kept == {_folder_name(image) for image in (images[0], images[2], images[3])}
    assert node.state().used_bytes <= node.state().capacity_bytes


def _folder_name(record: ImageRecord) -> str:
    return record.diff_ids[0][7:33]


def test_no_room_beside_what_is_in_use_is_the_hosts_fault(store: ImageStore, tmp_path: Path) -> None:
    images = [_import(store, tmp_path, _noise(1 << 20, seed)) for seed in range(2)]
    node = NodeImages(tmp_path / "node", store, (1 << 20) + 200_000)
    beside = pytest.raises(NoRoomError, match="beside what is in use")
    with node.acquire(images[0].digest), beside, node.acquire(images[1].digest):
        pytest.fail("there was no room")
    with node.acquire(images[1].digest):
        pass
    small = NodeImages(tmp_path / "small", store, 1 << 20)
    with pytest.raises(NoRoomError, match="whole cache"), small.acquire(images[0].digest):
        pytest.fail("there was no room")


_HOLD = """
import sys, time
from pathlib import Path
from referee.images.node import NodeImages
from referee.images.store import ImageStore
node = NodeImages(Path(sys.argv[1]), ImageStore(Path(sys.argv[2]), architecture="amd64"), int(sys.argv[4]))
with node.acquire(sys.argv[3]):
    print("held", flush=True)
    time.sleep(60)
"""


def _hold(tmp_path: Path, record: ImageRecord, capacity: int = _ROOM_BYTES) -> subprocess.Popen[str]:
    arguments = [str(tmp_path / "node"), str(tmp_path / "objects"), record.digest, str(capacity)]
    return subprocess.Popen([sys.executable, "-c", _HOLD, *arguments], stdout=subprocess.PIPE, text=True)


def _await(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


def test_another_process_keeps_its_image_until_it_dies(store: ImageStore, node: NodeImages, tmp_path: Path) -> None:
    record = _import(store, tmp_path, _noise(4096, 1))
    holder = _hold(tmp_path, record)
    try:
        _await(holder)
        assert node.evict(1 << 40) == 0
        holder.kill()
        holder.wait()
        assert node.evict(1 << 40) > 0
        assert node.state().layers == 0
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_unpacking_killed_at_any_moment_leaves_nothing_half(
    store: ImageStore, node: NodeImages, tmp_path: Path
) -> None:
    files = [(f"d{number % 50}/f{number}", bytes([number % 256]) * 3000) for number in range(2000)]
    record = _import(store, tmp_path, tar(*files))
    root = tmp_path / "node" / "images"
    chance = random.Random(3)
    halves = 0
    for _ in range(6):
        process = _hold(tmp_path, record)
        while not any(root.glob("unpacking/*/layer")) and not any(root.glob("layers/*")):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.4))
        _end(process)
        halves += any(root.glob("unpacking/*/layer"))
        for place in root.glob("layers/*"):
            if (root / "layers.json" / place.name).exists():
                _require_files(place, files)
        node.evict(1 << 40)
    assert halves, "no kill hit the middle of unpacking: the test shows nothing"
    with node.acquire(record.digest) as image:
        _require_files(image.layers[0], files)
    assert list((tmp_path / "node" / "images" / "unpacking").iterdir()) == []


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _require_files(root: Path, files: list[tuple[str, bytes]]) -> None:
    for name, content in files:
        assert (root / name).read_bytes() == content


def _use(node_folder: str, objects: str, digests: list[str], capacity: int, seed: int) -> int:
    """Acquire images in random order under pressure; every file must be whole while it is held."""
    node = NodeImages(Path(node_folder), ImageStore(Path(objects), architecture="amd64"), capacity)
    chance = random.Random(seed)
    held = 0
    for _ in range(25):
        wanted = chance.choice(digests)
        try:
            with node.acquire(wanted) as image:
                for place in image.layers:
                    names = list(place.iterdir())
                    assert len(names) == 1
                    assert names[0].stat().st_size == 1 << 18
                    time.sleep(0.002)
                    assert names[0].read_bytes()[:1] != b""
                held += 1
        except NoRoomError:
            continue
    return held


def test_many_processes_share_a_cache_that_is_too_small_for_all(store: ImageStore, tmp_path: Path) -> None:
    layers = [_noise(1 << 18, seed) for seed in range(6)]
    records = [_import(store, tmp_path, layers[number], layers[(number + 1) % 6]) for number in range(6)]
    arguments = [
        (str(tmp_path / "node"), str(tmp_path / "objects"), [record.digest for record in records], 5 * 300_000, seed)
        for seed in range(4)
    ]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        held = pool.starmap(_use, arguments)
    assert all(count > 0 for count in held)
    node = NodeImages(tmp_path / "node", store, 5 * 300_000)
    node.sweep()
    assert node.state().used_bytes <= node.state().capacity_bytes
    node.evict(1 << 40)
    assert node.state().layers == 0


def test_a_stored_layer_that_changed_is_not_run(store: ImageStore, node: NodeImages, tmp_path: Path) -> None:
    record = _import(store, tmp_path, tar(("a", b"x" * 100)))
    path = store.blob_path(record.layers[0])
    path.chmod(0o600)
    path.write_bytes(tar(("a", b"y" * 100)))
    with pytest.raises(ImageLostError, match="not what was imported"), node.acquire(record.digest):
        pytest.fail("a changed layer was given out")
    path.unlink()
    with pytest.raises(ImageLostError, match="missing"), node.acquire(record.digest):
        pytest.fail("a missing layer was given out")
    assert node.state().layers == 0
    assert list((tmp_path / "node" / "images" / "layers").iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(place)], check=True)
    yield place
    ctypes.CDLL(None).umount2(str(place).encode(), 2)


def test_a_full_disk_is_told_apart_and_leaves_nothing(store: ImageStore, tiny_disk: Path, tmp_path: Path) -> None:
    small, large = _import(store, tmp_path, _noise(1 << 20, 1)), _import(store, tmp_path, _noise(4 << 20, 2))
    node = NodeImages(tiny_disk, store, _ROOM_BYTES)
    with pytest.raises(NoRoomError, match="full"), node.acquire(large.digest):
        pytest.fail("4 MiB do not fit into 2")
    with node.acquire(small.digest) as image:
        assert len(image.layers) == 1
    full = ImageStore(tiny_disk / "objects", architecture="amd64")
    with pytest.raises(NoRoomError, match="full"):
        full.import_image(str(tmp_path / f"image-{digest(_noise(4 << 20, 2))[7:20]}"))


def test_a_layer_of_an_earlier_boot_is_made_again(
    store: ImageStore, node: NodeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = _import(store, tmp_path, tar(("a", b"x" * 100)))
    with node.acquire(record.digest) as image:
        (image.layers[0] / "a").write_bytes(b"")  # as a power failure leaves it
    monkeypatch.setattr("referee.images.node.boot_id", lambda: "another boot")
    with node.acquire(record.digest) as image:
        assert (image.layers[0] / "a").read_bytes() == b"x" * 100
    assert node.state().layers == 1


def test_deep_trees_can_be_laid_out_and_removed(store: ImageStore, node: NodeImages, tmp_path: Path) -> None:
    deep = "/".join("d" * 255)
    record = _import(store, tmp_path, tar((f"{deep}/f", b"x"), entry(f"{deep}/g", _HARD, linkname=f"{deep}/f")))
    with node.acquire(record.digest):
        pass
    assert node.evict(1) > 0
    assert node.state().layers == 0
