"""The controller: one pass after another from the ledger, until every evaluation has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal

from referee.attempts import AttemptSpec
from referee.campaign.copies import copied, run_instead
from referee.campaign.guard import Guard
from referee.campaign.intents import intended, specified, store_specs, stored_spec
from referee.campaign.markets import open_markets
from referee.campaign.patience import Patience
from referee.campaign.requests import to_be_held, to_be_requested
from referee.campaign.settlement import ended, fenced, result_of
from referee.campaign.spending import beside_usd
from referee.challenge import Challenge, MachineType
from referee.engines.contract import Engine, Hiring, Job, JobState, Observation, Remote
from referee.errors import HostError
from referee.freshness import earlier_nodes, of_other_types, used_up
from referee.ledger import (
    AttemptPlanned,
    AttemptSubmitted,
    CampaignFinished,
    EvaluationEnded,
    EvaluationReopened,
    Lease,
    queries,
)
from referee.objects import ObjectStore
from referee.orders import Orders, Purse, longest_first, measured_of, members_of, used_shares
from referee.phases import PhaseData
from referee.policy import Action, Demand, Dispatch, Finish, Outcome, decide, outgrown
from referee.routing import NoRoute, Route, route
from referee.verdicts import Verdict

_POLL_SECONDS = 2.0
_NO_WORKER = "No worker of this attempt was found any more."


_Candidate = tuple[str, tuple[Outcome, ...], Dispatch]


class Campaign:
    """Evaluates every submission on one phase.

    Args:
        challenge: the challenge.
        lease: the ledger, led by this process; every event is written under the lease's epoch.
        engine: where attempts run.
        objects: where specifications go and results come from.
        data: the phase's recorded files.
        phase: the phase's name.
        orders: which evaluations, on which machines, within which money; by default all, on what fits at least cost.
        series: run these once more, beside the official evaluations, instead of evaluating every submission.
        held: submissions that are not to be evaluated on this phase, with the reason.
    """

    def __init__(
        self,
        challenge: Challenge,
        lease: Lease,
        engine: Engine,
        objects: ObjectStore,
        data: PhaseData,
        phase: str,
        orders: Orders | None = None,
        *,
        series: queries.SeriesRow | None = None,
        held: Mapping[str, str] | None = None,
    ) -> None:
        self._challenge = challenge
        self._lease = lease
        self._ledger = lease.ledger
        self._engine = engine
        self._objects = objects
        self._data_key = data.key
        self._data = data
        self._phase = phase
        self._orders = orders or Orders()
        self._further = series
        self._series = series.series if series else ""
        self._probing = series is not None and series.purpose == "probe"
        self._held = dict(held or {})
        self._jobs: dict[str, Job] = {}
        self._cancelled: set[str] = set()
        self._draining = False
        self._patience = Patience(engine.name)
        self._guard = Guard(lease, engine)
        self.stopped_because = ""

    # What an operator can ask for

    def drain(self) -> None:
        """Start nothing more; `run` returns when what runs has ended."""
        self._draining = True

    def cancel(self) -> None:
        """End what runs now. The attempts count against nobody and are run again by the next `run`."""
        self._draining = True
        self._cancelled |= set(self._jobs)
        self._engine.cancel(list(self._jobs.values()))

    @property
    def trouble(self) -> str:
        """What the engine refused or left unanswered of late; empty if nothing."""
        return self._patience.trouble

    # The loop

    def run(self, on_step: Callable[[], None] = lambda: None) -> None:
        """Go on until all that was ordered has ended, or dispatch has stopped and nothing runs any more."""
        self.begin()
        while self.step():
            on_step()
            self._engine.wait(_POLL_SECONDS)
        on_step()

    def begin(self) -> None:
        """Record what is wanted, and take over what an earlier controller left."""
        self._objects.put_once(self._data_key, self._data.model_dump_json().encode())
        if isinstance(self._engine, Remote):
            self._engine.bring(self._data)
        self._request()
        self._reopen()
        self._take_over()
        self._fence()

    def step(self) -> bool:
        """One pass: settle what ended, decide, dispatch. Returns whether there is anything left to wait for."""
        self._patience.next_pass()
        self._take_over()
        self._settle()
        candidates = self._decide()
        self.stopped_because = self.stopped_because or self._guard.look()
        if candidates and not self._draining and not self.stopped_because and not self._patience.waits:
            self._dispatch(candidates)
        if self._jobs:
            return True
        self._fence()
        status = queries.status(self._ledger, self._phase, series=self._series)
        unfinished = not self._series and queries.phases(self._ledger)[self._phase].finished_at is None
        if unfinished and status.done == status.total:
            self._lease.append([CampaignFinished(phase=self._phase)])
        return self._waits(candidates) and not self._draining and not self.stopped_because

    def _waits(self, candidates: Sequence[_Candidate]) -> bool:
        undecided = [
            row for row in queries.evaluations(self._ledger, self._phase, series=self._series) if row.verdict is None
        ]
        if any(self._orders.wants(row.evaluation) for row in undecided):
            return True
        # Smoke runs alone: those that could not be started yet, and those of which the engine has not been told.
        return bool(candidates) or any(row.open_attempt and row.evaluation in self._orders.smoked for row in undecided)

    # What is wanted

    def _request(self) -> None:
        held = to_be_held(self._ledger, self._phase, self._held) if self._further is None else []
        self._lease.append(held)
        self._lease.append(to_be_requested(self._ledger, self._challenge, self._phase, self._further, self._held))

    def _reopen(self) -> None:
        # What ended only because a machine was missing or the operator stopped it is wanted again by a new `run`.
        for row in queries.evaluations(self._ledger, self._phase, series=self._series):
            if row.verdict is Verdict.CANCELLED:
                reason = "The operator cancelled it earlier, and started the campaign again."
            elif row.verdict is Verdict.UNROUTABLE and isinstance(self._route(row, (), Demand.ANY), Route):
                reason = "There is a machine for it now."
            else:
                continue
            self._lease.append([EvaluationReopened(evaluation=row.evaluation, reason=reason)])

    def _take_over(self) -> None:
        """Find the jobs of open attempts that this controller does not follow: after a crash, or a lost reply."""
        rows = {row.attempt: row for row in queries.open_attempts(self._ledger, self._phase, series=self._series)}
        unknown = [name for name in rows if name not in self._jobs]
        if not unknown or self._patience.waits:
            return
        try:
            adopted = self._engine.adopt(unknown)
        except HostError as error:
            self._refused(error)
            return
        if adopted:
            self._patience.answered()
        self._note_submitted([job for job in adopted if rows[job.attempt].handle is None])
        self._jobs |= {job.attempt: job for job in adopted}
        left = [rows[name] for name in unknown if name not in self._jobs]
        specs = self._told(left)
        again: list[AttemptSpec] = []
        for row in left:
            began = result_of(self._objects, row) is not None or self._objects.exists(f"claims/{row.attempt}.json")
            if began or row.attempt not in specs:
                self._end(row, Observation(Job(row.attempt, ""), JobState.UNKNOWN, reason=_NO_WORKER))
            elif not self._draining and not self.stopped_because:
                # Planned, but no worker ever began: it may or may not have been submitted. Submitting it again is
                # safe, since of two workers only one gets the claim.
                again.append(specs[row.attempt])
        if again:  # together: an engine may take thousands in one submission
            self._submit(again)

    def _told(self, rows: Sequence[queries.AttemptRow]) -> dict[str, AttemptSpec]:
        """What the workers of these attempts are told; of none whose machine type the engine has no more."""
        found = {row.attempt: spec for row in rows if (spec := stored_spec(self._objects, row.attempt)) is not None}
        # A controller that is killed between intent and specification leaves thousands that no engine has heard of.
        lacking = [row for row in rows if row.attempt not in found and row.machine_type in self._engine.machines()]
        if lacking:
            of = {row.evaluation: row for row in queries.evaluations(self._ledger, self._phase, series=self._series)}
            histories = queries.histories(self._ledger, self._phase, series=self._series)
            actions = {row.attempt: self._next(histories[row.evaluation]) for row in lacking}
            sick = {row.node for row in queries.nodes(self._ledger) if row.quarantined}
            again = [self._spec(of[row.evaluation], row, actions[row.attempt], sick) for row in lacking]
            store_specs(self._objects, again)
            found |= {spec.attempt: spec for spec in again}
        return found

    # What ended

    def _settle(self) -> None:
        rows = {
            row.attempt: row
            for row in queries.open_attempts(self._ledger, self._phase, series=self._series)
            if row.attempt in self._jobs
        }
        observations = self._engine.observe([self._jobs[name] for name in rows])
        for observation in observations:
            if observation.state in {JobState.ENDED, JobState.UNKNOWN}:
                name = observation.job.attempt
                self._end(rows[name], observation)
                del self._jobs[name]

    def _end(self, row: queries.AttemptRow, seen: Observation) -> None:
        self._lease.append([ended(self._objects, row, seen, cancelled=row.attempt in self._cancelled)])

    def _fence(self) -> None:
        rows = queries.attempts(self._ledger, phase=self._phase, series=self._series)
        for event in fenced(self._objects, rows):
            self._lease.append([event])

    # What comes next

    def _decide(self) -> list[_Candidate]:
        """End the evaluations whose history says so; return those to be dispatched, in order: smoke runs first."""
        candidates = []
        rows = queries.evaluations(self._ledger, self._phase, series=self._series)
        instead = run_instead(self._challenge, rows, self._orders.wants)
        self._lease.append(copied(rows, instead))
        histories = queries.histories(self._ledger, self._phase, undecided=True, series=self._series)
        for evaluation, history in histories.items():
            action = self._next(history)
            if isinstance(action, Dispatch):
                if self._orders.wants(evaluation, smoke=action.smoke) and evaluation not in instead:
                    candidates.append((evaluation, history, action))
                continue
            ended = [row for row in queries.attempts(self._ledger, evaluation=evaluation) if row.verdict is not None]
            attempt = ended[len(ended) - len(history) + action.position].attempt
            event = EvaluationEnded(
                evaluation=evaluation,
                verdict=action.verdict,
                attempt=attempt,
                reason=action.reason,
                final=isinstance(action, Finish),
            )
            self._lease.append([event])
        return sorted(candidates, key=lambda candidate: not candidate[2].smoke)

    def _next(self, history: Sequence[Outcome]) -> Action:
        smoke = self._challenge.smoke.items is not None and not self._probing
        return decide(history, smoke=smoke, once=self._probing)

    def _dispatch(self, candidates: Sequence[_Candidate]) -> None:
        attempts = queries.attempts(self._ledger, phase=self._phase, series=self._series)
        rows = {row.evaluation: row for row in queries.evaluations(self._ledger, self._phase, series=self._series)}
        room = self._orders.room(
            self._engine.capacity().free, Counter(row.machine_type for row in attempts if row.verdict is None)
        )
        groups = self._groups(rows, attempts)
        used = used_shares(attempts, groups, self._orders.since)
        limit, aside = self._challenge.limits.wall_time, self._orders.aside_usd + self._beside_usd(attempts)
        purse = Purse(self._orders.budget_usd, attempts, self._engine.machines(), limit, aside)
        crowded, barred = False, set[str]()
        planned: list[AttemptPlanned] = []
        specs: list[AttemptSpec] = []
        for evaluation, history, action in self._in_order(candidates, rows, sum(room.values())):
            row = rows[evaluation]
            among = self._orders.among(groups[evaluation], action.demand, used, room)
            if action.smoke and action.demand is Demand.ANY and row.submission_kind in self._orders.smoke_on:
                among = {self._orders.smoke_on[row.submission_kind]}
            found = self._route(row, history, action.demand, among)
            if isinstance(found, NoRoute):
                self._lease.append(
                    [EvaluationEnded(evaluation=evaluation, verdict=Verdict.UNROUTABLE, reason=found.reason)]
                )
                continue
            if found.machine_type in self._guard.closed:
                barred.add(found.machine_type)
                continue
            if room.get(found.machine_type, 0) <= 0:
                crowded = True
                if not any(room.values()):
                    break
                continue
            if not purse.pays(found.machine_type, found.wall_time_scale):
                if not self._jobs and not planned:
                    self.stopped_because = purse.empty
                break
            room[found.machine_type] -= 1
            used[groups[evaluation], found.machine_type] += not action.smoke
            intent = intended(self._challenge, row, found, engine=self._engine.name, smoke=action.smoke)
            planned.append(intent)
            specs.append(self._spec(row, intent, action, self._guard.quarantined))
        if not planned:
            if barred and not crowded and not self._jobs:
                self.stopped_because = self._guard.barred(barred)
            return
        # Intent before action: the plan is in the ledger before any engine hears of it.
        self._lease.append(planned)
        store_specs(self._objects, specs)
        self._submit(specs)

    def _groups(
        self, rows: Mapping[str, queries.EvaluationRow], attempts: Sequence[queries.AttemptRow]
    ) -> dict[str, str]:
        """Of each evaluation its class of measured need, where the plan has classes, or its kind."""
        kinds = {name: row.submission_kind for name, row in rows.items()}
        if not self._orders.classes:
            return kinds
        measured = measured_of(attempts, self._engine.machines(), self._challenge.limits.cpus)
        return members_of(kinds, measured, self._orders.classes)

    def _beside_usd(self, attempts: Sequence[queries.AttemptRow]) -> Decimal:
        """What an engine's machines have cost beside the attempts on them, where money is bounded."""
        if self._orders.budget_usd is None or not isinstance(self._engine, Hiring):
            return Decimal(0)
        everybody = queries.attempts(self._ledger)
        elsewhere = {row.node for row in everybody if row.node is not None}
        return beside_usd(self._engine.lives(), attempts, self._engine.machines(), elsewhere)

    def _used_before(self, row: queries.EvaluationRow, machine_type: str) -> frozenset[str]:
        """The machines that a confirmation of this submission is to leave out, where there are others."""
        if self._further is None or self._further.purpose != "confirmation":
            return frozenset()
        attempts = queries.attempts(self._ledger)
        evaluations = queries.evaluations(self._ledger, self._phase, series=None)
        elsewhere = self._guard.quarantined | of_other_types(machine_type, attempts)
        there = [node for node in self._engine.nodes() if node not in elsewhere]
        return used_up(there, earlier_nodes(row.submission, evaluations, attempts))

    def _in_order(
        self, candidates: Sequence[_Candidate], rows: Mapping[str, queries.EvaluationRow], room: int
    ) -> list[_Candidate]:
        if len(candidates) > room or self._challenge.engine.order != "random":
            return list(candidates)
        public = {row.submission: row.public_runtime_seconds or 0.0 for row in queries.submissions(self._ledger)}
        return longest_first(candidates, lambda each: public[rows[each[0]].submission])

    def _spec(
        self,
        row: queries.EvaluationRow,
        intent: AttemptPlanned | queries.AttemptRow,
        action: Action,
        quarantined: Collection[str],
    ) -> AttemptSpec:
        avoided = action.avoid_nodes if isinstance(action, Dispatch) else frozenset[str]()
        avoided |= {*quarantined, *self._used_before(row, intent.machine_type)}
        return specified(
            self._challenge,
            row,
            intent,
            campaign=queries.campaign(self._ledger).campaign,
            data=self._data,
            machine=self._engine.machines()[intent.machine_type],
            few=intent.smoke or self._probing,
            avoided=avoided,
        )

    def _submit(self, specs: Sequence[AttemptSpec]) -> None:
        try:
            jobs = self._engine.submit(specs)
        except HostError as error:
            # The reply may be lost and the jobs may run: the next pass asks the engine which of them it has.
            self._refused(error)
            return
        self._patience.took()
        self._note_submitted(jobs)
        self._jobs |= {job.attempt: job for job in jobs}

    def _refused(self, error: HostError) -> None:
        self._patience.failed(error)
        self.stopped_because = self.stopped_because or self._patience.over

    def _note_submitted(self, jobs: Sequence[Job]) -> None:
        if jobs:
            self._lease.append([AttemptSubmitted(attempt=job.attempt, handle=job.handle) for job in jobs])

    def _route(
        self,
        row: queries.EvaluationRow,
        history: Sequence[Outcome],
        demand: Demand,
        among: Collection[str] | None = None,
    ) -> Route | NoRoute:
        def to(machines: Mapping[str, MachineType], among: Collection[str] | None) -> Route | NoRoute:
            return route(
                self._challenge,
                machines,
                row.submission_kind,
                demand,
                outgrown=outgrown(history),
                among=among,
                only=self._further.machine_type if self._further is not None else None,
                closed=self._guard.closed,
            )

        there = self._engine.machines()
        found = to(*open_markets(there, among, history, self._orders.names))
        # What cannot be had on demand now is better run on spot capacity than not at all.
        return to(there, among) if isinstance(found, NoRoute) else found
