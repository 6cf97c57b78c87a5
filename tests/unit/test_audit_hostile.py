"""A bundle comes from a stranger: whatever is in it ends in one sentence, soon, in little memory, nothing written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_world import chained, make_campaign, members, opened, pack, rechained, signed
from referee.audit import BundleError, contents, verify_bundle
from referee.audit.archive import Archive, header
from referee.audit.manifest import MANIFEST, SIGNATURE
from referee.audit.signing import SigningKey
from referee.errors import ConfigurationError, RefereeError
from referee.publication import write_bundle_of


class Sample:
    """The members of a sound bundle, and a key of one's own."""

    def __init__(self, folder: Path) -> None:
        workspace, ledger = opened(make_campaign(folder / "challenge", submissions=2))
        with ledger:
            write_bundle_of(workspace, ledger, folder / "sound.tar")
        self.members = members(folder / "sound.tar")
        self.key = SigningKey.open(folder / "own.key")
        self.file = folder / "hostile.tar"

    def check(self, data: bytes) -> None:
        self.file.write_bytes(data)
        verify_bundle(self.file)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return Sample(tmp_path_factory.mktemp("hostile"))


def odd_tar(name: str, **facts: object) -> bytes:
    """An archive with one member of this name and kind, as another program would write it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        for key, value in facts.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(b"x" * info.size))
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\0" * 1024,
        b"\0" * 5000,
        os.urandom(4096),
        odd_tar("/etc/passwd"),
        odd_tar("../../evil"),
        odd_tar("a/../b"),
        odd_tar("a/b/c"),
        odd_tar("UPPER"),
        odd_tar(".hidden"),
        odd_tar("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        odd_tar("hard", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        odd_tar("device", type=tarfile.CHRTYPE),
        odd_tar("folder", type=tarfile.DIRTYPE),
        odd_tar("n" * 150, size=3),
        odd_tar("owned", uid=1000),
        odd_tar("executable", mode=0o755),
        odd_tar("late", mtime=1),
        header("big", 8**11 - 1) + b"x" * 1024,
        header("cut", 1000) + b"x" * 600,
    ],
    ids=range(21),
)
def test_what_is_no_archive_of_ours_is_refused(sample: Sample, data: bytes) -> None:
    with pytest.raises(BundleError):
        sample.check(data)


def test_another_file_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        verify_bundle(tmp_path / "nothing.tar")
    with pytest.raises(ConfigurationError, match="not a plain file"):
        verify_bundle(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="not a plain file"):
        verify_bundle(tmp_path / "fifo")


def test_more_members_than_a_bundle_can_have_are_not_listed(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("referee.audit.archive.MAX_MEMBERS", 5)
    with pytest.raises(BundleError, match="more than 5 files"):
        sample.check(pack({f"f{number}": b"" for number in range(7)}))


def test_a_huge_member_is_not_read_into_memory(sample: Sample) -> None:
    """A sparse file of 2 GiB as the manifest, as the signature, and as one line of the chain."""
    size = 2 * 2**30
    for name in (MANIFEST, SIGNATURE, contents.CHAIN):
        start = pack({n: sample.members[n] for n in (MANIFEST, SIGNATURE) if n != name})[:-1024]
        with sample.file.open("wb") as file:
            file.write(start + header(name, size))
            file.truncate(len(start) + 512 + size + 1024)
        tracemalloc.start()
        with pytest.raises(BundleError):
            verify_bundle(sample.file)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
        tracemalloc.stop()


def test_a_line_without_end_is_refused(sample: Sample) -> None:
    long = sample.members | {contents.CHAIN: b'{"epoch":' + b"1" * (17 * 2**20)}
    with pytest.raises(BundleError, match="longer than"):
        sample.check(signed_anyway(sample, long))


def signed_anyway(sample: Sample, found: dict[str, bytes]) -> bytes:
    """Signed, though the chain cannot be read; the head is the sound one's."""
    chain = found[contents.CHAIN]
    data = signed(found | {contents.CHAIN: sample.members[contents.CHAIN]}, sample.key)
    return data if chain == sample.members[contents.CHAIN] else _with_chain(sample, found)


def _with_chain(sample: Sample, found: dict[str, bytes]) -> bytes:
    from audit_world import Listed, Manifest, digest_of  # noqa: PLC0415 - the forger's own tools

    rest = {name: found[name] for name in sorted(found) if name not in {MANIFEST, SIGNATURE}}
    files = tuple(Listed(name=n, size_bytes=len(d), sha256=digest_of(d)[7:]) for n, d in rest.items())
    old = Manifest.model_validate_json(sample.members[MANIFEST])
    text = old.model_copy(update={"files": files, "public_key": sample.key.public}).to_bytes()
    return pack({MANIFEST: text, SIGNATURE: (sample.key.sign(text) + "\n").encode(), **rest})


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "payload",
    [
        DEEP,
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":1e999}',
        '{"a":' + "9" * 5000 + "}",
        '{"a":1,"a":2}',
        '{"b":1,"a":2}',
        '{"a": 1}',
        '{"a":"é"}',
        '{"a":"\\ud800"}',
        '"text"',
        "[]",
        "null",
    ],
    ids=range(13),
)
def test_odd_json_in_an_event_is_refused_and_named(sample: Sample, payload: str) -> None:
    first, *rest = sample.members[contents.CHAIN].splitlines(keepends=True)
    odd = json.dumps(json.loads(first) | {"payload": "@"}, sort_keys=True, separators=(",", ":"))
    line = odd.replace('"@"', payload).encode() + b"\n"
    with pytest.raises(BundleError, match=r"[Ee]vent 1\b"):
        sample.check(_with_chain(sample, sample.members | {contents.CHAIN: b"".join([line, *rest])}))


