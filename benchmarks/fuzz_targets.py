"""What `fuzz.py` runs on each input: one function for each reader, and the inputs to begin with.

A target returns for what it accepts, raises a declared error for what it refuses, and asserts what its reader promises
of both.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from image_layouts import configuration, digest, entry, tar
from referee.attempts import read_claim, read_result
from referee.challenge import PredictionFormat
from referee.errors import ConfigurationError, HostError, ImageError, RefereeError
from referee.images.layer import Layer
from referee.images.lint import lint_configuration
from referee.images.manifest import Configuration, Index, read_manifest, read_model
from referee.images.tar import TarError, TarStream
from referee.ledger.chain import canonical_json
from referee.ledger.events import AttemptEnded
from referee.predictions import PredictionError, read_predictions
from referee.predictions import reading as predictions_reading
from referee.submissions import read_manifest as read_submissions

Target = Callable[[bytes], None]

NAMES = ("a.mp4", "b.mp4", 'deep/"c".mp4', "d,e.mp4", "\N{LATIN SMALL LETTER E WITH ACUTE}.mp4")
LAYOUT = PredictionFormat()
LIMIT_BYTES = 4096
DECLARED = (PredictionError, ConfigurationError, ImageError, TarError, HostError)
ATTEMPT = "s-1234ab.private_test.1"
LONGEST_WORDS = 1 << 16


def verdict(target: Target, data: bytes) -> bool:
    """Whether the target accepts `data`. A refusal must be a declared error in words that a terminal can show."""
    try:
        target(data)
    except DECLARED as error:
        words, message = str(error), error.message if isinstance(error, RefereeError) else str(error)
        assert 0 < len(message) <= len(words) < LONGEST_WORDS, "no words, or without end"
        assert all(character.isprintable() or character == "\n" for character in words), repr(words)
        return False
    return True


def predictions(data: bytes) -> None:
    """The two readers agree, and what they accept is one finite number in the range for each file."""
    known = predictions_reading._index(NAMES)
    try:
        found = read_predictions(data, NAMES, LAYOUT, limit_bytes=LIMIT_BYTES)
    except PredictionError:
        assert len(data) > LIMIT_BYTES or predictions_reading._read_fast(data, known, LAYOUT) is None
        raise
    assert found.rows == len(NAMES)
    assert all(LAYOUT.minimum <= value <= LAYOUT.maximum for value in found.doubles)
    assert found.doubles == predictions_reading._read_carefully(data, known, LAYOUT)


def submissions(data: bytes) -> None:
    """A manifest in a file, as it always is."""
    file = os.memfd_create("manifest")
    try:
        os.write(file, data)
        rows = read_submissions(Path(f"/proc/self/fd/{file}"), 2)
    finally:
        os.close(file)
    assert rows
    assert len({row.submission for row in rows}) == len(rows)
    for row in rows:
        assert row.submission.isprintable()
        assert row.team.isprintable()
        assert row.public_score is None or math.isfinite(row.public_score)


def image_json(data: bytes) -> None:
    """A manifest, an index and a configuration with its lint; the first byte says which."""
    kind, rest = data[:1], data[1:]
    if kind == b"m":
        manifest = read_manifest(rest)
        assert all(not layer.urls for layer in manifest.layers)
    elif kind == b"i":
        read_model(Index, rest, "index")
    else:
        config, findings = lint_configuration(read_model(Configuration, rest, "configuration"), "amd64")
        assert config.working_folder.startswith("/")
        assert ".." not in config.working_folder.split("/")
        assert all(text.isprintable() for text in findings)


def _checksums(data: bytes) -> bytes:
    """A flipped bit of a header would nearly always end at its checksum, so the checksums are put right."""
    blocks = [data[place : place + 512] for place in range(0, len(data), 512)]
    for number, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == 512:
            total = sum(block) - sum(block[148:156]) + 8 * 0x20
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


def tar_stream(data: bytes) -> None:
    """Entries and their content; nothing is longer than what was given."""
    stream = TarStream(io.BytesIO(_checksums(data)).read)
    for each in stream:
        assert each.size_bytes >= 0
        assert sum(map(len, stream.content())) <= len(data)


def layer(data: bytes) -> None:
    """A layer as it is stored: the first byte says how it is packed, the next two what of that is broken."""
    how, place, change, rest = data[:1], data[1:2], data[2:3], _checksums(data[3:])
    packed = rest
    if how in b"gGt" and how:
        packed = gzip.compress(rest, 1, mtime=0)
        packed += packed if how == b"G" else b""
        packed = packed[: -1 - place[0]] if how == b"t" and place else packed
    elif how in b"zZ" and how:
        packed = zstandard.ZstdCompressor(level=1).compress(rest)
        packed += packed if how == b"Z" else b""
    if change and change != b"\0" and place and packed:
        at = place[0] * len(packed) // 256
        packed = packed[:at] + change + packed[at + 1 :]
    reader = Layer(io.BytesIO(packed), limit_bytes=1 << 20, name="layer 1 of 1", max_entries=200)
    for each in reader:
        parts = each.path.split(b"/") if each.path else []
        assert not {b"", b".", b".."} & set(parts)
        assert 0 <= each.uid <= 65535
        assert not each.mode & 0o4000
    facts = reader.facts()
    assert facts.unpacked_bytes <= 1 << 20
    facts.model_dump_json()


def result(data: bytes) -> None:
    """A result, and what the controller makes of it: an event that can be written into the ledger."""
    node = read_claim(data)
    assert node is None or node.isprintable() or node
    said = read_result(_result_json(data), ATTEMPT)
    facts = said.model_dump(include=set(AttemptEnded.model_fields) - {"reported_by", "measurements"})
    event = AttemptEnded(reported_by="worker", **facts, measurements=said.measurements)
    text = canonical_json(event.payload())
    assert AttemptEnded.model_validate(json.loads(text)) == event


HONEST: dict[str, Any] = {
    "attempt": ATTEMPT, "verdict": "ok", "exit_status": 0, "signal": None, "detail": "", "signature": "",
    "measurements": {
        "wall_seconds": 1.5, "cpu_seconds": 1.25, "peak_memory_bytes": 2**20, "preparation_seconds": 0.1,
        "oom_kills": 0, "pids_peak": 3, "pids_refused": 0, "output_bytes": 10, "output_files": 1, "log_bytes": 5,
        "gpu_peak_memory_bytes": None, "nearest_limit": "memory", "nearest_limit_share": 0.5,
    },
    "predictions_digest": "sha256:" + "a" * 64, "predictions_rows": 5, "log_digest": "sha256:" + "b" * 64,
    "node": "node-1", "boot_id": "b", "machine_type": "local", "level": "runc",
    "started_at": "2026-11-22T10:00:00Z", "ended_at": "2026-11-22T10:00:01Z", "worker_version": "0.1.0",
}  # fmt: skip
_FIELDS = [(name,) for name in HONEST] + [("measurements", name) for name in HONEST["measurements"]]


VALUES = (
    b"0", b"1", b"-1", b"1e999", b"1e308", b"-0.0", b"NaN", b"-Infinity", b"null", b"true", b"[]", b"{}", b'""', b'"x"',
    b"9223372036854775807", b"18446744073709551616",
    b'"\\u0000"', b'"\\ud800"', b'"\\u202e"', b'"' + b"n" * 5000 + b'"',
    b'"ok"', b'"memory_limit"', b'"result_lost"', b'"2026-11-22T10:00:00"', b'"0001-01-01T00:00:00+23:59"',
    b'"9999-12-31T23:59:59-23:59"', b"1763805600", b'"sha256:' + b"c" * 64 + b'"', b'"sha256:' + b"C" * 64 + b'"',
)  # fmt: skip


def _result_json(data: bytes) -> bytes:
    """Raw bytes; or an honest result with fields replaced.

    After `=` one field (its number) by the JSON that follows; after `@` a field by one of `VALUES`, for each two bytes.
    """
    if data[:1] == b"=" and len(data) > 1:
        changes = {data[1] % len(_FIELDS): data[2:]}
    elif data[:1] == b"@":
        pairs = zip(data[1::2], data[2::2], strict=False)
        changes = {field % len(_FIELDS): VALUES[value % len(VALUES)] for field, value in pairs}
    else:
        return data
    changed = json.loads(json.dumps(HONEST))
    for field in changes:
        *outer, name = _FIELDS[field]
        if isinstance(place := changed[outer[0]] if outer else changed, dict):
            place[name] = f"here {field} here"
    text = json.dumps(changed).encode()
    for field, value in changes.items():
        text = text.replace(b'"here %d here"' % field, value)
    return text


TARGETS: dict[str, Target] = {
    "predictions": predictions, "submissions": submissions, "image_json": image_json, "tar": tar_stream,
    "layer": layer, "result": result,
}  # fmt: skip


def write_seeds(name: str, folder: str) -> None:
    """The inputs to begin with, in files of `folder`."""
    for number, seed in enumerate(seeds()[name]):
        Path(folder, f"{number:03}").write_bytes(seed)


def seeds() -> dict[str, list[bytes]]:
    """Inputs of each target that lead far into its reader."""
    accent = "\N{LATIN SMALL LETTER E WITH ACUTE}"
    rows = ["a.mp4,0.25", "b.mp4,.5", '"deep/""c"".mp4",1', '"d,e.mp4",2.5e-3', f"{accent}.mp4,+0.1"]
    lines = [f"{LAYOUT.id_column},{LAYOUT.value_column}", *rows]
    files = ["\n".join(lines), "\r\n".join([lines[0], *reversed(rows), ""]), "\ufeff" + "\n".join(lines)]
    head = "submission,team,image,kind"
    tables = [
        f"{head},public_score,public_runtime_seconds\none,red,oci:images/one:v1,cpu,0.5,12\ntwo,blue,docker-archive:t.tar,gpu,,\n",
        f"{head}\nthree,green,docker://registry.invalid/a/b@sha256:{'c' * 64},cpu\n",
        f'{head}\n"a ""b""","x, y",three.tar,cpu\n',
    ]
    return {
        "predictions": [text.encode() for text in files],
        "submissions": [text.encode() for text in tables],
        "image_json": _image_seeds(),
        "tar": (archives := _archives()),
        "layer": [how + b"\0\0" + archive for archive in archives for how in (b"p", b"g", b"z", b"G", b"Z", b"t")],
        "result": [
            json.dumps(HONEST).encode(),
            *(b"=" + struct.pack("B", field) + VALUES[field % len(VALUES)] for field in range(len(_FIELDS))),
            *(struct.pack("cBB", b"@", field, value) for field in range(len(_FIELDS)) for value in range(len(VALUES))),
        ],
    }


