"""What to do next, decided over a snapshot: pure, stateless and idempotent.

The same snapshot always gives the same steps; a step that was lost (the agent died, the process did) is
simply planned again. Nothing here waits, reads or writes.

A worker's way: Start -> (starting) -> Prove -> (ready) -> Drain -> (draining) -> Stop -> Kill -> Forget.
An artifact's: Pull -> CleanUp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fairlead.agent.settings import AgentSettings
from fairlead.domain.catalog import Catalog, Line, Revision
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.domain.status import GatewayStatus, Replica, State

# A worker that dies is replaced at once; only one that keeps dying, or never got ready, has to wait.
_FREE_FAILURES = 3
_LONGEST_PAUSE_SECONDS = 30.0

_COMING = (State.STARTING, State.PROVING)
_WORKING = (*_COMING, State.READY)


@dataclass(frozen=True, slots=True)
class Pull:
    """Bring an artifact to this node."""

    artifact: ArtifactRef
    digest: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start one more worker of a revision."""

    revision: Revision


@dataclass(frozen=True, slots=True)
class Prove:
    """Let a loaded worker answer its golden examples."""

    worker: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Say that a worker is not to be routed to any more."""

    worker: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a worker to finish what it has and end."""

    worker: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker that did not."""

    worker: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove what a worker that has ended left behind."""

    worker: str


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Remove an artifact that nobody uses from the disk."""

    digest: str


Step = Pull | Start | Prove | Drain | Stop | Kill | Forget | CleanUp


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong last, when, and how often in a row."""

    reason: str
    at: float
    count: int = 1
    hard: bool = False  # it never got ready

    def again(self, reason: str, at: float, *, hard: bool) -> Failure:
        """The next failure in a row. A hard one uses up the free retries."""
        return Failure(reason, at, max(self.count, _FREE_FAILURES if hard else 0) + 1, hard)

    @property
    def retry_at(self) -> float:
        """When to try again: at once for the first deaths, then after 1, 2, 4 … 30 s."""
        steps = self.count - _FREE_FAILURES - 1
        return self.at + (min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(steps, 10)) if steps >= 0 else 0.0)


