"""Images made by hand for tests: tar layers, and OCI layouts and archives around them, honest and lying."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def entry(name: str, kind: bytes = tarfile.REGTYPE, **facts: Any) -> tarfile.TarInfo:
    """A tar entry; `facts` are attributes of `TarInfo`."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def tar(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo | str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of entries; a pair is a file (or its name) with its content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for item in entries:
            info, content = item if isinstance(item, tuple) else (item, b"")
            if isinstance(info, str):
                info = entry(info)
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return out.getvalue()


def digest(data: bytes) -> str:
    """`sha256:…` of the data."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def squeeze(data: bytes, level: int = 1) -> bytes:
    """Gzip, the same bytes each time."""
    return gzip.compress(data, level, mtime=0)


def configuration(layers: Sequence[bytes], **run: Any) -> dict[str, Any]:
    """An image's configuration over uncompressed layers; `run` are keys of its `config`."""
    run = {"Cmd": ["/bin/run"], **run}
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {key: value for key, value in run.items() if value is not None},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }


class Layout:
    """An OCI layout in the making. What is put in with a wrong digest stays wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.index({"schemaVersion": 2, "manifests": []})

    def put(self, data: bytes, kind: str, **lies: Any) -> dict[str, Any]:
        """Store a blob and describe it; `lies` override what the description says."""
        described = {"mediaType": kind, "digest": digest(data), "size": len(data), **lies}
        (self.blobs / described["digest"].removeprefix("sha256:")).write_bytes(data)
        return described

    def index(self, value: dict[str, Any]) -> None:
        """Write index.json."""
        (self.folder / "index.json").write_text(json.dumps(value))

    def image(self, config: dict[str, Any], layers: Sequence[dict[str, Any]], **manifest: Any) -> dict[str, Any]:
        """Add an image over described layers, and make it the layout's only one."""
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": list(layers),
            **manifest,
        }
        described = self.put(json.dumps(body).encode(), MANIFEST_TYPE)
        self.index({"schemaVersion": 2, "manifests": [described]})
        return described


def layout(folder: Path, *layers: bytes, **run: Any) -> Path:
    """An honest layout of one image over uncompressed layers."""
    made = Layout(folder)
    made.image(configuration(layers, **run), [made.put(squeeze(layer), LAYER_TYPE) for layer in layers])
    return folder


def pack(folder: Path, target: Path, mode: str = "w") -> Path:
    """A folder as an archive, as `oci-archive` has it."""
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]  # the mode is one of tarfile's own
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False)
    return target
