"""A held request on its way: from Envoy's connection to a worker's, and the answer back.

Both ways bytes pass as they come, one side waits when the other one does, and an end is an end on both: a client
that leaves ends the worker's connection, a worker that breaks off breaks Envoy's, and the framing says to the
client that it is no clean end. One connection carries one request. Only a small request that a worker has not
taken, or refused because its queue was full, may be sent to another.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, cast

from starlette.responses import Response

from fairlead.domain.errors import Kind
from fairlead.domain.ids import EndpointId
from fairlead.domain.routing import Refusal
from fairlead.domain.status import Replica
from fairlead.gateway.called import Visit, answered
from fairlead.gateway.front import how_it_went, refusal_response
from fairlead.gateway.heads import (
    END,
    LAST_CHUNK,
    RequestHead,
    is_chunked,
    is_failure,
    is_full,
    read_head,
    told,
)
from fairlead.kits.clock import Clock

_MOST_HEAD_BYTES = 128 * 1024
_KEPT_BYTES = 256 * 1024  # of a body, while its request waits; the rest waits in the socket
_LINGER_SECONDS = 5.0  # for Envoy to close a connection after an answer of our own
_WAITED_OUT = 0.95  # of the gateway's time: who leaves then did not leave, the time was over
_NO_ANSWER = "the worker ended before it answered: try again"


class Desk(Protocol):
    """What a connection asks of the activator."""

    api_version: str
    clock: Clock
    callers: set[Caller]

    def arrived(self, caller: Caller) -> None: ...

    def left(self, caller: Caller) -> None: ...

    def again(self, caller: Caller, worker: str) -> None: ...

    def judged(self, caller: Caller, worker: str, *, failed: bool) -> None: ...

    def done(self, caller: Caller, worker: str) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None: ...


class _Side(asyncio.Protocol, abc.ABC):
    """One of a request's two connections; while it takes no more, nothing is read from the other."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._transport: asyncio.Transport | None = None

    @property
    @abc.abstractmethod
    def _other(self) -> _Side | None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.pause()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.resume()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Break it off: who is at its other end is told by that."""
        if self._transport is not None:
            self._transport.abort()


class Caller(_Side):
    """One request, on a connection of its own from Envoy."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._kept = bytearray()  # what came before a worker was there
        self._whole = True  # is everything kept that came?
        self._passage: Passage | None = None
        self._answered = False
        self.head: RequestHead | None = None
        self.arrived_at = 0.0
        self.until = float("inf")

    @property
    def _other(self) -> Passage | None:
        return self._passage

    @property
    def endpoint(self) -> EndpointId | None:
        return self.head.endpoint if self.head else None

    @property
    def gone(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    # From Envoy.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._desk.callers.add(self)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        if self._passage is not None and self._passage.take(data):
            self._keep(data)
            return
        self._kept += data
        if self.head is None:
            self._read_head()
        if len(self._kept) > _KEPT_BYTES:
            self.pause()

    def _read_head(self) -> None:
        end = self._kept.find(END)
        if end < 0:
            if len(self._kept) > _MOST_HEAD_BYTES:
                self.abort()
            return
        self.head = read_head(bytes(self._kept[:end]))
        del self._kept[: end + len(END)]
        self.arrived_at = self._desk.clock.monotonic()
        self.until = self.arrived_at + self.head.patience_seconds
        self._desk.arrived(self)

    def _keep(self, data: bytes) -> None:
        """Small requests are kept whole until a worker answers, in case it has not taken them."""
        if self._whole and len(self._kept) + len(data) <= _KEPT_BYTES:
            self._kept += data
        else:
            self._whole = False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the base's signature
        self._transport = None
        self._desk.callers.discard(self)
        if self._passage is not None:
            self._passage.abandon()
        elif not self._answered and self.head is not None:
            self._desk.left(self)

    # To Envoy.

    def goes(self, passage: Passage) -> bytes:
        """A worker is there: what came so far, and from now on everything goes to it."""
        self._passage = passage
        kept = bytes(self._kept)
        if len(kept) > _KEPT_BYTES:
            self._whole = False
        self.resume()
        return kept

    def stays(self) -> bool:
        """The worker did not take it. May it be sent to another?"""
        stays = self._whole and not self.gone
        if stays:
            self._passage = None
        return stays

    def write(self, data: bytes) -> None:
        """Part of an answer; the first makes this caller's answer begin."""
        self._answered_now()
        if self._transport is not None:
            self._transport.write(data)

    def _answered_now(self) -> None:
        if self._kept:
            self._kept = bytearray()
        self._whole = False

    def end(self) -> None:
        """The answer has ended, or broke off."""
        if self._transport is not None:
            self._transport.close()

    def refuse(self, refusal: Refusal) -> None:
        """Answer it ourselves."""
        self._answered = True
        self._passage = None
        self._answered_now()
        self.resume()
        self._desk.spawn(self._refuse(refusal))

    async def _refuse(self, refusal: Refusal) -> None:
        assert self.head is not None
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in self.head.headers
        }
        visit = Visit(self.head.method, self.head.path, headers)

        async def page(visit: Visit) -> Response:
            answer = refusal_response(visit, refusal, self._desk.api_version)
            answer.headers["server-timing"] = how_it_went(visit, refusal)
            return answer

        response = await answered(visit, page)
        lines = [b"HTTP/1.1 %d -" % response.status_code]
        lines += [b"%b: %b" % header for header in response.raw_headers]
        head = b"\r\n".join((*lines, b"connection: close")) + END
        if self._transport is not None:
            body = b"" if visit.method == "HEAD" else bytes(response.body)
            self._transport.write(head + body)
            # Envoy closes when it has read that; a close of ours could cut off what it has not read yet.
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.end)


