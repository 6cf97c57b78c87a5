"""A bundle can be checked by anyone, and every single thing that was changed in it is found and named."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_world import FAILED, make_campaign, members, opened, pack, rechained, signed
from referee.audit import BundleError, Verified, contents, parse_anchor, verify_bundle
from referee.audit.archive import header
from referee.audit.manifest import MANIFEST, SIGNATURE
from referee.audit.signing import SigningKey, public_key
from referee.cli import main
from referee.errors import CheckFailedError, ConfigurationError, RefereeError
from referee.publication import anchor_line, write_bundle_of

FIXED = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Audited:
    """A finished campaign, its anchor from before the runs were scored, and its bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_campaign(folder / "challenge", score=False)
        workspace, ledger = opened(self.folder)
        with ledger:
            self.anchor = anchor_line(workspace, ledger)
            for phase in ("public_test", "private_test"):
                workspace.score(ledger, phase)
            self.bundle = folder / "audited.bundle.tar"
            write_bundle_of(workspace, ledger, self.bundle)
        self.key = workspace.signing_key
        self.labels = [self.folder / "labels" / f"{phase}.csv" for phase in ("public_test", "private_test")]
        self.members = members(self.bundle)
        self.forged = folder / "forged.tar"

    def check(self, data: bytes | dict[str, bytes], **more: object) -> Verified:
        self.forged.write_bytes(data if isinstance(data, bytes) else signed(data, self.key))
        return verify_bundle(self.forged, **more)  # type: ignore[arg-type]  # passed through


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return Audited(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.open(tmp_path_factory.mktemp("stranger") / "signing.key")


# What is sound


def test_a_sound_bundle_is_checked_with_labels_anchor_and_key(audited: Audited) -> None:
    found = verify_bundle(
        audited.bundle, labels=audited.labels, anchors=[parse_anchor(audited.anchor)], key=audited.key.public
    )
    assert [(one.phase, one.results, one.scores) for one in found.recomputed] == [
        ("public_test", 4, 8),
        ("private_test", 4, 8),
    ]
    assert any("anchor" in line for line in found.held)
    assert not any("key" in line for line in found.open)


def test_it_is_checked_without_the_challenge(audited: Audited, tmp_path: Path) -> None:
    alone = shutil.copy(audited.bundle, tmp_path / "alone.tar")
    hidden = audited.folder.rename(tmp_path / "gone")
    try:
        found = verify_bundle(alone)
    finally:
        hidden.rename(audited.folder)
    assert any("--labels" in line for line in found.open)
    assert any("--anchor" in line for line in found.open)
    assert any("--key" in line for line in found.open)


def test_the_same_ledger_gives_the_same_bytes_and_nothing_is_recorded(audited: Audited, tmp_path: Path) -> None:
    workspace, ledger = opened(audited.folder)
    with ledger:
        head = ledger.head()
        write_bundle_of(workspace, ledger, tmp_path / "again.tar")
        assert ledger.head() == head
    assert (tmp_path / "again.tar").read_bytes() == audited.bundle.read_bytes()


def test_the_private_key_is_the_operators_alone(audited: Audited) -> None:
    path = audited.folder / ".referee" / "signing.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    body = "".join(path.read_text().splitlines()[1:-1])
    assert body.encode() not in audited.bundle.read_bytes()
    assert audited.key._key.private_bytes_raw() not in audited.bundle.read_bytes()  # what must not be there
    assert audited.key._key.private_bytes_raw().hex().encode() not in audited.bundle.read_bytes()


def test_names_are_told_on_demand_only_and_are_bound_to_the_chain(audited: Audited, tmp_path: Path) -> None:
    assert b"Team 0" not in audited.bundle.read_bytes()
    assert contents.IDENTITIES not in audited.members
    copy = tmp_path / "copy"
    shutil.copytree(audited.folder, copy)
    workspace, ledger = opened(copy)
    with ledger:
        write_bundle_of(workspace, ledger, tmp_path / "named.tar", unblind=True)
        assert ledger.events()[-1].event.kind == "identities.unblinded"
    verify_bundle(tmp_path / "named.tar")
    found = members(tmp_path / "named.tar")
    assert b"Team 0" in found[contents.IDENTITIES]
    other = found | {contents.IDENTITIES: found[contents.IDENTITIES].replace(b"Team 0", b"Team 9")}
    with pytest.raises(BundleError, match=r"identities.jsonl in the bundle: row 1 has other names"):
        audited.check(other)
    fewer = found | {contents.IDENTITIES: b"".join(found[contents.IDENTITIES].splitlines(keepends=True)[1:])}
    with pytest.raises(BundleError, match=r"identities.jsonl .* does not name each submission once"):
        audited.check(fewer)


def test_predictions_can_be_left_out_and_then_no_score_is_recomputed(audited: Audited, tmp_path: Path) -> None:
    workspace, ledger = opened(audited.folder)
    with ledger:
        write_bundle_of(workspace, ledger, tmp_path / "small.tar", predictions=False)
    assert not any(name.startswith("predictions/") for name in members(tmp_path / "small.tar"))
    assert any("left out" in line for line in verify_bundle(tmp_path / "small.tar").open)
    with pytest.raises(ConfigurationError, match="left out"):
        verify_bundle(tmp_path / "small.tar", labels=audited.labels)


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_no_bundle_is_written_of_predictions_that_are_not_the_recorded_ones(
    audited: Audited, tmp_path: Path, how: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(audited.folder, copy)
    place = next((copy / ".referee" / "objects" / "results").glob("*/predictions.csv"))
    place.write_bytes(place.read_bytes().replace(b"0.", b"1.", 1)) if how == "changed" else place.unlink()
    workspace, ledger = opened(copy)
    with ledger, pytest.raises(CheckFailedError, match="predictions"):
        write_bundle_of(workspace, ledger, tmp_path / "never.tar")
    assert not (tmp_path / "never.tar").exists()
    assert not list(tmp_path.glob(".never*"))


# What was changed by somebody without a key


@FIXED
@given(st.data())
def test_each_changed_byte_is_found(audited: Audited, data: st.DataObject) -> None:
    original = audited.bundle.read_bytes()
    # As often in the headers, the manifest and the padding as in the contents, which are most of the bytes.
    place = data.draw(st.one_of(st.integers(0, len(original) - 1), st.integers(0, 4000)))
    changed = bytearray(original)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BundleError) as caught:
        audited.check(bytes(changed))
    assert "bundle" in caught.value.message


@FIXED
@given(st.data())
def test_each_cut_and_each_addition_is_found(audited: Audited, data: st.DataObject) -> None:
    original = audited.bundle.read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    more = data.draw(st.sampled_from([b"", b"\0", b"\0" * 512, b"\0" * 1024, b"x" * 512, header("more.txt", 0)]))
    changed = original + more if more else original[:place]
    with pytest.raises(BundleError):
        audited.check(changed)


def test_each_file_is_missed_noticed_and_kept_in_its_place(audited: Audited) -> None:
    names = list(audited.members)
    for place, name in enumerate(names):
        without = {n: d for n, d in audited.members.items() if n != name}
        with pytest.raises(BundleError, match=re.escape(f"lacks {name}")):
            audited.check(pack(without))
        other = names[(place + 1) % len(names)]
        swapped = {{name: other, other: name}.get(n, n): d for n, d in audited.members.items()}
        with pytest.raises(BundleError):
            audited.check(pack(swapped))
    with pytest.raises(BundleError, match=r"holds more.txt, which its manifest does not list"):
        audited.check(pack(audited.members | {"more.txt": b""}))


def test_a_file_twice_is_refused(audited: Audited) -> None:
    packed = pack(audited.members)
    again = packed[:-1024] + pack({SIGNATURE: audited.members[SIGNATURE]})
    with pytest.raises(BundleError, match=r"bundle\.sig twice"):
        audited.check(again)


# What was changed by somebody who signs it again: with another key, or with the operator's own

ROWS = st.sampled_from(["drop", "double", "swap", "change", "add"])


def mutated(rows: list[bytes], how: str, data: st.DataObject) -> list[bytes]:
    place = data.draw(st.integers(0, len(rows) - 1))
    new = list(rows)
    if how == "drop":
        del new[place]
    elif how == "double":
        new.insert(place, rows[place])
    elif how == "add":
        new.insert(place, b'{"made":"up"}\n')
    elif how == "swap":
        other = data.draw(st.integers(0, len(rows) - 1))
        new[place], new[other] = new[other], new[place]
    else:
        row = bytearray(rows[place])
        at = data.draw(st.integers(0, len(row) - 2))
        row[at] = data.draw(st.sampled_from([c for c in b'0123456789abcdef{},:"' if c != row[at]]))
        new[place] = bytes(row)
    return new


@FIXED
@given(st.data(), ROWS)
def test_each_changed_row_is_found_and_named_though_all_was_signed_again(
    audited: Audited, stranger: SigningKey, data: st.DataObject, how: str
) -> None:
    listed = sorted(n for n, d in audited.members.items() if n not in {MANIFEST, SIGNATURE} and d.strip())
    name = data.draw(st.sampled_from(listed))
    rows = audited.members[name].splitlines(keepends=True)
    new = mutated(rows, how, data)
    if new == rows:
        return
    forged = audited.members | {name: b"".join(new)}
    with pytest.raises(BundleError) as caught:
        audited.check(signed(forged, stranger))
    said = caught.value.message
    if name == contents.CHAIN and new == rows[:-1]:
        # A chain that ends earlier is a sound chain: what is wrong is what claims to follow from it.
        assert "is not what follows from the ledger" in said, said
    else:
        assert name in said or (name == contents.CHAIN and re.search(r"[Ee]vent \d+", said)), said
    with pytest.raises(BundleError, match="not with the key that you gave"):
        audited.check(signed(forged, stranger), key=audited.key.public)


def test_each_file_is_missed_and_noticed_though_all_was_signed_again(audited: Audited) -> None:
    for name in audited.members:
        if name not in {MANIFEST, SIGNATURE}:
            with pytest.raises(BundleError, match=re.escape(name)):
                audited.check({n: d for n, d in audited.members.items() if n != name})
    with pytest.raises(BundleError, match=r"holds more.txt, which nothing in its ledger accounts for"):
        audited.check(audited.members | {"more.txt": b""})
    predictions = sorted(name for name in audited.members if name.startswith("predictions/"))
    one, other = (audited.members[name] for name in predictions[:2])
    with pytest.raises(BundleError, match=re.escape(predictions[0])):
        audited.check(audited.members | {predictions[0]: other, predictions[1]: one})


@settings(FIXED, max_examples=25)
@given(st.data())
def test_history_written_again_with_all_that_follows_from_it_is_told_by_key_and_anchor(
    audited: Audited, stranger: SigningKey, data: st.DataObject
) -> None:
    """The strongest forger: chain, tables and boards all fit together. What is before the anchor cannot be changed."""
    anchor = parse_anchor(audited.anchor)
    place = data.draw(st.integers(0, anchor.seq - 1))
    how = data.draw(st.sampled_from(["time", "drop", "reason"]))

    def change(events: list[dict]) -> list[dict]:
        if how == "drop":
            return events[:place] + events[place + 1 :]
        if how == "reason" and "reason" in events[place]["payload"]:
            events[place]["payload"]["reason"] = "made up"
        else:
            events[place]["time"] = events[place]["time"].replace("2", "1", 1)
        return events

    try:
        forged = rechained(audited.members, change)
    except RefereeError:
        return  # it makes no sense any more, so that there is nothing to sign
    with pytest.raises(BundleError):
        audited.check(forged, anchors=[anchor])
    with pytest.raises(BundleError):
        audited.check(signed(forged, stranger), key=audited.key.public)


@pytest.mark.parametrize("phase", ["public_test", "private_test"])
def test_a_score_that_was_written_anew_throughout_does_not_follow_from_the_labels(audited: Audited, phase: str) -> None:
    def change(events: list[dict]) -> list[dict]:
        for event in events:
            if event["kind"] == "evaluation.scored" and event["payload"]["evaluation"] == f"s-000002.{phase}":
                event["payload"]["scores"]["log_loss"] = "0.001"
        return events

    forged = rechained(audited.members, change)
    audited.check(forged)  # nothing in it contradicts itself: a signature does not bind the one who signs
    with pytest.raises(BundleError, match=rf"log_loss of s-000002\.{phase} is .* and 0\.001 in the bundle"):
        audited.check(forged, labels=audited.labels)


def test_a_score_that_was_left_out_throughout_is_missed_by_who_has_the_labels(audited: Audited) -> None:
    def change(events: list[dict]) -> list[dict]:
        return [
            e
            for e in events
            if (e["kind"], e["payload"].get("evaluation")) != ("evaluation.scored", "s-000003.private_test")
        ]

    forged = rechained(audited.members, change)
    with pytest.raises(BundleError, match=r"s-000003\.private_test has a valid result and no score"):
        audited.check(forged, labels=audited.labels)


# Anchors


def test_what_was_anchored_cannot_be_exchanged_afterwards(audited: Audited, tmp_path: Path) -> None:
    """Labels changed before scoring, challenge changed after the anchor: all else being honest, and signed."""
    copy = make_campaign(tmp_path / "copy", score=False)
    workspace, ledger = opened(copy)
    with ledger:
        line = anchor_line(workspace, ledger)
        labels = copy / "labels" / "private_test.csv"
        text = labels.read_text()
        labels.write_text(
            text.replace("clip-00.mp4,0", "clip-00.mp4,x").replace("clip-00.mp4,1", "clip-00.mp4,0").replace("x", "1")
        )
        workspace.score(ledger, "private_test")
        write_bundle_of(workspace, ledger, tmp_path / "labels.tar")
    verify_bundle(tmp_path / "labels.tar", labels=[labels])
    with pytest.raises(BundleError, match=r"labels of .* were changed after they were anchored"):
        verify_bundle(tmp_path / "labels.tar", anchors=[parse_anchor(line)])


def test_a_challenge_that_was_changed_after_the_anchor_is_told(tmp_path: Path) -> None:
    folder = make_campaign(tmp_path / "challenge", score=False)
    workspace, ledger = opened(folder)
    with ledger:
        line = anchor_line(workspace, ledger)
    toml = folder / "challenge.toml"
    toml.write_text(toml.read_text().replace('secondary = ["brier"]', 'secondary = ["roc_auc"]'))
    workspace, ledger = opened(folder)
    with ledger:
        workspace.score(ledger, "private_test")
        write_bundle_of(workspace, ledger, tmp_path / "late.tar")
    assert any("recorded 2 times" in line for line in verify_bundle(tmp_path / "late.tar").open)
    with pytest.raises(BundleError, match="challenge was changed after it was anchored"):
        verify_bundle(tmp_path / "late.tar", anchors=[parse_anchor(line)])


def test_an_anchor_of_elsewhere_is_told(audited: Audited, tmp_path: Path) -> None:
    workspace, ledger = opened(make_campaign(tmp_path / "other"))
    with ledger:
        other = anchor_line(workspace, ledger)
    with pytest.raises(BundleError, match="another campaign"):
        verify_bundle(audited.bundle, anchors=[parse_anchor(other)])
    parts = audited.anchor.split(":")
    for place, what in (
        (4, "not the one that was anchored"),
        (5, "another challenge"),
        (6, "another data"),
        (7, "another labels"),
    ):
        wrong = list(parts)
        wrong[place] = other.split(":")[place] if place in {4, 7} else "A" * 43
        with pytest.raises(BundleError, match=what):
            verify_bundle(audited.bundle, anchors=[parse_anchor(":".join(wrong))])
    late = ":".join([*parts[:3], "9999", *parts[4:]])
    with pytest.raises(BundleError, match="ends with event"):
        verify_bundle(audited.bundle, anchors=[parse_anchor(late)])
    with pytest.raises(ConfigurationError, match="not an anchor's line"):
        parse_anchor(audited.anchor[:-3])


def test_an_anchor_says_nothing_of_the_labels_to_who_tries_them(audited: Audited) -> None:
    """The commitment is salted: the same labels under another key give another commitment."""
    event = next(
        json.loads(line) for line in audited.members[contents.CHAIN].splitlines() if b"anchor.published" in line
    )
    salt = json.loads(audited.members[contents.ANCHORS])["salt"]
    assert len(bytes.fromhex(salt)) == 32
    assert salt not in json.dumps(event)
    assert salt not in audited.anchor


def test_an_anchor_whose_salt_does_not_open_it_is_told(audited: Audited) -> None:
    row = json.loads(audited.members[contents.ANCHORS])
    other = contents.canonical_json(row | {"salt": "0" * 64}).encode() + b"\n"
    with pytest.raises(BundleError, match="does not commit to the labels"):
        audited.check(audited.members | {contents.ANCHORS: other})


# Labels and keys that are given


def test_other_labels_are_told(audited: Audited, tmp_path: Path) -> None:
    text = audited.labels[0].read_text()
    other = tmp_path / "labels.csv"
    other.write_text(text.replace(",1\n", ",0\n", 1))
    with pytest.raises(BundleError, match="not the label file"):
        verify_bundle(audited.bundle, labels=[other])


def test_a_public_key_is_taken_in_each_usual_form(audited: Audited, tmp_path: Path) -> None:
    pem = audited.key._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "key.txt").write_text(audited.key.public + "\n")
    bare = audited.key.public.removeprefix("ed25519:")
    given = [audited.key.public, bare, pem.decode(), str(tmp_path / "key.pem"), str(tmp_path / "key.txt")]
    assert {public_key(text) for text in given} == {audited.key.public}
    for bad in ("ed25519:12", "nothing", str(tmp_path)):
        with pytest.raises(ConfigurationError, match="not an Ed25519 public key"):
            public_key(bad)


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    SigningKey.open(path)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="other users"):
        SigningKey.open(path)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(ConfigurationError, match="not an Ed25519 private key"):
        SigningKey.open(path)


