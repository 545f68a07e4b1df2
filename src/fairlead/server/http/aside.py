"""Decoding and encoding beside the event loop, where it would take about a millisecond or more.

One thread, one body at a time: two would only wait for each other. It works in pieces (`api/pieces.py`), so that the
loop has its turn between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.pieces import LARGE_BYTES, LARGE_ELEMENTS
from fairlead.kits.timeouts import timeout
from fairlead.server.endpoint import late
from fairlead.server.http.handlers import Answer, Handler, Headers
from fairlead.server.threads import Threads

T = TypeVar("T")


class Aside:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._threads = Threads("codec", 1)

    async def decode(
        self, handler: Handler, body: bytes, headers: Headers, seconds: float
    ) -> tuple[Sequence[InferRequest], Any]:
        """What the handler makes of a body, within `seconds`; raises FairleadError."""
        if len(body) <= LARGE_BYTES or handler.parsed(body, headers) <= LARGE_BYTES:
            return handler.decode(body, headers)
        return await self._do(lambda: handler.decode(body, headers), seconds)

    async def encode(
        self,
        handler: Handler,
        call: Any,  # noqa: ANN401 - the handler's own
        answers: Sequence[InferResponse],
        seconds: float,
    ) -> Answer:
        """What the handler makes of the answers, within `seconds`; raises FairleadError."""
        if not is_large(handler, call, answers):
            return handler.encode(call, answers)
        return await self._do(lambda: handler.encode(call, answers), seconds)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do it in the thread, for who does not await it."""
        return self._threads.submit(work)

    async def _do(self, work: Callable[[], T], seconds: float) -> T:
        try:
            async with timeout(seconds):
                return await asyncio.wrap_future(self._threads.submit(work))
        except TimeoutError:
            raise late(seconds) from None


def is_large(handler: Handler, call: Any, answers: Sequence[InferResponse]) -> bool:  # noqa: ANN401 - the handler's own
    """Would encoding them hold up the event loop?"""
    return handler.elements(call, answers) > LARGE_ELEMENTS
