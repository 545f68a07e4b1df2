"""The quick requests of one turn of the event loop, answered together and stage by stage.

A small model runs for a few microseconds. Answered one after the other, each request would pass through
reading, JSON, numpy, the engine, JSON again and the kernel, and each of these would find the caches and
branch predictors full of the others: the engine's seven microseconds become twenty. So what one turn of
the loop has read is decoded first, all of it, then run, then encoded, then written: half the time in all,
and a single request waits for nobody, because a turn that read one request is a wave of one. Requests for the
same model share its run, where it has been proved that they do not notice each other.

Every request stays on its own: what is wrong with one is that one's answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from fairlead.api.deadlines import is_named, seconds_to_answer
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.kits.clock import Clock
from fairlead.server.endpoint import late
from fairlead.server.http.aside import Aside, is_large
from fairlead.server.http.exchange import OWN_HEAD, ClientLeft, log_answer, request_id
from fairlead.server.http.handlers import Answer, Headers, joined
from fairlead.server.http.routes import HotRoute, head_of
from fairlead.server.http.timing import Raw, after_run, not_run, run, with_run

OK = 200
_MESSAGE = b"%b" + OWN_HEAD + b"%b"  # an answer: its route's head, its own, its body
_FEW_ELEMENTS = 64  # of an answer: so few are never worth a thread, even as classes
_MOST_AT_ONCE = 64  # what is read in the same turn beyond it waits until these answers are sent


class Connection(Protocol):
    """What a quick request needs of the connection it came on."""

    @property
    def left(self) -> bool:
        """Has the client gone?"""
        ...

    def finish(self, request: QuickRequest, answer: bytes) -> None:
        """Write the answer and go on with what comes next on this connection."""
        ...

    def hand_over(self, request: QuickRequest) -> None:
        """Let the ASGI app answer it: it turned out not to be quick."""
        ...

    def peer(self) -> Sequence[Any] | None:
        """Who asks, for the access log."""
        ...


class Event(Protocol):
    """Set when something has happened to a request, as uvicorn's protocol does."""

    def set(self) -> None: ...


class _Unheard:
    """In place of an event that nobody waits for."""

    def set(self) -> None:
        """Nobody waits."""


NOBODY_WAITS = _Unheard()


class QuickRequest:
    """One request with a small body for a model that runs on the event loop.

    To uvicorn's protocol it stands where an ASGI cycle would, so that what is pipelined behind it waits
    for its answer and a server that stops lets it finish: hence `response_complete`, `disconnected`,
    `keep_alive`, `more_body` and the like.
    """

    __slots__ = (
        "answer",
        "batch",
        "began",
        "body",
        "call",
        "connection",
        "decoding",
        "disconnected",
        "ended",
        "headers",
        "identity",
        "keep_alive",
        "message",
        "message_event",
        "more_body",
        "raw_headers",
        "request",
        "response_complete",
        "response_started",
        "route",
        "rows",
        "run_said",
        "start",
        "target",
        "until",
        "wave",
    )

    def __init__(
        self,
        wave: Wave,
        connection: Connection,
        route: HotRoute,
        target: bytes,
        raw_headers: Raw,
        headers: Headers,
    ) -> None:
        self.wave = wave  # that it joins
        self.connection = connection
        self.route = route
        self.target = target
        self.raw_headers = raw_headers
        self.headers = headers
        self.body = b""
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.response_started = False
        self.more_body = True
        self.message_event: Event = NOBODY_WAITS
        self.identity = b""
        self.start = 0.0
        self.decoding = 0.0  # seconds, its part of what was decoded together
        self.began = 0.0  # its run, if it came to one
        self.ended = 0.0
        self.rows = 1
        self.batch = 1  # requests that shared its run
        self.run_said = b""  # in the answer's head, where it was put into words for all of them
        self.until = 0.0  # when its caller stops waiting, if that is said
        self.call: Any = None
        self.request: InferRequest | None = None
        self.answer: InferResponse | None = None
        self.message = b""  # the answer as it is sent


