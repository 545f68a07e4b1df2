"""The streams of the front desk: health's Watch, and reflection.

Through the bridge a stream is a body without an end and an answer that begins at once, both of gRPC's frames.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache

from starlette.types import Receive, Send

from fairlead.api import grpc_status
from fairlead.domain.errors import FairleadError, Kind
from fairlead.gateway.called import WATCHES, Visit
from fairlead.kits import compression
from fairlead.kits.clock import Clock
from fairlead.kits.frames import Frames, TooLong, framed

_MOST_BYTES = 1 << 16  # of a question
_WATCH_SECONDS = 0.5
_HEAD = [
    (b"content-type", grpc_status.FRAMES.encode()),
    (grpc_status.STATUS.encode(), b"0"),
]
Standing = Callable[[Visit], Awaitable[Kind | None]]


class _Left(Exception):
    """The caller has gone."""


class DeskStreams:
    """Answers the methods that stream. `standing` tells what would refuse a visit; None if it would be answered."""

    def __init__(self, standing: Standing, clock: Clock) -> None:
        self._standing = standing
        self._clock = clock

    async def run(self, visit: Visit, receive: Receive, send: Send) -> None:
        """Answer until the caller ends, or says what cannot be understood."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        with contextlib.suppress(_Left, TooLong, ValueError):
            if visit.headers[grpc_status.MARKER] == WATCHES:
                await self._watch(visit, receive, send)
            else:
                await _reflect(visit, receive, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, visit: Visit, receive: Receive, send: Send) -> None:
        body = await anext(_messages(visit, receive), b"")
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell(visit, body, send))
            leaving = group.create_task(_leaves(receive))
            leaving.add_done_callback(lambda _: telling.cancel())

    async def _tell(self, visit: Visit, body: bytes, send: Send) -> None:
        """The status now, and whenever it changes."""
        said = b""
        while True:
            now = await self._health(visit, body)
            if now != said:
                await _say(send, now)
                said = now
            await self._clock.sleep(_WATCH_SECONDS)

    async def _health(self, visit: Visit, body: bytes) -> bytes:
        from fairlead.dialects import oip_grpc_calls as calls  # noqa: PLC0415 - protobuf only where gRPC is spoken

        try:
            verb, path = calls.asks(calls.CHECK, body)
        except FairleadError:
            return calls.SERVICE_UNKNOWN
        refused = await self._standing(Visit(verb, path, visit.headers))
        if refused is None:
            return calls.SERVING
        return calls.NOT_SERVING if refused is Kind.UNAVAILABLE else calls.SERVICE_UNKNOWN


async def _reflect(visit: Visit, receive: Receive, send: Send) -> None:
    answer = await asyncio.to_thread(_reflection)
    async for body in _messages(visit, receive):
        await _say(send, answer(body))


@cache
def _reflection() -> Callable[[bytes], bytes]:
    # The library costs twenty megabytes that a gateway nobody asks about its services need not have.
    from fairlead.api.oip_messages import files  # noqa: PLC0415 - see above
    from fairlead.kits.reflection import reflecting  # noqa: PLC0415 - see above

    return reflecting([grpc_status.SERVICE, grpc_status.HEALTH], files())


async def _messages(visit: Visit, receive: Receive) -> AsyncIterator[bytes]:
    """The caller's messages until its last; raises _Left, TooLong, ValueError."""
    encoding = visit.headers.get("grpc-encoding", "").encode()
    frames = Frames(_MOST_BYTES)
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise _Left
        frames.feed(event.get("body", b""))
        while (one := frames.take()) is not None:
            plain = not one.compressed
            yield one.content if plain else compression.whole(one.content, encoding, _MOST_BYTES)
        if not event.get("more_body", False):
            return


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _say(send: Send, message: bytes) -> None:
    await send({"type": "http.response.body", "body": framed(message), "more_body": True})
