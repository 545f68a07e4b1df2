"""What a run found out, as plain values; everything in it goes into the JSON of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

BUSY_CORES = 0.2  # more than this going to others, and the figures mean little
OTHERS = "cores that went to others"  # the fact of a suite that is no rounds of load


@dataclass(frozen=True)
class Measurement:
    """One contender asked for one model at one number of connections in one turn of a round."""

    case: str
    load: str
    contender: str
    round: int
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of all its processes, for one request
    bad: int
    others: float  # cores that no server of the round used nor the load generator, but somebody did
    load_cores: float = 0.0  # that the load generator used
    peak_mib: float = (
        0.0  # most memory under this load, beyond what it held after its start; 0: not looked at
    )
    body_mib: float = 0.0  # of one request
    turn: int = 1
    waiting: float = 0.0  # cores that the other servers of the round used, which nobody asked

    @property
    def peak_bodies(self) -> float:
        """The most memory under this load, in bodies that can be in flight at once."""
        in_flight = self.connections * self.body_mib
        return self.peak_mib / in_flight if in_flight else 0.0


@dataclass(frozen=True)
class Start:
    """One start of one contender, alone: how long until it answered, what it held after a load."""

    case: str
    load: str
    contender: str
    round: int
    cold_seconds: float
    pss_mib: float
    rss_mib: float
    processes: int


@dataclass(frozen=True)
class Floor:
    """A model alone: rows a second of `onnxruntime.run` in a loop."""

    case: str
    processes: int
    threads: int
    rows: int
    rows_per_second: float


@dataclass(frozen=True)
class Fact:
    """One figure that is no load of one server: seconds, MiB, a ratio. One for each time it was taken."""

    suite: str
    subject: str
    what: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Absent:
    """What was not measured, and why."""

    what: str  # a contender's name, or a suite's subject
    case: str
    load: str
    reason: str


@dataclass
class Results:
    """Everything one run found out."""

    machine: Mapping[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    absents: list[Absent] = field(default_factory=list)
    suite_seconds: dict[str, float] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)  # a bar's subject -> file

    def groups(self) -> list[tuple[str, str]]:
        """The pairs of case and load that were measured, in their order."""
        found = [(one.case, one.load) for one in self.measurements]
        found += [(one.case, one.load) for one in self.absents if one.load]
        return list(dict.fromkeys(found))

    def contenders(self, case: str, load: str) -> list[str]:
        return list(
            dict.fromkeys(
                one.contender for one in self.measurements if (one.case, one.load) == (case, load)
            )
        )

    def connections(self, case: str, load: str) -> list[int]:
        of_these = [one for one in self.measurements if (one.case, one.load) == (case, load)]
        return sorted({one.connections for one in of_these})

    def of(self, case: str, load: str, contender: str, connections: int) -> list[Measurement]:
        return [
            one
            for one in self.measurements
            if (one.case, one.load, one.contender, one.connections)
            == (case, load, contender, connections)
        ]

    def middle(self, case: str, load: str, contender: str, connections: int, what: str) -> float:
        """The median over all turns; raises KeyError if it was not measured."""
        values = [float(getattr(one, what)) for one in self.of(case, load, contender, connections)]
        if not values:
            raise KeyError(contender)
        return median(values)

    def ratios(
        self, case: str, load: str, pair: tuple[str, str], connections: int, what: str
    ) -> list[float]:
        """What the first of two had, in the second's, in each turn in which both were asked."""
        first, second = (
            {
                (one.round, one.turn): float(getattr(one, what))
                for one in self.of(case, load, name, connections)
            }
            for name in pair
        )
        return [value / second[turn] for turn, value in first.items() if second.get(turn)]

    def fact(self, suite: str, subject: str, what: str) -> float:
        """The median of what was found; raises KeyError if it was not measured."""
        values = [
            one.value
            for one in self.facts
            if (one.suite, one.subject, one.what) == (suite, subject, what)
        ]
        if not values:
            raise KeyError(subject)
        return median(values)

    def floor(self, case: str) -> float:
        """What all cores of this machine can do with a model at most; 0 if it was not measured."""
        return max((one.rows_per_second for one in self.floors if one.case == case), default=0.0)

    def reason(self, what: Sequence[str], case: str = "", load: str = "") -> str:
        """Why the first of these that is absent was not measured; empty if none is."""
        for one in self.absents:
            if one.what in what and (not case or (one.case, one.load) == (case, load)):
                return one.reason
        return ""

    def others(self) -> float:
        """Cores that went to others at the worst moment."""
        told = [one.value for one in self.facts if one.what == OTHERS]
        return max([one.others for one in self.measurements] + told, default=0.0)

    def waiting(self) -> float:
        """Cores that servers used which were not asked, in the worst turn."""
        return max((one.waiting for one in self.measurements), default=0.0)

    def bad(self) -> int:
        return sum(one.bad for one in self.measurements)
