"""uvicorn's HTTP/1.1 protocol with a fast lane, and a short way out for answers that are known whole.

The fast lane: a small POST to a model that runs on the event loop becomes a `QuickRequest` and joins the
wave of this turn of the loop, without an ASGI scope, a task or a timer of its own. Everything else, and
what turns out not to be quick, goes through ASGI, where a task per request costs what it always costs.

Through ASGI an answer takes two messages, and each header is checked and joined anew. The hot routes know
their headers since the model was loaded, so the protocol offers an ASGI extension: `scope["extensions"]
[WHOLE]` takes the head's bytes and the body and writes both at once. An app that does not find the
extension (another server, another version of this one) answers through ASGI as ever.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fairlead.dialects.oip_binary import UNCOPIED_BYTES, Body
from fairlead.domain.errors import FairleadError
from fairlead.server.http.blocks import Blocks
from fairlead.server.http.encoding import CONTENT_ENCODING, is_encoded
from fairlead.server.http.exchange import ending, is_small_length
from fairlead.server.http.gathering import GatheredRequest, Gathering
from fairlead.server.http.guarded import GuardedProtocol
from fairlead.server.http.handlers import HEADER_LENGTH, Headers
from fairlead.server.http.quick import QuickRequest
from fairlead.server.http.receiving import LARGE_BODY
from fairlead.server.http.repeated import LastHead
from fairlead.server.http.routes import GRPC, HotPath, HotRoute
from fairlead.server.http.timing import Raw
from fairlead.server.http.wave import Wave

WHOLE = "fairlead.whole_answer"
BREAK_OFF = "fairlead.break_off"  # ends the connection in the middle of an answer, so that nobody takes it for whole
HANDED_OVER = "fairlead.handed_over"  # the `QuickRequest` that it was until now: its route, its time, its place in the counts
_CLOSE = b"connection: close\r\n\r\n"

Whole = Callable[[bytes, Body], bool]


class FastLane(Protocol):
    """What the protocol asks of the app before it makes an ASGI request of one."""

    wave: Wave
    gathering: Gathering
    blocks: Blocks  # what large bodies are read into
    limit_bytes: int  # of a body

    def hot_path(self, target: bytes) -> HotPath | None:
        """Who answers a POST to this target, exactly as it was sent; None is the ASGI app's business."""
        ...


