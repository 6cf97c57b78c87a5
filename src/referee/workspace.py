"""A challenge's folder with everything in it opened: what the command line (and later the web) works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from referee.audit import SigningKey
from referee.challenge import Challenge, MetricChoice, challenge_text, load_challenge, recorded_as
from referee.digests import digest_of
from referee.durable import make_once
from referee.errors import CheckFailedError, ConfigurationError, ConflictError
from referee.images.store import ImageStore
from referee.ledger import (
    ChallengeRecorded,
    Ledger,
    PhaseRecorded,
    PhaseSealed,
    RiskAccepted,
    ScoringFixed,
    queries,
)
from referee.ledger.events import Event
from referee.ledger.home import LedgerHome
from referee.objects import ObjectStore, bucket_location
from referee.phases import PhaseData, record_phase
from referee.predictions import Labels, read_labels
from referee.scoring.analysis import Analysis, analyse_phase
from referee.scoring.boards import board_of, metric_in_force, public_board_of
from referee.scoring.leaderboard import Leaderboard
from referee.scoring.metric import chosen_metrics
from referee.scoring.score import Scoring, score_evaluations
from referee.scoring.sealing import SealKey, is_sealed, refuse_sealed, scored_under_seal


@dataclass(frozen=True)
class Workspace:
    """One challenge and its state. Everything below `.referee/` is made when it is first needed."""

    challenge: Challenge

    @classmethod
    def open(cls, place: Path) -> Workspace:
        """The workspace of the challenge in `place` (its folder, or its challenge.toml)."""
        return cls(load_challenge(place))

    def accepting(self, risks: Sequence[str]) -> Workspace:
        """The same workspace, with further promises of the sandbox that the operator does without, by name."""
        sandbox = self.challenge.sandbox
        accepted = tuple(dict.fromkeys((*sandbox.accepted_risks, *risks)))
        changed = sandbox.model_copy(update={"accepted_risks": accepted})
        return Workspace(self.challenge.model_copy(update={"sandbox": changed}))

    @property
    def state(self) -> Path:
        """Where Referee keeps what it knows about this challenge; only its owner may look inside."""
        folder = self.challenge.state_folder
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @cached_property
    def objects(self) -> ObjectStore:
        """Specifications, claims and results; on a bucket also images and data."""
        choice = self.challenge.objects
        if choice.url is None:
            return ObjectStore(self._objects_folder)
        return ObjectStore(bucket_location(choice.url, region=choice.region, endpoint=choice.endpoint))

    @cached_property
    def images(self) -> ImageStore:
        """The images of all submissions, by digest."""
        mirror = self.objects if self.challenge.objects.url is not None else None
        return ImageStore(self._objects_folder, mirror=mirror)

    @property
    def _objects_folder(self) -> Path:
        """Below the challenge's own state, or where a cluster's nodes see it too: never labels, never the ledger."""
        slurm = self.challenge.engine.slurm
        if self.challenge.engine.name == "slurm" and slurm is not None:
            return slurm.shared / "objects"
        return self.state / "objects"

    @property
    def node(self) -> Path:
        """This machine's own cache."""
        return self.state / "node"

    @property
    def home(self) -> LedgerHome:
        """Where the ledger lies, by challenge.toml."""
        return LedgerHome(self.challenge)

    def ledger(self) -> Ledger:
        """Open the ledger.

        Raises:
            LedgerError: if nothing was imported yet.
        """
        return self.home.open()

    def ledger_or_new(self) -> Ledger:
        """Open the ledger; make it if this is the first thing that happens to the challenge.

        Raises:
            ConflictError: if the ledger in the database is that of a campaign that was not begun in this folder.
        """
        return self.home.open_or_new()

    def labels(self, phase: str, data: PhaseData | None = None) -> Labels:
        """The true labels of a phase.

        Raises:
            ConfigurationError: if the phase has none, or (where `data` is given) they are not exactly its files.
        """
        path = self.challenge.phase(phase).labels
        if path is None:
            raise ConfigurationError(
                f"The phase {phase!r} has no labels, so nothing can be scored on it.",
                hint=f"Add `labels` to [phases.{phase}] in challenge.toml.",
            )
        return read_labels(
            self.challenge.folder / path, self.challenge.predictions, expected=data.names if data else None
        )

    def record(
        self, phase: str, on_progress: Callable[[int, int], None] | None = None
    ) -> tuple[PhaseData, list[Event]]:
        """Digest the phase's files, and say what the ledger does not know yet of challenge, phase and accepted risks.

        Labels and metrics are looked at here, so that what is wrong with them is found before machine time is spent.
        """
        self.objects.require_create_only()
        data = record_phase(self.challenge, phase, on_progress=on_progress)
        labels = self.labels(phase, data) if self.challenge.phase(phase).labels else None
        chosen_metrics(self.challenge.metric)
        events: list[Event] = []
        with self.ledger_or_new() as ledger:
            recorded = queries.challenge(ledger)
            if recorded is None or not recorded_as(recorded.content, self.challenge):
                content = challenge_text(self.challenge)
                events.append(ChallengeRecorded(digest=digest_of(content), content=content))
            known = queries.phases(ledger).get(phase)
            labels_digest = labels.digest if labels else None
            if known is not None and queries.scoring(ledger, phase) is not None:
                # What the scores stand under is changed by a rejudging alone, and `score` says so.
                labels_digest = known.labels_digest
            if known is None or (known.data_digest, known.labels_digest) != (data.digest, labels_digest):
                events.append(
                    PhaseRecorded(
                        phase=phase, data_digest=data.digest, files=len(data.files), labels_digest=labels_digest
                    )
                )
            if self.challenge.phase(phase).sealed and phase not in queries.seals(ledger):
                refuse_late_seal(ledger, phase)
                events.append(PhaseSealed(phase=phase, reason="As challenge.toml says."))
            accepted = queries.accepted_risks(ledger)
            events += [
                RiskAccepted(name=name, reason="Named in challenge.toml, or with --accept-risk.")
                for name in self.challenge.sandbox.accepted_risks
                if name not in accepted
            ]
        return data, events

    def score(self, ledger: Ledger, phase: str) -> Scoring:
        """Score what is valid on a phase and has no score yet, and record it.

        Raises:
            ConfigurationError: if the phase has no labels, they are wrong, or labels or metrics are not those that the
                scores stand under.
        """
        data, events = self.record(phase)
        labels = self.labels(phase, data)
        if events:
            ledger.append(events)
        fixed = queries.scoring(ledger, phase)
        if why := self.scoring_changed(ledger, phase, labels):
            raise ConfigurationError(
                f"Nothing was scored: on {phase} there are scores already, and {why}.",
                hint=f"Change it back, or stage it: `referee rejudge stage --phase {phase} --all --rescore`.",
            )
        sealed = is_sealed(ledger, phase)
        scoring = self.score_rows(
            ledger,
            phase,
            data,
            evaluations=queries.evaluations(ledger, phase),
            attempts=queries.attempts(ledger, phase=phase),
            scores=scored_under_seal(ledger, phase) if sealed else queries.scores(ledger, phase),
            under_seal=sealed,
        )
        choice = self.challenge.metric
        found: list[Event] = [self.seal_key.seal(event) if sealed else event for event in scoring.events]
        if scoring.events and fixed != choice:
            # With the first scores it is fixed by what they are made; from then on metrics can only be added.
            digest = scoring.events[0].labels_digest
            found.insert(0, ScoringFixed(phase=phase, metric=choice, labels_digest=digest))
        ledger.append(found)
        return scoring

    def score_rows(
        self,
        ledger: Ledger,
        phase: str,
        data: PhaseData,
        *,
        evaluations: Sequence[queries.EvaluationRow],
        attempts: Sequence[queries.AttemptRow],
        scores: Sequence[queries.ScoreRow],
        choice: MetricChoice | None = None,
        labels_digest: str | None = None,
        rejudging: str | None = None,
        under_seal: bool = False,
    ) -> Scoring:
        """Score these evaluations of a phase, by default as challenge.toml says; nothing is recorded.

        `labels_digest` names other labels than those that the phase's scores stand under (a rejudging's). Only a caller
        that seals what it gets says `under_seal`.

        Raises:
            ConflictError: while the phase is sealed.
        """
        if not under_seal:
            refuse_sealed(ledger, phase)
        digest = labels_digest or str(queries.phases(ledger)[phase].labels_digest)
        return score_evaluations(
            phase,
            evaluations=evaluations,
            attempts=attempts,
            scores=scores,
            store=self.objects,
            names=data.names,
            labels=self.labels_file(phase, digest),
            labels_digest=digest,
            choice=choice or self.challenge.metric,
            layout=self.challenge.predictions,
            limit_bytes=self.challenge.limits.output,
            rejudging=rejudging,
        )

    def scoring_changed(self, ledger: Ledger, phase: str, labels: Labels) -> str:
        """How challenge.toml and the labels differ from what the phase's scores stand under; empty if they do not."""
        fixed, wanted = queries.scoring(ledger, phase), self.challenge.metric
        if fixed is None:
            return ""
        found = []
        if labels.digest != queries.phases(ledger)[phase].labels_digest:
            found.append("the labels are others")
        if fixed.name != wanted.name:
            found.append(f"the metric is {wanted.name} instead of {fixed.name}")
        if fixed.epsilon != wanted.epsilon:
            found.append(f"epsilon is {wanted.epsilon!r} instead of {fixed.epsilon!r}")
        if gone := [name for name in fixed.secondary if name not in wanted.secondary]:
            found.append(f"the secondary metrics lack {', '.join(gone)}")
        return ", and ".join(found)

    def recorded(self, ledger: Ledger, phase: str) -> queries.PhaseRow:
        """What the ledger holds of a phase's data and labels.

        Raises:
            ConfigurationError: if nothing was evaluated on it yet.
        """
        row = queries.phases(ledger).get(phase)
        if row is None:
            raise ConfigurationError(
                f"Nothing was evaluated on {phase} yet.", hint=f"Begin with `referee run --phase {phase}`."
            )
        return row

    def labels_file(self, phase: str, digest: str) -> Path:
        """The label file with this digest: the challenge's own, or the copy that was kept when it was last used.

        Raises:
            CheckFailedError: if there is none any more.
        """
        own = self.challenge.folder / str(self.challenge.phase(phase).labels)
        kept = self.state / "labels" / f"{digest.removeprefix('sha256:')}.csv"
        content = own.read_bytes() if own.is_file() else b""
        if digest_of(content) == digest:
            if not kept.exists():
                # So that the board can still be analysed while changed labels are only staged.
                kept.parent.mkdir(mode=0o700, exist_ok=True)
                make_once(kept, content)
            return own
        if kept.is_file():
            return kept
        raise CheckFailedError(
            f"The label file {own} is not the one that the ledger holds ({digest}).",
            hint="Put the recorded labels back; changed labels are a matter for `referee rejudge stage`.",
        )

    def analysis(self, ledger: Ledger, phase: str) -> Analysis:
        """What the scores of a phase are worth: intervals, rank sets, tie groups, prize boundaries, look-alikes.

        Raises:
            ConfigurationError: if the phase has no labels, or its metadata do not fit.
            CheckFailedError: if a valid result cannot be read any more.
            ConflictError: while the phase is sealed.
        """
        refuse_sealed(ledger, phase)
        settings = self.challenge.phase(phase)
        recorded = self.recorded(ledger, phase)
        data = record_phase(self.challenge, phase)
        if settings.labels is None:
            self.labels(phase)
        digest = str(recorded.labels_digest)
        off = queries.taken_off(ledger)
        analysis, refused = analyse_phase(
            phase,
            evaluations=[row for row in queries.evaluations(ledger, phase) if row.submission not in off],
            attempts=queries.attempts(ledger, phase=phase),
            store=self.objects,
            names=data.names,
            labels=self.labels_file(phase, digest),
            labels_digest=digest,
            metadata=self.challenge.folder / settings.metadata if settings.metadata else None,
            metric=metric_in_force(self.challenge, ledger, phase),
            layout=self.challenge.predictions,
            uncertainty=self.challenge.uncertainty,
            limit_bytes=self.challenge.limits.output,
            finals=[row.submission for row in queries.submissions(ledger)],
        )
        if refused:
            raise CheckFailedError(
                "Valid results could not be analysed: " + "; ".join(f"{r.evaluation}: {r.reason}" for r in refused),
                hint="Find out what happened to these results in the object store.",
            )
        return analysis

    def board(self, ledger: Ledger, phase: str) -> Leaderboard:
        """The leaderboard of a phase; beside a private phase the last public one that was scored."""
        return board_of(self.challenge, ledger, phase)

    def public_board(self, ledger: Ledger) -> Leaderboard | None:
        """The board of the last public phase that was scored; None if none was."""
        return public_board_of(self.challenge, ledger)

    @cached_property
    def seal_key(self) -> SealKey:
        """What sealed scores are encrypted under; made when it is first needed."""
        return SealKey.open(self.state / "seal.key")

    @cached_property
    def signing_key(self) -> SigningKey:
        """The operator's key; made when it is first needed."""
        return SigningKey.open(self.state / "signing.key")

    def phase_or_default(self, ledger: Ledger, phase: str | None) -> str:
        """`phase`, or the one that an operator most likely means: a private one that was run, else the last that was.

        Raises:
            ConfigurationError: if there is no such phase, or nothing was run on any.
        """
        if phase is not None:
            self.challenge.phase(phase)
            return phase
        run = [name for name in self.challenge.phases if name in {row.phase for row in queries.evaluations(ledger)}]
        if not run:
            raise ConfigurationError("Nothing was evaluated yet.", hint="Begin with `referee run --phase PHASE`.")
        private = [name for name in run if self.challenge.phases[name].visibility == "private"]
        return (private or run)[-1]


def refuse_late_seal(ledger: Ledger, phase: str) -> None:
    """Refuse to seal a phase whose scores somebody may have seen.

    Raises:
        ConflictError: if there are any.
    """
    if queries.scores(ledger, phase):
        raise ConflictError(
            f"Scores on {phase} could be seen already, so sealing would hide nothing.",
            hint=f"Take `sealed` out of [phases.{phase}] in challenge.toml.",
        )
