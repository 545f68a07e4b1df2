"""Answers that are sent while they are made.

A request is read, decoded and admitted as any other; then each piece the model gives is encoded in a thread and
written, and only when it has been taken is the next one asked for: a slow reader holds up the model, not memory. What
goes wrong before the first byte is answered as an error; after it, the connection is broken off, because a stream that
ends cleanly says that it is whole.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fairlead.api.deadlines import is_impatient, seconds_to_answer
from fairlead.api.http_status import NO_FAULT
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.kits.timeouts import timeout
from fairlead.server.endpoint import Endpoint, Late, late
from fairlead.server.http.encoding import CONTENT_ENCODING, unpacked
from fairlead.server.http.errors import error_code
from fairlead.server.http.exchange import (
    Bodies,
    Holding,
    Receive,
    Scope,
    Send,
    answer,
    log_access,
    read_body,
    request_id,
    unless_left,
)
from fairlead.server.http.handlers import Headers
from fairlead.server.http.protocol import BREAK_OFF
from fairlead.server.http.routes import HeaderList, ServedRevision
from fairlead.server.http.timing import as_header, so_far
from fairlead.server.stats import RouteStats
from fairlead.server.times import Times

_log = logging.getLogger(__name__)
T = TypeVar("T")
Now = Callable[[], float]
OK = 200
IDLE_SECONDS = 60.0  # without a piece from the model, or without the client taking one
_SHORT_BYTES = 1024  # of a request that is decoded at once
_JSON = (b"content-type", b"application/json")


class Encoder(Protocol):
    """Makes bytes of one request's answers, in threads, one after another."""

    def encode(self, response: InferResponse) -> bytes:
        """What can be sent so far; may be empty."""
        ...

    def finish(self) -> bytes:
        """What is left."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded request: what to ask the model, and how the answer goes out.

    Without an `encoder` the model is asked once, and `whole` is the answer if it has no objection.
    """

    request: InferRequest
    headers: HeaderList
    encoder: Callable[[], Encoder] | None = None
    whole: bytes = b""


class StreamedHandler(Protocol):
    """A dialect at a path that streams. `methods` are those it answers."""

    methods: tuple[str, ...]
    statuses: Mapping[Kind, int]

    def decode(self, scope: Scope, body: bytes, headers: Headers) -> Call:
        """Raises FairleadError."""
        ...

    def error_body(self, error: FairleadError) -> bytes: ...


class StreamedRoute:
    """One path of one endpoint that streams, with all that does not depend on the request."""

    def __init__(
        self,
        endpoint: Endpoint,
        handler: StreamedHandler,
        served: ServedRevision,
        stats: Mapping[str, RouteStats],
    ) -> None:
        self.endpoint = endpoint
        self.handler = handler
        self.headers = served.headers()
        self.stats = stats  # by method


class Streaming:
    """What one app has for the streams it answers."""

    def __init__(self, now: Now, limit_bytes: int, *, access_log: bool) -> None:
        self.now = now
        self.limit_bytes = limit_bytes
        self.access_log = access_log
        self.idle_seconds = IDLE_SECONDS

    async def answer(
        self, route: StreamedRoute, scope: Scope, receive: Receive, send: Send, bodies: Bodies
    ) -> None:
        """Answer one request to the end, or break it off."""
        await _Answer(self, route, scope, send).run(receive, Holding(bodies))


class _BrokenOff(Exception):
    """For servers that know no other way to end a connection than that their app fails."""


