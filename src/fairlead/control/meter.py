"""From readings of counters to what a revision did in one window.

Counted per worker, from the first reading that has it: what a worker counted before, such as its golden
examples, is nobody's traffic, and one that has ended keeps what it was last seen with.
"""

from __future__ import annotations

from fairlead.domain.ids import RevisionId
from fairlead.domain.samples import Growth, Histogram, Reading, Sample, WorkerFigures

_NOBODY: dict[str, WorkerFigures] = {}
_POINTS = 512  # of one worker's memory; thinned out beyond, so that a long window stays small


class Meter:
    """One revision over one window. `deaths` is the revision's count of deaths when the window begins."""

    def __init__(self, revision: RevisionId, reading: Reading, deaths: int) -> None:
        self._revision = revision
        self._deaths = 0
        self._deaths_last = deaths
        self._first: dict[str, WorkerFigures] = {}
        self._last: dict[str, WorkerFigures] = {}
        self._memory: dict[str, list[tuple[int, int]]] = {}  # (requests, bytes) by worker
        self.add(reading)

    def add(self, reading: Reading) -> None:
        """Take in the next reading."""
        deaths = reading.deaths.get(self._revision, 0)
        # An agent that was started again counts from 0.
        self._deaths += deaths - self._deaths_last if deaths >= self._deaths_last else deaths
        self._deaths_last = deaths
        for worker, figures in reading.workers.get(self._revision, _NOBODY).items():
            first = self._first.setdefault(worker, figures)
            self._last[worker] = figures
            if figures.resident is None:
                continue
            points = self._memory.setdefault(worker, [])
            points.append((figures.requests - first.requests, figures.resident))
            if len(points) > _POINTS:
                del points[1:-1:2]

    @property
    def deaths_last(self) -> int:
        """The count of deaths that the next window begins with."""
        return self._deaths_last

    @property
    def sample(self) -> Sample:
        """The window so far."""
        sums = dict.fromkeys(("requests", "failed", "refused", "cancelled"), 0)
        seconds, latency = 0.0, Histogram()
        for worker, last in self._last.items():
            first = self._first[worker]
            for name in sums:
                sums[name] += getattr(last, name) - getattr(first, name)
            seconds += last.seconds - first.seconds
            latency = latency.plus(last.latency.plus(first.latency, -1))
        grown = [_growth(points) for points in self._memory.values() if points]
        growth = max(grown, key=lambda one: one.bytes, default=Growth())
        return Sample(**sums, seconds=seconds, latency=latency, deaths=self._deaths, growth=growth)


def _growth(points: list[tuple[int, int]]) -> Growth:
    requests, end = points[-1]
    middle = next(resident for count, resident in points if 2 * count >= requests)
    return Growth(end - points[0][1], end - middle, requests)
