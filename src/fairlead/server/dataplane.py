"""The data plane: what this process serves, said once for every transport.

Endpoints are found by identity, admitted within their limits and run: on the event loop if the model is
quick and takes tensors and the request is small, or if it is async; in a batch with others if that helps the
model; else in a thread. A client that leaves,
or whose deadline is over, frees its place at once while it waits; a run that has begun in a thread is told,
and keeps its slot until it ends, because it still does the work. That work is counted as wasted.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ids import EndpointId
from fairlead.domain.signature import DocumentSignature, Signature
from fairlead.kits.clock import Clock
from fairlead.server.admission import Admission
from fairlead.server.batching import Batcher
from fairlead.server.executions import Executions
from fairlead.server.loading import LoadedArtifact
from fairlead.server.runs import Run
from fairlead.server.stats import Stats
from fairlead.server.times import Times


class Late(Refused):
    """A caller's time is over."""


def late(seconds: float) -> Late:
    """What a caller gets whose `seconds` are over."""
    return Late(Kind.DEADLINE, f"no answer within {round(seconds, 3):g} s")


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked of an endpoint; the first two since it was loaded.

    `concurrency_seconds` is the integral over time of the requests in slots and in the queue, `idle_seconds` how long
    nobody has been there.
    """

    concurrency_seconds: float
    requests: int
    in_flight: int
    queued: int
    idle_seconds: float


class Endpoint:
    """One endpoint of one revision, ready to answer."""

    def __init__(
        self,
        identity: EndpointId,
        artifact: LoadedArtifact,
        concurrency: int,
        deadline_seconds: float,
        clock: Clock,
        batcher: Batcher | None = None,
    ) -> None:
        self.id = identity
        self.batcher = batcher
        self.batching = ""  # how its requests share runs, or why they do not, in words
        self.wasted_seconds = 0.0  # of runs whose answer nobody took
        self._clock = clock
        self.deadline_seconds = deadline_seconds
        self.artifact = artifact
        self.admission = Admission(concurrency, clock.monotonic)
        self._quick_requests = 0
        self._quick_seconds = 0.0
        self._quick_at = clock.monotonic()
        self.model = artifact.model
        self.executions = batcher.executions if batcher is not None else Executions()
        self._batched = _batched_input(artifact.model.signature)
        self._inline = artifact.profile.inline and batcher is None
        self._elements = artifact.profile.inline_elements
        self._bytes = artifact.profile.inline_bytes
        self._asynchronous = inspect.iscoroutinefunction(artifact.model.infer)

    def may_be_quick(self, size: int) -> bool:
        """Could a request with a body of `size` bytes run on the event loop right now?"""
        return (
            self._inline
            and size <= self._bytes
            and self.admission.open
            and (self.model.concurrent or not self.artifact.busy)
        )

    def quick(self, request: InferRequest, size: int) -> bool:
        """May this request of `size` bytes run on the event loop right now (`infer_now`)?"""
        if not self.may_be_quick(size):
            return False
        elements = 0
        for tensor in request.tensors.values():
            elements += tensor.size
        return elements <= self._elements

    def rows(self, request: InferRequest) -> int:
        """How many items a request brings: the size of its batch dimension, 1 where there is none."""
        tensor = request.tensors.get(self._batched)
        return 1 if tensor is None else len(tensor)

    def answered(self, times: Times, decoded: float, ran: float) -> None:
        """One more in the statistics: decoded and run at these moments, encoded now."""
        now = self._clock.monotonic()
        queue = max(0.0, times.began - decoded) if times.began else 0.0
        self.executions.answered(
            now, now - times.started, queue, decoded - times.arrived, now - ran
        )

    def infer_now(self, request: InferRequest) -> InferResponse:
        """Answer a `quick` request; raises FairleadError."""
        answer = self.model.infer(request)
        assert isinstance(answer, InferResponse)
        return answer

    def ran_now(self, began: float, seconds: float) -> None:
        """One more that ran on the event loop, and so took no slot."""
        self._quick_requests += 1
        self._quick_seconds += seconds
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

    async def infer(
        self, request: InferRequest, seconds: float, times: Times | None = None
    ) -> InferResponse:
        """Answer any request within `seconds`, waiting included; raises FairleadError.

        The run is added to `times`, also one that fails or is given up.
        """
        times = times or Times(0.0)
        until = self._clock.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                await self.admission.enter()
                if self.batcher is not None and self.batcher.takes(request):
                    return await self.batcher.infer(request, until, times, self._free)
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
        run = Run(self.model, request, self._clock)
        future = self.artifact.threads.submit(run)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            run.cancellation.cancel()
            raise
        finally:
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


def _batched_input(signature: Signature) -> str:
    """The first input with a batch dimension; empty if there is none."""
    if isinstance(signature, DocumentSignature):
        return ""
    batched = (spec.name for spec in signature.inputs if spec.shape and spec.shape[0] == -1)
    return next(batched, "")


class DataPlane:
    """Everything one process serves, and what it counts."""

    def __init__(self) -> None:
        self.stats = Stats()
        self._wasted: dict[EndpointId, float] = {}  # by endpoints that are gone
        self._endpoints: dict[EndpointId, Endpoint] = {}

    def add(self, endpoint: Endpoint) -> None:
        self._endpoints[endpoint.id] = endpoint

    def find(self, identity: EndpointId) -> Endpoint:
        """Raises Refused (NOT_FOUND); nothing else ever answers in an endpoint's place."""
        endpoint = self._endpoints.get(identity)
        if endpoint is None:
            raise Refused(Kind.NOT_FOUND, f"{identity} is not served here")
        return endpoint

    def endpoints(self) -> list[Endpoint]:
        return list(self._endpoints.values())

    def wasted(self) -> dict[EndpointId, float]:
        """Seconds of runs whose answer nobody took, by endpoint, since the process began."""
        return {**self._wasted, **{one.id: one.wasted_seconds for one in self.endpoints()}}

    def remove(self, identities: Iterable[EndpointId]) -> None:
        """Unload these endpoints' model, unless others serve it too; only after they have drained."""
        gone = [self._endpoints.pop(one) for one in identities if one in self._endpoints]
        self._wasted.update({one.id: one.wasted_seconds for one in gone})
        left = {id(one.artifact) for one in self._endpoints.values()}
        for artifact in {id(one.artifact): one.artifact for one in gone}.values():
            if id(artifact) not in left:
                artifact.close()

    def close(self) -> None:
        """Unload; only after intake has stopped and requests have drained."""
        for artifact in {
            id(one.artifact): one.artifact for one in self._endpoints.values()
        }.values():
            artifact.close()
        self._endpoints.clear()