class _Answer:
    """One request."""

    def __init__(self, app: Streaming, route: StreamedRoute, scope: Scope, send: Send) -> None:
        self._app = app
        self._route = route
        self._scope = scope
        self._send = send
        self._headers: Headers = dict(scope["headers"])
        self._identity = request_id(self._headers)
        self._times = Times(app.now())
        self._begun = False  # has anything been sent?

    async def run(self, receive: Receive, holding: Holding) -> None:
        stats = self._route.stats[self._scope["method"]]
        stats.in_progress += 1
        status = 500
        try:
            await self._answered(receive, holding)
            status = OK
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer or a broken connection
            self._route.endpoint.executions.failed(self._app.now() - self._times.started)
            status = await self._failed(error, stats)
        except asyncio.CancelledError:  # the drain time is over; this task ends with its answer
            ending = Refused(Kind.UNAVAILABLE, "this server is ending; ask again")
            status = await self._failed(ending, stats)
        finally:
            holding.release()
            stats.in_progress -= 1
            stats.count(status, self._app.now() - self._times.started)
            if self._app.access_log:
                log_access(self._scope, status, self._identity)

    async def _answered(self, receive: Receive, holding: Holding) -> None:
        endpoint, times = self._route.endpoint, self._times
        seconds = seconds_to_answer(self._headers, endpoint.deadline_seconds)
        until = times.started + seconds
        body = await read_body(receive, self._headers, self._app.limit_bytes, holding)
        if CONTENT_ENCODING in self._headers:
            body = await unpacked(body, self._headers, self._app.limit_bytes, holding)
        times.arrived = self._app.now()
        call = await self._decoded(body)
        decoded = self._app.now()
        try:
            if call.encoder is None:
                await unless_left(endpoint.infer(call.request, until - decoded, times), receive)
            else:
                await unless_left(self._stream(call, call.encoder, until), receive)
        except Late:  # what was left of its time is not what its caller gave
            raise late(seconds) from None
        endpoint.answered(times, decoded, self._app.now())
        if not self._begun:
            self._begun = True
            await answer(self._send, OK, call.whole, [*call.headers, *self._own_headers()])

    async def _decoded(self, body: bytes) -> Call:
        """Long texts take a millisecond and more to read and check: not on the event loop."""
        decode = functools.partial(self._route.handler.decode, self._scope, body, self._headers)
        long = len(body) + len(self._scope["query_string"]) > _SHORT_BYTES
        return await self._aside(decode) if long else decode()

    async def _stream(self, call: Call, make: Callable[[], Encoder], until: float) -> None:
        left = until - self._app.now()
        try:
            async with (
                self._route.endpoint.streaming(call.request, left, self._times) as responses,
                timeout(until - self._app.now()),
            ):
                encoder = await self._aside(make)  # now: who waits for a slot needs none
                while (response := await self._next(responses)) is not None:
                    encode = functools.partial(encoder.encode, response)
                    await self._write(call, await self._aside(encode))
                await self._write(call, await self._aside(encoder.finish), more=False)
        except TimeoutError:
            raise late(left) from None

    async def _next(self, responses: AsyncIterator[InferResponse]) -> InferResponse | None:
        """None after the last; raises Refused (MODEL) if it does not come for long."""
        idle = self._app.idle_seconds
        try:
            async with timeout(idle):
                return await anext(responses, None)
        except TimeoutError:
            message = f"the model gave nothing for {idle:g} s in the middle of its answer"
            raise Refused(Kind.MODEL, message) from None

    async def _write(self, call: Call, data: bytes, *, more: bool = True) -> None:
        """Send, once there is something to be sent; raises Refused (DEADLINE) if nobody takes it."""
        if not data and more:
            return
        idle = self._app.idle_seconds
        try:
            async with timeout(idle):
                if not self._begun:
                    self._begun = True
                    self._route.endpoint.streams.begun(self._app.now() - self._times.started)
                    headers = [*call.headers, *self._own_headers()]
                    await self._send(
                        {"type": "http.response.start", "status": OK, "headers": headers}
                    )
                message = {"type": "http.response.body", "body": data, "more_body": more}
                await self._send(message)
        except TimeoutError:
            raise Refused(Kind.DEADLINE, f"the client took nothing for {idle:g} s") from None

    def _own_headers(self) -> HeaderList:
        """What every answer to this request says."""
        timing = so_far(self._times, self._app.now(), self._headers, self._scope["headers"])
        return [*self._route.headers, (b"x-request-id", self._identity), *as_header(timing)]

    async def _aside(self, work: Callable[[], T]) -> T:
        """Not on the event loop: a piece of sound takes a millisecond to encode."""
        return await asyncio.wrap_future(self._route.endpoint.artifact.threads.submit(work))

    async def _failed(self, error: Exception, stats: RouteStats) -> int:
        """Tell the caller, or break off; the status to count."""
        shown = self._noted(error, stats)
        status = self._route.handler.statuses[shown.kind]
        if self._begun:
            self._route.endpoint.streams.broke(shown.kind)
            self._break_off()
            return status
        headers = [_JSON, *self._own_headers(), error_code(shown.kind)]
        most = self._route.endpoint.deadline_seconds
        if shown.kind is Kind.DEADLINE and is_impatient(self._headers, most):
            headers.append((NO_FAULT.encode(), b"deadline"))
        await answer(self._send, status, self._route.handler.error_body(shown), headers)
        return status

    def _noted(self, error: Exception, stats: RouteStats) -> FairleadError:
        """Log and count what went wrong; what the caller may know of it."""
        extra = {
            "request_id": self._identity.decode("latin-1"),
            "endpoint": str(self._route.endpoint.id),
        }
        name = type(error).__name__
        when = "in the middle of its answer" if self._begun else "before its answer"
        if not isinstance(error, FairleadError):
            _log.error("a request failed in the server, %s", when, exc_info=error, extra=extra)
            error = Refused(Kind.INTERNAL, "the server failed on this request; its log says why")
        elif error.kind in (Kind.MODEL, Kind.INTERNAL) or (
            self._begun and error.kind is not Kind.CANCELLED
        ):
            _log.error("a request failed, %s: %s", when, error.message, extra=extra)
        elif self._begun:
            _log.info("a stream was stopped: %s", error.message, extra=extra)
        if error.kind in (Kind.MODEL, Kind.INTERNAL):
            stats.exception(name)
        stats.error(error.kind)
        return error

    def _break_off(self) -> None:
        extensions = self._scope.get("extensions") or {}
        if BREAK_OFF not in extensions:
            raise _BrokenOff
        extensions[BREAK_OFF]()
