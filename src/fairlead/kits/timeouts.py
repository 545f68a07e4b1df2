"""`timeout`: `asyncio.timeout`, also where it is used while a cancelled task cleans up.

Before Python 3.11.3 (Debian 12 has 3.11.2) it let a cancellation go on there instead of raising TimeoutError, and what
should have happened after the time was skipped: a worker that did not end was not killed.
"""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import Self

__all__ = ["timeout"]


class _Timeout(asyncio.Timeout):  # type: ignore[misc] # final for the type checker; only where it is wrong
    """It says that the time is over if the task had been cancelled before, and was not since."""

    _before = 0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._before = _cancellations()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await super().__aexit__(exc_type, exc_val, exc_tb)
        ours = self.expired() and _cancellations() <= self._before
        if ours and exc_type is asyncio.CancelledError:
            raise TimeoutError from exc_val


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _mended(delay: float | None) -> asyncio.Timeout:
    loop = asyncio.get_running_loop()
    return _Timeout(None if delay is None else loop.time() + delay)


timeout = asyncio.timeout if sys.version_info >= (3, 11, 3) else _mended
