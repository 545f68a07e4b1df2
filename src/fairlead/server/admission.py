"""Admission: how many requests an endpoint takes at once, and how many may wait (S0-40).

`concurrency` slots; a queue ten times as deep; beyond it a request is refused at once. 0 slots is no limit.
A request that gives up while it waits leaves the queue there and then.
"""

from __future__ import annotations

import asyncio
from collections import deque

from fairlead.domain.errors import Kind, Refused

_QUEUE_PER_SLOT = 10
FULL = "pending request queue full"


class Admission:
    """The slots of one endpoint. Belongs to one event loop."""

    def __init__(self, concurrency: int) -> None:
        self._slots = concurrency
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

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

    @property
    def open(self) -> bool:
        """Is a slot free, and nobody waiting for it?"""
        return not self._slots or (self._taken < self._slots and not self._waiting)

    def take(self) -> None:
        """Take a slot, while `open`."""
        self._taken += 1

    async def enter(self) -> None:
        """Take a slot, waiting for it in turn; raises Refused (OVERLOADED) if the queue is full.

        The caller bounds the wait.
        """
        if self.open:
            self.take()
            return
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
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """Give the slot back: to the next in the queue, if anybody waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1
