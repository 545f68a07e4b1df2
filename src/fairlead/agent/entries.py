"""What the agent's table holds: processes, the replicas in them, and what is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from fairlead.agent.records import Record
from fairlead.api.worker import WorkerSpec
from fairlead.domain.ids import RevisionId
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import Replica, State
from fairlead.kits.processes import Exit

_ANSWERING = (State.READY, State.DRAINING)


@dataclass(slots=True, eq=False)
class Process:
    """One worker process the agent has started or adopted, and the replicas it serves."""

    record: Record
    came_at: float  # when it was started or adopted
    compaction: bool = False  # it was started to take the place of smaller ones
    shared: bool = False  # it was started for several
    workers: list[Worker] = field(default_factory=list)  # all but the forgotten
    exit: Exit | None = None  # how it ended
    counted: int = -1  # what it had counted when it was last asked; -1: never
    names: dict[RevisionId, str] = field(default_factory=dict)  # of all it ever served

    @property
    def name(self) -> str:
        return self.record.name

    def living(self) -> list[Worker]:
        """Those who have not left."""
        return [worker for worker in self.workers if not worker.ended]

    def answering(self) -> list[Worker]:
        """Those who were proved and have not left: they can be asked how they do."""
        return [one for one in self.living() if one.replica.state in _ANSWERING]


@dataclass(slots=True, eq=False)
class Worker:
    """One replica, and the process it lives in."""

    process: Process
    spec: WorkerSpec
    replica: Replica
    since: float  # when it came into its state
    came_at: float  # when it was started or adopted
    proving: bool = False
    asked_at: float | None = None  # when it was asked to end
    gone: bool = False  # it has left a process that goes on

    @property
    def unit(self) -> ScaleUnit:
        """What it is a replica of."""
        return self.replica.unit

    @property
    def ended(self) -> bool:
        return self.gone or self.process.exit is not None


@dataclass(frozen=True, slots=True)
class Unrest:
    """How often a revision has died lately, and when last."""

    deaths: int
    at: float


@dataclass(slots=True)
class Counts:
    """What the agent's own metrics count."""

    pulls: dict[str, int] = field(default_factory=lambda: {"done": 0, "failed": 0})
    starts: int = 0
    deaths: int = 0
    adoptions: int = 0
    failures: int = 0
    wakes: int = 0  # cold units that somebody asked for
    deaths_of: dict[RevisionId, int] = field(default_factory=dict)
