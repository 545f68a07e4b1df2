"""One request and its answer, as ASGI carries them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar, cast

from fairlead.dialects.oip_binary import UNCOPIED_BYTES
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.kits.jsonlog import ACCESS
from fairlead.server.http.handlers import Headers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

_access = logging.getLogger(ACCESS)
_KNOWN_STATUSES = frozenset(HTTPStatus)
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_MOST_DIGITS = 9  # of a length that is worth reading as a number
_MAX_DIGITS = 18  # of a length that may be read as a number
# Of an answer: its id, how it went (`timing`), the length of its body.
OWN_HEAD = b"x-request-id: %b\r\nserver-timing: %b\r\ncontent-length: %d\r\n\r\n"
_MADE_PREFIX = uuid.uuid4().hex[:16].encode()
_made = itertools.count(1)


class ClientLeft(Refused):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__(Kind.CANCELLED, "the client left")


def ending() -> Refused:
    """What whoever is not answered when the drain time is over gets."""
    return Refused(Kind.UNAVAILABLE, "this server is ending; ask again")


def is_small_length(said: bytes) -> bool:
    """Is this a length in bytes, as a header says it, that is worth reading as a number?"""
    return said.isdigit() and len(said) <= _MOST_DIGITS


def request_id(headers: Headers) -> bytes:
    """The caller's id if it can stand in a header and a log, else one of our own."""
    sent = headers.get(b"x-request-id")
    if sent is not None and _SANE_ID.fullmatch(sent):
        return sent
    return b"%b-%x" % (_MADE_PREFIX, next(_made))


class Bodies:
    """The bytes of all the bodies that are held at once: many large ones together must not be too much either."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.held = 0

    def take(self, size: int) -> None:
        """Hold more; raises Refused (OVERLOADED), and holds nothing more, if that is too much."""
        if self.held + size > self._most:
            raise self.refusal()
        self.held += size

    @property
    def full(self) -> bool:
        """Is there no room for anything?"""
        return self.held >= self._most

    def refusal(self) -> Refused:
        """What whoever finds no room gets."""
        message = f"the requests that are being answered may hold {self._most} bytes together, and do; try again later"
        return Refused(Kind.OVERLOADED, message)


class Holding:
    """One request's part of it."""

    __slots__ = ("_all", "_own")

    def __init__(self, bodies: Bodies) -> None:
        self._all = bodies
        self._own = 0

    def take(self, size: int) -> None:
        self._all.take(size)
        self._own += size

    def refusal(self) -> Refused:
        """What is said when there is no room for more."""
        return self._all.refusal()

    def give(self, size: int) -> None:
        """Hold so much less: a part of it is answered."""
        self._all.held -= size
        self._own -= size

    def release(self) -> None:
        self._all.held -= self._own
        self._own = 0


async def read_body(receive: Receive, headers: Headers, limit: int, holding: Holding) -> bytes:
    """The whole body; raises Refused (TOO_LARGE) as soon as it is known to be over the limit.

    `holding` counts what is read; it is the caller's to release it. A large body is the buffer it was read into, which
    reads like bytes: a copy of 16 MiB costs as much as a small model.
    """
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and (len(declared) > _MAX_DIGITS or int(declared) > limit):
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    holding.take(len(body))
    if not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    # One growing buffer: a list of chunks leaves the heap in pieces that are never given back.
    buffer = bytearray(body)
    while message.get("more_body", False):
        if len(buffer) > limit:
            raise _too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        more = message.get("body", b"")
        holding.take(len(more))
        buffer += more
    if len(buffer) > limit:
        raise _too_large(limit)
    return bytes(buffer) if len(buffer) < UNCOPIED_BYTES else cast("bytes", buffer)


async def unless_left(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`, which is cancelled if the client leaves; raises ClientLeft then.

    Only after the whole body has been read: what comes next is the disconnect.
    """

    async def outcome() -> T | FairleadError:
        try:
            return await work
        except FairleadError as error:
            return error

    async def watch(running: asyncio.Task[T | FairleadError]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        running.cancel()

    async with asyncio.TaskGroup() as group:
        running = group.create_task(outcome())
        watching = group.create_task(watch(running))
        running.add_done_callback(lambda _: watching.cancel())
    if running.cancelled():
        raise ClientLeft
    result = running.result()
    try:
        if isinstance(result, FairleadError):
            raise result
        return result
    finally:
        del result  # an error that its own traceback's frame holds would be freed late


def _too_large(limit: int) -> Refused:
    return Refused(Kind.TOO_LARGE, f"the body is larger than {limit} bytes; send less at once")


def own_head(identity: bytes, timing: bytes, length: int) -> bytes:
    """The end of an answer's head: what is its own, after what its route says of every answer."""
    return OWN_HEAD % (identity, timing, length)


async def answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a whole answer; the length is added."""
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [*headers, (b"content-length", b"%d" % len(body))],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def log_access(scope: Scope, status: int, identity: bytes) -> None:
    """One line with the fields of S3-6, and the request's id."""
    line = f"{scope['method']} {scope['raw_path'].decode('latin-1')} HTTP/{scope['http_version']}"
    log_answer(scope.get("client"), line, status, identity)


def log_answer(client: Sequence[Any] | None, line: str, status: int, identity: bytes) -> None:
    """The same, for a request that never was an ASGI scope; `line` is its request line."""
    address = f"{client[0]}:{client[1]}" if client else "-"
    phrase = HTTPStatus(status).phrase if status in _KNOWN_STATUSES else ""
    extra = {
        "client_addr": address,
        "request_line": line,
        "status_code": status,
        "status_phrase": phrase,
        "request_id": identity.decode("latin-1"),
    }
    _access.info('%s - "%s" %d', address, line, status, extra=extra)
