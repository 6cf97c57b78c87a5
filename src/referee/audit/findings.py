"""What a check of a bundle found right, and what it could not tell: both are said, lest anybody take more from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from referee.audit.anchor import Anchor
from referee.audit.manifest import Manifest
from referee.audit.recomputation import Recomputed
from referee.ledger import ChallengeRecorded, Ledger, Link, queries


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle in which nothing wrong was found.

    Attributes:
        manifest: what it holds.
        events: how many events its chain has.
        recomputed: what was scored again, by phase.
        held: what was checked and found right, in words.
        open: what this check could not tell, in words.
    """

    manifest: Manifest
    events: int
    recomputed: tuple[Recomputed, ...]
    held: tuple[str, ...]
    open: tuple[str, ...]


def verified(
    manifest: Manifest,
    links: Sequence[Link],
    ledger: Ledger,
    recomputed: tuple[Recomputed, ...],
    anchors: Sequence[Anchor],
    key: str | None,
) -> Verified:
    """What there is to say of a bundle in which nothing wrong was found."""
    return Verified(
        manifest,
        len(links),
        recomputed,
        tuple(_held(manifest, links, recomputed, anchors, key)),
        tuple(_open(manifest, links, ledger, recomputed, anchors, key)),
    )


def _held(
    manifest: Manifest,
    links: Sequence[Link],
    recomputed: Sequence[Recomputed],
    anchors: Sequence[Anchor],
    key: str | None,
) -> Iterator[str]:
    yield f"{len(manifest.files)} files are those that were signed with {manifest.public_key}"
    if key is not None:
        yield "that is the key that you gave"
    yield f"{len(links)} events form one unbroken chain, which ends in {manifest.head.hash}"
    yield "tables and boards are what follows from the chain"
    if manifest.predictions:
        yield "every result's prediction file is there and unchanged"
    for anchor in anchors:
        yield f"the chain goes on from the anchor at event {anchor.seq}, with its challenge, data and labels"
    for one in recomputed:
        yield f"{one.phase}: {one.scores} scores of {one.results} results follow from predictions and labels"


def _open(
    manifest: Manifest,
    links: Sequence[Link],
    ledger: Ledger,
    recomputed: Sequence[Recomputed],
    anchors: Sequence[Anchor],
    key: str | None,
) -> Iterator[str]:
    if key is None:
        yield "Whose key it is: compare it with one that the operator made known elsewhere (--key)."
    if not anchors:
        yield "Whether the chain was written as things happened: only a line given out before shows it (--anchor)."
    phases = queries.phases(ledger)
    again = {one.phase for one in recomputed}
    unscored = [name for name, row in phases.items() if row.labels_digest and name not in again]
    if unscored:
        yield f"Whether the scores on {', '.join(unscored)} follow from the labels: they were not given (--labels)."
    if not manifest.predictions:
        yield "Whether the predictions give these scores: they were left out of the bundle."
    for phase, row in queries.seals(ledger).items():
        if row.sealed:
            count = len(queries.sealed_scores(ledger, phase))
            yield f"What the {count} sealed scores on {phase} are: the bundle commits to them without showing them."
    versions = [link.seq for link in links if link.kind == ChallengeRecorded.kind]
    if len(versions) > 1:
        listed = ", ".join(str(seq) for seq in versions[:10])
        yield f"Why the challenge was recorded {len(versions)} times (events {listed}): look at what changed."
    for one in recomputed:
        if one.nearly:
            yield f"{one.phase}: {one.nearly} scores differ in their last digits, as between processors."
        if one.other_labels:
            yield f"{one.phase}: {one.other_labels} scores rest on other labels than those that were given."
