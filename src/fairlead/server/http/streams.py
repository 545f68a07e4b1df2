"""ModelStreamInfer: messages in, answers out, in order, for as long as the caller likes.

Through the gateway a stream is an HTTP/1.1 request whose body never ends and an answer that begins at once;
both hold gRPC's own frames. What is wrong with one message is that message's answer, and the stream goes on.
A few messages are read ahead, then the caller waits; one that leaves cancels the run. A message that cannot be read,
or for which the server has no room, ends the stream with an answer that says why.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from fairlead.api.deadlines import is_named, seconds_to_answer
from fairlead.api.oip_messages import message
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.kits.compression import IDENTITY, WINDOWS
from fairlead.kits.frames import HEAD_BYTES, Frame, Frames, TooLong, framed
from fairlead.server.endpoint import Late, late
from fairlead.server.http.aside import Aside
from fairlead.server.http.encoding import pieces
from fairlead.server.http.exchange import (
    Bodies,
    Holding,
    Receive,
    Scope,
    Send,
    log_access,
    request_id,
)
from fairlead.server.http.handlers import Headers, joined
from fairlead.server.http.routes import GrpcRoute
from fairlead.server.times import Times

OK = 200
_READ_AHEAD = 4  # messages
_INFER_RESPONSE = b"\x12"  # of a ModelStreamInferResponse: field 2, whose length follows
_GRPC_ENCODING = b"grpc-encoding"
_COMPRESSED = (
    "a message is compressed in a way that is not read here; send gzip, deflate or identity"
)
_CUT = "the stream ends within a message"

Now = Callable[[], float]


async def answer_message(
    route: GrpcRoute, body: bytes, headers: Headers, now: Now, until: float, aside: Aside
) -> bytes:
    """One ModelInferRequest of a stream to the bytes of its ModelStreamInferResponse; counted as a request."""
    stats = route.stats
    times = Times(now())
    stats.in_progress += 1
    status = OK
    try:
        last = min(until, times.started + route.endpoint.deadline_seconds)
        times.arrived = times.started
        requests, call = await aside.decode(route.handler, body, headers, last - now())
        decoded = now()
        responses = await route.endpoint.infer_all(requests, last, times)
        ran = now()
        answered, _ = await aside.encode(route.handler, call, responses, last - ran)
        route.endpoint.answered(times, decoded, ran)
        return one_answer(joined(answered))
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
        route.endpoint.executions.failed(now() - times.started)
        if isinstance(error, Late):  # what is left of a stream's time is not what its caller gave
            error = late(seconds_to_answer(headers, route.endpoint.deadline_seconds))
        shown = route.noted(error, request_id(headers))
        status = route.statuses[shown.kind]
        return refusal(shown, body)
    except asyncio.CancelledError:
        status = route.statuses[Kind.CANCELLED]
        stats.error(Kind.CANCELLED)
        raise
    finally:
        stats.in_progress -= 1
        stats.count(status, now() - times.started)


def refusal(error: FairleadError, body: bytes) -> bytes:
    """The answer to a message that is refused; with its id, if it has one."""
    answer = message("ModelStreamInferResponse")(error_message=error.message)
    try:
        asked = message("ModelInferRequest").FromString(body)
    except DecodeError:
        return bytes(answer.SerializeToString())
    answer.infer_response.id = asked.id
    answer.infer_response.model_name = asked.model_name
    return bytes(answer.SerializeToString())


def one_answer(answered: bytes) -> bytes:
    """The bytes of a ModelInferResponse, the only one to its question, inside a ModelStreamInferResponse.

    As the wire has it: two messages behind each other are one. To read and write a large one again would take many
    milliseconds.
    """
    final = _final()
    length = _varint(len(answered) + len(final))
    return b"".join((_INFER_RESPONSE, length, answered, final))


@functools.cache
def _final() -> bytes:
    """What clients of models that may answer several times look for, as a response of its own."""
    response = message("ModelInferResponse")()
    response.parameters["triton_final_response"].bool_param = True
    return bytes(response.SerializeToString())


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits in each byte, the eighth says that more follow
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one stream may take of its server: bytes of a message, of all bodies together, and the codec's thread."""

    message_bytes: int
    bodies: Bodies
    aside: Aside


