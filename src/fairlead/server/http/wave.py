"""The quick requests of one turn of the event loop, answered together and stage by stage.

A small model runs for a few microseconds. Answered one after the other, each request would pass through
reading, JSON, numpy, the engine, JSON again and the kernel, and each of these would find the caches and
branch predictors full of the others: the engine's seven microseconds become twenty. So what one turn of
the loop has read is decoded first, all of it, then run, then encoded, then written: half the time in all,
and a single request waits for nobody, because a turn that read one request is a wave of one. Requests for the
same model share its run, where it has been proved that they do not notice each other. A turn that has taken
long goes no further: the next one does, when everybody else has had theirs.

Every request stays on its own: what is wrong with one is that one's answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from fairlead.api.deadlines import is_named, seconds_to_answer
from fairlead.api.inference import InferResponse
from fairlead.kits.clock import Clock
from fairlead.server.endpoint import late
from fairlead.server.http.aside import Aside, is_large
from fairlead.server.http.exchange import OWN_HEAD, ClientLeft, log_answer, request_id
from fairlead.server.http.handlers import Answer, joined
from fairlead.server.http.quick import QuickRequest
from fairlead.server.http.routes import HotRoute, head_of
from fairlead.server.http.timing import after_run, not_run, run, with_run

Q = TypeVar("Q", bound=QuickRequest)

OK = 200
_MESSAGE = b"%b" + OWN_HEAD + b"%b"  # an answer: its route's head, its own, its body
_FEW_ELEMENTS = 64  # of an answer: so few are never worth a thread, even as classes
_MOST_AT_ONCE = 64  # what is read in the same turn beyond it waits until these answers are sent
_MOMENT = 0.0005  # seconds


class Wave:
    """Collects quick requests and answers them at the end of the event loop's turn."""

    def __init__(self, clock: Clock, aside: Aside, *, access_log: bool) -> None:
        self._now = clock.monotonic
        self._aside = aside
        self._access_log = access_log
        # Seconds that one stage may keep the event loop; what is left then goes on when others have had their turn.
        self.moment = _MOMENT
        self._waiting: list[QuickRequest] = []
        # What earlier turns had no time for; nothing else is read until it is done.
        self._decoded: Sequence[QuickRequest] = ()
        self._ran: Sequence[QuickRequest] = ()
        self._comes = False  # a turn in which they go on

    def add(self, one: QuickRequest, loop: asyncio.AbstractEventLoop) -> None:
        """Answer a request whose body is complete."""
        self._count(one)
        self._waiting.append(one)
        if not self._comes:
            self._comes = True
            loop.call_soon(self._answer, loop)

    def _count(self, one: QuickRequest) -> None:
        """From now on it is in progress; nothing more of it is read."""
        one.more_body = False
        one.start = self._now()
        one.identity = request_id(one.headers)
        one.route.stats.in_progress += 1

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._go_on(loop)
        finally:
            self._comes = bool(self._waiting or self._decoded or self._ran)
            if self._comes:
                loop.call_soon(self._answer, loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """As much of it as there is time for in this turn; a stage that begins is given a moment."""
        del loop
        over = self._now() + self.moment
        ran: Sequence[QuickRequest]
        if self._ran:
            before, self._ran = self._ran, ()
            ran = self._wanted(before)
        else:
            if self._decoded:
                before, self._decoded = self._decoded, ()
                decoded = self._still_quick(before)
            else:
                decoded = self._take(self._decode)
                if self._now() > over:
                    self._decoded = decoded
                    return
            ran = self._run_all(decoded)
            if self._now() > over:
                self._ran = ran
                return
        encoded, self._ran, each = self._some(self._encode, ran)
        self._send_all(encoded, self._now(), each)

    def _some(
        self, work: Callable[[Q], bool], among: Sequence[Q]
    ) -> tuple[list[Q], Sequence[Q], float]:
        """Those with which it went well, those there was no time for, and the seconds that each took."""
        went: list[Q] = []
        count = 0
        began = ended = self._now()
        for one in among:
            if work(one):
                went.append(one)
            count += 1
            ended = self._now()
            if ended - began > self.moment:
                break
        return went, among[count:], (ended - began) / (count or 1)

    def _take(self, work: Callable[[QuickRequest], bool]) -> list[QuickRequest]:
        """Those that wait with which it went well, as many as one turn takes."""
        now, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        taken, rest, each = self._some(work, now)
        self._waiting[:0] = rest
        for one in taken:
            one.decoding = each
        return taken

    def _wanted(self, some: Sequence[QuickRequest]) -> list[QuickRequest]:
        """Those whose callers still wait; the others are answered with an error."""
        now = self._now()
        return [one for one in some if self._is_wanted(one, now)]

    def _is_wanted(self, one: QuickRequest, now: float) -> bool:
        if one.connection.left:
            error: Exception = ClientLeft()
        elif one.until and now > one.until:
            error = late(one.until - one.start)
        else:
            return True
        one.route.endpoint.wasted_seconds += one.spent
        return self._failed(one, error)

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
        return self._hand_over(one)

    def _still_quick(self, some: Sequence[QuickRequest]) -> list[QuickRequest]:
        """Those that may still run here: since they were decoded, a thread may have begun with what only one may run."""
        return [
            one
            for one in self._wanted(some)
            if one.route.endpoint.may_be_quick(len(one.body)) or self._hand_over(one)
        ]

    def _hand_over(self, one: QuickRequest) -> bool:
        """Let ASGI answer it, where it stays in progress; never True, as it goes no further here."""
        one.connection.hand_over(one)
        return False

    def _run_all(self, wave: Sequence[QuickRequest]) -> Sequence[QuickRequest]:
        """Run them, those that may share a run in one; the ones that were answered."""
        if len(wave) == 1:
            return wave if self._run(wave[0]) else ()
        batches = _shared(wave)
        batches.reverse()  # the next one is the last
        ran: list[QuickRequest] = []
        began = self._now()
        while batches:
            batch = batches.pop()
            if len(batch) > 1 and _any_is_late(batch, self._now()):
                batch = self._wanted(batch)
            if len(batch) <= 1:
                ran += filter(self._run, batch)
            elif self._run_together(batch):
                ran += batch
            else:
                batches += [[one] for one in reversed(batch)]
            if batches and self._now() - began > self.moment:
                self._decoded = [one for later in reversed(batches) for one in later]
                break
        return ran

    def _run_together(self, batch: Sequence[QuickRequest]) -> bool:
        """One run for all; False if each must run by itself, so that only the one whose fault it is gets the error."""
        began = self._now()
        endpoint = batch[0].route.endpoint
        try:
            answers = endpoint.infer_together([one.request for one in batch if one.request])
        except Exception:  # noqa: BLE001 - the one whose fault it is meets it again, alone
            for one in batch:
                one.alone = True
            return False
        ended = self._now()
        said = run(ended - began, len(batch))
        for one, answer in zip(batch, answers, strict=True):
            one.answer, one.began, one.ended, one.run_said = answer, began, ended, said
            one.batch = len(batch)
        endpoint.ran_now(began, ended - began, sum(one.rows for one in batch), len(batch))
        return True

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
        now = self._now()
        if one.response_complete or not self._is_wanted(one, now):
            return
        try:
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


def _shared(wave: Sequence[QuickRequest]) -> list[list[QuickRequest]]:
    """What runs together; alone is who cannot share a run."""
    batches: list[list[QuickRequest]] = []
    groups: dict[Hashable, list[QuickRequest]] = {}
    for one in wave:
        assert one.request is not None
        key = None if one.alone else one.route.endpoint.together(one.request)
        if key is None:
            batches.append([one])
        else:
            groups.setdefault(key, []).append(one)
    for group in groups.values():
        batches += _batches(group)
    return batches


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