@pytest.mark.parametrize("name", [MANIFEST, contents.ANCHORS, "phases/public_test.json", "boards/private_test.json"])
def test_odd_json_elsewhere_is_refused_and_named(sample: Sample, name: str) -> None:
    found = sample.members | {name: DEEP.encode() + b"\n"}
    data = pack(found) if name == MANIFEST else signed(found, sample.key)
    with pytest.raises(BundleError, match=name):
        sample.check(data)


def evil(event: dict, **facts: object) -> dict:
    return event | {"payload": event["payload"] | facts}


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("phase.recorded", {"phase": "../../etc/passwd"}),
        ("phase.recorded", {"files": 10**30}),
        ("evaluation.requested", {"order": 10**30}),
        ("evaluation.requested", {"submission": "s-000002"}),
        ("attempt.planned", {"wall_time_scale": -1}),
        ("attempt.planned", {"result_key": "key-s-000002-private_test"}),
        ("challenge.recorded", {"content": "{}"}),
        ("challenge.recorded", {"content": "not json"}),
        ("challenge.recorded", {"content": DEEP}),
        ("evaluation.scored", {"scores": {"log_loss": "nan"}}),
        ("evaluation.scored", {"scores": {"log_loss": 0.5}}),
        ("ledger.created", {"campaign": "another"}),
        ("submission.imported", {"submission": "s\x1b[2J"}),
    ],
)
def test_events_that_make_no_sense_are_refused_though_the_chain_holds(
    sample: Sample, kind: str, facts: dict[str, object]
) -> None:
    events = [json.loads(line) for line in sample.members[contents.CHAIN].splitlines()]
    place = next(number for number, event in enumerate(events) if event["kind"] == kind)
    events[place] = evil(events[place], **facts)
    chain = b"".join(contents.chain_lines(chained(events)))
    with pytest.raises(BundleError):
        sample.check(signed(sample.members | {contents.CHAIN: chain}, sample.key))


def test_a_challenge_that_names_a_metric_which_is_not_here_is_no_fault_of_the_bundle(sample: Sample) -> None:
    def change(events: list[dict]) -> list[dict]:
        for event in events:
            if event["kind"] == "scoring.fixed":
                event["payload"]["metric"]["name"] = "somebody_elses"
        return events

    with pytest.raises(RefereeError, match="somebody_elses"):
        rechained(sample.members, change)


def test_nothing_is_written(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sample.file.write_bytes(pack(sample.members))
    verify_bundle(sample.file)
    with pytest.raises(BundleError):
        sample.check(odd_tar("../evil", size=5))
    assert list(tmp_path.iterdir()) == []


def test_the_archive_is_a_tar_that_others_can_read(sample: Sample) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(sample.members))) as archive:
        assert archive.getnames() == list(sample.members)
    sample.file.write_bytes(pack(sample.members))
    with Archive(sample.file) as archive:
        assert set(archive.members) == set(sample.members)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_stands_in_an_event_it_ends_in_a_sentence(sample: Sample, data: st.DataObject) -> None:
    events = [json.loads(line) for line in sample.members[contents.CHAIN].splitlines()]
    place = data.draw(st.integers(0, len(events) - 1))
    key = data.draw(st.sampled_from(sorted(events[place]["payload"])))
    events[place]["payload"][key] = data.draw(JSON)
    chain = b"".join(contents.chain_lines(chained(events)))
    with contextlib.suppress(RefereeError):
        sample.check(signed(sample.members | {contents.CHAIN: chain}, sample.key))


@pytest.mark.parametrize(
    "content",
    ['{"metric":1}', '{"phases":{}}', '{"name":"x","phases":{"private_test":{"data":"d","visibility":"private"}}}'],
)
def test_another_challenge_in_the_chain_ends_in_a_sentence(sample: Sample, content: str) -> None:
    events = [json.loads(line) for line in sample.members[contents.CHAIN].splitlines()]
    for event in events:
        if event["kind"] == "challenge.recorded":
            event["payload"]["content"] = content
    chain = b"".join(contents.chain_lines(chained(events)))
    with pytest.raises(BundleError):
        sample.check(signed(sample.members | {contents.CHAIN: chain}, sample.key))


def test_an_event_that_says_the_same_in_other_bytes_is_refused(sample: Sample) -> None:
    chain = sample.members[contents.CHAIN].replace(b'{"epoch":', b'{"epoch": ', 1)
    with pytest.raises(BundleError, match=r"Event 1 in ledger\.jsonl .* canonical"):
        sample.check(signed(sample.members | {contents.CHAIN: chain}, sample.key))
