"""uvicorn's HTTP/1.1 protocol, made safe against whoever speaks it badly or not at all.

uvicorn parses everything it has read at once, and a request costs a hundred times the memory of the bytes it
came in: who pipelines without reading the answers fills the server. Here the bytes wait unparsed instead.
Beyond that: heads have a limit, an `Upgrade` we do not serve is ignored with its body intact, what is no
HTTP is refused after the answers that are due before it, trailers are not headers, everybody on a connection
that is gone is told, and a client that stalls for as long as an idle one may stay is cut off, as is one whose body takes
several times as long.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from fairlead.domain.errors import Kind, Refused
from fairlead.server.http.errors import shape_for
from fairlead.server.http.receiving import Intake, Receiving

_log = logging.getLogger(__name__)
_SLICE_BYTES = 1024  # parsed at once: some forty requests, if they are as small as can be
_MOST_SLICE_BYTES = 64 * 1024  # of what is known to be body
_MOST_HEAD_BYTES = 64 * 1024
_UPLOADS = 4  # times the idle limit: how long a body may take to arrive
_NO_HTTP = "this is no HTTP request: send one as RFC 9112 has it"
_LONG_HEAD = f"the head of the request is larger than {_MOST_HEAD_BYTES} bytes: send less in it"


class _Flow(FlowControl):
    """Flow control that can be held: then nothing resumes reading but letting go."""

    held = False

    def hold(self) -> None:
        self.held = True
        self.pause_reading()

    def let_go(self) -> None:
        self.held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `active` is the request being answered; what is pipelined behind it waits."""

    flow: _Flow  # type: ignore[mutable-override] # only we set it
    cycle: Any  # the newest request: uvicorn's cycle, or what stands in its place

    # With more than thirty attributes, CPython looks for each in a dictionary. So ours have slots, and those of uvicorn's
    # that every request needs.
    __slots__ = (
        "_body_left",
        "_body_looks",
        "_fed",
        "_fruitless_bytes",
        "_idle_since",
        "_idle_timer",
        "_in_head",
        "_in_message",
        "_intake",
        "_looked",
        "_reads",
        "_refusal",
        "_renewed",
        "_taken_in",
        "_unread",
        "active",
        "cycle",
        "flow",
        "headers",
        "loop",
        "parser",
        "pipeline",
        "receiving",
        "server_state",
        "transport",
        "url",
    )

    def __init__(self, **uvicorn: Any) -> None:  # noqa: ANN401 - uvicorn's own arguments
        super().__init__(**uvicorn)
        self.url = b""
        self.active: Any = None
        self._unread = bytearray()  # read, not parsed yet
        self._fruitless_bytes = 0  # parsed since a head ended or a piece of body came
        self._body_left = 0
        self._body_looks = 0  # the timer's, at which the body of this message was awaited
        self._in_head = False
        self._in_message = False
        self._fed = b""  # what the parser is being given, if that begins with a request
        self._renewed: bytes | None = None  # the head of an upgrade that is parsed again without it
        self._refusal: bytes | None = None  # the last thing this connection is told
        self._reads = 0
        self._looked: tuple[int, int] | None = None
        self.receiving: Receiving | None = None  # a large body, past the parser
        self._intake: Intake | None = None
        self._taken_in = False  # does the intake stand at the transport?
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    # The connection. Idle ones are closed by one timer each that looks again, instead of one per request.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._idle_since = self.loop.time()
        self._look_again_in(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        for one in (self.active, *(cycle for cycle, _ in self.pipeline)):
            if one is not None and not one.response_complete:
                one.disconnected = True
                one.message_event.set()
        self.pipeline.clear()
        self._unread.clear()
        self.active = None
        if self.receiving is not None:
            self.receiving.drop()
            self.receiving = None
        super().connection_lost(exc)

    def _look_again_in(self, seconds: float) -> None:
        self._idle_timer = self.loop.call_later(seconds, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        if self._stalls() or self._takes_too_long():
            self.transport.abort()
            return
        idle = 0.0 if self._idle_since is None else self.loop.time() - self._idle_since
        if idle >= self.timeout_keep_alive:
            self.timeout_keep_alive_handler()
            idle = 0.0  # once more: a client may never read what a closing connection still holds
        self._look_again_in(self.timeout_keep_alive - idle)

    def _stalls(self) -> bool:
        """Has nothing moved since the last look, although it is the client's turn?"""
        looked = self._looked
        self._looked = (self._reads, self.transport.get_write_buffer_size())
        waiting = self.transport.is_closing() or self.flow.write_paused or self._awaits_body()
        return waiting and looked == self._looked

    def _takes_too_long(self) -> bool:
        """Does a body come so slowly that nobody can be waiting for its answer? A stream's answer has begun."""
        self._body_looks += self._awaits_body() and not self.cycle.response_started
        return self._body_looks > _UPLOADS

    def _awaits_body(self) -> bool:
        """Is it the client that keeps a body from being here? What is pipelined, or more than is wanted now, we do not read."""
        cycle = self.cycle
        if cycle is None or cycle is not self.active or self.flow.read_paused:
            return False
        return bool(cycle.more_body)

    def _unset_keepalive_if_required(self) -> None:
        """The timer looks for itself."""

    # Reading, as much as can be answered.

    def data_received(self, data: bytes) -> None:
        self._reads += 1
        if len(data) > _SLICE_BYTES or self._unread or self.pipeline or self.receiving:
            self._unread += data
            self._read_on()
        else:
            self._feed(data)

    def _read_on(self) -> None:
        unread = self._unread
        while unread and not self.pipeline and not self.transport.is_closing():
            if self.receiving is not None:
                del unread[: self.receiving.take(unread)]
                self._look_whether_received()
                continue
            size = max(_SLICE_BYTES, min(self._body_left, _MOST_SLICE_BYTES))
            piece = bytes(unread[:size])
            del unread[:size]
            self._feed(piece)
        if unread:
            self.flow.hold()
        elif self.flow.held and self._refusal is None:
            self.flow.let_go()

    # A large body goes past the parser.

    def receive_into(self, memory: memoryview) -> Receiving:
        """Read the body of the request whose head has just ended into `memory`."""
        self.receiving = Receiving(memory, self.cycle)
        if self._intake is None:
            self._intake = Intake(self)
        if not self._taken_in:
            self._taken_in = True
            self.transport.set_protocol(self._intake)
        return self.receiving

    def read_plainly(self) -> None:
        """What comes is no large body: read as usual."""
        if self._taken_in:
            self._taken_in = False
            self.transport.set_protocol(self)

    def body_received(self, size: int) -> None:
        """So much of the large body was read."""
        self._reads += 1
        assert self.receiving is not None
        self.receiving.came(size)
        self._look_whether_received()

    def _look_whether_received(self) -> None:
        receiving = self.receiving
        if receiving is None or receiving.left:
            return
        self.receiving = None
        self._in_message = False
        self._fruitless_bytes = self._body_left = self._body_looks = 0
        self.parser = httptools.HttpRequestParser(self)  # the other one still waits for the body
        if not receiving.cycle.response_complete:
            receiving.cycle.more_body = False
            receiving.cycle.message_event.set()

    def _feed(self, data: bytes) -> None:
        self._fruitless_bytes += len(data)
        self._fed = b"" if self._in_message else data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400, _NO_HTTP)
        else:
            if self._fruitless_bytes > _MOST_HEAD_BYTES:
                self._refuse(431, _LONG_HEAD)

    def on_header(self, name: bytes, value: bytes) -> None:
        # As uvicorn's, but without a call more for each of a dozen headers.
        if self._in_head:  # else a trailer
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def head_ends(self) -> bool:
        """Call first when a head is complete; False if this is not the time to dispatch it."""
        self._in_head = False
        self._fruitless_bytes = 0
        self._idle_since = None
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise ValueError("this is no proxy")  # which the parser reports as an error
        if not self.parser.should_upgrade():
            return True
        self._renewed = _without_upgrade(
            method, self.url, self.parser.get_http_version(), self.headers
        )
        return False

    def body_follows(self) -> None:
        """Call when a request was dispatched that may be large."""
        length = next((value for name, value in self.headers if name == b"content-length"), b"0")
        self._body_left = int(length)  # which the parser has checked

    def on_body(self, body: bytes) -> None:
        self._fruitless_bytes = 0
        if self.receiving is not None:  # what was read together with the head
            self.receiving.take(body)
            return
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._fruitless_bytes = self._body_looks = 0
        if self._renewed is None:
            super().on_message_complete()

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """The parser takes what follows an upgrade for another protocol; we never change ours."""
        head, self._renewed = self._renewed, None
        if head is None:
            self._refuse(400, _NO_HTTP)
            return
        self.parser = httptools.HttpRequestParser(self)
        self._feed(head + rest)

    # Answering in order.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's own type
        self.active = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self.active = None
        if self.receiving is not None:
            self.receiving.drop()
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._tell_and_close()
        else:
            if self.flow.read_paused:
                self.flow.resume_reading()
            self._idle_since = self.loop.time()
        if self._unread and not self.pipeline:
            self.loop.call_soon(self._read_on)

    def _refuse(self, status: int, message: str) -> None:
        """Nothing more is read here. The requests before are answered first."""
        _log.debug("a connection is refused: %s", message)
        if self._refusal is not None or self.transport.is_closing():
            return
        _, error_body = shape_for(self.url)
        body = error_body(Refused(Kind.INVALID, message))
        self._refusal = (
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, HTTPStatus(status).phrase.encode(), len(body), body)
        )
        self._unread.clear()
        self.flow.hold()
        broken = self.cycle
        if broken is not None and not broken.response_complete and broken.more_body:
            self._drop(broken)
        if self.active is None:
            self._tell_and_close()

    def _drop(self, broken: Any) -> None:  # noqa: ANN401 - a cycle, or what stands in its place
        """Forget a request whose body went wrong: the refusal is its answer."""
        broken.disconnected = True
        broken.message_event.set()
        self.cycle = None
        if self.active is not broken:
            self.pipeline.popleft()  # the newest
            return
        self.active = None
        if broken.response_started:
            self._refusal = b""  # too late to say anything

    def _tell_and_close(self) -> None:
        assert self._refusal is not None
        self.transport.write(self._refusal)
        self.transport.close()


def _without_upgrade(
    method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> bytes:
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            kept = b", ".join(token for token in tokens if token.lower() != b"upgrade")
            lines += [b"connection: " + kept] if kept else []
        elif name != b"upgrade":
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
