"""The event loop that our processes run on: uvloop's, which does not tell of an error that is none."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop

_SET_RESULT = "set_result of _asyncio.Future"


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop; for `asyncio.Runner`'s `loop_factory`."""
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    loop.set_exception_handler(_told)
    return loop


def _told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in a callback, as a loop does, but for a wait that nobody waits for any more.

    anyio, and with it httpx on a unix socket, waits by `add_reader(socket, future.set_result, None)`. If the wait is
    cancelled and the socket becomes readable before the reader is taken out, the result comes too late, and nothing is wrong.
    """
    late = isinstance(context.get("exception"), asyncio.InvalidStateError)
    if not (late and _SET_RESULT in context.get("message", "")):
        loop.default_exception_handler(context)
