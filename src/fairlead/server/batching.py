"""Batching: requests that wait for one model share its runs.

There is no timer, unless one is asked for: while a batch runs, requests gather, and the thread that runs the
model takes what waits as soon as it is free. Which requests that is decides `batch_queue.py`.

Whoever leaves while it waits is gone at once; whoever leaves during the run leaves its row behind, and the run
is told to end once everybody has left. How a batch runs, and what becomes of one that fails, is in `batch_runs.py`.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence

from fairlead.api.inference import InferRequest, InferResponse, Model
from fairlead.domain.batching import DELAY, Batching
from fairlead.domain.errors import Kind, Refused
from fairlead.engines.sharing import Alone, Sharing
from fairlead.kits.clock import Clock
from fairlead.server.batch_members import Answer, Member, Outcome, Run
from fairlead.server.batch_queue import BatchQueue, Taken
from fairlead.server.batch_runs import BatchRuns, too_late
from fairlead.server.executions import Executions
from fairlead.server.stats import BatchCounts
from fairlead.server.threads import Threads
from fairlead.server.times import Times

# How long a free engine waits for those who were answered, in the last run's time; and one of how many is few.
_PATIENCE = 0.125
_FEW = 8


class Batcher:
    """The batches of one endpoint. All but `_work` and what it calls belongs to the event loop."""

    def __init__(
        self,
        model: Model,
        threads: Threads,
        sharing: Sharing,
        queue: BatchQueue[Member],
        said: Batching,
        clock: Clock,
    ) -> None:
        self.abreast = 1  # batches that may run at once; one, unless the model is concurrent
        self.counts = BatchCounts()
        self.executions = Executions()  # its endpoint's
        self.most = queue.most
        self.shares = not isinstance(sharing, Alone)  # may requests run together?
        self._threads = threads
        self._sharing = sharing
        self._runs = BatchRuns(model, sharing, clock)
        self._queue = queue
        self._now = clock.monotonic
        self._lock = (
            threading.Lock()
        )  # guards what follows, the queue and the members' `run` and `left`
        self._at_work = 0  # threads
        self._coming = 0  # of them, that have not taken their first batch yet
        self._absent = 0  # callers that were answered and have not asked again
        self._back_by = 0.0  # until when a free engine waits for them
        self._look: asyncio.TimerHandle | None = None
        self._said = said
        self._patience = 0.0 if said.max_queue_delay_microseconds else _PATIENCE

    def takes(self, request: InferRequest) -> bool:
        """May this request share a run?"""
        return self._sharing.count(request) > 0

    def most_of(self, slots: int) -> int:
        """How many requests of one call may come at once; `slots` are its endpoint's, 0 is no limit."""
        limits = (self.most, slots, self._said.max_queue_size)
        return min(one for one in limits if one)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def infer(
        self, request: InferRequest, until: float, times: Times, free: Callable[[float], None]
    ) -> InferResponse:
        """Answer a request that `takes` said yes to; raises FairleadError.

        `free` is called once, when nothing is done for it any more, with the seconds that were wasted on it. `until`
        is when its caller stops waiting, which is the caller's own business: this only spares the run.

        A request may wait for less time than the model's requests usually may, not for more.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[InferResponse] = loop.create_future()
        member = self.join(request, until, future, free, loop)
        self.look(loop)
        try:
            return await future
        except asyncio.CancelledError:
            self.leave(member)
            raise
        finally:
            if member.timer is not None:
                member.timer.cancel()
            if member.began:
                times.ran(member.began, member.engine_seconds(self._now()), member.size)
            del member, future  # else an error that is their answer would hold them, and they it

    def join(
        self,
        request: InferRequest,
        until: float,
        answer: Answer,
        free: Callable[[float], None],
        loop: asyncio.AbstractEventLoop,
    ) -> Member:
        """Queue a request that `takes` said yes to, without anybody awaiting it; raises FairleadError. As `infer`.

        The caller says when it has queued all it has (`look`), and when nobody waits any more (`leave`).
        """
        try:
            member = self._member(request, until, answer, free)
        except BaseException:
            free(0.0)
            raise
        if member.patience:
            member.timer = loop.call_later(member.patience, self._overdue, member)
        return member

    def _member(
        self,
        request: InferRequest,
        until: float,
        answer: Answer,
        free: Callable[[float], None],
    ) -> Member:
        said = self._said
        level = request.priority or said.default_level
        if said.priority_levels is None:
            level = 1
        elif level > said.levels:
            message = (
                f"priority {level} is no level of this model: write 1, the first, to {said.levels}"
            )
            raise Refused(Kind.INVALID, message)
        member = Member(
            self._sharing.key(request),
            self._sharing.count(request),
            level,
            until,
            self._now(),
            request=request,
            answer=answer,
            free=free,
            patience=_shorter(request.queue_seconds, said.default_timeout_microseconds),
        )
        with self._lock:
            most = said.max_queue_size
            # What a free thread is about to take does not wait for the model.
            taking = (self.abreast - self._at_work + self._coming) * self.most
            if most and len(self._queue) >= most + taking:
                message = f"{most} requests wait for this model already, as many as may (maxQueueSize); try again later"
                raise Refused(Kind.OVERLOADED, message)
            self._queue.add(member)
            self._absent -= self._absent > 0
        return member

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a thread look, unless all are at work: those look again by themselves whenever they are done."""
        with self._lock:
            free = self.abreast - self._at_work
            if free <= 0 or not len(self._queue):
                return
            held = self._holds(self._now(), free)
            back_by = self._back_by
            # One thread takes a batch and leaves the others their share; what runs alone needs a thread each.
            starts = 0 if held else 1 if self.shares else min(free, len(self._queue))
            self._at_work += starts
            self._coming += starts
        if held and back_by < math.inf and self._look is None:
            self._look_again(loop, back_by)
        for _ in range(starts):
            error = self._begin(loop)
            if error is not None:
                self._refuse_all(error)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> BaseException | None:
        """Let a thread work; why that cannot be."""
        submitted = self._threads.submit(lambda: self._work(loop))
        return submitted.exception() if submitted.done() else None

    def _holds(self, now: float, free: int) -> bool:
        """Is it better to wait a moment, for so many free threads?

        Whoever has just been answered is about to ask again, one after the other: a run with the first of them would
        keep all the others waiting. A few who are still missing are not worth it; nor is one that was answered alone.
        """
        if now >= self._back_by:
            self._absent = 0
        waiting = len(self._queue)
        return self._absent * _FEW > waiting and waiting < self.most * free

    def _refuse_all(self, error: BaseException) -> None:
        """Nobody works any more: the model is being unloaded."""
        with self._lock:
            self._at_work -= 1
            self._coming -= 1
            waiting = self._queue.drain()
        for one in waiting:
            one.let_go(0.0)
            if not one.answer.done():
                one.answer.set_exception(error)

    def leave(self, member: Member) -> None:
        """Its caller is gone: out of the queue, or its row is left behind."""
        with self._lock:
            member.left = True
            run = member.run
            if run is None:
                self._queue.remove(member)  # if not there, it is being refused
            else:
                run.waiting -= 1
        if run is None:
            member.let_go(0.0)
        elif not run.waiting:
            run.cancellation.cancel()

    def _overdue(self, member: Member) -> None:
        """Its time in the queue is over."""
        with self._lock:
            if self._said.timeout_action == DELAY:
                self._queue.demote(member)
                return
            late = self._queue.remove(member)
        if late and not member.answer.done():
            member.let_go(0.0)
            member.answer.set_exception(no_run(member.patience))

    # In the model's thread.

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run batches until nothing waits, or waiting for more is better."""
        coming = 1
        try:
            while self._one_batch(loop, coming):
                coming = 0
                if self._threads.wanted:  # whoever else waits for this thread is next
                    with self._lock:
                        self._coming += 1
                    error = self._begin(loop)
                    if error is not None:
                        _tell(loop, self._refuse_all, error)
                    return
        except BaseException:
            with self._lock:
                self._at_work -= 1
            raise

    def _one_batch(self, loop: asyncio.AbstractEventLoop, coming: int) -> bool:
        """Take a batch and run it; False if there is none. `coming` is 1 for a thread's first."""
        now = self._now()
        with self._lock:
            self._coming -= coming
            taken, more = self._take(now)
            run = Run(len(taken.batch))
            for one in taken.batch:
                one.run = run
            self._at_work -= not taken.batch
        if taken.expired:
            _tell(loop, self._refuse, taken.expired)
        if more:
            _tell(loop, self.look, loop)
        if taken.batch:
            outcomes = self._outcomes(run, taken.batch)
            with self._lock:
                if len(outcomes) > 1:
                    self._absent += len(outcomes)
                    self._back_by = math.inf  # until they are told
            return _tell(loop, self._deliver, loop, run, outcomes)
        if taken.again is not None:
            _tell(loop, self._look_again, loop, taken.again)
        return False

    def _outcomes(self, run: Run, batch: Sequence[Member]) -> list[Outcome]:
        """Of everybody in it, whatever happens: who has none would wait, and keep a slot, for good."""
        try:
            return self._runs.answers(run, batch)
        except Exception as error:  # noqa: BLE001 - see above
            return [(one, error) for one in batch]

    def _take(self, now: float) -> tuple[Taken[Member], bool]:
        """The next batch, which leaves their share to other threads that are free; whether there is one."""
        free = 1 + self.abreast - self._at_work
        if self._holds(now, free):
            # Whoever is told of a run looks again; if that has been, nobody would any more.
            return Taken(again=self._back_by if self._back_by < math.inf else None), False
        share = -(-len(self._queue) // free) if self._patience else 0
        taken = self._queue.take(now, share)
        return taken, bool(taken.batch) and free > 1 and len(self._queue) > 0

    # Back on the event loop.

    def _deliver(
        self, loop: asyncio.AbstractEventLoop, run: Run, outcomes: Sequence[Outcome]
    ) -> None:
        for requests, rows, seconds, well in run.ran:
            self.counts.ran(requests, rows, seconds)
            if well:
                self.executions.ran(rows, seconds, requests)
        for member, outcome in outcomes:
            self.counts.waited(member.began - member.arrived if member.began else 0.0)
            member.let_go(member.share if member.answer.done() else 0.0)
            if member.answer.done():
                continue
            if isinstance(outcome, BaseException):
                member.answer.set_exception(outcome)
            else:
                member.answer.set_result(outcome)
        if len(outcomes) > 1:  # who was answered alone is not waited for
            loop.call_soon(self._answered, loop, run)

    def _answered(self, loop: asyncio.AbstractEventLoop, run: Run) -> None:
        """The answers of a run have been sent, or as many as there was time for in a turn.

        If the rest were waited for, nothing would run while large answers are written.
        """
        seconds = sum(seconds for _, _, seconds, _ in run.ran)
        with self._lock:
            self._back_by = self._now() + seconds * self._patience
        self.look(loop)

    def _refuse(self, expired: Sequence[Member]) -> None:
        """Their time was over before their run."""
        for one in expired:
            one.let_go(0.0)
            if not one.answer.done():
                one.answer.set_exception(too_late())

    def _look_again(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look = loop.call_later(max(0.0, at - self._now()), self._due, loop)

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._look = None
        self.look(loop)


def no_run(seconds: float) -> Refused:
    """What a request gets that has waited for its run as long as it may."""
    message = f"no run within {round(seconds, 6):g} s, as long as this request may wait for it"
    return Refused(Kind.DEADLINE, message)


def _shorter(own: float, default_microseconds: int | None) -> float:
    """Seconds; 0 is no limit."""
    default = (default_microseconds or 0) / 1e6
    return min(own, default) if own and default else own or default


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *words: object) -> bool:
    """Call it on the loop; False if that is closed: nobody waits for anything any more."""
    try:
        loop.call_soon_threadsafe(what, *words)
    except RuntimeError:
        return False
    return True
