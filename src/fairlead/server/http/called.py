"""gRPC calls that run no model: the HTTP request that asks the same is answered, and its answer translated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fairlead.api import grpc_status
from fairlead.dialects import oip_grpc_calls
from fairlead.domain.errors import FairleadError
from fairlead.server.http.exchange import (
    Bodies,
    Holding,
    Message,
    Receive,
    Scope,
    Send,
    answer,
    read_body,
)
from fairlead.server.http.routes import GRPC, STREAM, HeaderList

_MOST_BYTES = 1 << 20  # of a question that runs no model
_WRITES = "POST"
# Of the answer that is translated: what describes its body, which is another one now.
_OF_BODY = frozenset({b"content-type", b"content-length"})
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def ask(
    app: App, scope: Scope, body: bytes, after: Receive | None = None
) -> tuple[int, HeaderList, bytes]:
    """Ask an ASGI app; its whole answer: status, headers, body. `after` is what it may receive after the body."""
    head: list[Message] = []
    parts: list[bytes] = []
    unread = [body]

    async def receive() -> Message:
        if after is not None and not unread:
            return await after()
        unread.clear()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            head.append(message)
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return head[0]["status"], head[0]["headers"], b"".join(parts)


async def called(
    app: App, scope: Scope, method: str, body: bytes
) -> tuple[oip_grpc_calls.Answer, HeaderList]:
    """Answer a call by `app`; the headers are those of its answer that do not describe its body."""
    try:
        asked = oip_grpc_calls.request_body(method, body) if scope["method"] == _WRITES else b""
    except FairleadError as error:
        return oip_grpc_calls.refused(error.kind, error.message), []
    plain = [(name, value) for name, value in scope["headers"] if name not in _OF_BODY]
    length = (b"content-length", b"%d" % len(asked))
    inner = {**scope, "headers": [*plain, length]}
    status, headers, answered = await ask(app, inner, asked)
    found = dict(headers).get(b"x-error-code")
    said = oip_grpc_calls.answer(
        method, status, found.decode() if found is not None else None, answered
    )
    return said, [one for one in headers if one[0] not in _OF_BODY]


async def answer_call(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a call that the gateway has translated, in the way the gateway turns back into gRPC."""
    headers = dict(scope["headers"])
    try:
        body = await read_body(receive, headers, _MOST_BYTES, Holding(Bodies(_MOST_BYTES)))
        said, kept = await called(app, scope, headers[GRPC].decode("latin-1"), body)
    except FairleadError as error:
        said, kept = oip_grpc_calls.refused(error.kind, error.message), []
    # A stream's bridge adds nothing to an answer without a body: it has to be gRPC's already.
    prefix = b"grpc-" if headers.get(GRPC) == STREAM else b"x-grpc-"
    own = [
        (b"content-type", grpc_status.PROTOBUF.encode()),
        (prefix + b"status", b"%d" % said.code),
        (prefix + b"message", grpc_status.encoded(said.message).encode()),
    ]
    await answer(send, 200, said.body, [*kept, *own])
