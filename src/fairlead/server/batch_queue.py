"""What waits for a batched model, and what the next batch is: decided over values, nothing runs here.

The order is by level, and within a level by arrival. A batch begins with the first in that order and takes
those after it that may share its run (same key), until one does not fit. Nobody starves: whoever has seen
`PATIENCE` batches go by since it came is first, whatever its level.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fairlead.domain.batching import Batching

PATIENCE = 16  # batches
DEFAULT_MOST = 64  # rows of a batch, if neither a person nor a measurement says


@dataclass(slots=True, eq=False)
class Waiting:
    """One request in the queue. `until` is when its caller stops waiting, in the clock's seconds."""

    key: Hashable
    rows: int
    level: int
    until: float
    arrived: float
    number: int = 0  # of its arrival
    seen: int = 0  # how many batches had been taken when it came


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True)
class Taken(Generic[W]):
    """`batch` runs now; `expired` came too late; `again` is when to look again if nothing else comes."""

    batch: list[W] = field(default_factory=list)
    expired: list[W] = field(default_factory=list)
    again: float | None = None


class BatchQueue(Generic[W]):
    """Not safe for several threads: its owner locks."""

    def __init__(self, batching: Batching, most: int) -> None:
        self.most = most
        self._sizes = tuple(sorted({*(batching.preferred_batch_sizes or ()), most}, reverse=True))
        self._delay = (batching.max_queue_delay_microseconds or 0) / 1e6
        self._lanes: dict[Hashable, list[OrderedDict[int, W]]] = {}
        self._levels = batching.levels + 1  # one more, for what was delayed
        self._count = 0
        self._arrivals = 0
        self._takes = 0

    def __len__(self) -> int:
        return self._count

    def add(self, one: W) -> None:
        """Queue it at its level (1 is first), behind all who are there."""
        self._arrivals += 1
        one.number, one.seen = self._arrivals, self._takes
        self._put(one)

    def remove(self, one: W) -> bool:
        """Take it out; False if it does not wait here any more."""
        lane = self._lanes.get(one.key)
        if lane is None or lane[one.level - 1].pop(one.number, None) is None:
            return False
        self._count -= 1
        if not any(lane):
            del self._lanes[one.key]
        return True

    def demote(self, one: W) -> None:
        """Let it come after all others, if it still waits."""
        if self.remove(one):
            one.level = self._levels
            self._put(one)

    def take(self, now: float, share: int = 0) -> Taken[W]:
        """The next batch, which leaves the queue; none if nothing waits, or if waiting for more is better.

        `share` is how many requests it may have, if others take batches too.
        """
        taken: Taken[W] = Taken()
        for head in self._heads(now, taken.expired):
            batch, full = self._from(head, now, taken.expired)
            if share and len(batch) > share:
                batch, full = batch[:share], True
            rows = 0
            best = 0  # how many of the batch make the largest size that is run at once
            for place, one in enumerate(batch, 1):
                rows += one.rows
                best = place if rows in self._sizes else best
            ripe = min(one.arrived for one in batch) + self._delay
            if best or full or ripe <= now:
                taken.batch = batch[:best] if best else batch
                taken.again = None
                break
            taken.again = ripe if taken.again is None else min(ripe, taken.again)
        for one in taken.batch:
            self.remove(one)
        self._takes += bool(taken.batch)
        return taken

    def drain(self) -> list[W]:
        """Everything that waits, taken out."""
        every = [one for lane in self._lanes.values() for level in lane for one in level.values()]
        self._lanes.clear()
        self._count = 0
        return every

    def _put(self, one: W) -> None:
        lane = self._lanes.get(one.key)
        if lane is None:
            lane = self._lanes[one.key] = [OrderedDict() for _ in range(self._levels)]
        lane[one.level - 1][one.number] = one
        self._count += 1

    def _rank(self, one: W) -> tuple[int, int]:
        return (0 if self._takes - one.seen >= PATIENCE else one.level, one.number)

    def _heads(self, now: float, expired: list[W]) -> list[W]:
        """Of each lane who comes first, the most urgent of them first; who came too late leaves."""
        heads = []
        for lane in list(self._lanes.values()):
            firsts = []
            for level in lane:
                while level and (first := next(iter(level.values()))).until <= now:
                    self.remove(first)
                    expired.append(first)
                if level:
                    firsts.append(first)
            if firsts:
                heads.append(min(firsts, key=self._rank))
        return sorted(heads, key=self._rank)

    def _from(self, head: W, now: float, expired: list[W]) -> tuple[list[W], bool]:
        """What could run with `head`, in order, and whether no more would fit."""
        batch, rows = [head], head.rows
        for one in self._after(head):
            if one.until <= now:
                self.remove(one)
                expired.append(one)
            elif rows + one.rows > self.most:
                return batch, True
            else:
                batch.append(one)
                rows += one.rows
            if rows >= self.most:
                break
        return batch, rows >= self.most

    def _after(self, head: W) -> Iterator[W]:
        """The others of its lane, by level and arrival; what it gave may be removed meanwhile."""
        for level in self._lanes[head.key]:
            yield from (one for one in list(level.values()) if one is not head)
