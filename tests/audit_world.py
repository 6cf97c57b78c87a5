"""A finished campaign on disk without containers, and what a forger can do to the bundle of it.

The submissions' runs are told to the ledger as a controller tells them; challenge, data, labels, predictions, scores,
bundles and their checks are the real ones.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from referee.audit import contents
from referee.audit.archive import Archive, write_end, write_member
from referee.audit.manifest import MANIFEST, SIGNATURE, LastEvent, Listed, Manifest
from referee.audit.replay import replayed
from referee.audit.signing import SigningKey
from referee.digests import digest_of
from referee.ledger import (
    AttemptEnded,
    AttemptPlanned,
    EvaluationEnded,
    EvaluationRequested,
    Event,
    Identity,
    Ledger,
    Link,
    SubmissionImported,
)
from referee.ledger.chain import EMPTY, Head, canonical_json, link_hash
from referee.verdicts import Verdict
from referee.workspace import Workspace

CHALLENGE = """
name = "audited"
[phases.public_test]
data = "data/public_test"
labels = "labels/public_test.csv"
metadata = "metadata.csv"
visibility = "public"
[phases.private_test]
data = "data/private_test"
labels = "labels/private_test.csv"
metadata = "metadata.csv"
visibility = "private"
sealed = {sealed}
[metric]
secondary = ["brier"]
[uncertainty]
replicates = 200
"""
PHASES = ("public_test", "private_test")
ITEMS = 24
FAILED = "s-000009"


def make_campaign(folder: Path, *, submissions: int = 4, sealed: bool = False, score: bool = True) -> Path:
    """A challenge in `folder` whose two phases were run; each submission has predictions of its own, one has none."""
    names = [f"clip-{number:02}.mp4" for number in range(ITEMS)]
    rng = np.random.default_rng(1)
    truth = {phase: rng.integers(0, 2, ITEMS) for phase in PHASES}
    for phase in PHASES:
        data = folder / "data" / phase
        data.mkdir(parents=True)
        (folder / "labels").mkdir(exist_ok=True)
        for name in names:
            (data / name).write_bytes(f"{phase} {name}".encode())
        rows = "".join(f"{name},{label}\n" for name, label in zip(names, truth[phase], strict=True))
        (folder / "labels" / f"{phase}.csv").write_text("filename,label\n" + rows)
    kinds = "".join(f"{name},{('organic', 'swapped')[place % 2]}\n" for place, name in enumerate(names))
    (folder / "metadata.csv").write_text("filename,manipulation\n" + kinds)
    (folder / "challenge.toml").write_text(CHALLENGE.format(sealed=str(sealed).lower()))
    workspace = Workspace.open(folder)
    blind = [*(f"s-{number:06}" for number in range(1, submissions + 1)), FAILED]
    with workspace.ledger_or_new() as ledger:
        for number, submission in enumerate(blind):
            who = Identity.new(submission, f"t-{number // 2}", f"entry {number}", f"Team {number // 2}")
            event = SubmissionImported(
                submission=submission,
                team=who.team,
                submission_kind="cpu",
                image=f"sha256:{number:064x}",
                identity_commitment=who.commitment,
            )
            ledger.append([event], identities=[who])
        for phase in PHASES:
            if events := workspace.record(phase)[1]:
                ledger.append(events)
            with ledger.lead(host="a-host") as lease:
                for number, submission in enumerate(blind):
                    values = np.clip(0.5 + (truth[phase] - 0.5) * rng.uniform(-0.3, 0.9, ITEMS), 0.01, 0.99)
                    lease.append(_run(workspace, submission, phase, number, names, values))
        if score:
            for phase in PHASES:
                workspace.score(ledger, phase)
    return folder


def _run(
    workspace: Workspace, submission: str, phase: str, number: int, names: Sequence[str], values: np.ndarray
) -> list[Event]:
    evaluation, key = f"{submission}.{phase}", f"key-{submission}-{phase}"
    ok = submission != FAILED
    text = "filename,label\n" + "".join(f"{n},{v!r}\n" for n, v in zip(names, values.tolist(), strict=True))
    if ok:
        workspace.objects.put_once(f"results/{key}/predictions.csv", text.encode())
    verdict = Verdict.OK if ok else Verdict.TIME_LIMIT
    attempt = f"{evaluation}.1"
    return [
        EvaluationRequested(evaluation=evaluation, submission=submission, phase=phase, order=number),
        AttemptPlanned(
            attempt=attempt,
            evaluation=evaluation,
            number=1,
            machine_type="local",
            engine="memory",
            result_key=key,
            level="runc",
        ),
        AttemptEnded(
            attempt=attempt,
            verdict=verdict,
            node="n-1",
            predictions_digest=digest_of(text.encode()) if ok else None,
            reported_by="worker",
        ),
        EvaluationEnded(evaluation=evaluation, verdict=verdict, attempt=attempt),
    ]


# The forger


def members(bundle: Path) -> dict[str, bytes]:
    """Everything in a bundle."""
    with Archive(bundle) as archive:
        return {name: b"".join(archive.chunks(name)) for name in archive.members}


def pack(found: dict[str, bytes]) -> bytes:
    """An archive of these members, in this order."""
    file = io.BytesIO()
    for name, data in found.items():
        write_member(file, name, iter([data]), len(data))
    write_end(file)
    return file.getvalue()


def signed(found: dict[str, bytes], key: SigningKey) -> bytes:
    """An archive whose manifest and signature are right for what is in it, whatever that is."""
    old = Manifest.model_validate_json(found[MANIFEST])
    rest = {name: found[name] for name in sorted(found) if name not in {MANIFEST, SIGNATURE}}
    files = (Listed(name=n, size_bytes=len(d), sha256=digest_of(d).removeprefix("sha256:")) for n, d in rest.items())
    head = old.head
    if last := rest.get(contents.CHAIN, b"").splitlines()[-1:]:
        event = json.loads(last[0])
        head = LastEvent(seq=event["seq"], hash=event["hash"])
    manifest = old.model_copy(update={"public_key": key.public, "files": tuple(files), "head": head}).to_bytes()
    return pack({MANIFEST: manifest, SIGNATURE: (key.sign(manifest) + "\n").encode(), **rest})


def chained(events: Sequence[dict]) -> list[Link]:
    """Events as a chain whose hashes are right, whatever they say."""
    links, head = [], EMPTY
    for event in events:
        payload = canonical_json(event["payload"])
        link = Link(head.seq + 1, head.hash, event["time"], event["epoch"], event["kind"], payload, "")
        links.append(replace(link, hash=link_hash(link)))
        head = Head(link.seq, links[-1].hash)
    return links


def rechained(found: dict[str, bytes], change: Callable[[list[dict]], list[dict]]) -> dict[str, bytes]:
    """The members after the events were changed, hashed again, and every table and board made again from them."""
    links = chained(change([json.loads(line) for line in found[contents.CHAIN].splitlines()]))
    kept = {n: d for n, d in found.items() if not n.startswith(("tables/", "boards/"))}
    kept[contents.CHAIN] = b"".join(contents.chain_lines(links))
    with replayed(links) as ledger:
        kept |= {name: b"".join(lines) for name, lines in contents.derived(ledger)}
    return kept


def opened(folder: Path) -> tuple[Workspace, Ledger]:
    """The challenge in `folder` and its ledger; close the ledger."""
    workspace = Workspace.open(folder)
    return workspace, workspace.ledger()


def named(number: int, name: str) -> tuple[SubmissionImported, Identity]:
    """A further submission under its blind id, and the name behind it."""
    who = Identity.new(f"s-{number:06}", f"t-{number}", name, name)
    event = SubmissionImported(
        submission=who.submission,
        team=who.team,
        submission_kind="cpu",
        image=f"sha256:{number:064x}",
        identity_commitment=who.commitment,
    )
    return event, who
