"""Admission: how many requests an endpoint takes at once, and how many may wait (S0-40).

`concurrency` slots; a queue ten times as deep; beyond it a request is refused at once. 0 slots is no limit.
A request that gives up while it waits leaves the queue there and then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from fairlead.api.deadlines import FULL
from fairlead.domain.errors import Kind, Refused

_QUEUE_PER_SLOT = 10


class Admission:
    """The slots of one endpoint. Belongs to one event loop.

    `asked` counts everybody who ever asked for one; `changed` is when somebody last came or went, by `now`.
    """

    def __init__(self, concurrency: int, now: Callable[[], float]) -> None:
        self._slots = concurrency
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._now = now
        self._area = 0.0
        self.asked = 0
        self.changed = now()

    @property
    def slots(self) -> int:
        """How many at once; 0 is no limit."""
        return self._slots

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def concurrency_seconds(self) -> float:
        """The integral over time of how many are in a slot or in the queue: what scaling goes by (S0-39)."""
        return self._area + (self._now() - self.changed) * (self._taken + len(self._waiting))

    def _changes(self) -> None:
        """Somebody comes or goes, right after this."""
        self._area = self.concurrency_seconds()
        self.changed = self._now()

    @property
    def open(self) -> bool:
        """Is a slot free, and nobody waiting for it?"""
        return not self._slots or (self._taken < self._slots and not self._waiting)

    def take(self) -> None:
        """Take a slot, while `open`."""
        self.asked += 1
        self._changes()
        self._taken += 1

    async def enter(self) -> None:
        """Take a slot, waiting for it in turn; raises Refused (OVERLOADED) if the queue is full.

        The caller bounds the wait.
        """
        if self.open:
            self.take()
            return
        self.asked += 1
        self._changes()
        if len(self._waiting) >= self._slots * _QUEUE_PER_SLOT:
            raise Refused(Kind.OVERLOADED, FULL)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # the slot was handed over just before this request gave up
            elif turn in self._waiting:
                self._changes()
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """Give the slot back: to the next in the queue, if anybody waits."""
        self._changes()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1