def test_who_has_no_score_is_in_the_bundle_too(audited: Audited) -> None:
    board = json.loads(audited.members["boards/private_test.json"])
    assert FAILED in {row["submission"] for row in board["unscored"]}


def test_rulings_and_a_rejudging_under_other_labels_are_in_it_and_follow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_campaign(tmp_path / "challenge")
    place = ["--challenge", str(folder)]
    assert main(["ruling", "disqualify", "s-000004", "--reason", "Two accounts.", *place]) == 0
    labels = folder / "labels" / "private_test.csv"
    old = shutil.copy(labels, tmp_path / "old.csv")
    rows = labels.read_text().splitlines()
    rows[1] = f"clip-00.mp4,{1 - int(rows[1][-1])}"
    labels.write_text("\n".join(rows) + "\n")
    assert main(["rejudge", "stage", "--phase", "private_test", "--all", "--rescore", *place]) in {0, 1}
    staged = tmp_path / "staged.tar"
    assert main(["bundle", str(staged), *place]) == 0
    found = verify_bundle(staged, labels=[Path(old)])
    assert [(one.scores, one.other_labels) for one in found.recomputed] == [(8, 8)]
    assert main(["rejudge", "apply", "--reason", "A label was wrong.", *place]) == 0
    applied = tmp_path / "applied.tar"
    assert main(["bundle", str(applied), *place]) == 0
    capsys.readouterr()
    assert main(["verify", str(applied), "--labels", str(labels), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recomputed"] == {"private_test": 16}  # standing and staged
    inside = members(applied)
    board = json.loads(inside["boards/private_test.json"])
    assert "s-000004" not in {row["submission"] for row in board["rows"]}
    assert b"Two accounts." in inside["tables/rulings.jsonl"]
    assert main(["leaderboard", "--phase", "private_test", "--json", *place]) == 0
    assert capsys.readouterr().out.encode() == inside["boards/private_test.json"]
    with pytest.raises(BundleError, match="not the label file"):
        verify_bundle(applied, labels=[Path(old)])


def test_the_command_line_ends_with_1_where_something_is_wrong_and_names_it(
    audited: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(audited.bundle), "--anchor", audited.anchor, "--key", audited.key.public]) == 0
    said = capsys.readouterr().out
    assert "Nothing is wrong" in said
    assert "anchor at event" in said
    forged = bytearray(audited.bundle.read_bytes())
    place = forged.index(b"evaluation.scored")
    forged[place] ^= 1
    audited.forged.write_bytes(bytes(forged))
    assert main(["verify", str(audited.forged)]) == 1
    assert "broken at event" in capsys.readouterr().err
    assert main(["verify", str(audited.bundle), "--anchor", "nonsense"]) == 2
    assert main(["verify", str(audited.bundle), "--key", "nonsense"]) == 2
    assert main(["verify", "nothing.tar"]) == 2