NO_FAILURE = Failure("", 0.0, 0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a decision depends on. Times are steady seconds (`Clock.monotonic`), the replicas' `since` too.

    `gateway` is None if nobody routes here; `gateway_at` is when its status was written at the earliest.
    `artifacts` holds the verified artifacts on the disk by digest, and when each was last used. `proving`
    are workers with a proof under way; `asked` workers that were asked to end, and when; `ended` those
    whose process is gone.
    """

    now: float
    catalog: Catalog
    catalog_since: float = 0.0
    gateway: GatewayStatus | None = None
    gateway_at: float = 0.0
    replicas: tuple[Replica, ...] = ()
    artifacts: Mapping[str, float] = field(default_factory=dict)
    pulling: frozenset[str] = frozenset()
    proving: frozenset[str] = frozenset()
    asked: Mapping[str, float] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()
    failures: Mapping[RevisionId, Failure] = field(default_factory=dict)
    pull_failures: Mapping[str, Failure] = field(default_factory=dict)


def next_steps(seen: Snapshot, settings: AgentSettings) -> list[Step]:
    """Everything that can be done now, what frees something first."""
    needed = wanted(seen, settings)
    return [
        *(Forget(replica.worker) for replica in seen.replicas if replica.worker in seen.ended),
        *_endings(seen, settings),
        *_retirements(seen, needed, settings),
        *_proofs(seen),
        *_starts(seen, needed, settings),
        *_pulls(seen, needed, settings),
        *_clean_ups(seen, needed, settings),
    ]


def wanted(seen: Snapshot, settings: AgentSettings) -> dict[RevisionId, Revision]:
    """Every revision that should run: the live ones, and those they have not replaced yet.

    A gateway moves a line's traffic only when its new revisions are ready; until it says that it has, what
    it routes is needed, however long ago it said so. Without a gateway to ask, the old ones stay until all live ones are ready.
    """
    routed = seen.gateway
    needed = dict(seen.catalog.live())
    for service in seen.catalog.services.values():
        for line in service.lines.values():
            if routed is not None:
                tags: Iterable[str] = [share.tag for share in routed.effective.get(line.id, ())]
            elif _replaced(seen, line, settings):
                tags = ()
            else:
                tags = [
                    replica.revision.revision for replica in seen.replicas if _of(replica, line)
                ]
            needed.update(
                {
                    line.revisions[tag].id: line.revisions[tag]
                    for tag in tags
                    if tag in line.revisions
                }
            )
    return needed


def replicas_of(revision: Revision, settings: AgentSettings) -> int:
    """How many workers a revision gets. Scale to zero is not there yet, so each live one has one."""
    most = max((endpoint.min_scale for endpoint in revision.endpoints), default=1)
    return min(settings.max_replicas, max(1, most))


def _of(replica: Replica, line: Line) -> bool:
    return replica.revision.line_id == line.id and replica.state is State.READY


def _replaced(seen: Snapshot, line: Line, settings: AgentSettings) -> bool:
    """Have all live revisions of the line been ready for a moment?"""
    since = seen.catalog_since
    for revision in line.live():
        ready = [
            replica.since for replica in _working(seen, revision.id) if replica.state is State.READY
        ]
        if not ready:
            return False
        since = max(since, min(ready))
    return seen.now - since >= settings.retire_pause_seconds


def _working(seen: Snapshot, revision: RevisionId) -> list[Replica]:
    return [
        replica
        for replica in seen.replicas
        if replica.revision == revision
        and replica.state in _WORKING
        and replica.worker not in seen.ended
    ]


def _endings(seen: Snapshot, settings: AgentSettings) -> Iterable[Step]:
    """Workers that drain or have failed end; those that were asked long enough ago are ended."""
    for replica in seen.replicas:
        worker = replica.worker
        if worker in seen.ended or replica.state not in (State.DRAINING, State.FAILED):
            continue
        if worker in seen.asked:
            patience = settings.stop_grace_seconds
            patience += settings.drain_seconds if replica.state is State.DRAINING else 0.0
            if seen.now - seen.asked[worker] >= patience:
                yield Kill(worker)
        elif replica.state is State.FAILED or _left_alone(seen, replica, settings):
            yield Stop(worker)


def _left_alone(seen: Snapshot, replica: Replica, settings: AgentSettings) -> bool:
    """Is it certain that a draining worker gets no request any more?"""
    routed = seen.gateway
    if routed is None:
        return seen.now - replica.since >= settings.retire_pause_seconds
    if replica.worker in routed.workers:
        return False
    # Retired because nobody routed to it: then there is nothing to wait for. Drained as a surplus of a
    # revision that is routed: the gateway must have had the time to read that it drains.
    tags = {share.tag for share in routed.effective.get(replica.revision.line_id, ())}
    if replica.revision.revision not in tags:
        return True
    return seen.gateway_at - replica.since >= settings.retire_pause_seconds


def _retirements(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Iterable[Step]:
    routed = seen.gateway
    for replica in seen.replicas:
        if (
            replica.worker in seen.ended
            or replica.state not in _WORKING
            or replica.revision in needed
        ):
            continue
        # A gateway that has not read this catalog yet may be about to route to it by an older one.
        if routed is None or (
            routed.generation >= seen.catalog.generation and replica.worker not in routed.workers
        ):
            yield Drain(replica.worker)
    for revision in needed.values():
        working = _working(seen, revision.id)
        ready = sorted(
            (one for one in working if one.state is State.READY), key=lambda one: one.since
        )
        yield from (Drain(replica.worker) for replica in ready[replicas_of(revision, settings) :])


def _proofs(seen: Snapshot) -> Iterable[Step]:
    return (
        Prove(replica.worker)
        for replica in seen.replicas
        if replica.state is State.PROVING
        and replica.worker not in seen.proving
        and replica.worker not in seen.ended
    )


def _starts(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Iterable[Step]:
    """One worker for every revision before a second for any; no more at once than there are cores."""
    coming = [one for one in seen.replicas if one.state in _COMING and one.worker not in seen.ended]
    room = settings.cores - len(coming)
    missing = []
    for revision in needed.values():
        if revision.digest not in seen.artifacts:
            continue
        if seen.failures.get(revision.id, NO_FAILURE).retry_at > seen.now:
            continue
        have = len(_working(seen, revision.id))
        wish = replicas_of(revision, settings)
        missing += [(nth, revision.id, revision) for nth in range(have, wish)]
    missing.sort(key=lambda one: one[:2])
    return [Start(revision) for _, _, revision in missing[: max(0, room)]]


def _pulls(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Iterable[Step]:
    room = settings.pulls_at_once - len(seen.pulling)
    missing: dict[str, Pull] = {}
    for revision in needed.values():
        digest = revision.digest
        if digest in seen.artifacts or digest in seen.pulling:
            continue
        if seen.pull_failures.get(digest, NO_FAILURE).retry_at <= seen.now:
            missing.setdefault(digest, Pull(revision.artifact, digest))
    return list(missing.values())[: max(0, room)]


def _clean_ups(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Iterable[Step]:
    used = {revision.digest for revision in needed.values()}
    used |= {replica.digest for replica in seen.replicas} | seen.pulling
    return (
        CleanUp(digest)
        for digest, last_used in seen.artifacts.items()
        if digest not in used and seen.now - last_used >= settings.clean_up_seconds
    )
