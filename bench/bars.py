"""What must be reached, and whether it is. Pure: figures in, verdicts out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

from bench.figures import Results

State = Literal["reached", "MISSED", "not measured", "INVALID"]

LOADERS_LIMIT = 0.95  # cores; every load generator here has one thread
_LEAST_TURNS = 4  # of which quartiles can be told


@dataclass(frozen=True)
class Verdict:
    """One bar, in a sentence."""

    suite: str
    state: State
    text: str
    ours: str = ""  # what to look into if it is missed
    case: str = ""
    load: str = ""
    connections: int = 0

    def __str__(self) -> str:
        return f"{self.state}: {self.text}"


@dataclass(frozen=True)
class Compared:
    """Ours against theirs in the same group, at one number of connections.

    A rate must be at least `times` theirs, a latency at most. Of several of theirs the best counts. The
    figure is the median of what the turns say, each for itself: a turn is a matter of seconds, in
    which the machine is the same for both.
    """

    suite: str
    case: str
    load: str
    connections: int
    ours: str
    times: float
    theirs: tuple[str, ...]
    what: Literal["requests_per_second", "p99_ms"] = "requests_per_second"

    def judge(self, results: Results) -> Verdict:
        ratios = self._ratios(results)
        name = " / ".join(self.theirs)
        where = f"{self.case}, {self.load}, {self.connections} connections"
        fast = self.what == "requests_per_second"
        bar = f"{'>=' if fast else '<='} {self.times:g} x"
        kind = "requests/s" if fast else "p99"
        if not ratios:
            missing = self.theirs if self._middle(results, self.ours) else (self.ours,)
            whose = (*missing, self.ours)
            reason = results.reason(whose, self.case, self.load) or "it was not asked for"
            why = f"{' / '.join(missing)}: {reason.splitlines()[0]}"
            text = f"{kind} of {self.ours} {bar} {name} ({where}): {why}"
            return Verdict(self.suite, "not measured", text)
        ratio = median(ratios)
        reached = ratio >= self.times if fast else ratio <= self.times
        text = f"{kind} of {self.ours} is {ratio:.2f} x {name} ({where}; bar: {bar})"
        text += _spread(ratios) + self._limited(results)
        state: State = "reached" if reached else "MISSED"
        if self._bad(results):
            state, text = "INVALID", f"{text}; {self._bad(results)} answers were no right ones"
        return Verdict(self.suite, state, text, self.ours, self.case, self.load, self.connections)

    def _ratios(self, results: Results) -> list[float]:
        """Against the best of theirs, in each turn."""
        found = {name: self._middle(results, name) for name in self.theirs}
        measured = {name: value for name, value in found.items() if value}
        if not measured:
            return []
        choose = max if self.what == "requests_per_second" else min
        best = choose(measured, key=lambda name: measured[name])
        return results.ratios(self.case, self.load, (self.ours, best), self.connections, self.what)

    def _middle(self, results: Results, name: str) -> float:
        try:
            return results.middle(self.case, self.load, name, self.connections, self.what)
        except KeyError:
            return 0.0

    def _bad(self, results: Results) -> int:
        """Wrong answers of ours. A peer that answers wrongly loses these requests from its rate."""
        measured = results.of(self.case, self.load, self.ours, self.connections)
        return sum(one.bad for one in measured)

    def _limited(self, results: Results) -> str:
        """Whether the load generator was what was measured."""
        args = (self.case, self.load, self.ours, self.connections, "load_cores")
        used = results.middle(*args)
        if used < LOADERS_LIMIT:
            return ""
        return f"; the load generator was the limit ({used:.2f} cores of one thread)"


@dataclass(frozen=True)
class Capped:
    """One figure of ours under one load, that must not be above a limit."""

    suite: str
    case: str
    load: str
    connections: int
    ours: str
    what: Literal["cpu_us", "peak_bodies"]
    words: str
    limit: float
    unit: str = ""

    def judge(self, results: Results) -> Verdict:
        bar = f"<= {self.limit:g}{_spaced(self.unit)}"
        where = f"{self.case}, {self.load}, {self.connections} connections"
        try:
            args = (self.case, self.load, self.ours, self.connections, self.what)
            value = results.middle(*args)
        except KeyError:
            reason = results.reason((self.ours,), self.case, self.load) or "it was not asked for"
            text = f"{self.words} of {self.ours} {bar} ({where}): {reason.splitlines()[0]}"
            return Verdict(self.suite, "not measured", text)
        text = (
            f"{self.words} of {self.ours} is {value:.3g}{_spaced(self.unit)} ({where}; bar: {bar})"
        )
        state: State = "reached" if value <= self.limit else "MISSED"
        return Verdict(self.suite, state, text, self.ours, self.case, self.load, self.connections)


@dataclass(frozen=True)
class Bounded:
    """A fact that must not be above a limit."""

    suite: str
    subject: str
    what: str
    limit: float
    unit: str = ""

    def judge(self, results: Results) -> Verdict:
        bar = f"<= {self.limit:g}{_spaced(self.unit)}"
        try:
            value = results.fact(self.suite, self.subject, self.what)
        except KeyError:
            reason = results.reason((self.subject,)) or "it was not asked for"
            text = f"{self.subject}: {self.what} {bar}: {reason.splitlines()[0]}"
            return Verdict(self.suite, "not measured", text)
        reached = value <= self.limit
        text = f"{self.subject}: {self.what} {value:.3g}{_spaced(self.unit)} (bar: {bar})"
        return Verdict(self.suite, "reached" if reached else "MISSED", text, self.subject)


Bar = Compared | Capped | Bounded


def verdicts(results: Results, bars: Sequence[Bar]) -> list[Verdict]:
    """Every bar, in order."""
    return [bar.judge(results) for bar in bars]


def _spread(ratios: Sequence[float]) -> str:
    """How far the turns lie apart, where there are enough to say it."""
    if len(ratios) < _LEAST_TURNS:
        return ""
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return f"; {low:.2f} to {high:.2f} in the middle half of {len(ratios)} turns"


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""
