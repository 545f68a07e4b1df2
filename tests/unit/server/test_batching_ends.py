"""Nobody is forgotten in a queue, whatever a run, a model's code or the end of its threads does."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import EndpointId
from fairlead.domain.signature import DataType, Signature, TensorSignature, TensorSpec
from fairlead.engines.batches import Rows
from fairlead.engines.sharing import Documents
from fairlead.kits.clock import FakeClock, SystemClock
from fairlead.server.batch_members import Member, Run
from fairlead.server.batch_queue import BatchQueue
from fairlead.server.batch_runs import BatchRuns
from fairlead.server.batching import Batcher
from fairlead.server.endpoint import Endpoint
from fairlead.server.loading import LoadedArtifact, Profile
from fairlead.server.threads import Threads
from support.serving import eventually

SIGNATURE = TensorSignature(
    (TensorSpec("x", DataType.FP32, (-1, -1)),), (TensorSpec("y", DataType.FP32, (-1, -1)),)
)
SLOW, GATED, QUICK, LAST, WRONG = 2, 3, 4, 5, 6  # widths: only requests of the same share a run


class Timed:
    """Takes a while for rows of the width `SLOW`, until it is let for `GATED`, and hardly any time for others."""

    signature: Signature = SIGNATURE
    concurrent = True

    def __init__(self) -> None:
        self.runs: list[tuple[int, ...]] = []
        self.gate = threading.Event()

    def infer(self, request: InferRequest) -> InferResponse:
        x = request.tensors["x"]
        self.runs.append(x.shape)
        if x.shape[1] == WRONG:
            raise Refused(Kind.MODEL, "wrong")
        if x.shape[1] == GATED:
            self.gate.wait(20)
        time.sleep(0.5 if x.shape[1] == SLOW else 0.002)
        return InferResponse({"y": x})

    def infer_together(self, requests: list[InferRequest]) -> list[InferResponse]:
        if len(requests) > 1:
            raise Refused(Kind.MODEL, "not together")
        return [InferResponse(document="done") for _ in requests]

    def parse_document(self, data: bytes) -> Any:
        if b"once" in data:
            raise ValueError("this one is read only once")
        return {}

    def dump_document(self, document: Any) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""


def endpoint(sharing: Any, threads: Threads, seconds: float = 20.0, slots: int = 0) -> Endpoint:
    model: Any = Timed()
    profile = Profile(1000.0, inline=False, inline_elements=0, inline_bytes=0)
    manifest: Any = None
    artifact = LoadedArtifact(Path(), manifest, "", model, threads, profile, InferRequest(), None)
    said, clock = Batching(), SystemClock()
    queue: BatchQueue[Member] = BatchQueue(said, 4)
    batcher = Batcher(model, threads, sharing, queue, said, clock)
    return Endpoint(EndpointId("s", "v1", "1"), artifact, slots, seconds, clock, batcher)


def of(width: int) -> InferRequest:
    return InferRequest({"x": np.zeros((1, width), np.float32)})


async def running_together(
    one: Endpoint, group: asyncio.TaskGroup
) -> list[asyncio.Task[InferResponse]]:
    """Four slow requests that share a run, which has just begun."""
    model: Any = one.model
    group.create_task(one.infer(of(GATED), 20))
    await eventually(lambda: bool(model.runs))
    shared = [group.create_task(one.infer(of(SLOW), 20)) for _ in range(4)]
    await eventually(lambda: waiting(one) == 4)
    model.gate.set()
    await eventually(lambda: (4, SLOW) in model.runs)
    return shared


def waiting(one: Endpoint) -> int:
    assert one.batcher is not None
    return one.batcher.waiting


async def test_after_a_quick_run_of_one_the_others_are_looked_for_again() -> None:
    """A free thread waits for those who were just answered; whoever waits with it must not be forgotten."""
    one = endpoint(Rows(SIGNATURE, Batching()), Threads("t", 1))
    async with asyncio.TaskGroup() as group:
        await running_together(one, group)
        group.create_task(one.infer(of(QUICK), 20))
        await eventually(lambda: waiting(one) == 1)
        began = time.monotonic()
        last = [group.create_task(one.infer(of(LAST), 20)) for _ in range(3)]
        await asyncio.wait(last)
        assert time.monotonic() - began < 10
    assert one.admission.taken == 0


async def test_who_waits_while_a_thread_does_others_work_is_not_forgotten() -> None:
    threads = Threads("t", 1)
    one = endpoint(Rows(SIGNATURE, Batching()), threads)
    may_end = threading.Event()
    async with asyncio.TaskGroup() as group:
        shared = await running_together(one, group)
        others = threads.submit(lambda: may_end.wait(20))  # the thread goes there after its run
        last = [group.create_task(one.infer(of(LAST), 20)) for _ in range(3)]
        await asyncio.wait(shared)
        may_end.set()
        await asyncio.wait_for(asyncio.gather(*last), 10)
    assert others.result(10)
    assert one.admission.taken == 0


async def test_a_document_that_cannot_be_read_again_is_its_own_requests_trouble() -> None:
    """Its batch has failed, and a validator refuses what it let pass before."""
    one = endpoint(Documents(), Threads("t", 1), slots=8)

    async def ask(text: bytes) -> str:
        try:
            answer = await one.infer(InferRequest(document={}, text=text), 20)
        except (FairleadError, ValueError) as error:
            return str(error)
        return str(answer.document)

    texts = [b"first", b"a", b"once", b"b", b"once"]
    answers = await asyncio.wait_for(asyncio.gather(*map(ask, texts)), 15)
    assert answers.count("this one is read only once") == 2
    assert answers.count("done") == 3
    assert one.admission.taken == 0
    assert await ask(b"later") == "done"


async def test_an_error_outside_the_model_is_everybodys_answer_and_nobody_waits_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = endpoint(Documents(), Threads("t", 1), slots=2)

    def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("fairlead.server.batch_runs.BatchRuns.answers", broken)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await asyncio.wait_for(one.infer(InferRequest(document={}), 20), 10)
    assert one.admission.taken == 0


async def test_who_has_failed_is_forgotten_with_the_error() -> None:
    """Else large requests would stay until Python collects its garbage, which does not count bytes."""
    one = endpoint(Rows(SIGNATURE, Batching()), Threads("t", 1))
    gc.disable()
    try:
        requests = [of(WRONG) for _ in range(4)]
        seen = [weakref.ref(request.tensors["x"]) for request in requests]
        asked = [asyncio.ensure_future(one.infer(request, 20)) for request in requests]
        errors = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in errors] == [Refused] * 4
        del requests, asked, errors
        await eventually(lambda: all(tensor() is None for tensor in seen))
    finally:
        gc.enable()


async def test_a_batch_leaves_the_rest_to_threads_that_are_free() -> None:
    one = endpoint(Rows(SIGNATURE, Batching()), Threads("t", 2))
    model: Any = one.model
    assert one.batcher is not None
    one.batcher.abreast = 2
    loop = asyncio.get_running_loop()
    answers = [loop.create_future() for _ in range(2)]
    for answer in answers:
        one.join(of(GATED), math.inf, answer, loop)
    one.batcher.look(loop)
    await eventually(lambda: model.runs == [(1, GATED)] * 2)  # each has its share
    assert not any(answer.done() for answer in answers)
    model.gate.set()
    await asyncio.gather(*answers)
    assert one.admission.taken == 0


async def test_who_else_waits_for_a_thread_is_next() -> None:
    """Of two endpoints of one model, the one that is asked all the time leaves the other its turn."""
    threads = Threads("t", 1)
    busy, other = (endpoint(Rows(SIGNATURE, Batching()), threads) for _ in range(2))
    model: Any = busy.model
    ended: list[str] = []

    async def ask(one: Endpoint, width: int, name: str) -> None:
        await one.infer(of(width), 20)
        ended.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask(busy, GATED, "first"))
        await eventually(lambda: bool(model.runs))
        for width in range(10, 16):  # none shares a run with another
            group.create_task(ask(busy, width, "busy"))
        await eventually(lambda: waiting(busy) == 6)
        group.create_task(ask(other, QUICK, "other"))
        await eventually(lambda: waiting(other) == 1)
        model.gate.set()
    assert ended.index("other") <= 2, ended


async def test_time_that_was_spent_waiting_for_a_slot_is_not_given_again() -> None:
    one = endpoint(Rows(SIGNATURE, Batching()), Threads("t", 1), slots=1)
    await one.admission.enter()
    asked = of(QUICK)
    asked.queue_seconds = 20.0
    asking = asyncio.ensure_future(one.infer(asked, 20))
    await eventually(lambda: one.admission.waiting == 1)
    one.admission.leave()
    await asking
    assert 0 < asked.queue_seconds < 20.0


class Failing:
    """Fails unless a request is alone, and takes ten seconds for it."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.runs: list[int] = []
        self.during: Callable[[], None] = lambda: None

    def infer(self, request: InferRequest) -> InferResponse:
        x = request.tensors["x"]
        self.runs.append(len(x))
        self._clock.advance(10)
        self.during()
        if len(x) > 2:
            raise Refused(Kind.MODEL, "too many")
        return InferResponse({"y": x})


