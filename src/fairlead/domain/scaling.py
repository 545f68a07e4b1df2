"""How many replicas a scale unit should have: Knative's decision (S0-38, S0-39), without a clock.

Whoever asks brings the time: `observe` is told what the replicas counted, `decide` says how many there
should be. Two averages of the requests in progress are held against the target: the *stable* one over the
whole window, and the *panic* one over its last tenth. When the panic one asks for twice what is ready, the
unit panics: it only grows until a whole window has passed without such a surge.

The last replica goes when a whole window had no request and the replica was there for as long. Knative lets it
go at most 30 s later, seen or not that requests now lead to the activator; here whoever acts waits until it
is seen, because a request may be lost otherwise.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from fairlead.domain.release import EndpointSpec

TICK_SECONDS = 2.0  # how often to decide (S0-38)
UNLIMITED_TARGET = 100  # what Knative takes for a concurrency of 0
_DIGITS = 6  # beyond them it is the arithmetic's own noise


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the decision; the defaults are Knative's (S0-38). A window is 6 s to 1 h (S0-37)."""

    utilization: float = 0.7  # how full a replica's slots should be
    window_seconds: float = 60.0
    panic_window: float = 0.1  # of the window
    panic_threshold: float = 2.0  # wanted by ready replicas
    up_rate: float = 1000.0  # at most so many times what is ready
    down_rate: float = 2.0  # at least what is ready, divided by this

    @property
    def panic_seconds(self) -> float:
        """How long the panic window is."""
        return self.window_seconds * self.panic_window


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a unit's release says of its scale. `most` 0 is no limit."""

    least: int = 1
    most: int = 0
    concurrency: int = 0
    down_delay_seconds: float = 0.0

    @staticmethod
    def of(endpoint: EndpointSpec) -> Bounds:
        """The bounds an endpoint's part of the release file sets."""
        return Bounds(
            endpoint.min_scale,
            endpoint.max_scale,
            endpoint.concurrency,
            float(endpoint.scale_down_delay_seconds),
        )

    def target(self, rules: Rules) -> float:
        """How many requests one replica should have in progress on average."""
        return (self.concurrency or UNLIMITED_TARGET) * rules.utilization

    def clamp(self, replicas: int) -> int:
        """So many replicas, as far as the release allows it."""
        return max(self.least, min(replicas, self.most) if self.most else replicas)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one replica has counted since it started.

    `concurrency_seconds` is the integral over time of its requests in slots and in the queue.
    """

    concurrency_seconds: float
    requests: int


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be, and what it was decided by (averages of requests in progress)."""

    replicas: int
    stable: float = 0.0
    panic: float = 0.0
    panicking: bool = False


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The time between two looks, and what happened in it."""

    start: float
    end: float
    concurrency_seconds: float
    requests: int


@dataclass(slots=True)
class Scaler:
    """Decides for one unit. Times are seconds of any steady clock, never going back."""

    bounds: Bounds
    rules: Rules = field(default_factory=Rules)
    _last: float | None = None
    _counted: dict[str, Counted] = field(default_factory=dict)
    _stretches: deque[_Stretch] = field(default_factory=deque)
    _since: float | None = None  # a replica has been ready since then
    _panic_at: float | None = None  # the last surge
    _panic_peak: int = 0
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def observe(self, now: float, counted: Mapping[str, Counted], waiting: float = 0.0) -> None:
        """What each replica (by its worker's name) has counted until now; `waiting` are held in front of them all.

        A replica seen for the first time is only remembered: nobody knows when it counted what it has. One that
        could not be asked is left out, and what it counted meanwhile comes with its next answer.
        """
        busy, requests = 0.0, 0
        for worker, count in counted.items():
            before = self._counted.get(worker, count)
            busy += max(0.0, count.concurrency_seconds - before.concurrency_seconds)
            requests += max(0, count.requests - before.requests)
        self._counted.update(counted)
        if self._last is not None and now > self._last:
            area = busy + waiting * (now - self._last)
            self._stretches.append(_Stretch(self._last, now, area, requests))
        self._last = now
        while self._stretches and self._stretches[0].end <= now - self.rules.window_seconds:
            self._stretches.popleft()

    def forget(self, workers: set[str]) -> None:
        """These replicas are gone."""
        for worker in workers:
            self._counted.pop(worker, None)

    def decide(self, now: float, ready: int) -> Decision:
        """How many replicas there should be, `ready` of them being ready now."""
        self._live(now, ready)
        if not self._stretches:  # nothing is known yet: as it is
            return Decision(self.bounds.clamp(ready))
        stable = self._average(now, self.rules.window_seconds)
        panic = self._average(now, self.rules.panic_seconds)
        at_least_one = max(1, ready)
        wanted = self._within(at_least_one, stable)
        surge = self._within(at_least_one, panic)
        self._panic(now, surge=self._pods(panic) / at_least_one >= self.rules.panic_threshold)
        if self._panic_at is not None:
            self._panic_peak = max(self._panic_peak, wanted, surge)
            wanted = self._panic_peak
        elif wanted == 0 and ready and not self._may_sleep(now):
            wanted = 1
        wanted = self._delayed(now, wanted)
        return Decision(self.bounds.clamp(wanted), stable, panic, self._panic_at is not None)

    def _live(self, now: float, ready: int) -> None:
        """Notes since when something is ready. Whoever finds several replicas keeps them for a window first."""
        if not ready:
            self._since = None
        elif self._since is None:
            self._since = now
            if ready > 1 and not self._stretches:
                self._panic_at, self._panic_peak = now, ready

    def _average(self, now: float, window: float) -> float:
        """Requests in progress on average in the window, as far as it was seen."""
        start = now - window
        area, seen = 0.0, 0.0
        for stretch in reversed(self._stretches):
            if stretch.end <= start:
                break
            length = stretch.end - max(stretch.start, start)
            area += stretch.concurrency_seconds * (length / (stretch.end - stretch.start))
            seen += length
        return area / seen if seen else 0.0

    def _pods(self, average: float) -> int:
        """How many replicas an average asks for."""
        return math.ceil(round(average / self.bounds.target(self.rules), _DIGITS))

    def _within(self, ready: int, average: float) -> int:
        """The same, no faster up or down than the rates allow."""
        least = math.floor(ready / self.rules.down_rate)
        most = math.ceil(ready * self.rules.up_rate)
        return min(max(self._pods(average), least), most)

    def _panic(self, now: float, *, surge: bool) -> None:
        if surge:
            self._panic_at = now
        elif self._panic_at is not None and now - self._panic_at > self.rules.window_seconds:
            self._panic_at, self._panic_peak = None, 0

    def _may_sleep(self, now: float) -> bool:
        """May the last replica go? Only when it has been ready for a window, and nobody asked in it."""
        if self._since is None or now - self._since < self.rules.window_seconds:
            return False
        return not any(stretch.requests for stretch in self._stretches)

    def _delayed(self, now: float, wanted: int) -> int:
        """The most that was wanted in the delay (S0-39), so a short calm takes nothing away."""
        while self._wanted and self._wanted[0][0] <= now - self.bounds.down_delay_seconds:
            self._wanted.popleft()
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()  # it can never be the most again
        self._wanted.append((now, wanted))
        return self._wanted[0][1]