class HttpProtocol(GuardedProtocol):
    """One connection. `lane` is where quick requests go."""

    __slots__ = ("_begun", "_lane", "_last", "_quick")

    def __init__(self, *, lane: FastLane, **uvicorn: Any) -> None:  # noqa: ANN401 - uvicorn's own arguments
        super().__init__(**uvicorn)
        self._lane = lane
        self._quick: QuickRequest | None = None  # whose body is being read
        self._begun = b""  # the request, from its first byte on, as far as it is known to have come
        self._last = LastHead()

    def data_received(self, data: bytes) -> None:
        # At the start of a message, with nothing before it that is not answered.
        if self.active is None and not self._in_message and not self._unread:
            found = self._last.again(data)
            if found is not None:
                url, headers, body = found
                if self._joins_again(url, headers, body):
                    return
        super().data_received(data)

    def _joins_again(self, url: bytes, headers: Headers, body: bytes) -> bool:
        """Let a request join its wave whose head is known; False if the parser must see it."""
        hot = self._lane.hot_path(url)
        if hot is None or self.flow.write_paused or self._refusal is not None:
            return False
        quick = self._led(hot, url, headers, headers.items(), len(body))
        if quick is None:
            return False
        self._last.misses = 0
        # As if it had been read and parsed.
        self._reads += 1
        self._fruitless_bytes = 0
        self._idle_since = None
        self.url = url
        self.cycle = self.active = quick
        quick.body = body
        quick.wave.add(quick, self.loop)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._quick = None
        super().connection_lost(exc)

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._in_head = self._in_message = True
        self._begun, self._fed = self._fed, b""

    def on_headers_complete(self) -> None:
        if not self.head_ends():
            return
        self._quick = self._joins_the_wave()
        if self._quick is not None:
            self.cycle = self.active = self._quick
            self.read_plainly()
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        self.body_follows()
        size, json_bytes = self._large_body()
        if size:
            receiving = self.receive_into(self._lane.blocks.lend(size, json_bytes))
            self.cycle.scope["extensions"][LARGE_BODY] = receiving.whole
        else:
            self.read_plainly()

    def _large_body(self) -> tuple[int, int]:
        """The size of a body that is worth memory of its own, and how much of it is JSON; 0 if it is not."""
        hot = self._lane.hot_path(self.url)
        if hot is None or self.active is not self.cycle or self.parser.get_method() != b"POST":
            return 0, 0
        headers = dict(self.headers)
        length, json_length = headers.get(b"content-length", b""), headers.get(HEADER_LENGTH, b"")
        if not is_small_length(length) or not is_small_length(json_length):
            return 0, 0
        size = int(length)
        if not UNCOPIED_BYTES <= size <= self._lane.limit_bytes:
            return 0, 0
        if CONTENT_ENCODING in headers or GRPC in headers:
            return 0, 0
        route = _chosen(hot, headers)
        return (size, int(json_length)) if route is not None and route.handler.splits else (0, 0)

    def on_body(self, body: bytes) -> None:
        quick = self._quick
        if quick is None:
            super().on_body(body)
        else:
            self._fruitless_bytes = 0
            quick.body = quick.body + body if quick.body else body

    def on_message_complete(self) -> None:
        quick = self._quick
        if quick is None:
            super().on_message_complete()
        else:
            self._quick = None
            self._in_message = False
            self._fruitless_bytes = self._body_looks = 0
            if quick.keep_alive:
                size = len(quick.body)
                self._last.came(self._begun, self.url, quick.headers, self.headers, size)
            quick.wave.add(quick, self.loop)

    def _joins_the_wave(self) -> QuickRequest | None:
        hot = self._lane.hot_path(self.url)
        if hot is None or not self._is_plain_post(hot.request_line):
            return None
        if self.flow.write_paused or (self.cycle and not self.cycle.response_complete):
            return None  # pipelined: uvicorn keeps the order
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        if not is_small_length(length) or is_encoded(headers):
            return None
        quick = self._led(hot, self.url, headers, self.headers, int(length))
        if quick is not None:
            quick.keep_alive = self.parser.should_keep_alive()
        return quick

    def _led(
        self, hot: HotPath, url: bytes, headers: Headers, raw: Raw, size: int
    ) -> QuickRequest | None:
        """What stands in the place of an ASGI cycle, if the body is small and its route can take it now."""
        route = _chosen(hot, headers)
        if route is None or size > route.most_fast_bytes:
            return None
        endpoint = route.endpoint
        if endpoint.may_be_quick(size):
            return QuickRequest(self._lane.wave, self, route, url, raw, headers)
        if endpoint.gathers:
            return GatheredRequest(self._lane.gathering, self, route, url, raw, headers)
        return None

    def _is_plain_post(self, line: bytes) -> bool:
        parser = self.parser
        return bool(
            (
                self._begun.startswith(line)  # cheaper than what the parser makes of it
                or (parser.get_method() == b"POST" and parser.get_http_version() == "1.1")
            )
            and not parser.should_upgrade()
            and not self.expect_100_continue
        )

    def give_up(self) -> None:
        """Answer what still waits for a batch: this server is ending, and its time is over."""
        if isinstance(self.active, GatheredRequest):
            self._lane.gathering.given_up(self.active, ending())

    # What a quick request needs of its connection (`quick.Connection`).

    @property
    def left(self) -> bool:
        return self.transport.is_closing()

    def peer(self) -> Sequence[Any] | None:
        return self.client

    def finish(self, request: QuickRequest, answer: bytes) -> None:
        request.response_complete = True
        if self.cycle is request:
            self.cycle = None  # they would keep each other alive
        transport = self.transport
        if not transport.is_closing():
            transport.write(answer)
            if not request.keep_alive:
                transport.close()
        self.on_response_complete()

    def hand_over(self, request: QuickRequest) -> None:
        cycle = self._cycle_of(request)
        if self.cycle is request:
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)
        scope: Any = cycle.scope
        scope["extensions"][HANDED_OVER] = request  # the task begins later
        request.body = b""  # the cycle has it
        request.request = request.call = None

    def _cycle_of(self, request: QuickRequest) -> RequestResponseCycle:
        """The ASGI cycle of a request whose body is here already."""
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "method": "POST",
            "path": request.target.decode("latin-1"),
            "raw_path": request.target,
            "query_string": b"",
            "headers": list(request.raw_headers),
            "state": {},
        }
        cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=request.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.body = bytearray(request.body)
        cycle.more_body = False
        cycle.message_event.set()
        return cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's own type
        scope: Any = cycle.scope
        scope["extensions"] = {
            WHOLE: functools.partial(_write, cycle),
            BREAK_OFF: functools.partial(_break_off, cycle),
        }
        super()._start_asgi_task(cycle, app)


def _chosen(hot: HotPath, headers: Headers) -> HotRoute | None:
    """The route that answers, if that is not the app's business."""
    try:
        route = hot.only or hot.choose(headers)
    except FairleadError:
        return None  # found again, and answered, by the app
    if GRPC not in headers:
        return route
    return route.grpc if route.grpc is not None and route.grpc.warm else None


def _write(cycle: RequestResponseCycle, head: bytes, body: Body) -> bool:
    """Write `head` (ending in an empty line) and `body`; False if that must go through ASGI this time."""
    cycle.disconnected = cycle.disconnected or cycle.transport.is_closing()
    if cycle.disconnected:
        return True
    if cycle.flow.write_paused or cycle.response_started:
        return False
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    if not cycle.keep_alive:
        head = head[:-2] + _CLOSE
    if isinstance(body, tuple):
        cycle.transport.writelines((head, *body))
    elif len(body) < UNCOPIED_BYTES:
        cycle.transport.write(head + body)
    else:
        cycle.transport.writelines((head, body))
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def _break_off(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()
    cycle.transport.abort()