class Passage(_Side):
    """A request's connection to the worker that answers it."""

    def __init__(self, desk: Desk, caller: Caller, replica: Replica, held_seconds: float) -> None:
        super().__init__(desk)
        self._caller = caller
        self._replica = replica
        self._held = held_seconds
        self._head = bytearray()
        self._told = False
        self._over = False
        self._sent_at = 0.0
        self._last: bytes | None = None  # bytes of an answer that says itself where it ends

    @property
    def _other(self) -> Caller:
        return self._caller

    def start(self) -> None:
        """Connect, and send what came so far."""
        self._desk.spawn(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self, self._replica.socket)
        except OSError:
            self._not_taken()
            return
        if self._transport is None:
            return
        if self._caller.gone:
            self.abandon()
            return
        assert self._caller.head is not None
        head = self._caller.head.sent_on(self._held)
        self._sent_at = self._desk.clock.monotonic()
        self._transport.write(head + self._caller.goes(self))

    # From the caller.

    def take(self, data: bytes) -> bool:
        """More of the request."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(data)
        return True

    def abandon(self) -> None:
        """The client is gone: so is this connection, and the worker stops."""
        self.abort()
        if self._waited_out():
            self._judge(failed=True)
        self._finish()

    def _waited_out(self) -> bool:
        """Was it the gateway that gave up, because the worker did not answer in time?

        Not if the request had spent most of its time before it got there.
        """
        if self._told or not self._sent_at or self._caller.head is None:
            return False
        waited = self._desk.clock.monotonic() - self._sent_at
        left = self._caller.head.route_seconds(self._held)
        return waited >= max(_WAITED_OUT * left, self._held)

    def _judge(self, *, failed: bool) -> None:
        if not self._over:
            self._desk.judged(self._caller, self._replica.worker, failed=failed)

    # From the worker.

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._told:
            if self._last is not None:
                self._last = (self._last + data[-len(LAST_CHUNK) :])[-len(LAST_CHUNK) :]
            self._caller.write(data)
            return
        self._head += data
        end = self._head.find(END)
        if end < 0:
            if len(self._head) > _MOST_HEAD_BYTES:
                self._judge(failed=True)
                self._caller.abort()  # which ends this connection too
            return
        end += len(END)
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        if is_full(head) and self._caller.stays():
            self._again()
            return
        self._told = True
        self._head = bytearray()
        self._judge(failed=is_failure(head))
        if is_chunked(head):
            self._last = rest[-len(LAST_CHUNK) :]
        self._caller.write(told(head, self._held, self._replica.worker) + rest)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the base's signature
        self._transport = None
        if self._over:
            return
        if not self._told or self._last not in (None, LAST_CHUNK):
            self._judge(failed=True)  # it broke off
        self._finish()
        if self._told:
            self._caller.end()
        else:
            self._caller.refuse(Refusal(Kind.UNAVAILABLE, _NO_ANSWER))

    def _not_taken(self) -> None:
        """Nobody listens there any more: nothing was sent."""
        if self._caller.gone:
            self._finish()
        else:
            self._again()

    def _again(self) -> None:
        """Let it wait on, and go to another worker, or to this one later."""
        if self._over:
            return
        self._over = True
        self.abort()
        self._desk.again(self._caller, self._replica.worker)

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._desk.done(self._caller, self._replica.worker)
