"""What the agent knows of its node right now, changed only through methods that say what happened.

From it come both the snapshot that decisions are made on and the status that others read. Inside, times are
steady: the wall clock may be set at any moment, and is only for what others read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from fairlead.agent.demands import Demands
from fairlead.agent.entries import Counts, Process, Unrest, Worker
from fairlead.agent.records import Record
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import NEVER, NO_FAILURE, Failure, Snapshot
from fairlead.agent.weights import Weights
from fairlead.api.worker import WorkerSpec
from fairlead.domain.catalog import Catalog, Revision
from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import GatewayStatus, Replica, State
from fairlead.kits.clock import Clock
from fairlead.kits.processes import Exit
from fairlead.kits.sizes import mib

# Longer than any pause between two tries: a revision that comes back at once still finds its failures.
_FORGET_SECONDS = 600.0
_KEPT_DEATHS = 20  # revisions that have left, of which it is still told how often they died

_RESTLESS = 2  # deaths in a short time, after which nobody shares a process with it


class Table:
    """The node's workers, artifacts and failures. `changed` is set whenever something happened."""

    def __init__(self, settings: AgentSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.changed = asyncio.Event()
        self.catalog: Catalog | None = None
        self.problems: dict[str, str] = {}  # the node's own troubles, by what they are about
        self.workers: dict[str, Worker] = {}
        self.processes: dict[str, Process] = {}
        self.led: frozenset[LineId] | None = None  # by a rollout; None: nobody has looked
        self.counts = Counts()
        self.demands = Demands(clock)
        self.memory_budget_bytes = settings.memory_budget_bytes
        self.weights = Weights()
        self.gateway: GatewayStatus | None = None
        self.gateway_at = 0.0  # when it said so at the earliest
        self._catalog_since = 0.0
        self._artifacts: dict[str, float] = {}
        self._light: set[str] = set()  # those that may share a process
        self._pulled_at = NEVER
        self._unrest: dict[RevisionId, Unrest] = {}
        self._compaction_failed_at = NEVER
        self._pulls: dict[str, tuple[int, int]] = {}
        self._failures: dict[ScaleUnit, Failure] = {}
        self._pull_failures: dict[str, Failure] = {}

    def note(self, about: str, problem: str) -> bool:
        """Something is wrong with the node, or with an empty text is not any more; was that news?"""
        if problem == self.problems.get(about, ""):
            return False
        self.problems.pop(about, None)
        if problem:
            self.problems[about] = problem
        self.changed.set()
        return True

    # The catalog and the artifacts.
    def asked_for(self, catalog: Catalog) -> None:
        """The catalog asks for something else now."""
        self.catalog = catalog
        self._forget_failures(catalog)
        self._catalog_since = self._clock.monotonic()
        self.changed.set()

    def _forget_failures(self, catalog: Catalog) -> None:
        """Of revisions that left, and of their artifacts: there are ever new ones."""
        live = catalog.live()
        wanted = live.keys() | {worker.replica.revision for worker in self.workers.values()}
        digests = {revision.digest for revision in live.values()}
        old = self._clock.monotonic() - _FORGET_SECONDS
        self._failures = {
            one: failure
            for one, failure in self._failures.items()
            if one.revision in wanted or failure.at >= old
        }
        self.demands.keep(wanted)
        self._pull_failures = {
            one: failure
            for one, failure in self._pull_failures.items()
            if one in digests or failure.at >= old
        }
        self._unrest = {one: unrest for one, unrest in self._unrest.items() if unrest.at >= old}
        gone = [one for one in self.counts.deaths_of if one not in wanted]
        for one in gone[:-_KEPT_DEATHS]:
            del self.counts.deaths_of[one]

    def has(self, digest: str, *, light: bool = False, size: int = 0) -> None:
        """This artifact of so many bytes is on the disk, verified; `light`: it may share a process."""
        self._artifacts[digest] = self._clock.monotonic()
        self.weights.has(digest, size)
        if light:
            self._light.add(digest)
        self.changed.set()

    def pulling(self, digest: str, here: int, total: int) -> None:
        """This much of an artifact is here. Nothing follows from it: it is told with the next heartbeat."""
        self._pulls[digest] = (here, total)

    def pulled(self, digest: str, *, light: bool = False, size: int = 0) -> None:
        """An artifact has arrived."""
        self._pulled_at = self._clock.monotonic()
        self._pulls.pop(digest, None)
        self._pull_failures.pop(digest, None)
        self.counts.pulls["done"] += 1
        self.has(digest, light=light, size=size)

    def pull_failed(self, digest: str, reason: str) -> float:
        """An artifact could not be brought here; returns in how many seconds it is tried again."""
        self._pulls.pop(digest, None)
        self.counts.pulls["failed"] += 1
        before = self._pull_failures.get(digest, NO_FAILURE)
        failure = before.again(reason, self._clock.monotonic(), hard=True)
        self._pull_failures[digest] = failure
        self.changed.set()
        return failure.retry_at - failure.at

    def lost(self, digest: str) -> None:
        """An artifact is not on the disk any more."""
        self._artifacts.pop(digest, None)
        self._light.discard(digest)
        self.weights.lost(digest)
        self.changed.set()

    # The workers.
    def add_process(self, record: Record, *, compaction: bool = False) -> Process:
        """A process runs, started or adopted; `add` tells whom it serves."""
        now = self._clock.monotonic()
        shared = len(record.specs) > 1
        process = Process(record, now, compaction=compaction, shared=shared)
        self.processes[process.name] = process
        return process

    def add(self, process: Process, spec: WorkerSpec, state: State) -> Worker:
        """A process serves, or will serve, this replica."""
        of = process.record.process
        unit = ScaleUnit(spec.revision, spec.only)
        before = self._failures.get(unit)
        if state is State.READY:
            self.demands.proved(unit)
        replica = Replica(
            worker=spec.worker,
            revision=spec.revision,
            digest=spec.digest,
            state=state,
            reason=f"again, after: {before.reason}" if before and state is State.STARTING else "",
            socket=str(spec.socket),
            pid=of.pid if of else 0,
            since=self._clock.now(),
            endpoint=spec.only,
        )
        worker = Worker(process, spec, replica, self._clock.monotonic(), process.came_at)
        process.workers.append(worker)
        process.names[spec.revision] = spec.worker
        self.workers[spec.worker] = worker
        self.changed.set()
        return worker

    def became(self, worker: Worker, state: State, reason: str = "") -> None:
        """A worker is in another state."""
        worker.replica = replace(
            worker.replica, state=state, reason=reason, since=self._clock.now(), held_since=0.0
        )
        worker.since = self._clock.monotonic()
        self.changed.set()

    def held(self, worker: Worker, seconds: float) -> None:
        """Runs that do not end have held a ready worker for so long; 0: they do not."""
        before, now = worker.replica.held_since, self._clock.now()
        if bool(before) != bool(seconds):
            since = now - seconds if seconds else 0.0
            worker.replica = replace(worker.replica, held_since=since)
            self.changed.set()

    def proved(self, worker: Worker) -> None:
        """A worker has answered its golden examples: it is ready, and whatever stood in the way is over."""
        failure = self._failures.get(worker.unit)
        if failure is not None and failure.hard:
            self._failures.pop(worker.unit)
        self.demands.proved(worker.unit)
        self.became(worker, State.READY)

    def failed(self, worker: Worker, reason: str) -> float:
        """A worker cannot be used; returns in how many seconds its revision is tried again."""
        self.counts.failures += 1
        self._restless(worker, alone=True)
        return self._failed(worker, reason)

    def _failed(self, worker: Worker, reason: str) -> float:
        if worker.process.compaction and worker.replica.state is not State.READY:
            self._compaction_failed_at = self._clock.monotonic()
        self.became(worker, State.FAILED, reason)
        return self._fail(worker.unit, reason, hard=True)

    def _restless(self, worker: Worker, *, alone: bool) -> None:
        """It has died or failed; `alone`: it is certain that no neighbour was at fault."""
        revision, now = worker.replica.revision, self._clock.monotonic()
        before = self._unrest.get(revision)
        recent = before is not None and now - before.at < self._settings.quiet_seconds
        deaths = before.deaths if before is not None and recent else 0
        self._unrest[revision] = Unrest(_RESTLESS if alone else deaths + 1, now)

    def start_failed(self, unit: ScaleUnit, reason: str) -> float:
        """A worker could not even be started."""
        self.counts.failures += 1
        return self._fail(unit, reason, hard=True)

    def ended(self, process: Process, how: Exit, reason: str) -> None:
        """A process is gone, and with it all whom it still served."""
        living = process.living()
        process.exit = how
        self.weights.ended(process.name)
        self.counts.deaths += any(one.replica.state is State.READY for one in living)
        for worker in living:
            self._ended(worker, reason)
        self.changed.set()

    def _ended(self, worker: Worker, reason: str) -> None:
        before = worker.replica
        if before.state is State.READY:
            deaths_of = self.counts.deaths_of
            deaths_of[before.revision] = deaths_of.get(before.revision, 0) + 1
            if self._clock.monotonic() - worker.since >= self._settings.settled_seconds:
                self._failures.pop(before.unit, None)
            self._restless(worker, alone=False)
            self.became(worker, State.FAILED, reason)
            self._fail(before.unit, reason, hard=False)
        elif before.state in (State.STARTING, State.PROVING):
            self.counts.failures += 1
            self._restless(worker, alone=not worker.process.shared)
            self._failed(worker, reason)

    def retired(self, worker: Worker) -> None:
        """A replica has left a process that goes on."""
        worker.gone = True
        self.changed.set()

    def forget(self, worker: str) -> None:
        """A replica has left nothing behind."""
        known = self.workers.pop(worker, None)
        if known is not None:
            known.process.workers.remove(known)
            if not known.process.workers:
                self.processes.pop(known.process.name, None)
        self.changed.set()

    def _fail(self, unit: ScaleUnit, reason: str, *, hard: bool) -> float:
        before = self._failures.get(unit, NO_FAILURE)
        failure = before.again(reason, self._clock.monotonic(), hard=hard)
        self._failures[unit] = failure
        if hard:
            self.demands.failed(unit)
        self.changed.set()
        return failure.retry_at - failure.at

    # What others see.
    def snapshot(self, catalog: Catalog) -> Snapshot:
        """Everything a decision depends on."""
        workers = self.workers.items()
        return Snapshot(
            now=self._clock.monotonic(),
            catalog=catalog,
            catalog_since=self._catalog_since,
            gateway=self.gateway,
            gateway_at=self.gateway_at,
            replicas=tuple(
                replace(worker.replica, since=worker.since) for worker in self.workers.values()
            ),
            artifacts=dict(self._artifacts),
            pulling=frozenset(self._pulls),
            proving=frozenset(name for name, worker in workers if worker.proving),
            asked={
                name: worker.asked_at for name, worker in workers if worker.asked_at is not None
            },
            ended=frozenset(name for name, worker in workers if worker.ended),
            failures=dict(self._failures),
            pull_failures=dict(self._pull_failures),
            pulled_at=self._pulled_at,
            homes={name: worker.process.name for name, worker in workers},
            light=frozenset(self._light),
            restless=self._who_is_restless(),
            led=self.led,
            compaction_failed_at=self._compaction_failed_at,
            demands=self.demands.view(),
            patience={name: worker.spec.drain_seconds for name, worker in workers},
            memory=dict(self.weights.processes),
            needs=self.weights.needs(self._light),
        )

    def _who_is_restless(self) -> frozenset[RevisionId]:
        old = self._clock.monotonic() - self._settings.quiet_seconds
        return frozenset(
            revision
            for revision, unrest in self._unrest.items()
            if unrest.deaths >= _RESTLESS and unrest.at > old
        )

    def awaited(self) -> set[str]:
        """The artifacts of which a started download is worth keeping."""
        live = self.catalog.live().values() if self.catalog else ()
        return {revision.digest for revision in live} | set(self._pulls)

    def touch_artifacts(self) -> None:
        """Note which artifacts are in use: the grace of the others runs from their last use."""
        if self.catalog is None:
            return
        now = self._clock.monotonic()
        used = {revision.digest for revision in self.catalog.live().values()}
        used |= {worker.replica.digest for worker in self.workers.values()}
        for digest in used & self._artifacts.keys():
            self._artifacts[digest] = now

    def states(self) -> Mapping[State, int]:
        """How many workers are in each state."""
        found = dict.fromkeys(State, 0)
        for worker in self.workers.values():
            found[worker.replica.state] += 1
        return found

    def not_running(self, unit: ScaleUnit, revision: Revision) -> Replica:
        """A wanted unit without a replica: why."""
        digest = revision.digest
        state, reason = State.STARTING, "waits for its turn"
        failure = self._failures.get(unit)
        if digest not in self._artifacts:
            failure = self._pull_failures.get(digest)
            state, reason = State.PULLING, "waits for its turn"
        if digest in self._pulls:
            here, total = self._pulls[digest]
            reason = f"{mib(here)} of {mib(total)} MiB" if total else "asks the store"
        elif failure is not None and failure.reason:
            state, reason = State.FAILED, failure.reason
        return Replica("", unit.revision, digest, state, reason, endpoint=unit.endpoint)
