"""Where a challenge's ledger lies, whose campaign it is, and how it is made there and moved away."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from referee.challenge import Challenge
from referee.durable import make_once
from referee.errors import ConflictError
from referee.ledger import queries
from referee.ledger.addresses import with_schema
from referee.ledger.chain import Head
from referee.ledger.database import MissingLedgerError
from referee.ledger.relocation import Relocated, abandon, relocate
from referee.ledger.store import Ledger, database_at

LEDGER_NAME = "ledger.sqlite"


@dataclass(frozen=True)
class LedgerHome:
    """The place that challenge.toml gives its ledger: a file below the challenge's state, or a schema of a database.

    A schema is found under its name alone, so the folder keeps a note of which campaign is its own.
    """

    challenge: Challenge

    def open(self) -> Ledger:
        """Open the ledger.

        Raises:
            LedgerError: if nothing was imported yet.
        """
        return self._checked(Ledger.open(self.place))

    def open_or_new(self) -> Ledger:
        """Open the ledger; make it if this is the first thing that happens to the challenge.

        Raises:
            ConflictError: if the ledger in the database is that of a campaign that was not begun in this folder.
        """
        try:
            return self._checked(Ledger.open(self.place), must_be_known=True)
        except MissingLedgerError:
            self._refuse_a_second_ledger()
            campaign = secrets.token_hex(8)
        if self.challenge.ledger.url is not None:
            # Written first, so that a creation that was interrupted is known as this folder's own.
            self._note_campaign(campaign)
            campaign = self._campaign_file.read_text(encoding="ascii")
        return Ledger.create(self.place, campaign=campaign, challenge_name=self.challenge.name)

    @property
    def place(self) -> Path | str:
        """The ledger's file, or the address of its schema."""
        url = self.challenge.ledger.url
        return self.file if url is None else with_schema(url, self.challenge.name)

    @property
    def file(self) -> Path:
        """Where the ledger lies unless challenge.toml names a database."""
        return self.challenge.state_folder / LEDGER_NAME

    @property
    def _campaign_file(self) -> Path:
        folder = self.challenge.state_folder
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / "campaign"

    def _refuse_a_second_ledger(self) -> None:
        """Whoever declares another place in challenge.toml, and does not move the ledger, wants no empty one there."""
        if self.challenge.ledger.url is None and self._campaign_file.exists():
            raise ConflictError(
                "This challenge's ledger is in a database, and [ledger] in challenge.toml does not name it any more.",
                hint="Put `url` back; to move the ledger into a file, use `referee ledger migrate --to sqlite`.",
            )
        if self.challenge.ledger.url is not None and self.file.exists():
            raise ConflictError(
                f"This challenge has a ledger in {self.file}, and none where [ledger] in challenge.toml says.",
                hint="Take `url` out of challenge.toml again, and move it with `referee ledger migrate --to URL`.",
            )

    def _note_campaign(self, campaign: str) -> None:
        """Write down whose folder this is, unless that was done before."""
        make_once(self._campaign_file, campaign.encode("ascii"))

    def _checked(self, ledger: Ledger, *, must_be_known: bool = False) -> Ledger:
        """The ledger, if a schema is this folder's campaign's: two challenges of one name must not share it."""
        if isinstance(ledger.where, Path):
            return ledger
        known = self._campaign_file.read_text(encoding="ascii") if self._campaign_file.exists() else None
        if known is None and not must_be_known:
            return ledger
        if known != queries.campaign(ledger).campaign:
            ledger.close()
            raise ConflictError(
                f"The ledger at {ledger.where} is that of a campaign that was not begun in this folder.",
                hint='Name another schema in [ledger] (`url = "…?schema=NAME"`); or, to go on with that campaign from'
                " here, copy its challenge's folder with all that is in it.",
            )
        return ledger

    def move(self, place: Path | str) -> Relocated:
        """Move the ledger to another place (`relocation.relocate`), or complete a move that was interrupted."""
        if isinstance(place, str):
            place = with_schema(place, self.challenge.name)
        with self.open() as ledger:
            if isinstance(ledger.where, Path):
                # A name that is still there is that of an earlier ledger in this folder.
                self._campaign_file.unlink(missing_ok=True)
            self._note_campaign(queries.campaign(ledger).campaign)
            target = database_at(place)
            try:
                return relocate(ledger, target)
            finally:
                target.close()

    def abandon(self, place: Path | str, reason: str, *, lost: bool) -> Head:
        """Call off a move to that place that was not completed (`relocation.abandon`)."""
        if isinstance(place, str):
            place = with_schema(place, self.challenge.name)
        with self.open() as ledger:
            target = database_at(place)
            try:
                head = abandon(ledger, target, reason, lost=lost)
            finally:
                target.close()
            if isinstance(ledger.where, Path):
                self._campaign_file.unlink(missing_ok=True)
            return head
