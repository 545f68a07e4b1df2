"""Each gRPC call is asked of the HTTP app as the gateway would ask it, so that both ways answer the same."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

import grpc  # type: ignore[import-untyped] # it ships no types

from fairlead.api import grpc_status
from fairlead.api.deadlines import (
    GRPC_TIMEOUT,
    MOST_GRPC_MILLISECONDS,
    is_named,
    seconds_to_answer,
)
from fairlead.api.oip_messages import files
from fairlead.dialects import oip_grpc_calls
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.kits import reflection
from fairlead.kits.clock import Clock
from fairlead.server.http.app import ServerApp
from fairlead.server.http.called import ask
from fairlead.server.http.exchange import Bodies, Holding, Message, Scope
from fairlead.server.http.routes import GRPC, HeaderList
from fairlead.server.http.streams import answer_message, one_answer, refusal

_STATUS, _MESSAGE = grpc_status.STATUS.encode(), grpc_status.MESSAGE.encode()
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_TOLD = (
    b"x-served-version",
    b"x-artifact-digest",
    b"x-request-id",
    b"server-timing",
    b"x-error-code",
)
_OURS = {
    GRPC,
    GRPC_TIMEOUT,
    b"content-type",
    b"content-length",
    b"content-encoding",
    b"te",
}
_INFER = "ModelInfer"
_BODIES = {f"/{grpc_status.SERVICE}/{name}" for name in (_INFER, "ModelStreamInfer")}
_WATCH_SECONDS = 0.5
Context = Any  # grpc.aio.ServicerContext, which has no types


class Calls:
    """The protocol's services before one app."""

    def __init__(self, app: ServerApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The services, as the library wants them."""
        unary = {
            method: grpc.unary_unary_rpc_method_handler(functools.partial(self._call, method))
            for method in oip_grpc_calls.METHODS
        }
        stream = grpc.stream_stream_rpc_method_handler(self._stream)
        health = {
            "Check": grpc.unary_unary_rpc_method_handler(
                functools.partial(self._call, oip_grpc_calls.CHECK)
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        answer = functools.cache(
            lambda: reflection.reflecting([grpc_status.SERVICE, grpc_status.HEALTH], files())
        )
        reflects = {
            reflection.METHOD: grpc.stream_stream_rpc_method_handler(
                functools.partial(_reflect, answer)
            )
        }
        services = {
            grpc_status.SERVICE: {**unary, "ModelStreamInfer": stream},
            grpc_status.HEALTH: health,
            **dict.fromkeys(reflection.SERVICES, reflects),
        }
        return [
            _Full(self._app.bodies),
            *(
                grpc.method_handlers_generic_handler(name, methods)
                for name, methods in services.items()
            ),
        ]

    async def _call(self, method: str, body: bytes, context: Context) -> bytes:
        try:
            verb, path = oip_grpc_calls.asks(method, body)
        except FairleadError as error:
            await context.abort(_CODES[grpc_status.GRPC_STATUS[error.kind]], error.message)
            raise AssertionError("abort raises") from None
        scope = _scope(method, verb, path, context)
        headers, answered = await self._asked(scope, body)
        told = dict(headers)
        metadata = [(name.decode(), told[name].decode()) for name in _TOLD if name in told]
        await context.send_initial_metadata(metadata)
        code = int(told[_STATUS])
        if code:
            words = unquote(told.get(_MESSAGE, b"").decode())
            await context.abort(_CODES[code], words)
        return answered

    async def _asked(self, scope: Scope, body: bytes) -> tuple[HeaderList, bytes]:
        """Ask the app; a caller that leaves is to it what a closed connection is."""
        left = asyncio.Event()

        async def receive() -> Message:
            """What comes after the body: the caller's end."""
            await left.wait()
            return {"type": "http.disconnect"}

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask(self._app, scope, body, receive))
            try:
                status, headers, answered = await asyncio.shield(asking)
            except asyncio.CancelledError:
                left.set()
                await asyncio.wait({asking})
                raise
        if _STATUS not in dict(headers):  # refused before it was known to be a call
            method = dict(scope["headers"])[GRPC].decode()
            code = dict(headers).get(b"x-error-code", b"").decode()
            said = oip_grpc_calls.answer(method, status, code, answered)
            headers = [
                *headers,
                (_STATUS, b"%d" % said.code),
                (_MESSAGE, grpc_status.encoded(said.message).encode()),
            ]
        return headers, answered

    async def _stream(
        self, messages: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        headers = dict(_headers("ModelStreamInfer", context))
        until = float("inf")
        if is_named(headers):
            try:
                until = self._clock.monotonic() + seconds_to_answer(headers, until)
            except Refused as error:
                await context.abort(_CODES[grpc_status.GRPC_STATUS[error.kind]], error.message)
        async for body in messages:
            holding = Holding(self._app.bodies)
            try:
                holding.take(len(body))
            except Refused as full:
                await context.abort(_CODES[grpc_status.GRPC_STATUS[full.kind]], full.message)
            try:
                answered = await self._streamed(body, headers, until, context)
            finally:
                holding.release()
            yield answered

    async def _streamed(
        self, body: bytes, headers: dict[bytes, bytes], until: float, context: Context
    ) -> bytes:
        try:
            verb, path = oip_grpc_calls.asks(_INFER, body)
            hot = self._app.hot_path(path.encode())
            route = (hot.only or hot.choose(headers)).stream if hot is not None else None
        except FairleadError as error:
            return refusal(error, body)
        if route is not None:
            return await answer_message(
                route, body, headers, self._clock.monotonic, until, self._app.aside
            )
        # Why it is not here is said in the words of a call; and if it has come meanwhile, that is answered.
        told, answered = await self._asked(_scope(_INFER, verb, path, context), body)
        said = dict(told)
        if said[_STATUS] == b"%d" % grpc_status.OK:
            return one_answer(answered)
        return refusal(Refused(Kind.NOT_FOUND, unquote(said[_MESSAGE].decode())), body)

    async def _watch(self, body: bytes, context: Context) -> AsyncIterator[bytes]:
        """What Check says, now and whenever it changes."""
        said = b""
        while True:
            now = await self._health(body, context)
            if now != said:
                yield now
                said = now
            await self._clock.sleep(_WATCH_SECONDS)

    async def _health(self, body: bytes, context: Context) -> bytes:
        try:
            verb, path = oip_grpc_calls.asks(oip_grpc_calls.CHECK, body)
        except FairleadError:
            return oip_grpc_calls.SERVICE_UNKNOWN
        scope = _scope(oip_grpc_calls.CHECK, verb, path, context)
        headers, answered = await self._asked(scope, body)
        code = int(dict(headers)[_STATUS])
        return answered if code == grpc_status.OK else oip_grpc_calls.SERVICE_UNKNOWN


class _Full(grpc.GenericRpcHandler):  # type: ignore[misc] # the library ships no types
    """Refuses to infer before the message is read, while the server holds as much as it may."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:  # noqa: ANN401 - the library ships no types
        if details.method not in _BODIES or not self._bodies.full:
            return None
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(
        self, messages: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        del messages
        full = self._bodies.refusal()
        await context.abort(_CODES[grpc_status.GRPC_STATUS[full.kind]], full.message)
        yield b""  # never: it makes this a stream


async def _reflect(
    answer: Callable[[], Callable[[bytes], bytes]], messages: AsyncIterator[bytes], context: Context
) -> AsyncIterator[bytes]:
    async for body in messages:
        try:
            yield answer()(body)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


def _scope(method: str, verb: str, path: str, context: Context) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": verb,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": _headers(method, context),
        "client": None,
        "server": None,
        "state": {},
    }


def _headers(method: str, context: Context) -> HeaderList:
    """The call's metadata, without what speaks of its connection; and our mark."""
    found = [
        (name.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in context.invocation_metadata() or ()
    ]
    headers = [one for one in found if one[0] not in _OURS]
    left = context.time_remaining()
    if left is not None and left * 1000 < MOST_GRPC_MILLISECONDS:
        headers.append((GRPC_TIMEOUT, b"%dm" % max(1, int(left * 1000))))
    return [*headers, (GRPC, method.encode())]