class Stream:
    """One stream on one connection. What it has read and not answered is held, as every body is."""

    def __init__(self, route: GrpcRoute, scope: Scope, limits: Limits, now: Now) -> None:
        self._route = route
        self._aside = limits.aside
        self._scope = scope
        self._headers: Headers = dict(scope["headers"])
        self._limit = limits.message_bytes
        self._holding = Holding(limits.bodies)
        self._now = now
        self._messages: asyncio.Queue[bytes | Refused | None] = asyncio.Queue(_READ_AHEAD)
        self._unanswered = 0  # whole messages that have been read
        self._answered = asyncio.Event()  # one more is

    async def run(self, receive: Receive, send: Send) -> None:
        """Answer until the caller has no more messages, or has gone."""
        until = float("inf")
        if is_named(
            self._headers
        ):  # before the head goes out: what cannot be read is refused as a call is
            until = self._now() + seconds_to_answer(self._headers, until)
        identity = request_id(self._headers)
        head = [*self._route.stream_headers, (b"x-request-id", identity)]
        await send({"type": "http.response.start", "status": OK, "headers": head})
        # The head goes out with the first body: a caller may wait for it before it says anything.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        try:
            async with asyncio.TaskGroup() as group:
                answering = group.create_task(self._answer_all(send, until))
                reading = group.create_task(self._read(receive, answering))
                answering.add_done_callback(lambda _: reading.cancel())
        finally:
            self._holding.release()
        if not answering.cancelled():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        log_access(self._scope, OK, identity)

    async def _answer_all(self, send: Send, until: float) -> None:
        while (one := await self._messages.get()) is not None:
            if isinstance(one, Refused):
                answered = refusal(self._route.noted(one, request_id(self._headers)), b"")
            else:
                answered = await answer_message(
                    self._route, one, self._headers, self._now, until, self._aside
                )
                self._holding.give(len(one) + HEAD_BYTES)
                self._unanswered -= 1
                self._answered.set()
            body = framed(answered)
            await send({"type": "http.response.body", "body": body, "more_body": True})
            if isinstance(one, Refused):
                return

    async def _hold(self, size: int) -> None:
        """Hold so much more, when there is room; raises Refused if none of this stream's own messages can make any."""
        while True:
            try:
                self._holding.take(size)
            except Refused:
                if not self._unanswered:
                    raise
            else:
                return
            self._answered.clear()
            await self._answered.wait()

    async def _read(self, receive: Receive, answering: asyncio.Task[None]) -> None:
        """Frames to messages, until the last, a wrong one, or the caller's end."""
        frames = Frames(self._limit)
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                answering.cancel()
                return
            more = event.get("body", b"")
            try:
                await self._hold(len(more))
                frames.feed(more)
                while (frame := frames.take()) is not None:
                    one = await self._plain(frame)
                    self._unanswered += 1
                    await self._messages.put(one)
            except Refused as refused:
                await self._messages.put(refused)
                return
            except TooLong as wrong:
                problem = f"a message of {wrong.length} bytes is larger than {self._limit}; send less at once"
                await self._messages.put(Refused(Kind.TOO_LARGE, problem))
                return
            if not event.get("more_body", False):
                cut = Refused(Kind.INVALID, _CUT) if frames.unfinished else None
                await self._messages.put(cut)

    async def _plain(self, frame: Frame) -> bytes:
        """A frame's message, and that is what is held of it; raises Refused."""
        if not frame.compressed:
            return frame.content
        encoding = self._headers.get(_GRPC_ENCODING, IDENTITY)
        if encoding not in WINDOWS:
            raise Refused(Kind.METHOD, _COMPRESSED)
        found = bytearray()
        async for piece in pieces(frame.content, encoding, self._limit):
            await self._hold(len(piece))
            found += piece
        self._holding.give(len(frame.content))
        return bytes(found)
