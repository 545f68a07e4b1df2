"""The ASGI callable of a worker and of the stand-alone server.

A request for a model: find the route, read the body, decode, run, encode, answer, count. Everything that
can be looked up before the request is in the route.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import cast

from fairlead.api.deadlines import seconds_to_answer
from fairlead.api.worker import ServingSettings
from fairlead.dialects.oip_binary import Body
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.kits.clock import Clock
from fairlead.server.dataplane import DataPlane
from fairlead.server.endpoint import Late, late
from fairlead.server.http.aside import Aside
from fairlead.server.http.blocks import Blocks
from fairlead.server.http.cold import Cold
from fairlead.server.http.encoding import CONTENT_ENCODING, is_encoded, packed, unpacked
from fairlead.server.http.exchange import (
    Bodies,
    Holding,
    Receive,
    Scope,
    Send,
    answer,
    ending,
    log_access,
    own_head,
    read_body,
    request_id,
    unless_left,
)
from fairlead.server.http.gathering import Gathering
from fairlead.server.http.handlers import Answer, Headers, joined, size_of
from fairlead.server.http.oip import Control
from fairlead.server.http.plain import PlainRoutes
from fairlead.server.http.priority import prioritize
from fairlead.server.http.protocol import HANDED_OVER, WHOLE, Whole
from fairlead.server.http.quick import QuickRequest
from fairlead.server.http.receiving import LARGE_BODY, LargeBody
from fairlead.server.http.routes import (
    GRPC,
    STREAM,
    GrpcRoute,
    HotPath,
    HotRoute,
    ServedRevision,
    as_trailers,
    head_of,
    hot_paths,
)
from fairlead.server.http.speech import StreamedPath, streamed_paths
from fairlead.server.http.streamed import Streaming
from fairlead.server.http.timing import as_header, so_far
from fairlead.server.http.wave import Wave
from fairlead.server.times import Times

OK = 200
_MOST_ASKED_BYTES = 1 << 20  # of a request whose answer streams: it is words
_MESSAGES = "fairlead.dialects.oip_grpc"


class ServerApp:
    """Answers HTTP for a data plane. Not ready until `serve` has been called.

    `identity` is what /internal/identity says of the process itself.
    """

    def __init__(
        self,
        plane: DataPlane,
        settings: ServingSettings,
        clock: Clock,
        identity: Mapping[str, object],
        pod_name: str = "unknown_pod",
    ) -> None:
        self._plane = plane
        self._settings = settings
        self._now = clock.monotonic
        self.limit_bytes = settings.body_limit_bytes
        self.bodies = Bodies(settings.bodies_limit_bytes)
        self.blocks = Blocks(settings.bodies_limit_bytes // 2)
        self._hot: dict[bytes, HotPath] = {}
        self._streamed: dict[bytes, StreamedPath] = {}
        limit = min(settings.body_limit_bytes, _MOST_ASKED_BYTES)
        self.streaming = Streaming(self._now, limit, access_log=settings.access_log)
        self.aside = Aside()
        self.wave = Wave(clock, self.aside, access_log=settings.access_log)
        self.gathering = Gathering(clock, self.bodies, self.aside, access_log=settings.access_log)
        self._cold = Cold(plane, settings, clock, identity, pod_name)

    @property
    def plain(self) -> PlainRoutes:
        """Health and identity."""
        return self._cold.plain

    def join(self, other: ServerApp) -> None:
        """Share one process with another app: its limit of bodies and memory for them, its codec thread, the waves of quick requests."""
        self.wave, self.gathering = other.wave, other.gathering
        self.bodies, self.blocks, self.aside = other.bodies, other.blocks, other.aside

    @property
    def ready(self) -> bool:
        return self._cold.plain.ready

    def serve(self, served: Sequence[ServedRevision], *, versioned: bool = False) -> None:
        """Answer for these revisions, loaded and proved, from now on.

        `versioned`: judge Accept-Version here, because no gateway has.
        """
        self._hot = hot_paths(served, self._plane, self._settings, versioned=versioned)
        self._streamed = streamed_paths(served, self._plane, versioned=versioned)
        self._cold.serve(served, versioned=versioned)

    def hot_path(self, target: bytes) -> HotPath | None:
        """Who answers a POST to this target; None if no model does."""
        return self._hot.get(target)

    def forget(self) -> None:
        """Serve nothing any more: the models are unloaded."""
        self._hot, self._streamed = {}, {}
        self._cold.forget()

    def give_control(self, control: Control | None, reason: str) -> None:
        """Let callers load and unload models; or say why they may not."""
        self._cold.oip.control = control
        self._cold.oip.no_control = reason

    def stop(self) -> None:
        """Say that we are not ready any more; requests that come all the same are answered."""
        self._cold.plain.ready = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _decline(scope, receive, send)
            return
        extensions = scope.get("extensions")
        handed: QuickRequest | None = extensions.pop(HANDED_OVER, None) if extensions else None
        if handed is not None:  # its route may be gone from the tables since, and waits for it
            await self._served(handed.route, handed.headers, scope, receive, send, handed)
            return
        hot = self._hot.get(scope["raw_path"])
        if hot is None and scope["raw_path"] in self._streamed:
            await self._run_streamed(self._streamed[scope["raw_path"]], scope, receive, send)
        elif hot is None and any(name == GRPC for name, _ in scope["headers"]):
            await _call(self._cold, scope, receive, send)
        elif hot is None:
            await self._cold(scope, receive, send)
        elif scope["method"] != "POST":
            message = f"{scope['method']} is not for this path; use POST"
            await self._cold.refuse(scope, Refused(Kind.METHOD, message), send, allow=b"POST")
        else:
            await self._run(hot, scope, receive, send)

    async def _run(self, hot: HotPath, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        try:
            route = hot.only or hot.choose(headers)
        except FairleadError as error:
            await self._cold.refuse(scope, error, send)
            return
        if GRPC in headers and route.grpc is not None and route.stream is not None:
            await _warm(route.grpc)
            if headers[GRPC] == STREAM:
                await self._stream(route.stream, scope, receive, send)
                return
            route = route.grpc
        await self._served(route, headers, scope, receive, send)

    async def _run_streamed(
        self, path: StreamedPath, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            route = path.only or path.choose(dict(scope["headers"]))
        except FairleadError as error:
            await self._cold.refuse(scope, error, send)
            return
        if scope["method"] not in route.stats:
            allowed = ", ".join(route.stats)
            message = f"{scope['method']} is not for this path; use {allowed.replace(', ', ' or ')}"
            wrong = Refused(Kind.METHOD, message)
            await self._cold.refuse(scope, wrong, send, allow=allowed.encode())
            return
        await self.streaming.answer(route, scope, receive, send, self.bodies)

    async def _stream(self, route: GrpcRoute, scope: Scope, receive: Receive, send: Send) -> None:
        # Protobuf: a worker that nobody asks over gRPC need not have it.
        from fairlead.server.http.streams import Limits, Stream  # noqa: PLC0415 - see above

        limits = Limits(self.limit_bytes, self.bodies, self.aside)
        try:
            await Stream(route, scope, limits, self._now).run(receive, send)
        except FairleadError as error:  # nothing has been sent yet
            headers: Headers = dict(scope["headers"])
            _, body, told = route.failure(error, request_id(headers), headers)
            # The gateway makes trailers of our own headers only where there is a body.
            await answer(send, OK, body, [*told, *as_trailers(told)])

    def _begin(
        self, route: HotRoute, headers: Headers, handed: QuickRequest | None
    ) -> tuple[Times, bytes]:
        """When a request came, and its id. From now on it is in progress; one that was handed over is already."""
        times = Times(self._now())
        if handed is None:
            route.stats.in_progress += 1
            return times, request_id(headers)
        times.started = times.arrived = handed.start
        return times, handed.identity

    async def _served(
        self,
        route: HotRoute,
        headers: Headers,
        scope: Scope,
        receive: Receive,
        send: Send,
        handed: QuickRequest | None = None,
    ) -> None:
        stats = route.stats
        times, identity = self._begin(route, headers, handed)
        holding = Holding(self.bodies)
        status, head = 500, b""
        try:
            read = functools.partial(self._body, headers, scope, receive, holding)
            body, json_length = await self._answer(route, headers, receive, times, read)
            status, head = OK, route.head
            answer_headers = route.json_headers
            if json_length is not None:
                answer_headers = route.binary(json_length)
                head = head_of(OK, answer_headers)
            if route.packs and is_encoded(headers):
                body, how = await packed(joined(body), headers)
                answer_headers, head = [*answer_headers, *how], b""
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            route.endpoint.executions.failed(self._now() - times.started)
            if isinstance(error, Late):  # what was left of its time is not what its caller gave
                error = late(seconds_to_answer(headers, route.endpoint.deadline_seconds))
            status, body, answer_headers = route.failure(error, identity, headers)
        except asyncio.CancelledError:  # the drain time is over; this task ends with its answer
            status, body, answer_headers = route.failure(ending(), identity, headers)
        finally:
            holding.release()
            stats.in_progress -= 1
            now = self._now()
            stats.count(status, now - times.started)
        timing = so_far(times, now, headers, scope["headers"])
        if status != OK or not head or not _whole(scope, head, body, (identity, timing)):
            own = [(b"x-request-id", identity), *as_header(timing)]
            await answer(send, route.wire(status), joined(body), [*answer_headers, *own])
        if self._settings.access_log:
            log_access(scope, status, identity)

    async def _body(
        self, headers: Headers, scope: Scope, receive: Receive, holding: Holding
    ) -> bytes:
        extensions = scope.get("extensions")
        read: LargeBody | None = extensions.get(LARGE_BODY) if extensions else None
        if read is not None:  # which is never encoded
            return cast("bytes", await read(holding))
        body = await read_body(receive, headers, self.limit_bytes, holding)
        if CONTENT_ENCODING in headers:
            body = await unpacked(body, headers, self.limit_bytes, holding)
        return body

    async def _answer(
        self,
        route: HotRoute,
        headers: Headers,
        receive: Receive,
        times: Times,
        read: Callable[[], Awaitable[bytes]],
    ) -> Answer:
        until = times.started + seconds_to_answer(headers, route.endpoint.deadline_seconds)
        body = await read()
        times.arrived = times.arrived or self._now()
        handler, endpoint = route.handler, route.endpoint
        left = until - self._now()
        requests, call = await self.aside.decode(handler, body, headers, left)
        decoded = self._now()
        if endpoint.threaded is not None:
            prioritize(requests, headers)
        rows = endpoint.quick_rows(requests[0], len(body)) if len(requests) == 1 else None
        if rows is not None:
            began = self._now()
            try:
                quickly = endpoint.infer_now(requests[0])
            finally:
                times.ran(began, self._now() - began)
            endpoint.ran_now(began, times.engine_seconds, rows)
            ran = times.began + times.engine_seconds
            answer = await self.aside.encode(handler, call, (quickly,), until - ran)
            endpoint.answered(times, decoded, ran)
            return answer
        answers = await unless_left(endpoint.infer_all(requests, until, times), receive)
        ran = self._now()
        answer = await self.aside.encode(handler, call, answers, until - ran)
        endpoint.answered(times, decoded, ran)
        return answer


def _whole(scope: Scope, head: bytes, body: Body, own: tuple[bytes, bytes]) -> bool:
    """Answer in one write, if the server can; `own` is the request's id and how it went."""
    extensions = scope.get("extensions")
    write: Whole | None = extensions.get(WHOLE) if extensions else None
    if write is None:
        return False
    return write(head + own_head(*own, size_of(body)), body)


async def _warm(route: GrpcRoute) -> None:
    """A route's first call loads protobuf, and the event loop does not wait for that."""
    if not route.warm:
        await asyncio.to_thread(importlib.import_module, _MESSAGES)
        route.warm = True


async def _call(cold: Cold, scope: Scope, receive: Receive, send: Send) -> None:
    # Protobuf: a worker that nobody asks over gRPC need not have it.
    from fairlead.server.http.called import answer_call  # noqa: PLC0415 - see above

    await answer_call(cold, scope, receive, send)


async def _decline(scope: Scope, receive: Receive, send: Send) -> None:
    """No WebSockets here; start and stop of the server are not this callable's business."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
