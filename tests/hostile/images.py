"""The images that attacks run in: one base with busybox and this machine's Python, and small hostile ones over it."""

from __future__ import annotations

import functools
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from attacks import HERE, Attack

from image_layouts import LAYER_TYPE, Layout, configuration, entry, squeeze

APPLETS = [
    "sh",
    "cat",
    "chmod",
    "cp",
    "dd",
    "dmesg",
    "echo",
    "find",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "nc",
    "ping",
    "printf",
    "rm",
    "sed",
    "setsid",
    "sleep",
    "stat",
    "tail",
    "touch",
    "true",
    "umount",
    "yes",
]
START = ["/bin/sh", "/attacks/inside/start.sh"]
_LEFT_OUT = {
    "test",
    "site-packages",
    "idlelib",
    "tkinter",
    "lib2to3",
    "ensurepip",
    "distutils",
    "turtledemo",
    "unittest",
}


def base_layer() -> bytes:
    """busybox, Python with its libraries, and the programs of every attack, as a tar stream."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, Path(shutil.which("busybox") or "/usr/bin/busybox").resolve(), "bin/busybox")
        for name in APPLETS:
            archive.addfile(entry(f"bin/{name}", b"2", linkname="busybox"))
        _text(archive, "etc/passwd", "root:x:0:0::/root:/bin/sh\nworker:x:77:78::/home/w:/bin/sh\n")
        _text(archive, "etc/group", "root:x:0:\nworker:x:78:\n")
        _python(archive)
        for program in sorted(HERE.glob("*/*")):
            if program.suffix in {".py", ".sh"} and program.parent.name != "__pycache__":
                _add(archive, program, f"attacks/{program.parent.name}/{program.name}", 0o755)
    return out.getvalue()


def _python(archive: tarfile.TarFile) -> None:
    prefix = Path(sys.base_prefix).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = (prefix / "bin" / version).resolve()
    library = prefix / "lib" / version
    _add(archive, program, "usr/bin/python3", 0o755)
    needed = [program, Path(shutil.which("id") or "/usr/bin/id")]
    _add(archive, needed[1], "usr/bin/id-rooted", 0o4755)
    for path in sorted(library.rglob("*")):
        parts = path.relative_to(library).parts
        if parts[0] in _LEFT_OUT or parts[0].startswith("config-") or "__pycache__" in parts or not path.is_file():
            continue
        _add(archive, path, f"usr/lib/{version}/{'/'.join(parts)}")
        if path.suffix == ".so" and not path.name.startswith("_test"):
            needed.append(path)
    said = subprocess.run(["ldd", *map(str, needed)], capture_output=True, text=True, check=True).stdout
    libraries = {Path(found) for found in re.findall(r"(/\S+\.so[\w.]*)(?: \(|$)", said, flags=re.MULTILINE)}
    for path in sorted(libraries - set(needed)):
        place = str(path).lstrip("/") if "ld-linux" in path.name else f"usr/lib/{path.name}"
        _add(archive, path.resolve(), place, 0o755)


def _add(archive: tarfile.TarFile, source: Path, place: str, mode: int | None = None) -> None:
    content = source.read_bytes()
    info = entry(place, mode=mode or source.stat().st_mode & 0o777)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _text(archive: tarfile.TarFile, place: str, text: str) -> None:
    info = entry(place)
    info.size = len(text)
    archive.addfile(info, io.BytesIO(text.encode()))


def hostile_layer(attack: Attack) -> bytes | None:
    """What the attack's `[image]` adds: links, folders, files and device nodes; `None` if it adds nothing."""
    image = attack.image
    if not {"links", "files", "nodes", "folders"} & set(image):
        return None
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for place in image.get("folders", []):
            archive.addfile(entry(place, tarfile.DIRTYPE))
        for place, target in image.get("links", {}).items():
            archive.addfile(entry(place, b"2", linkname=target))
        for file in image.get("files", []):
            content = file.get("content", "").encode()
            info = entry(file["path"], mode=file.get("mode", 0o755))
            info.size = len(content)
            info.pax_headers = file.get("attributes", {})
            archive.addfile(info, io.BytesIO(content))
        for node in image.get("nodes", []):
            major, minor = node["device"]
            archive.addfile(entry(node["path"], node["kind"].encode(), mode=0o666, devmajor=major, devminor=minor))
    return out.getvalue()


@functools.lru_cache(maxsize=4)  # the base is in every image
def _squeezed(layer: bytes) -> bytes:
    return squeeze(layer)


def image_layout(folder: Path, layers: list[bytes], attack: Attack | None = None) -> Path:
    """An OCI layout of an image over `layers` with the configuration that the attack wants."""
    wanted: dict[str, Any] = attack.image if attack else {}
    run = {"Cmd": None, "Entrypoint": wanted.get("entrypoint", START), **wanted.get("config", {})}
    made = Layout(folder)
    config = configuration(layers, **run) | {key: wanted[key] for key in ("architecture",) if key in wanted}
    made.image(config, [made.put(_squeezed(layer), LAYER_TYPE) for layer in layers])
    return folder
