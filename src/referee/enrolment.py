"""Enrolment: a manifest's submissions become images in the store, pinned by digest, and blind ids in the ledger.

Each is recorded as soon as its image is in, so an interrupted enrolment goes on where it stopped. An image that is
refused holds up nobody else: the refusal is recorded with its reason and stands on the board, and the next import
lifts it once the image is mended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from referee.challenge import Contract
from referee.errors import ImageError
from referee.images.lint import lint_against
from referee.images.model import ImageRecord
from referee.images.store import ImageStore
from referee.ledger import Identity, Ledger, SubmissionImported, SubmissionRefused, queries
from referee.submissions import BlindKey, ManifestRow

# Fetching and checking an image takes a processor of its own; more at once would check the same base layers twice.
_SIDE_BY_SIDE = 2


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One row of the manifest: imported now, already there, or refused (`error`).

    `same_image_as` is the blind id of an earlier submission with the very same image.
    """

    row: ManifestRow
    submission: str
    record: ImageRecord | None = None
    same_image_as: str | None = None
    findings: tuple[str, ...] = ()
    error: ImageError | None = None


@dataclass(slots=True)
class Enrolment:
    """Enrols manifest rows into a ledger.

    Args:
        ledger: where submissions are recorded.
        images: where their images go.
        key: from which blind ids are made.
        contract: images are looked through for what would clash with it.
    """

    ledger: Ledger
    images: ImageStore
    key: BlindKey
    contract: Contract
    _first_with: dict[str, str] = field(default_factory=dict)

    def enrol(
        self, rows: Sequence[ManifestRow], on_done: Callable[[Enrolled], None] = lambda _: None
    ) -> list[Enrolled]:
        """Enrol `rows`; those that the ledger has already are left as they are.

        Images are fetched a few at a time, and recorded in the order in which they arrive; `on_done` hears of each.

        Raises:
            HostError: if the machine cannot import at all (no skopeo, no room). What was enrolled stays enrolled.
        """
        known = queries.submissions(self.ledger)
        refused = [row.submission for row in queries.refusals(self.ledger)]
        names = queries.names(self.ledger, [row.submission for row in known] + refused)
        submissions = self.key.submission_ids(
            [row.submission for row in rows], {n.submission_name: blind for blind, n in names.items()}
        )
        teams = self.key.team_ids([row.team for row in rows], {n.team_name: n.team for n in names.values()})
        for earlier in known:
            self._first_with.setdefault(earlier.image, earlier.submission)
        enrolled_before = {earlier.submission for earlier in known}
        results: list[Enrolled] = []
        fresh = []
        for row in rows:
            blind = submissions[row.submission]
            if blind in enrolled_before:
                results.append(Enrolled(row, blind))
                on_done(results[-1])
            else:
                fresh.append((row, blind))
        with self.images.importing():
            results += self._enrol_fresh(fresh, names, teams, on_done)
        return results

    def _enrol_fresh(
        self,
        fresh: Sequence[tuple[ManifestRow, str]],
        names: Mapping[str, Identity],
        teams: Mapping[str, str],
        on_done: Callable[[Enrolled], None],
    ) -> list[Enrolled]:
        results: list[Enrolled] = []
        for row, blind, record in self._fetch(fresh):
            who = names.get(blind)
            identity = who or Identity.new(blind, teams[row.team], row.submission, row.team)
            named = [] if who else [identity]
            if isinstance(record, ImageError):
                results.append(self._refuse(row, identity, named, record))
            else:
                results.append(self._record(row, identity, named, record))
            on_done(results[-1])
        return results

    def _fetch(
        self, rows: Sequence[tuple[ManifestRow, str]]
    ) -> Iterator[tuple[ManifestRow, str, ImageRecord | ImageError]]:
        pool = ThreadPoolExecutor(max_workers=_SIDE_BY_SIDE)
        try:
            futures = {pool.submit(self.images.import_image, row.image): (row, blind) for row, blind in rows}
            for future in as_completed(futures):
                row, blind = futures[future]
                try:
                    yield row, blind, future.result()
                except ImageError as error:
                    yield row, blind, error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _refuse(self, row: ManifestRow, identity: Identity, named: Sequence[Identity], error: ImageError) -> Enrolled:
        event = SubmissionRefused(
            submission=identity.submission,
            team=identity.team,
            submission_kind=row.kind,
            identity_commitment=identity.commitment,
            reason=error.message,
        )
        self.ledger.append([event], identities=named)
        return Enrolled(row, identity.submission, error=error)

    def _record(self, row: ManifestRow, identity: Identity, named: Sequence[Identity], record: ImageRecord) -> Enrolled:
        blind, team = identity.submission, identity.team
        same = self._first_with.setdefault(record.digest, blind)
        event = SubmissionImported(
            submission=blind,
            team=team,
            submission_kind=row.kind,
            image=record.digest,
            identity_commitment=identity.commitment,
            public_score=row.public_score,
            public_runtime_seconds=row.public_runtime_seconds,
            same_image_as=same if same != blind else None,
        )
        self.ledger.append([event], identities=named)
        findings = record.findings + lint_against(record, self.images.layers(record), self.contract)
        return Enrolled(row, blind, record, event.same_image_as, findings)