class Wave:
    """Collects quick requests and answers them at the end of the event loop's turn."""

    def __init__(self, clock: Clock, aside: Aside, *, access_log: bool) -> None:
        self._now = clock.monotonic
        self._aside = aside
        self._access_log = access_log
        self._waiting: list[QuickRequest] = []

    def add(self, one: QuickRequest, loop: asyncio.AbstractEventLoop) -> None:
        """Answer a request whose body is complete."""
        one.more_body = False
        one.start = self._now()
        one.identity = request_id(one.headers)
        one.route.stats.in_progress += 1
        if not self._waiting:
            loop.call_soon(self._answer, loop)
        self._waiting.append(one)

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self._take(loop)
        began = self._now()
        decoded = [one for one in now if self._decode(one)]
        decoding = (self._now() - began) / len(now)
        for one in decoded:
            one.decoding = decoding
        ran = self._run_all(decoded) if len(decoded) > 1 else list(filter(self._run, decoded))
        began = self._now()
        encoded = [one for one in ran if self._encode(one)]
        ended = self._now()
        self._send_all(encoded, ended, (ended - began) / (len(ran) or 1))

    def _take(self, loop: asyncio.AbstractEventLoop) -> list[QuickRequest]:
        """What is answered in this turn."""
        now, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        if self._waiting:
            loop.call_soon(self._answer, loop)
        return now

    def _decode(self, one: QuickRequest) -> bool:
        route = one.route
        try:
            if one.connection.left:
                raise ClientLeft  # noqa: TRY301 - counted as every other end
            if is_named(one.headers):
                most = route.endpoint.deadline_seconds
                one.until = one.start + seconds_to_answer(one.headers, most)
            requests, one.call = route.handler.decode(one.body, one.headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            return self._failed(one, error)
        if len(requests) == 1:
            rows = route.endpoint.quick_rows(requests[0], len(one.body))
            if rows is not None:
                one.request = requests[0]
                one.rows = rows
                return True
        route.stats.in_progress -= 1
        one.connection.hand_over(one)
        return False

    def _run_all(self, wave: Sequence[QuickRequest]) -> list[QuickRequest]:
        """Run them, those that may share a run in one; the ones that were answered."""
        alone: list[QuickRequest] = []
        groups: dict[Hashable, list[QuickRequest]] = {}
        for one in wave:
            assert one.request is not None
            key = one.route.endpoint.together(one.request)
            (alone if key is None else groups.setdefault(key, [])).append(one)
        ran = list(filter(self._run, alone))
        for group in groups.values():
            for batch in _batches(group):
                ran += self._run_together(batch)
        return ran

    def _run_together(self, batch: Sequence[QuickRequest]) -> list[QuickRequest]:
        """One run for all; if it fails, each by itself, so that only the one whose fault it is gets the error."""
        began = self._now()
        if len(batch) == 1 or _any_is_late(batch, began):
            return list(filter(self._run, batch))
        endpoint = batch[0].route.endpoint
        try:
            answers = endpoint.infer_together([one.request for one in batch if one.request])
        except Exception:  # noqa: BLE001 - the one whose fault it is meets it again, alone
            return list(filter(self._run, batch))
        ended = self._now()
        said = run(ended - began, len(batch))
        for one, answer in zip(batch, answers, strict=True):
            one.answer, one.began, one.ended, one.run_said = answer, began, ended, said
        endpoint.ran_now(began, ended - began, sum(one.rows for one in batch), len(batch))
        return list(batch)

    def _run(self, one: QuickRequest) -> bool:
        assert one.request is not None
        began = self._now()
        if one.until and began > one.until:
            return self._failed(one, late(one.until - one.start))
        one.began = began
        endpoint = one.route.endpoint
        try:
            one.answer = endpoint.infer_now(one.request)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(one, error)
        one.ended = self._now()
        endpoint.ran_now(began, one.ended - began, one.rows)
        return True

    def _timing(self, one: QuickRequest) -> bytes:
        """What the answer's head says of how it went."""
        headers, raw = one.headers, one.raw_headers
        if not one.began:
            return not_run(self._now() - one.start, headers, raw)
        if one.run_said:
            return with_run(one.began - one.start, one.run_said, headers, raw)
        ended = one.ended or self._now()
        return after_run(one.began - one.start, ended - one.began, headers, raw, one.batch)

    def _encode(self, one: QuickRequest) -> bool:
        """Encode it; False if it failed, or if that is the work of a thread."""
        answer, handler = one.answer, one.route.handler
        assert answer is not None
        elements = 0
        for tensor in (
            answer.tensors.values()
        ):  # most answers are small; of others the handler knows what they cost
            elements += tensor.size
        try:
            if elements > _FEW_ELEMENTS and is_large(handler, one.call, (answer,)):
                self._encode_aside(one, answer)
                return False
            self._put(one, handler.encode(one.call, (answer,)))
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(one, error)
        return True

    def _encode_aside(self, one: QuickRequest, answer: InferResponse) -> None:
        """Encode it beside the event loop."""
        loop, began, handler = asyncio.get_running_loop(), self._now(), one.route.handler
        future = self._aside.submit(lambda: handler.encode(one.call, (answer,)))
        future.add_done_callback(
            lambda found: (
                None
                if loop.is_closed()
                else loop.call_soon_threadsafe(self._encoded, one, found, began)
            )
        )

    def _encoded(self, one: QuickRequest, found: Future[Answer], began: float) -> None:
        """A large answer was encoded beside the event loop."""
        if one.response_complete:
            return
        now = self._now()
        try:
            if one.until and now > one.until:
                raise late(one.until - one.start)  # noqa: TRY301 - counted as every other end
            self._put(one, found.result())
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(one, error)
            return
        self._send_all([one], now, now - began)

    def _put(self, one: QuickRequest, answer: Answer) -> None:
        """Make of what was encoded the bytes that are sent."""
        body, json_length = answer
        head = one.route.head
        if json_length is not None:
            head = head_of(OK, one.route.binary(json_length))
        one.message = _message(head, one, joined(body), self._timing(one))

    def _failed(self, one: QuickRequest, error: Exception) -> bool:
        """Answer an error; never True, as the request goes no further."""
        status, body, headers = one.route.failure(error, one.identity, one.headers)
        head = head_of(one.route.wire(status), headers)
        one.message = _message(head, one, body, self._timing(one))
        now = self._now()
        one.route.endpoint.executions.failed(now - one.start)
        self._finish(one, status, now)
        return False

    def _send_all(self, right: Sequence[QuickRequest], now: float, encoding: float) -> None:
        """Count and write right answers, which took so many seconds each to encode. One route's are counted at once."""
        routes: dict[HotRoute, list[QuickRequest]] = {}
        for one in right:
            routes.setdefault(one.route, []).append(one)
        for route, some in routes.items():
            seconds = [now - one.start for one in some]
            decoding = sum([one.decoding for one in some])
            queued = sum([one.began - one.start for one in some]) - decoding
            route.endpoint.executions.answered(
                now, seconds, max(0.0, queued), decoding, encoding * len(some)
            )
            route.stats.in_progress -= len(some)
            route.stats.count_all(OK, seconds)
        for one in right:
            one.connection.finish(one, one.message)
        if self._access_log:
            for one in right:
                _log(one, OK)

    def _finish(self, one: QuickRequest, status: int, now: float) -> None:
        """Count and write an error."""
        stats = one.route.stats
        stats.in_progress -= 1
        stats.count(status, now - one.start)
        one.connection.finish(one, one.message)
        if self._access_log:
            _log(one, status)


def _log(one: QuickRequest, status: int) -> None:
    line = f"POST {one.target.decode('latin-1')} HTTP/1.1"
    log_answer(one.connection.peer(), line, status, one.identity)


def _any_is_late(batch: Sequence[QuickRequest], now: float) -> bool:
    for one in batch:  # noqa: SIM110 - a generator would cost every request something
        if one.until and now > one.until:
            return True
    return False


def _batches(group: Sequence[QuickRequest]) -> Iterator[list[QuickRequest]]:
    """As many rows at once as the endpoint may be given, or one request that has more."""
    endpoint = group[0].route.endpoint
    batch: list[QuickRequest] = []
    rows = 0
    for one in group:
        if batch and rows + one.rows > endpoint.most_together:
            yield batch
            batch, rows = [], 0
        batch.append(one)
        rows += one.rows
    yield batch


def _message(head: bytes, one: QuickRequest, body: bytes, timing: bytes) -> bytes:
    if not one.keep_alive:
        head += b"connection: close\r\n"
    return _MESSAGE % (head, one.identity, timing, len(body), body)
