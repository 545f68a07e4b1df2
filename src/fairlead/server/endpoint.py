"""One endpoint of one revision, said once for every transport: found by `dataplane`, asked here.

Endpoints are found by identity, admitted within their limits and run: on the event loop if the model is
quick and takes tensors and the request is small, or if it is async; else in a thread, in a batch with others if
that helps the model. A client that leaves, or whose deadline is over, frees its place at once while it waits; a run
that has begun in a thread is told, and keeps its slot until it ends, because it still does the work. That work is
counted as wasted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Hashable, Sequence
from concurrent.futures import Future

from fairlead.api.deadlines import no_answer
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.load import Load
from fairlead.api.streaming import streams
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ids import EndpointId
from fairlead.engines.sharing import Infer, Sharing, batched_input, rows_of
from fairlead.kits.clock import Clock
from fairlead.kits.timeouts import timeout
from fairlead.server.admission import Admission
from fairlead.server.batch_members import Answer, Member
from fairlead.server.batching import Batcher, no_run
from fairlead.server.executions import Executions
from fairlead.server.loading import LoadedArtifact
from fairlead.server.runs import Run
from fairlead.server.stream_counts import StreamCounts
from fairlead.server.times import Times

_SHORTEST = 1e-6  # seconds in a queue: none at all would mean no limit


class Late(Refused):
    """A caller's time is over."""


def late(seconds: float) -> Late:
    """What a caller gets whose `seconds` are over."""
    return Late(Kind.DEADLINE, no_answer(seconds))


