"""What the agent knows of its node right now, changed only through methods that say what happened.

From it come both the snapshot that decisions are made on and the status that others read. Inside, times are
steady: the wall clock may be set at any moment, and is only for what others read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fairlead.agent.plan import NO_FAILURE, Failure, Snapshot, wanted
from fairlead.agent.pull import mib
from fairlead.agent.records import Record
from fairlead.agent.settings import AgentSettings
from fairlead.domain.catalog import Catalog, Revision
from fairlead.domain.ids import RevisionId
from fairlead.domain.status import GatewayStatus, NodeStatus, Replica, State
from fairlead.kits.clock import Clock
from fairlead.kits.processes import Exit

# Longer than any pause between two tries: a revision that comes back at once still finds its failures.
_FORGET_SECONDS = 600.0


@dataclass(slots=True)
class Worker:
    """One worker the agent has started or adopted."""

    record: Record
    replica: Replica
    since: float  # when it came into its state
    came_at: float  # when it was started or adopted
    proving: bool = False
    asked_at: float | None = None  # when it was asked to end
    exit: Exit | None = None  # how it ended


@dataclass(slots=True)
class Counts:
    """What the agent's own metrics count."""

    pulls: dict[str, int] = field(default_factory=lambda: {"done": 0, "failed": 0})
    starts: int = 0
    deaths: int = 0
    adoptions: int = 0
    failures: int = 0
    deaths_of: dict[RevisionId, int] = field(default_factory=dict)


class Table:
    """The node's workers, artifacts and failures. `changed` is set whenever something happened."""

    def __init__(self, settings: AgentSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.changed = asyncio.Event()
        self.catalog: Catalog | None = None
        self.problems: dict[str, str] = {}  # the node's own troubles, by what they are about
        self.workers: dict[str, Worker] = {}
        self.counts = Counts()
        self.gateway: GatewayStatus | None = None
        self.gateway_at = 0.0  # when it said so at the earliest
        self._catalog_since = 0.0
        self._artifacts: dict[str, float] = {}
        self._pulls: dict[str, tuple[int, int]] = {}
        self._failures: dict[RevisionId, Failure] = {}
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
            if one in wanted or failure.at >= old
        }
        self._pull_failures = {
            one: failure
            for one, failure in self._pull_failures.items()
            if one in digests or failure.at >= old
        }

    def has(self, digest: str) -> None:
        """This artifact is on the disk, verified."""
        self._artifacts[digest] = self._clock.monotonic()
        self.changed.set()

    def pulling(self, digest: str, here: int, total: int) -> None:
        """This much of an artifact is here."""
        self._pulls[digest] = (here, total)
        self.changed.set()

    def pulled(self, digest: str) -> None:
        """An artifact has arrived."""
        self._pulls.pop(digest, None)
        self._pull_failures.pop(digest, None)
        self.counts.pulls["done"] += 1
        self.has(digest)

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
        self.changed.set()

    # The workers.
    def add(self, record: Record, state: State) -> Worker:
        """A worker runs, started or adopted."""
        spec = record.spec
        before = self._failures.get(spec.revision)
        replica = Replica(
            worker=spec.worker,
            revision=spec.revision,
            digest=spec.digest,
            state=state,
            reason=f"again, after: {before.reason}" if before and state is State.STARTING else "",
            socket=str(spec.socket),
            pid=record.process.pid if record.process else 0,
            since=self._clock.now(),
        )
        now = self._clock.monotonic()
        worker = Worker(record, replica, now, now)
        self.workers[spec.worker] = worker
        self.changed.set()
        return worker

    def became(self, worker: Worker, state: State, reason: str = "") -> None:
        """A worker is in another state."""
        worker.replica = replace(
            worker.replica, state=state, reason=reason, since=self._clock.now()
        )
        worker.since = self._clock.monotonic()
        self.changed.set()

    def proved(self, worker: Worker) -> None:
        """A worker has answered its golden examples: it is ready, and whatever stood in the way is over."""
        failure = self._failures.get(worker.replica.revision)
        if failure is not None and failure.hard:
            self._failures.pop(worker.replica.revision)
        self.became(worker, State.READY)

    def failed(self, worker: Worker, reason: str) -> float:
        """A worker cannot be used; returns in how many seconds its revision is tried again."""
        self.counts.failures += 1
        self.became(worker, State.FAILED, reason)
        return self._fail(worker.replica.revision, reason, hard=True)

    def start_failed(self, revision: Revision, reason: str) -> float:
        """A worker could not even be started."""
        self.counts.failures += 1
        return self._fail(revision.id, reason, hard=True)

    def ended(self, worker: Worker, how: Exit, reason: str) -> None:
        """A worker's process is gone."""
        worker.exit = how
        before = worker.replica
        if before.state is State.READY:
            self.counts.deaths += 1
            deaths_of = self.counts.deaths_of
            deaths_of[before.revision] = deaths_of.get(before.revision, 0) + 1
            if self._clock.monotonic() - worker.since >= self._settings.settled_seconds:
                self._failures.pop(before.revision, None)
            self.became(worker, State.FAILED, reason)
            self._fail(before.revision, reason, hard=False)
        elif before.state in (State.STARTING, State.PROVING):
            self.failed(worker, reason)
        self.changed.set()

    def forget(self, worker: str) -> None:
        """A worker has left nothing behind."""
        self.workers.pop(worker, None)
        self.changed.set()

    def _fail(self, revision: RevisionId, reason: str, *, hard: bool) -> float:
        before = self._failures.get(revision, NO_FAILURE)
        failure = before.again(reason, self._clock.monotonic(), hard=hard)
        self._failures[revision] = failure
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
            ended=frozenset(name for name, worker in workers if worker.exit is not None),
            failures=dict(self._failures),
            pull_failures=dict(self._pull_failures),
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

    def status(self, pid: int) -> NodeStatus:
        """What the node's status says."""
        catalog = self.catalog or Catalog()
        needed = wanted(self.snapshot(catalog), self._settings)
        replicas = [worker.replica for worker in self.workers.values()]
        have = {replica.revision for replica in replicas if replica.state is not State.DRAINING}
        replicas += [
            self._not_running(revision) for revision in needed.values() if revision.id not in have
        ]
        return NodeStatus(
            node=self._settings.node,
            written_at=self._clock.now(),
            pid=pid,
            generation=catalog.generation,
            replicas=tuple(replicas),
            problem="; ".join(self.problems.values()),
        )

    def states(self) -> Mapping[State, int]:
        """How many workers are in each state."""
        found = dict.fromkeys(State, 0)
        for worker in self.workers.values():
            found[worker.replica.state] += 1
        return found

    def _not_running(self, revision: Revision) -> Replica:
        """A wanted revision without a worker: why."""
        digest = revision.digest
        state, reason = State.STARTING, "waits for its turn"
        failure = self._failures.get(revision.id)
        if digest not in self._artifacts:
            failure = self._pull_failures.get(digest)
            state, reason = State.PULLING, "waits for its turn"
        if digest in self._pulls:
            here, total = self._pulls[digest]
            reason = f"{mib(here)} of {mib(total)} MiB" if total else "asks the store"
        elif failure is not None and failure.reason:
            state, reason = State.FAILED, failure.reason
        return Replica("", revision.id, digest, state, reason)