def member(rows: int, until: float) -> Member:
    asked = InferRequest({"x": np.zeros((rows, 2), np.float32)})
    answer: Any = None
    return Member(None, rows, 1, until, 0.0, request=asked, answer=answer, free=lambda _: None)


def test_when_a_failed_run_is_tried_in_halves_nobody_is_run_whose_time_is_over_or_who_left() -> (
    None
):
    clock = FakeClock()
    model: Any = Failing(clock)
    runs = BatchRuns(model, Rows(SIGNATURE, Batching()), clock)
    begin = clock.monotonic()
    late, left, patient = (member(1, begin + seconds) for seconds in (5, 100, 100))

    def leaves() -> None:
        left.left = True

    model.during = leaves
    outcomes = dict(runs.answers(Run(3), [late, left, patient]))
    assert model.runs == [3, 1]
    assert isinstance(outcomes[patient], InferResponse)
    for one in (late, left):
        outcome = outcomes[one]
        assert isinstance(outcome, Refused)
        assert outcome.kind is Kind.DEADLINE


def test_each_has_a_share_of_its_runs_by_its_rows() -> None:
    clock = FakeClock()
    model: Any = Failing(clock)
    run = Run(2)
    small, large = member(1, 1000.0 + clock.monotonic()), member(4, 1000.0 + clock.monotonic())
    BatchRuns(model, Rows(SIGNATURE, Batching()), clock).answers(run, [small, large])
    assert model.runs == [5, 1, 4]
    assert [(one.seconds, one.share) for one in (small, large)] == [(20, 2 + 10), (20, 8 + 10)]
    assert run.ran == [(2, 5, 10, False), (1, 1, 10, True), (1, 4, 10, False)]
