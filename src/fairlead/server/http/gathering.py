"""The fast lane for requests that wait for a thread, and may share its runs: read and decoded as the quick ones, answered batch by batch.

What one turn of the event loop has read is decoded together and queued before a run is begun. Nobody awaits
an answer: a run's outcomes are put down all at once, then encoded and written one after the other. Where
either would keep the loop for long, it goes on in the next turn. A
request costs no task, no future and no ASGI scope; its deadline is a timer that hardly ever fires.

What cannot be decided at once (no slot is free, it must run alone, one call brings several documents) goes
through ASGI, which knows how to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fairlead.api.deadlines import seconds_to_answer
from fairlead.api.inference import InferResponse
from fairlead.domain.errors import Kind, Refused
from fairlead.kits.clock import Clock
from fairlead.server.batch_members import Member
from fairlead.server.batching import Batcher
from fairlead.server.endpoint import late
from fairlead.server.http.aside import Aside
from fairlead.server.http.exchange import Bodies, ClientLeft
from fairlead.server.http.handlers import Headers
from fairlead.server.http.priority import prioritize
from fairlead.server.http.quick import NOBODY_WAITS, Connection, QuickRequest
from fairlead.server.http.routes import HotRoute
from fairlead.server.http.timing import Raw
from fairlead.server.http.wave import Wave


class GatheredRequest(QuickRequest):
    """One request that waits for a batch: its place in the queue, and where its outcome is put (`batching.Answer`).

    To its connection it is the event that is set when the client has left.
    """

    wave: Gathering  # type: ignore[mutable-override] # only we set it
    __slots__ = ("held", "known", "member", "outcome", "timer")

    def __init__(
        self,
        wave: Gathering,
        connection: Connection,
        route: HotRoute,
        target: bytes,
        raw_headers: Raw,
        headers: Headers,
    ) -> None:
        super().__init__(wave, connection, route, target, raw_headers, headers)
        self.member: Member | None = None
        self.timer: asyncio.TimerHandle | None = None  # of its deadline
        self.held = 0  # bytes of its body that count as held
        self.known = False  # its outcome
        self.outcome: BaseException | None = None  # if it is an error

    def done(self) -> bool:
        return self.known

    def set_result(self, result: InferResponse, /) -> None:
        self.answer = result
        self.wave.settled(self)

    def set_exception(self, exception: BaseException, /) -> None:
        self.outcome = exception
        self.wave.settled(self)

    def set(self) -> None:
        """Its client has left, or its connection has failed."""
        if not self.response_complete:
            self.wave.given_up(self, ClientLeft())

    @property
    def spent(self) -> float:
        return self.member.share if self.member is not None and self.answer is not None else 0.0

    def went(self, now: float) -> None:
        """Note of its runs what its answer says."""
        member = self.member
        if member is not None and member.began:
            self.began = member.began
            self.ended = member.began + member.engine_seconds(now)
            self.batch = member.size


class Gathering(Wave):
    """Collects what waits for batches, and answers what comes out of them. Belongs to one event loop."""

    def __init__(self, clock: Clock, bodies: Bodies, aside: Aside, *, access_log: bool) -> None:
        super().__init__(clock, aside, access_log=access_log)
        self._bodies = bodies
        self._settled: list[GatheredRequest] = []

    # On their way into the queue.

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        batchers: set[Batcher] = set()
        for one in self._take(lambda one: self._join(one, loop)):
            batcher = one.route.endpoint.threaded
            assert batcher is not None
            batchers.add(batcher)
        for batcher in batchers:
            batcher.look(loop)

    def _join(self, one: QuickRequest, loop: asyncio.AbstractEventLoop) -> bool:
        assert isinstance(one, GatheredRequest)
        if one.response_complete:
            return False  # given up before it was its turn
        route = one.route
        endpoint = route.endpoint
        try:
            if one.connection.left:
                raise ClientLeft  # noqa: TRY301 - counted as every other end
            seconds = seconds_to_answer(one.headers, endpoint.deadline_seconds)
            one.until = one.start + seconds
            self._bodies.take(len(one.body))
            one.held = len(one.body)
            requests, one.call = route.handler.decode(one.body, one.headers)
            prioritize(requests, one.headers)
            if len(requests) == 1 and endpoint.gathers:
                one.member = endpoint.join(requests[0], one.until, one, loop)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            return self._failed(one, error)
        if one.member is None:
            self._let_go(one)
            return self._hand_over(one)
        one.body = b""  # its tensors keep what they need of it
        one.message_event = one
        left = one.until - self._now()
        one.timer = loop.call_later(max(0.0, left), self._overdue, one)
        return True

    # On their way out.

    def settled(self, one: GatheredRequest) -> None:
        """Its outcome is known; it is answered together with the others whose outcome is known now."""
        one.known = True
        if not self._settled:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._answer_settled, loop)
        self._settled.append(one)

    def given_up(self, one: GatheredRequest, error: Exception) -> None:
        """Nobody waits for it any more: it leaves its batch, and is answered with the error."""
        if one.response_complete:
            return
        if one.more_body:  # it has not been added yet
            self._count(one)
        batcher = one.route.endpoint.threaded
        assert batcher is not None
        if one.known:
            one.route.endpoint.wasted_seconds += one.spent
        elif one.member is not None:
            one.known = True
            batcher.leave(one.member)
        one.went(self._now())
        self._failed(one, error)

    def _overdue(self, one: GatheredRequest) -> None:
        one.timer = None
        self.given_up(one, late(one.until - one.start))

    def _answer_settled(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer everything whose outcome is known, or as much as there is time for in this turn."""
        settled, self._settled = self._settled, []
        encoded, rest, each = self._some(self._finishes, settled)
        if rest:
            if not self._settled:
                loop.call_soon(self._answer_settled, loop)
            self._settled[:0] = rest
        self._send_all(encoded, self._now(), each)

    def _finishes(self, one: GatheredRequest) -> bool:
        """Encode it; False if it failed, was given up, or if that is the work of a thread."""
        if one.response_complete:
            return False
        one.went(self._now())
        if one.outcome is not None:
            outcome = one.outcome
            one.outcome = None  # a traceback that its own frame holds would be freed late
            if not isinstance(outcome, Exception):
                outcome = Refused(Kind.CANCELLED, "the run was cancelled")
            return self._failed(one, outcome)
        return self._encode(one)

    def _send_all(self, right: Sequence[QuickRequest], now: float, encoding: float) -> None:
        for one in right:
            self._let_go(one)
        super()._send_all(right, now, encoding)

    def _finish(self, one: QuickRequest, status: int, now: float) -> None:
        self._let_go(one)
        super()._finish(one, status, now)

    def _let_go(self, one: QuickRequest) -> None:
        """What it held, and what would hold it."""
        assert isinstance(one, GatheredRequest)
        if one.timer is not None:
            one.timer.cancel()
            one.timer = None
        if one.member is not None and one.member.timer is not None:
            one.member.timer.cancel()
            one.member.timer = None
        self._bodies.held -= one.held
        one.held = 0
        one.member = None
        one.message_event = NOBODY_WAITS
