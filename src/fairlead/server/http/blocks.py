"""Large blocks of memory that are used again: bodies are read into them.

The system clears each page of fresh memory before it gives it away. For a body of 16 MiB that takes longer than
reading it. A block comes back by itself when nobody refers to it any more, not when its request is answered: a
model may have kept its input, and must never see it change.
"""

from __future__ import annotations

import asyncio
import mmap
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_IDLE_SECONDS = 2.0  # how long it waits, at least; twice that at most
_ALIGNMENT = 64  # bytes: a line of the cache, and the widest registers
_STEPS = 4  # bits of a size that count: a block is at most an eighth larger than what it is for
_SMALLEST_STEP = 64 * 1024

_Loan = weakref.ref[npt.NDArray[np.uint8]]


class Blocks:
    """Belongs to one event loop. `most_idle_bytes` may wait for their next use, all blocks together."""

    def __init__(self, most_idle_bytes: int, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._most_idle_bytes = most_idle_bytes
        self._idle_seconds = idle_seconds
        self._idle: dict[int, list[mmap.mmap]] = {}  # by size, the last used last
        self._loans: dict[int, _Loan] = {}
        self._rest: dict[int, int] = {}  # by size, how many blocks nobody has wanted for a while
        self._timer: asyncio.TimerHandle | None = None
        self.idle_bytes = 0

    @property
    def lent(self) -> int:
        """How many are in use."""
        return len(self._loans)

    def lend(self, size: int, aligned_at: int = 0) -> memoryview:
        """Memory of `size` bytes, whatever is in them; the byte `aligned_at` lies where an engine likes it."""
        loop = asyncio.get_running_loop()
        lead = -aligned_at % _ALIGNMENT
        whole = _rounded(size + _ALIGNMENT)
        idle = self._idle.get(whole)
        if idle:
            block = idle.pop()
            self.idle_bytes -= whole
            self._rest[whole] = min(self._rest[whole], len(idle))
        else:
            block = mmap.mmap(-1, whole)
        # An array of its own for each use, and a view of it: everything made of that keeps the array.
        part = np.frombuffer(block, np.uint8, size, lead)
        loan = weakref.ref(part, self._returning(block, loop))
        self._loans[id(loan)] = loan
        return part.data

    def _returning(
        self, block: mmap.mmap, loop: asyncio.AbstractEventLoop
    ) -> Callable[[_Loan], None]:
        def gone(loan: _Loan) -> None:
            # In whichever thread the last reference went.
            del self._loans[id(loan)]
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._back, block, loop)

        return gone

    def _back(self, block: mmap.mmap, loop: asyncio.AbstractEventLoop) -> None:
        size = len(block)
        if self.idle_bytes + size > self._most_idle_bytes:
            return  # the system has it again
        self._idle.setdefault(size, []).append(block)
        self._rest.setdefault(size, 0)
        self.idle_bytes += size
        if self._timer is None:
            self._timer = loop.call_later(self._idle_seconds, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give back what was idle all the time since the last look."""
        for size, rest in list(self._rest.items()):
            idle = self._idle[size]
            del idle[:rest]
            self.idle_bytes -= rest * size
            self._rest[size] = len(idle)
            if not idle:
                del self._idle[size], self._rest[size]
        again = bool(self._idle)
        self._timer = loop.call_later(self._idle_seconds, self._sweep, loop) if again else None


def _rounded(size: int) -> int:
    step = max(_SMALLEST_STEP, 1 << max(0, size.bit_length() - _STEPS))
    return -(-size // step) * step