def _image_seeds() -> list[bytes]:
    described = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(b"x"), "size": 1}
    platform = {"os": "linux", "architecture": "amd64"}
    odd = {"Volumes": {"/v": {}}, "Healthcheck": {"Test": ["x"]}, "OnBuild": ["RUN x"], "ExposedPorts": {"80": {}}}
    plain = {"Env": ["A=b", "C"], "User": "app:1", "WorkingDir": "/app"}
    return [
        b"m" + json.dumps({"schemaVersion": 2, "config": described, "layers": [described, described]}).encode(),
        b"i" + json.dumps({"manifests": [described | {"platform": platform}]}).encode(),
        b"c" + json.dumps(configuration([b"x"], **plain)).encode(),
        b"c" + json.dumps(configuration([b"x"], **odd)).encode(),
    ]


def _archives() -> list[bytes]:
    attributes = {"path": "other", "mtime": "1.5", "SCHILY.xattr.security.capability": "x"}
    folder, link, hard, node = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
    return [
        tar(("a/b", b"text"), entry("d", folder), entry("d/l", link, linkname="../a/b")),
        tar(("a/b", b"text"), entry("h", hard, linkname="a/b")),
        tar(("x" * 150, b"1"), entry("n", node, devmajor=1, devminor=5), form=tarfile.GNU_FORMAT),
        tar(entry("p", pax_headers=attributes)),
        tar(entry("d", folder), entry("d/.wh..wh..opq"), entry("d/.wh.gone"), form=tarfile.USTAR_FORMAT),
        tar(entry("big", uid=2**22, gid=2**31), entry("s", mode=0o4755, uid=70_000), form=tarfile.GNU_FORMAT),
    ]
