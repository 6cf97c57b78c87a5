"""The tar reader agrees with `tarfile` on honest archives and refuses the rest within bounded memory."""

from __future__ import annotations

import contextlib
import io
import tarfile
import tracemalloc

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from image_layouts import entry, tar
from referee.images.tar import MAX_EXTENSION_BYTES, Kind, TarEntry, TarError, TarStream

_NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=300).filter(
    lambda name: not name.endswith("/") and "/" not in name[:1]
)


def _read(data: bytes) -> list[tuple[TarEntry, bytes]]:
    stream = TarStream(io.BytesIO(data).read)
    return [(found, b"".join(stream.content())) for found in stream]


def _raw_header(flag: bytes, size: int, name: bytes = b"x") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = b"%011o\0" % size
    block[156:157] = flag
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@settings(max_examples=150)
@given(
    files=st.lists(st.tuples(_NAMES, st.binary(max_size=1500)), max_size=6),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    uid=st.integers(0, 2**40),
    mtime=st.integers(0, 2**35),
)
@example(files=[("a" * 300, b"x")], form=tarfile.GNU_FORMAT, uid=0, mtime=0)
def test_it_reads_what_tarfile_wrote(files: list[tuple[str, bytes]], form: int, uid: int, mtime: int) -> None:
    data = tar(*((entry(name, uid=uid, mtime=mtime), content) for name, content in files), form=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as oracle:
        expected = [(member.name, member.uid, member.mtime, oracle.extractfile(member).read()) for member in oracle]  # type: ignore[union-attr]  # all of them are files
    seen = [(found.name.decode(), found.uid, found.mtime, content) for found, content in _read(data)]
    assert seen == [(name, owner, int(time), content) for name, owner, time, content in expected]
    assert [name for name, *_ in seen] == [name for name, _ in files]


def test_it_tells_every_kind_apart() -> None:
    data = tar(
        entry("folder", tarfile.DIRTYPE),
        entry("link", tarfile.SYMTYPE, linkname="target" * 40),
        entry("hard", tarfile.LNKTYPE, linkname="file"),
        entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("disk", tarfile.BLKTYPE),
        entry("pipe", tarfile.FIFOTYPE),
        entry("caps", pax_headers={"SCHILY.xattr.security.capability": "x"}),
    )
    found = [each for each, _ in _read(data)]
    assert [each.kind for each in found] == [
        Kind.FOLDER,
        Kind.SYMLINK,
        Kind.HARD_LINK,
        Kind.CHARACTER_DEVICE,
        Kind.BLOCK_DEVICE,
        Kind.FIFO,
        Kind.FILE,
    ]
    assert found[1].link == b"target" * 40
    assert found[6].attributes == (b"security.capability",)


def test_skipping_finds_the_same_entries() -> None:
    data = tar(("a", b"1" * 700), ("b", b""), ("c", b"3" * 512), ("d", b"4"))
    raw = io.BytesIO(data)
    skipping = [found.name for found in TarStream(raw.read, skip=lambda count: raw.seek(count, io.SEEK_CUR))]
    assert skipping == [b"a", b"b", b"c", b"d"]


_GOOD = tar(("file", b"content"))
_PAX = _raw_header(b"x", 20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_GOOD[:300], "ends inside a header"),
        (_GOOD[:515], "ends inside a file"),
        (_GOOD[:100] + b"0000777" + _GOOD[107:], "checksum"),
        (_raw_header(b"0", 8**11 - 1), "ends inside a file"),
        (_raw_header(b"S", 0), "sparse"),
        (_raw_header(b"M", 0), "sparse"),
        (_raw_header(b"x", MAX_EXTENSION_BYTES + 1), "extension header claims"),
        (_raw_header(b"L", 8**11 - 1), "extension header claims"),
        (_raw_header(b"g", 0) * 20, "extension headers follow"),
        (_PAX + b"20 path=a".ljust(512, b"\0"), "wrong length"),
        (_PAX + b"0 a=b\n".ljust(512, b"\0"), "wrong length"),
        (_PAX + b"99999999999999999 a=b\n".ljust(512, b"\0"), "wrong length"),
        (_PAX + b"x".ljust(512, b"\0"), "not made of records"),
        (_raw_header(b"x", 12) + b"12 size=1_0\n".ljust(512, b"\0") + _GOOD, "not a number"),
        (_raw_header(b"x", 12) + b"12 mtime=xx\n".ljust(512, b"\0") + _GOOD, "not a time"),
        (_raw_header(b"x", 22) + b"22 GNU.sparse.major=1\n".ljust(512, b"\0") + _GOOD, "sparse"),
    ],
)
def test_it_refuses(data: bytes, reason: str) -> None:
    with pytest.raises(TarError, match=reason):
        _read(data)


def test_a_header_that_claims_gigabytes_costs_no_memory() -> None:
    def endless(size: int) -> bytes:
        nonlocal header
        piece, header = header[:size], header[size:]
        return piece or bytes(size)

    header = _raw_header(b"x", 8**11 - 1)
    tracemalloc.start()
    with pytest.raises(TarError):
        list(TarStream(endless))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MAX_EXTENSION_BYTES


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    place=st.integers(0, len(_GOOD) - 1),
    value=st.integers(0, 255),
    cut=st.integers(0, len(_GOOD)),
    pax=st.binary(max_size=512),
)
def test_nothing_but_a_tar_error_comes_out_of_broken_bytes(place: int, value: int, cut: int, pax: bytes) -> None:
    data = bytearray(_raw_header(b"x", len(pax)) + pax + bytes(-len(pax) % 512) + _GOOD)
    data[place] = value
    for broken in (bytes(data), bytes(data[:cut]), pax):
        with contextlib.suppress(TarError):
            _read(broken)