class Endpoint:
    """One endpoint of one revision, ready to answer."""

    def __init__(
        self,
        identity: EndpointId,
        artifact: LoadedArtifact,
        concurrency: int,
        deadline_seconds: float,
        clock: Clock,
        threaded: Batcher | None = None,
    ) -> None:
        self.id = identity
        self.threaded = threaded  # runs its requests in threads, one by one or together; None if it is async or quick
        self.batcher = threaded if threaded is not None and threaded.shares else None
        self.batching = ""  # how its requests share runs, or why they do not, in words
        self.streams = StreamCounts()
        self.wasted_seconds = 0.0  # of runs whose answer nobody took
        self._clock = clock
        self.deadline_seconds = deadline_seconds
        self.artifact = artifact
        self.admission = Admission(concurrency, clock.monotonic)
        self._quick_requests = 0
        self._quick_seconds = 0.0
        self._quick_at = clock.monotonic()
        self.model = artifact.model
        self._infer: Infer = artifact.model.infer
        self.executions = threaded.executions if threaded is not None else Executions()
        self._batched = batched_input(artifact.model.signature)
        self._inline = artifact.profile.inline and threaded is None
        self._elements = artifact.profile.inline_elements
        self._bytes = artifact.profile.inline_bytes
        self._asynchronous = inspect.iscoroutinefunction(artifact.model.infer)
        self._sharing: Sharing | None = None  # of quick requests
        self.most_together = 1

    def run_by(self, infer: Infer) -> None:
        """From now on, one request alone runs this way (`engines.sharing.infer_of`)."""
        self._infer = infer

    def share_in_a_turn(self, sharing: Sharing, most: int) -> None:
        """From now on, quick requests that are here together may share a run (`infer_together`), up to so many rows."""
        self._sharing = sharing
        self.most_together = min(most, self.admission.slots or most)

    def may_be_quick(self, size: int) -> bool:
        """Could a request with a body of `size` bytes run on the event loop right now?"""
        return (
            self._inline
            and size <= self._bytes
            and self.admission.open
            and (self.model.concurrent or not self.artifact.busy)
        )

    def quick_rows(self, request: InferRequest, size: int) -> int | None:
        """How many items a request of `size` bytes brings, if it may run on the event loop right now (`infer_now`)."""
        if not self.may_be_quick(size):
            return None
        elements = 0
        for tensor in request.tensors.values():
            elements += tensor.size
        return self.rows(request) if elements <= self._elements else None

    @property
    def gathers(self) -> bool:
        """Could a request join those that wait for a thread right now, without waiting for a slot?"""
        return self.threaded is not None and self.admission.open

    def join(
        self, request: InferRequest, until: float, answer: Answer, loop: asyncio.AbstractEventLoop
    ) -> Member | None:
        """Put a request where the next run is taken from, while this `gathers`; None if that cannot be.

        Nobody awaits it: `answer` is told. Raises FairleadError.
        """
        assert self.threaded is not None
        if not self.threaded.takes(request):
            return None
        self.admission.take()
        return self.threaded.join(request, until, answer, self._free, loop)

    def rows(self, request: InferRequest) -> int:
        """How many items a request brings: the size of its batch dimension, 1 where there is none."""
        return rows_of(request, self._batched)

    def answered(self, times: Times, decoded: float, ran: float) -> None:
        """One more in the statistics: decoded and run at these moments, encoded now."""
        now = self._clock.monotonic()
        queue = max(0.0, times.began - decoded) if times.began else 0.0
        self.executions.answered(
            now, (now - times.started,), queue, decoded - times.arrived, now - ran
        )

    def infer_now(self, request: InferRequest) -> InferResponse:
        """Answer a `quick` request; raises FairleadError."""
        answer = self._infer(request)
        assert isinstance(answer, InferResponse)
        return answer

    def ran_now(self, began: float, seconds: float, rows: int, requests: int = 1) -> None:
        """A run on the event loop went well: of so many items, which so many requests brought along. It took no slot."""
        self.executions.ran(rows, seconds, requests)
        self._quick_requests += requests
        self._quick_seconds += requests * seconds
        self._quick_at = began

    def load(self) -> Load:
        """How much is asked of it."""
        admission = self.admission
        idle = self._clock.monotonic() - max(admission.changed, self._quick_at)
        return Load(
            admission.concurrency_seconds() + self._quick_seconds,
            admission.asked + self._quick_requests,
            admission.taken,
            admission.waiting,
            0.0 if admission.taken else max(0.0, idle),
        )

    def together(self, request: InferRequest) -> Hashable | None:
        """`quick` requests for which this is the same may share a run; None is for one that runs alone."""
        if self._sharing is None or not self._sharing.count(request):
            return None
        return self, self._sharing.key(request)

    def infer_together(self, requests: Sequence[InferRequest]) -> list[InferResponse]:
        """Answer `quick` requests in one run; raises FairleadError, whoever of them is at fault."""
        assert self._sharing is not None
        return self._sharing.run(self.model, requests)

    async def infer_all(
        self, requests: Sequence[InferRequest], until: float, times: Times
    ) -> list[InferResponse]:
        """Answer the requests of one call, in their order, by `until`; the first error is the call's.

        Where they may share runs, as many at once as fit into one, and never more than its slots and its queue take: a
        call must not be refused for its own sake.
        """
        at_once = 1 if self.batcher is None else self.batcher.most_of(self.admission.slots)
        answers: list[InferResponse] = []
        for first in range(0, len(requests), at_once):
            some = requests[first : first + at_once]
            left = until - self._clock.monotonic()
            if len(some) == 1:
                answers.append(await self.infer(some[0], left, times))
            else:
                answers += await self._together(some, left, times)
        return answers

    async def _together(
        self, requests: Sequence[InferRequest], seconds: float, times: Times
    ) -> list[InferResponse]:
        each = [Times(times.started) for _ in requests]

        async def outcome(request: InferRequest, own: Times) -> InferResponse | Exception:
            try:
                return await self.infer(request, seconds, own)
            except Exception as error:  # noqa: BLE001 - it is raised again, when all have their outcome
                return error

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(outcome(*one)) for one in zip(requests, each, strict=True)
                ]
        finally:
            times.ran_together(each)
        answers: list[InferResponse] = []
        for task in tasks:
            found = task.result()
            if isinstance(found, Exception):
                raise found
            answers.append(found)
        return answers

    async def infer(
        self, request: InferRequest, seconds: float, times: Times | None = None
    ) -> InferResponse:
        """Answer any request within `seconds`, waiting included; raises FairleadError.

        The run is added to `times`, also one that fails or is given up.
        """
        times = times or Times(0.0)
        until = self._clock.monotonic() + seconds
        try:
            async with timeout(seconds):
                await self._enter(request)
                if self.threaded is not None and self.threaded.takes(request):
                    return await self.threaded.infer(request, until, times, self._free)
                before = times.engine_seconds
                answer = await (
                    self._await(request, times)
                    if self._asynchronous
                    else self._in_thread(request, times)
                )
                self.executions.ran(self.rows(request), times.engine_seconds - before)
                return answer
        except TimeoutError:
            raise late(seconds) from None

    async def _enter(self, request: InferRequest) -> None:
        """Take a slot, waiting for it no longer than the request says; what is left of that time stays in it."""
        patience = request.queue_seconds
        if not patience or self.admission.open:
            await self.admission.enter()
            return
        began = self._clock.monotonic()
        try:
            async with timeout(patience):
                await self.admission.enter()
        except TimeoutError:
            raise no_run(patience) from None
        request.queue_seconds = max(_SHORTEST, patience - (self._clock.monotonic() - began))

    @contextlib.asynccontextmanager
    async def streaming(
        self, request: InferRequest, seconds: float, times: Times
    ) -> AsyncIterator[AsyncIterator[InferResponse]]:
        """The answers to one request as they are made; `seconds` bound the wait for a slot.

        The slot is held until the context is left, and leaving it ends the work. Raises FairleadError.
        """
        assert streams(self.model)
        try:
            async with timeout(seconds):
                await self.admission.enter()
        except TimeoutError:
            raise late(seconds) from None
        start = self._clock.monotonic()
        times.ran(start, 0.0)
        whole = False
        try:
            async with contextlib.aclosing(self.model.stream(request)) as responses:
                yield responses
            whole = True
        finally:
            ran = self._clock.monotonic() - start
            times.ran(start, ran)
            self.executions.ran(1, ran)
            self._free(0.0 if whole else ran)

    async def _await(self, request: InferRequest, times: Times) -> InferResponse:
        start = self._clock.monotonic()
        try:
            answer = self.model.infer(request)
            return await answer if inspect.isawaitable(answer) else answer
        except asyncio.CancelledError:
            self.wasted_seconds += self._clock.monotonic() - start
            raise
        finally:
            times.ran(start, self._clock.monotonic() - start)
            self.admission.leave()

    async def _in_thread(self, request: InferRequest, times: Times) -> InferResponse:
        loop = asyncio.get_running_loop()
        self.artifact.busy += 1
        run = Run(self._infer, request, self._clock)
        future = self.artifact.threads.submit(run)
        overdue = _Overdue(future, request.queue_seconds, loop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if overdue.happened:
                raise no_run(request.queue_seconds) from None
            run.cancellation.cancel()
            raise
        finally:
            overdue.spare()
            if run.began:
                times.ran(run.began, run.seconds or self._clock.monotonic() - run.began)
            if future.done():
                self._leave(run)
            else:
                future.add_done_callback(functools.partial(self._ended, loop, run))

    def _ended(self, loop: asyncio.AbstractEventLoop, run: Run, _: Future[InferResponse]) -> None:
        """An abandoned run ended, in its thread; a loop that is closed by then needs no telling."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._leave, run)

    def _leave(self, run: Run) -> None:
        self.artifact.busy -= 1
        self._free(run.seconds if run.cancellation.cancelled else 0.0)

    def _free(self, wasted_seconds: float) -> None:
        """Nothing is done for a request any more."""
        self.wasted_seconds += wasted_seconds
        self.admission.leave()


class _Overdue:
    """Takes a run out of its threads' queue when its time there is over; one that has begun goes on."""

    def __init__(
        self, run: Future[InferResponse], seconds: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.happened = False
        self._run = run
        self._timer = loop.call_later(seconds, self._give_up) if seconds else None

    def spare(self) -> None:
        """It has ended, one way or the other."""
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        self.happened = self._run.cancel()
