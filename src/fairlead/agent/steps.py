"""What can be done about workers and artifacts, and the snapshot that says what should be.

Values only: `plan` and `pools` decide over them, `act` carries the steps out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fairlead.domain.catalog import Catalog, Revision
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.scale_units import WHOLE, ScaleUnit
from fairlead.domain.status import GatewayStatus, Replica, State

# A worker that dies is replaced at once; only one that keeps dying, or never got ready, has to wait.
_FREE_FAILURES = 3
_LONGEST_PAUSE_SECONDS = 30.0

COMING = (State.STARTING, State.PROVING)
WORKING = (*COMING, State.READY)
NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Pull:
    """Bring an artifact to this node."""

    artifact: ArtifactRef
    digest: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start one process with one more replica of each of these revisions.

    `compaction`: they have replicas already, in smaller processes that this one shall replace. `endpoint` is the
    one that a replica of its single revision serves; all of them if it is empty.
    """

    revisions: tuple[Revision, ...]
    compaction: bool = False
    endpoint: str = WHOLE


@dataclass(frozen=True, slots=True)
class Prove:
    """Let a loaded worker answer its golden examples."""

    worker: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Say that a worker is not to be routed to any more."""

    worker: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Say that a worker which was to leave, and was not asked to yet, may be routed to again."""

    worker: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Ask one replica of a process that goes on to finish what it has and leave."""

    worker: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Forget a replica that was asked to leave and did not: the others of its process are in use."""

    worker: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a process to finish what it has and end."""

    process: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a process that did not."""

    process: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove what a worker that has ended left behind."""

    worker: str


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Remove an artifact that nobody uses from the disk."""

    digest: str


Step = Pull | Start | Prove | Drain | Resume | Retire | GiveUp | Stop | Kill | Forget | CleanUp


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
class Demand:
    """How much a scale unit is asked, and what is known of it beside its replicas. Times are steady seconds.

    `desired` is how many replicas its load asks for, None while nobody knows. Somebody waits for it until
    `waited_until`. `proved`: it has been ready on this node and has not failed since. `cold`: it has no
    replica on purpose, or none yet since somebody asked.
    """

    desired: int | None = None
    waited_until: float = NEVER
    used_at: float = NEVER  # when it was last asked, or became ready
    busy: bool = False  # somebody is being answered now
    proved: bool = False
    cold: bool = False


NO_DEMAND = Demand()


@dataclass(frozen=True)  # without slots: what is asked of it several times is kept
class Snapshot:
    """All that a decision depends on. Times are steady seconds (`Clock.monotonic`), the replicas' `since` too.

    `gateway` is None if nobody routes here; `gateway_at` is when its status was written at the earliest.
    `artifacts` holds the verified artifacts on the disk by digest, and when each was last used. `proving`
    are workers with a proof under way; `asked` workers that were asked to end, and when; `ended` those
    that have left or whose process is gone. `homes` are the processes of those that share one, `light` the
    digests that may be shared, `restless` the revisions that may not for now. `led` are the lines that a
    rollout leads; None if nobody has looked. `patience` is how long each worker may take to finish what it has
    in hand. `memory` is what each process has taken, in bytes, `needs` what one replica from an artifact takes.
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
    failures: Mapping[ScaleUnit, Failure] = field(default_factory=dict)
    pull_failures: Mapping[str, Failure] = field(default_factory=dict)
    pulled_at: float = NEVER  # when the last artifact came
    homes: Mapping[str, str] = field(default_factory=dict)
    light: frozenset[str] = frozenset()
    restless: frozenset[RevisionId] = frozenset()
    led: frozenset[LineId] | None = None
    compaction_failed_at: float = NEVER
    demands: Mapping[ScaleUnit, Demand] = field(default_factory=dict)
    patience: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    needs: Mapping[str, int] = field(default_factory=dict)

    def demand(self, unit: ScaleUnit) -> Demand:
        """What is known of how much a unit is asked."""
        return self.demands.get(unit, NO_DEMAND)

    def home(self, worker: str) -> str:
        """The process a replica lives in."""
        return self.homes.get(worker, worker)

    @cached_property
    def working(self) -> Mapping[ScaleUnit, Sequence[Replica]]:
        """The replicas that serve or come up, by what they are replicas of; none of a revision that its name meant before."""
        found: dict[ScaleUnit, list[Replica]] = {}
        for replica in self.replicas:
            if (
                replica.state in WORKING
                and replica.worker not in self.ended
                and not self.is_former(replica)
            ):
                found.setdefault(replica.unit, []).append(replica)
        return found

    @cached_property
    def ready(self) -> frozenset[ScaleUnit]:
        """The units of which a replica is ready, likewise."""
        return frozenset(
            unit
            for unit, replicas in self.working.items()
            if any(one.state is State.READY for one in replicas)
        )

    def is_former(self, replica: Replica) -> bool:
        """Does the catalog name another artifact by now? Its line was deleted and made anew."""
        service = self.catalog.services.get(replica.revision.service)
        line = service.lines.get(replica.revision.line) if service else None
        revision = line.revisions.get(replica.revision.revision) if line else None
        return revision is not None and revision.digest != replica.digest

    def processes(self) -> dict[str, list[Replica]]:
        """The replicas that have not ended, by process."""
        found: dict[str, list[Replica]] = {}
        for replica in self.replicas:
            if replica.worker not in self.ended:
                found.setdefault(self.home(replica.worker), []).append(replica)
        return found
