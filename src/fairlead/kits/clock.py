"""Time behind a seam: the only module that asks the system what time it is."""

from __future__ import annotations

import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the epoch, a steady count of seconds, and sleeping."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...

    def worked(self) -> float:
        """Seconds this thread has been at work; waiting for a processor is none. Only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let others run for that long."""
        ...

    def pause(self, seconds: float) -> None:
        """Block this thread for that long (command-line waits only)."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    # Asked several times by every request: without a call of ours around it.
    monotonic = staticmethod(time.monotonic)

    def worked(self) -> float:
        return time.thread_time()

    async def sleep(self, seconds: float) -> None:
        import asyncio  # noqa: PLC0415 - a third of what a short command takes, and it never sleeps

        await asyncio.sleep(seconds)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


class FakeClock:
    """A clock that stands still until somebody sleeps on it or moves it."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def worked(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        import asyncio  # noqa: PLC0415 - see above

        self._now += seconds
        await asyncio.sleep(0)

    def pause(self, seconds: float) -> None:
        self._now += seconds

    def advance(self, seconds: float) -> None:
        self._now += seconds


def iso(seconds: float) -> str:
    """Epoch seconds as `2026-01-02T03:04:05.678Z`."""
    moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
