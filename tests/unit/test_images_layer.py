"""Every entry of a layer is held to the rules, and a layer never costs more than its limit."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tarfile
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from image_layouts import digest, entry, squeeze, tar
from referee.errors import ImageError
from referee.images.layer import Action, Layer, LayerEntry
from referee.images.model import LayerFacts

_DIR, _SYM, _HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def _pass(data: bytes, *, limit_bytes: int = 1 << 20, max_entries: int = 1000) -> tuple[list[LayerEntry], LayerFacts]:
    layer = Layer(io.BytesIO(data), limit_bytes=limit_bytes, name="layer 1 of 1", max_entries=max_entries)
    found = list(layer)
    return found, layer.facts()


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("../up")], "leads outside"),
        ([entry("a/../../up")], "leads outside"),
        ([entry("a/.."), entry("b")], "leads outside"),
        ([entry("/etc/passwd")], "absolute"),
        ([entry("x", pax_headers={"path": "a\0b"})], "NUL"),
        ([entry("/".join("a" * 300))], "too deep"),
        ([entry("a" * 256)], "too long"),
        ([entry("a", _SYM, linkname="/etc"), entry("a/passwd")], "not a folder"),
        ([entry("a", _SYM, linkname="/etc"), entry("a/b/c", _DIR)], "not a folder"),
        ([entry("a"), entry("a/b")], "not a folder"),
        ([entry("a", _DIR), entry("a", _SYM, linkname="/etc"), entry("a/passwd")], "something else in another"),
        ([entry("a/b"), entry("a", _SYM, linkname="/etc")], "something else in another"),
        ([entry("a"), entry("a", _DIR)], "something else in another"),
        ([entry("a", _HARD, linkname="/etc/shadow")], "absolute"),
        ([entry("a", _HARD, linkname="../../etc/shadow")], "leads outside"),
        ([entry("a", _HARD, linkname="etc/shadow")], "no earlier file"),
        ([entry("d", _DIR), entry("a", _HARD, linkname="d")], "no earlier file"),
        ([entry("d", _SYM, linkname="/etc"), entry("a", _HARD, linkname="d/shadow")], "no earlier file"),
        ([entry(".wh.x"), entry("a", _HARD, linkname="x")], "no earlier file"),
        ([entry("a"), entry("a", _HARD, linkname="a")], "itself"),
        ([entry("a", _SYM, linkname="")], "no usable target"),
        ([entry(".wh.")], "hides no name"),
        ([entry(".wh...")], "hides no name"),
        ([entry("b/.wh..")], "hides no name"),
        ([entry(".wh.a/b")], "below a whiteout"),
        ([entry(".")], "root is not a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_refuses(entries: list[tarfile.TarInfo], reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        _pass(tar(*entries))
    assert "layer 1 of 1" in caught.value.message
    assert caught.value.hint


def test_honest_oddities_pass() -> None:
    found, facts = _pass(
        tar(
            entry("./", _DIR, mode=0o700),
            entry("./a//b/./c", _DIR),
            (entry("a/b/c/file"), b"first"),
            (entry("a/b/c/file"), b"again"),
            entry("a/b/c/hard", _HARD, linkname="./a/b/c/file"),
            entry("outside", _SYM, linkname="../../../etc/passwd"),
            entry(".wh..wh.plnk", _DIR),
            entry("a/.wh.gone"),
            entry("a/b/.wh..wh..opq"),
        )
    )
    assert [(each.action, each.path) for each in found] == [
        (Action.FOLDER, b""),
        (Action.FOLDER, b"a/b/c"),
        (Action.FILE, b"a/b/c/file"),
        (Action.FILE, b"a/b/c/file"),
        (Action.HARD_LINK, b"a/b/c/hard"),
        (Action.SYMLINK, b"outside"),
        (Action.NOTHING, b".wh..wh.plnk"),
        (Action.WHITEOUT, b"a/gone"),
        (Action.OPAQUE, b"a/b"),
    ]
    assert facts.shallow == {"a": "d", "a/b": "o", "a/b/c": "d", "a/gone": "w", "outside": "l"}


def test_privileges_are_counted_and_taken() -> None:
    found, facts = _pass(
        tar(
            entry("su", mode=0o4755),
            entry("shared", _DIR, mode=0o2775),
            entry("dev/sda", tarfile.BLKTYPE, mode=0o666),
            entry("pipe", tarfile.FIFOTYPE),
            entry("ping", pax_headers={"SCHILY.xattr.security.capability": "\x01"}),
            entry("ldap", uid=1_000_660_000, gid=70_000),
        )
    )
    assert (facts.setuid, facts.special, facts.capabilities, facts.foreign_ids) == (1, 2, 1, 1)
    assert facts.examples["special"] == ('"/dev/sda"', '"/pipe"')
    assert found[0].mode == 0o755
    assert found[1].mode == 0o2775
    assert [each.action for each in found[2:4]] == [Action.NOTHING, Action.NOTHING]
    assert (found[5].uid, found[5].gid) == (65534, 65534)


@pytest.mark.parametrize(
    "squeezer", [squeeze, zstandard.ZstdCompressor().compress, bytes], ids=["gzip", "zstd", "plain"]
)
def test_digests_and_sizes_are_of_what_was_read(squeezer) -> None:  # type: ignore[no-untyped-def]  # one of three
    inside = tar(("a", b"x" * 5000), ("b", b"y"))
    data = squeezer(inside)
    _, facts = _pass(data)
    assert (facts.digest, facts.diff_id) == (digest(data), digest(inside))
    assert (facts.stored_bytes, facts.unpacked_bytes, facts.entries) == (len(data), len(inside), 2)
    assert facts.disk_bytes >= 8192 + 4096


def test_gzip_of_several_members_is_one_stream() -> None:
    inside = tar(("a", b"x" * 5000))
    _, facts = _pass(squeeze(inside[:700]) + squeeze(inside[700:]))
    assert facts.diff_id == digest(inside)


def _zstd_bomb(size: int) -> bytes:
    frame = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 20))
    return frame * (size >> 20)


@pytest.mark.parametrize(
    "bomb",
    [
        squeeze(tar(("zeros", bytes(64 << 20))), 9),
        squeeze(tar(("a", b"")) + bytes(64 << 20), 9),
        _zstd_bomb(64 << 20),
    ],
    ids=["a file", "after the archive's end", "zstd"],
)
def test_a_bomb_is_refused_at_the_limit(bomb: bytes) -> None:
    assert len(bomb) < 1 << 20
    source = io.BytesIO(bomb)
    with pytest.raises(ImageError, match=r"more than the limit of 4 MiB"):
        list(Layer(source, limit_bytes=4 << 20, name="layer 1 of 1"))


def test_a_bomb_costs_bounded_memory() -> None:
    resource = pytest.importorskip("resource")
    bomb = squeeze(tar(("zeros", bytes(256 << 20))), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="more than the limit"):
        _pass(bomb, limit_bytes=255 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_folders_that_only_names_imply_count_too() -> None:
    deep = [("/".join([f"{number}-{place}" for place in range(50)]), b"") for number in range(21)]
    with pytest.raises(ImageError, match="more than 1000 entries"):
        _pass(tar(*deep))
    _, facts = _pass(tar(*deep), max_entries=2000)
    assert facts.entries == 21 * 50
    assert facts.disk_bytes >= 21 * 49 * 4096


def test_names_cost_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("referee.images.layer.MAX_NAMES_BYTES", 2000)
    with pytest.raises(ImageError, match="names take more than"):
        _pass(tar(*[(f"{number}" + "a" * 100, b"") for number in range(40)]))


def test_no_file_has_more_names_than_a_file_system_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("referee.images.layer.MAX_LINKS", 3)
    first = ("a", b"")
    chain = [entry("b", _HARD, linkname="a"), entry("c", _HARD, linkname="b")]
    _pass(tar(first, *chain))
    with pytest.raises(ImageError, match="more than 3 hard links"):
        _pass(tar(first, *chain, entry("d", _HARD, linkname="c")))


def test_too_many_entries_are_refused() -> None:
    with pytest.raises(ImageError, match="more than 10 entries"):
        _pass(tar(*(entry(str(number)) for number in range(11))), max_entries=10)


def _wide_window() -> bytes:
    """A frame that makes its reader hold 1 GiB."""
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
    writer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    return writer.compress(tar(("a", b"x"))) + writer.flush()


@pytest.mark.parametrize(
    "data",
    [
        squeeze(tar(("a", b"x")))[:-9],
        squeeze(tar(("a", b"x"))) + b"rubbish",
        _wide_window(),
        b"\x1f\x8bnonsense",
        b"\x28\xb5\x2f\xfdnonsense",
        b"neither" * 200,
    ],
)
def test_broken_streams_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="is refused"):
        _pass(data)


_SEED = squeeze(tar(("a/b", b"content"), entry("l", _SYM, linkname="a"), entry(".wh.x")))


@settings(max_examples=400)
@given(place=st.integers(0, len(_SEED) - 1), value=st.integers(0, 255), noise=st.binary(max_size=2048))
def test_nothing_but_an_image_error_comes_out_of_broken_bytes(place: int, value: int, noise: bytes) -> None:
    broken = bytearray(_SEED)
    broken[place] = value
    inside = zlib.decompress(_SEED, 31)
    for data in (bytes(broken), noise, inside[: len(noise)] + noise, b"\x28\xb5\x2f\xfd" + noise):
        with contextlib.suppress(ImageError):
            _pass(data)


def test_what_a_worker_imports_is_light() -> None:
    heavy = {"polars", "numpy", "scipy", "rich", "sqlalchemy", "zstandard", "altair"}
    script = f"import sys, referee.images.node; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""
