"""The guest's parts, each built once and kept under the digest of what it is made of.

The kernel is Debian's, unpacked from its package and not installed; the root file system is an ext4 image that
`mke2fs` fills from a folder, so that nothing is mounted on the host. All of it is fetched by apt; Python packages are
copied from the environment that runs this.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CACHE = REPOSITORY / ".cache/guest"

SUITE = "bookworm"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    "base-files", "base-passwd", "busybox-static", "ca-certificates", "coreutils", "dash", "findutils", "iproute2",
    "libc-bin", "libstdc++6", "mount", "python3", "runc", "skopeo", "util-linux", "zlib1g",
)  # fmt: skip
MERGED_USR_HOOKS = "/usr/share/mmdebstrap/hooks/merged-usr"

# What the sandbox, the workers and the tests import; what these need comes along.
DISTRIBUTIONS = ("obstore", "pydantic", "pytest", "pytest-timeout", "structlog", "zstandard")

# Loaded before the root is mounted; the last only so that the sandbox has something to refuse.
MODULES = ("virtio_pci", "virtio_blk", "overlay", "vsock")

_ROOT_BYTES = 1 << 30

# Programs of the host, and the packages that hold them.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "busybox": "busybox-static",
    "dpkg": "dpkg",
}


class BuildError(RuntimeError):
    """The guest could not be built; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What QEMU starts."""

    kernel: Path
    first: Path
    root: Path


def missing_packages() -> list[str]:
    """Packages with tools that the build needs and this machine lacks."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted(package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None)


def build() -> Machine:
    """Every part of the guest, from the cache where it is there already."""
    names = distributions(DISTRIBUTIONS)
    missing = missing_packages()
    if missing:
        install(missing)
    kernel = _cached("kernel", [KERNEL], _unpack_kernel)
    first = _cached("first", [kernel.name, *MODULES, _text("first.sh")], lambda into: _first_stage(kernel, into))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    parts = [SUITE, *PACKAGES, *versions, _text("start.sh"), sys.version]
    root = _cached("root", parts, lambda into: _root_image(names, into))
    return Machine(_one(kernel, "boot/vmlinuz-*"), first / "first.cpio", root / "root.ext4")


def install(packages: list[str]) -> None:
    """Install packages of the host through apt; as another user than root, say what to type."""
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BuildError(f"The guest needs {', '.join(packages)}. Type: sudo {' '.join(command)}")
    print(f"Installing system packages: {' '.join(packages)}", flush=True)
    _run("apt-get", "-qq", "update")
    _run(*command, environment={"DEBIAN_FRONTEND": "noninteractive"})


def distributions(wanted: Iterable[str]) -> list[str]:
    """Names of the distributions `wanted` and of all that they require here."""
    found: dict[str, None] = {}
    left = list(wanted)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError as error:
            if name in DISTRIBUTIONS:
                raise BuildError(f"{name} is not installed for {sys.executable}. Type: make test-v2") from error
            continue  # for another platform or Python
        found[name] = None
        left += [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]
    return sorted(found)


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _cached(name: str, parts: Iterable[str], make: Callable[[Path], None]) -> Path:
    """The folder that `make` filled for these parts; made now if this file or a part has changed."""
    digest = hashlib.sha256("\0".join([*parts, _text("machine.py")]).encode()).hexdigest()[:16]
    place = CACHE / f"{name}-{digest}"
    if not place.exists():
        print(f"Building the guest's {name}", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob(f"{name}-*"):
            shutil.rmtree(old)
        aside = Path(tempfile.mkdtemp(dir=CACHE, prefix="new-"))
        try:
            make(aside)
            aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return place


def _run(*command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | (environment or {}), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}")
    return done.stdout


def _one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def _unpack_kernel(into: Path) -> None:
    dependencies = _run("apt-cache", "depends", "--important", KERNEL)
    names = re.findall(r"Depends: (linux-image-\S+)", dependencies)
    if not names:
        raise BuildError(f"apt knows no {KERNEL}. Type: apt-get update (on Debian, amd64)")
    _run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", names[0], cwd=into)
    package = _one(into, "*.deb")
    _run("dpkg", "-x", package, into)
    package.unlink()


def _first_stage(kernel: Path, into: Path) -> None:
    """The initial file system: busybox, a script, and the modules that are needed to mount the root."""
    modules = _one(kernel, "lib/modules/*")
    files = {"init": (HERE / "first.sh").read_bytes(), "busybox": Path(shutil.which("busybox") or "").read_bytes()}
    order = _module_order(modules)
    for path in order:
        files[f"modules/{path.name}"] = path.read_bytes()
    files["order"] = "".join(f"/modules/{path.name}\n" for path in order).encode()
    with (into / "first.cpio").open("wb") as out:
        inode = 1
        for folder in ("modules", "dev", "proc", "root"):
            out.write(_cpio_entry(folder, 0o040755, b"", inode := inode + 1))
        for name, content in files.items():
            out.write(_cpio_entry(name, 0o100755, content, inode := inode + 1))
        out.write(_cpio_entry("TRAILER!!!", 0, b"", 0))


def _module_order(folder: Path) -> list[Path]:
    """Files of MODULES and of what they need, in the order to load them. Built-in modules have none."""
    paths = {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko")}
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        path = paths.get(name)
        if path is None or name in order:
            return
        match = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in match[1].decode().split(",") if match else ():
            add(needed.replace("-", "_"))
        order[name] = path

    for name in MODULES:
        add(name)
    return list(order.values())


def _cpio_entry(name: str, mode: int, content: bytes, inode: int) -> bytes:
    """One entry of a `newc` archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _root_image(names: list[str], into: Path) -> None:
    root = into / "root"
    _run(
        "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--",
        "mmdebstrap", "--quiet", "--variant=extract", "--format=directory", f"--hook-dir={MERGED_USR_HOOKS}",
        "--extract-hook=cd \"$1\" && rm -rf usr/share/doc usr/share/man usr/share/locale usr/share/info",
        f"--include={','.join(PACKAGES)}", SUITE, root,
    )  # fmt: skip
    for folder in ("proc", "sys", "dev", "run", "tmp", "root", "referee"):
        (root / folder).mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost guest\n")
    (root / "etc/group").write_text("root:x:0:\n")
    site = root / "usr/lib/python3/dist-packages"
    site.mkdir(parents=True, exist_ok=True)
    for name in names:
        _copy_distribution(name, site)
    compile_code(root / "usr/lib/python3.11", root, "/")
    compile_code(site, root, "/")
    shutil.copy(HERE / "start.sh", root / "start.sh")
    (root / "start.sh").chmod(0o755)
    image = into / "root.ext4"
    with image.open("wb") as file:
        file.truncate(_ROOT_BYTES)
    _run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, image)
    shutil.rmtree(root)


def _copy_distribution(name: str, site: Path) -> None:
    for file in importlib.metadata.files(name) or ():
        if ".." in file.parts or file.suffix == ".pyc":
            continue  # commands, and what is compiled again
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(str(file.locate())), target)


def compile_code(folder: Path, strip: Path, prefix: str) -> None:
    """Compile Python code, which an emulated processor does slowly; nobody looks again whether it is stale."""
    command: list[str | Path] = [sys.executable, "-m", "compileall", "-q", "-s", strip, "-p", prefix]
    done = subprocess.run(
        [*command, "--invalidation-mode", "unchecked-hash", folder], capture_output=True, text=True, check=False
    )
    if done.returncode not in {0, 1}:  # 1: files that are not meant to compile, such as templates
        raise BuildError(f"compileall ended with {done.returncode}: {done.stderr[-500:]}")
