"""The kill switch: when a worker gets no more requests because too many of them failed, and for how long (S2-37).

Envoy decides so for the workers it asks itself; `Tally` is the same decision for those that are asked by us. Pure:
it is told the time.
"""

from __future__ import annotations

from dataclasses import dataclass

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """When a worker is switched off by its failures, and for how long.

    Once in `look_seconds` those workers are judged that had `requests` or more since the last time:
    one of which `percent` or more failed gets none for `seconds`. So does one that failed at `requests` in a row,
    however long those took.
    """

    percent: int = 25
    requests: int = 20
    seconds: float = 60.0
    look_seconds: float = 1.0


class Tally:
    """One worker's answers, and whether it is switched off. Times are of one steady clock."""

    __slots__ = ("_began", "_failures", "_in_a_row", "_requests", "_switch", "_until")

    def __init__(self, switch: KillSwitch) -> None:
        self._switch = switch
        self._until = _NEVER
        self._begin(_NEVER)
        self._in_a_row = 0

    def count(self, now: float, *, failed: bool) -> None:
        """One more answer. Those of a worker that is off were asked for before, and change nothing."""
        if self.off(now):
            return
        self._requests += 1
        self._failures += failed
        self._in_a_row = self._in_a_row + 1 if failed else 0
        if self._in_a_row >= self._switch.requests:
            self._open(now)

    def off(self, now: float) -> bool:
        """Is it to get nothing now? Who asks late is told what a look in time would have found."""
        end = self._began + self._switch.look_seconds
        if now >= end:
            enough = self._requests >= self._switch.requests
            if enough and self._failures * 100 >= self._switch.percent * self._requests:
                self._open(end)
            self._begin(now)
        return now < self._until

    def _open(self, at: float) -> None:
        self._until = at + self._switch.seconds
        self._in_a_row = 0
        self._begin(at)

    def _begin(self, at: float) -> None:
        """Look at what comes from now on."""
        self._began, self._requests, self._failures = at, 0, 0
