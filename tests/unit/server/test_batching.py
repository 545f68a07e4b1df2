"""Requests that share runs: everybody gets their own answer, and nobody else's trouble."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from fairlead.api.cancellation import current
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import EndpointId
from fairlead.domain.signature import DataType, Signature, TensorSignature, TensorSpec
from fairlead.engines.batches import Rows
from fairlead.kits.clock import SystemClock
from fairlead.server.batch_members import Member
from fairlead.server.batch_queue import BatchQueue
from fairlead.server.batching import Batcher
from fairlead.server.endpoint import Endpoint
from fairlead.server.loading import LoadedArtifact, Profile
from fairlead.server.threads import Threads
from fairlead.server.times import Times
from support.serving import eventually

BAD = -1.0
SIGNATURE = TensorSignature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),), (TensorSpec("y", DataType.FP32, (-1, 2)),)
)


class Gated:
    """Doubles what it is given, once it is let; refuses a run that holds `BAD`."""

    signature: Signature = SIGNATURE
    concurrent = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.once = threading.Semaphore(0)  # lets one run go on
        self.runs: list[list[float]] = []  # the first value of each row
        self.cancelled = 0

    def infer(self, request: InferRequest) -> InferResponse:
        x = request.tensors["x"]
        self.runs.append(x[:, 0].tolist())
        told = threading.Event()
        cancellation = current()
        assert cancellation is not None
        cancellation.on_cancel(told.set)
        while not (self.gate.is_set() or self.once.acquire(timeout=0.005)):
            if told.is_set():
                self.cancelled += 1
                raise Refused(Kind.MODEL, "ended before its end")
        if (x == BAD).any():
            raise Refused(Kind.INVALID, "a bad row")
        return InferResponse({"y": x * 2})

    def parse_document(self, data: bytes) -> Any:
        raise NotImplementedError

    def dump_document(self, document: Any) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""


@pytest_asyncio.fixture
async def model() -> AsyncIterator[Gated]:
    gated = Gated()
    yield gated
    gated.gate.set()


def endpoint(
    model: Gated, most: int = 8, concurrency: int = 0, seconds: float = 5.0, **said: Any
) -> Endpoint:
    batching = Batching(**said)
    threads = Threads("test", 4)
    profile = Profile(1000.0, inline=False, inline_elements=0, inline_bytes=0)
    manifest: Any = None
    artifact = LoadedArtifact(Path(), manifest, "", model, threads, profile, InferRequest(), None)
    rows = Rows(SIGNATURE, batching)
    queue: BatchQueue[Member] = BatchQueue(batching, most)
    clock = SystemClock()
    batcher = Batcher(model, threads, rows, queue, batching, clock)
    return Endpoint(EndpointId("s", "v1", "1"), artifact, concurrency, seconds, clock, batcher)


def request(value: float, rows: int = 1, priority: int = 0) -> InferRequest:
    return InferRequest({"x": np.full((rows, 2), value, np.float32)}, priority=priority)


def waiting(one: Endpoint) -> int:
    assert one.batcher is not None
    return one.batcher.waiting


async def test_what_waits_while_a_run_is_under_way_is_the_next_run(model: Gated) -> None:
    one = endpoint(model)
    times = [Times(0.0) for _ in range(6)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.infer(request(0), 5, times[0]))]
        await eventually(lambda: len(model.runs) == 1)
        tasks += [
            group.create_task(one.infer(request(n, rows=1 + n % 2), 5, times[n]))
            for n in range(1, 6)
        ]
        await eventually(lambda: waiting(one) == 5)
        model.gate.set()
    assert model.runs == [[0], [1, 1, 2, 3, 3, 4, 5, 5]]
    for n, task in enumerate(tasks):
        assert task.result().tensors["y"].tolist() == [[2 * n, 2 * n]] * (1 + n % 2)
    assert [each.batch for each in times] == [1, 5, 5, 5, 5, 5]
    assert all(each.engine_seconds > 0 for each in times)
    assert one.admission.taken == 0
    assert one.wasted_seconds == 0


async def test_the_answers_of_a_batch_are_parts_of_one_array(model: Gated) -> None:
    one = endpoint(model)
    answers = await _together(one, model, [request(1), request(2)])
    bases = {
        id(answer.tensors["y"].base) for answer in answers if not isinstance(answer, Exception)
    }
    assert len(bases) == 1


async def _together(
    one: Endpoint, model: Gated, requests: list[InferRequest]
) -> list[InferResponse | BaseException]:
    """Their outcomes; all of them wait while another run keeps the engine."""
    model.gate.clear()
    before = len(model.runs)
    async with asyncio.TaskGroup() as group:
        group.create_task(one.infer(request(100), 5))
        await eventually(lambda: len(model.runs) == before + 1)
        gathered = asyncio.gather(
            *(one.infer(each, 5) for each in requests), return_exceptions=True
        )
        await eventually(lambda: waiting(one) == len(requests))
        model.gate.set()
        return await gathered


async def test_one_bad_request_fails_alone_and_the_others_get_their_answers(model: Gated) -> None:
    one = endpoint(model)
    outcomes = await _together(one, model, [request(n) for n in (1, 2, BAD, 3, 4, 5, 6)])
    bad = outcomes.pop(2)
    assert isinstance(bad, FairleadError)
    assert (bad.kind, bad.message) == (Kind.INVALID, "a bad row")
    for n, answer in enumerate(outcomes, 1):
        assert isinstance(answer, InferResponse)
        assert answer.tensors["y"].tolist() == [[2 * n, 2 * n]]
    runs = model.runs[1:]
    assert runs[0] == [1, 2, BAD, 3, 4, 5, 6]
    assert len(runs) <= 1 + 2 * 3  # halves, not one by one
    assert [BAD] in runs
    assert one.admission.taken == 0


async def test_when_all_are_bad_each_hears_it_and_runs_stay_bounded(model: Gated) -> None:
    one = endpoint(model)
    outcomes = await _together(one, model, [request(BAD) for _ in range(8)])
    assert all(isinstance(each, FairleadError) for each in outcomes)
    assert len(model.runs) == 1 + 15  # 8 + 4·2 + 2·4 + 1·8 runs at most


async def test_a_client_that_leaves_while_it_waits_is_in_no_run(model: Gated) -> None:
    one = endpoint(model)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.infer(request(0), 5))]
        await eventually(lambda: len(model.runs) == 1)
        tasks += [group.create_task(one.infer(request(n), 5)) for n in (1, 2, 3)]
        await eventually(lambda: waiting(one) == 3)
        tasks[2].cancel()
        await eventually(lambda: waiting(one) == 2)
        assert one.admission.taken == 3
        model.gate.set()
    assert model.runs == [[0], [1, 3]]
    assert tasks[3].result().tensors["y"].tolist() == [[6, 6]]
    assert one.admission.taken == 0


async def test_a_client_that_leaves_during_the_run_poisons_nobody_and_its_share_is_wasted(
    model: Gated,
) -> None:
    one = endpoint(model)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        tasks = [group.create_task(one.infer(request(n), 5)) for n in (1, 2)]
        await eventually(lambda: waiting(one) == 2)
        model.once.release()
        await first
        await eventually(lambda: len(model.runs) == 2)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        assert one.admission.taken == 2  # its row is still being worked on
        model.gate.set()
    assert tasks[1].result().tensors["y"].tolist() == [[4, 4]]
    assert model.runs == [[0], [1, 2]]
    assert one.admission.taken == 0
    assert one.wasted_seconds > 0


async def test_a_run_that_everybody_has_left_is_told_to_end(model: Gated) -> None:
    one = endpoint(model)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.infer(request(n), 5)) for n in (0,)]
        await eventually(lambda: len(model.runs) == 1)
        tasks[0].cancel()
        await eventually(lambda: model.cancelled == 1)
        await eventually(lambda: one.admission.taken == 0)
    assert one.wasted_seconds > 0
    assert model.runs == [[0]]  # and is not tried again


async def test_who_is_late_before_the_run_is_not_run(model: Gated) -> None:
    one = endpoint(model)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        late = group.create_task(_refused(one, request(1), 0.02))
        in_time = group.create_task(one.infer(request(2), 5))
        assert (await late).kind is Kind.DEADLINE
        assert waiting(one) == 1
        model.gate.set()
        await asyncio.gather(first, in_time)
    assert model.runs == [[0], [2]]
    assert one.admission.taken == 0


async def _refused(one: Endpoint, asked: InferRequest, seconds: float = 5.0) -> FairleadError:
    with pytest.raises(FairleadError) as caught:
        await one.infer(asked, seconds)
    return caught.value


async def test_a_full_queue_refuses_at_once_and_names_its_limit(model: Gated) -> None:
    one = endpoint(model, max_queue_size=2)
    async with asyncio.TaskGroup() as group:
        group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        for n in (1, 2):
            group.create_task(one.infer(request(n), 5))
        await eventually(lambda: waiting(one) == 2)
        full = await _refused(one, request(3))
        assert full.kind is Kind.OVERLOADED
        assert full.message.startswith("2 requests wait for this model already")
        assert "(maxQueueSize)" in full.message
        assert one.admission.taken == 3
        model.gate.set()
    assert one.admission.taken == 0


async def test_a_request_that_waits_too_long_for_its_run_is_refused(model: Gated) -> None:
    one = endpoint(model, default_timeout_microseconds=200_000)  # enough for the first, always
    async with asyncio.TaskGroup() as group:
        group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        late = await _refused(one, request(1))
        assert late.kind is Kind.DEADLINE
        assert late.message == "no run within 0.2 s, as long as this request may wait for it"
        assert one.admission.taken == 1
        model.gate.set()
    assert model.runs == [[0]]


async def test_a_request_may_shorten_its_wait_and_not_lengthen_it(model: Gated) -> None:
    for default, own, waits in ((0, 0.02, 0.02), (5_000_000, 0.02, 0.02), (20_000, 5.0, 0.02)):
        one = endpoint(model, default_timeout_microseconds=default)
        model.runs.clear()
        model.gate.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(one.infer(request(0), 5))
            await eventually(lambda: len(model.runs) == 1)
            patient = request(1)
            patient.queue_seconds = own
            late = await _refused(one, patient)
            assert late.kind is Kind.DEADLINE
            assert late.message.startswith(f"no run within {waits:g} s")
            model.gate.set()
        assert model.runs == [[0]]
        assert one.admission.taken == 0


async def test_the_wait_for_a_slot_is_a_part_of_it(model: Gated) -> None:
    one = endpoint(model, concurrency=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        patient = request(1)
        patient.queue_seconds = 0.02
        assert (await _refused(one, patient)).kind is Kind.DEADLINE
        assert one.admission.waiting == 0
        model.gate.set()
    quick = request(2)
    quick.queue_seconds = 5.0
    assert (await one.infer(quick, 5)).tensors["y"].tolist() == [[4, 4]]


async def test_the_requests_of_one_call_share_runs_in_their_order(model: Gated) -> None:
    one, times = endpoint(model, 4), Times(0.0)
    model.gate.set()
    until = SystemClock().monotonic() + 5
    answers = await one.infer_all([request(n) for n in range(10)], until, times)
    assert [answer.tensors["y"][0, 0] for answer in answers] == [2 * n for n in range(10)]
    assert sorted(value for run in model.runs for value in run) == list(range(10))
    assert max(map(len, model.runs)) > 1
    assert times.batch == len(model.runs[-1])
    assert times.engine_seconds > 0
    assert one.admission.taken == 0


@pytest.mark.parametrize(("concurrency", "said"), [(2, {}), (0, {"max_queue_size": 2})])
async def test_a_call_is_not_refused_because_of_its_own_length(
    model: Gated, concurrency: int, said: dict[str, Any]
) -> None:
    one = endpoint(model, 8, concurrency, **said)
    model.gate.set()
    until = SystemClock().monotonic() + 5
    answers = await one.infer_all([request(n) for n in range(40)], until, Times(0.0))
    assert [answer.tensors["y"][0, 0] for answer in answers] == [2 * n for n in range(40)]
    assert max(map(len, model.runs)) <= 2


async def test_a_bad_request_of_a_call_is_what_the_call_hears(model: Gated) -> None:
    one = endpoint(model, 4)
    model.gate.set()
    until = SystemClock().monotonic() + 5
    with pytest.raises(Refused, match="a bad row"):
        await one.infer_all([request(n) for n in (0, BAD, 2)], until, Times(0.0))
    assert one.admission.taken == 0


async def test_a_call_whose_caller_leaves_waits_for_nothing(model: Gated) -> None:
    one = endpoint(model, 4)
    async with asyncio.TaskGroup() as group:
        group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        until = SystemClock().monotonic() + 5
        call = group.create_task(one.infer_all([request(n) for n in (1, 2, 3)], until, Times(0.0)))
        await eventually(lambda: waiting(one) == 3)
        call.cancel()
        await eventually(lambda: waiting(one) == 0)
        model.gate.set()
    assert model.runs == [[0]]


async def test_or_it_is_run_after_all_others(model: Gated) -> None:
    one = endpoint(model, 1, default_timeout_microseconds=500_000, timeout_action="delay")
    async with asyncio.TaskGroup() as group:
        group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        group.create_task(one.infer(request(1), 5))
        await asyncio.sleep(0.7)  # longer than it may wait; the next one is not made to
        group.create_task(one.infer(request(2), 5))
        await eventually(lambda: waiting(one) == 2)
        model.gate.set()
    assert model.runs == [[0], [2], [1]]


async def test_levels_are_served_in_order_and_one_that_is_none_is_refused(model: Gated) -> None:
    one = endpoint(model, 1, priority_levels=3)
    async with asyncio.TaskGroup() as group:
        group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        for n, level in ((3, 3), (2, 0), (1, 1)):
            group.create_task(one.infer(request(n, priority=level), 5))
        await eventually(lambda: waiting(one) == 3)
        wrong = await _refused(one, request(4, priority=4))
        assert wrong.kind is Kind.INVALID
        assert wrong.message == "priority 4 is no level of this model: write 1, the first, to 3"
        model.gate.set()
    assert model.runs == [[0], [1], [2], [3]]
    assert one.admission.taken == 0


async def test_a_model_without_levels_takes_any_priority(model: Gated) -> None:
    model.gate.set()
    one = endpoint(model)
    answer = await one.infer(request(1, priority=7), 5)
    assert answer.tensors["y"].tolist() == [[2, 2]]


async def test_with_a_delay_a_single_request_is_run_when_it_is_over(model: Gated) -> None:
    model.gate.set()
    one = endpoint(model, max_queue_delay_microseconds=30_000)
    times = Times(0.0)
    clock = SystemClock()
    began = clock.monotonic()
    await one.infer(request(1), 5, times)
    assert times.began - began >= 0.03
    both = await asyncio.gather(one.infer(request(1), 5), one.infer(request(2), 5))
    assert [answer.tensors["y"][0, 0] for answer in both] == [2, 4]
    assert model.runs == [[1], [1, 2]]


async def test_a_request_whose_tensors_disagree_about_rows_runs_alone(model: Gated) -> None:
    model.gate.set()
    one = endpoint(model)
    assert one.batcher is not None
    assert not one.batcher.takes(InferRequest({"x": np.zeros((0, 2), np.float32)}))


async def test_slots_count_requests_also_those_that_wait_for_their_batch(model: Gated) -> None:
    one = endpoint(model, concurrency=2)
    async with asyncio.TaskGroup() as group:
        for n in range(22):
            group.create_task(one.infer(request(n), 5))
        await eventually(lambda: len(model.runs) == 1 and one.admission.waiting == 20)
        assert one.admission.taken == 2
        full = await _refused(one, request(99))
        assert (full.kind, full.message) == (Kind.OVERLOADED, "pending request queue full")
        model.gate.set()
    assert max(map(len, model.runs)) <= 2
    assert sorted(value for run in model.runs for value in run) == list(range(22))
    assert one.admission.taken == 0


async def test_a_batch_whose_rows_are_not_all_answered_is_run_one_by_one(model: Gated) -> None:
    class Short(Gated):
        def infer(self, request: InferRequest) -> InferResponse:
            answer = super().infer(request)
            return InferResponse({"y": answer.tensors["y"][:1]})

    short = Short()
    one = endpoint(short)
    outcomes = await _together(one, short, [request(1), request(2)])
    assert [each.tensors["y"].tolist() for each in outcomes if isinstance(each, InferResponse)] == [
        [[2, 2]],
        [[4, 4]],
    ]


async def test_counts_say_how_large_runs_were_and_how_long_requests_waited(model: Gated) -> None:
    one = endpoint(model)
    await _together(one, model, [request(n) for n in range(3)])
    assert one.batcher is not None
    counts = one.batcher.counts
    assert (counts.runs, counts.requests, counts.rows) == (2, 4, 4)
    assert counts.buckets[:3] == [1, 0, 1]
    assert sum(counts.wait_buckets) == 4
    assert counts.run_seconds > 0
    assert counts.wait_seconds > 0


@pytest.mark.timeout(60)
async def test_under_a_storm_of_clients_that_come_and_leave_all_is_accounted_for(
    model: Gated,
) -> None:
    model.gate.set()
    one = endpoint(model, max_queue_size=50, priority_levels=2)
    random = np.random.default_rng(5)
    done = {"answered": 0, "refused": 0, "left": 0}

    async def client(number: int) -> None:
        value = BAD if number % 17 == 0 else float(number)
        seconds = 0.001 if number % 7 == 0 else 5.0
        try:
            asked = request(value, int(random.integers(1, 4)), number % 3)
            answer = await one.infer(asked, seconds)
            assert (answer.tensors["y"] == 2 * value).all()
            done["answered"] += 1
        except FairleadError as error:
            assert value != BAD or error.kind in (Kind.INVALID, Kind.OVERLOADED, Kind.DEADLINE)
            done["refused"] += 1
        except asyncio.CancelledError:
            done["left"] += 1

    for _ in range(20):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client(number)) for number in range(60)]
            await asyncio.sleep(0)
            for place in random.integers(0, 60, 10):
                tasks[place].cancel()
                await asyncio.sleep(0)
    assert sum(done.values()) >= 20 * 50  # who was cancelled before its first step counts nowhere
    assert done["answered"] > 100
    await eventually(lambda: one.admission.taken == 0)
    assert waiting(one) == 0


async def test_who_was_just_answered_is_waited_for_a_moment(model: Gated) -> None:
    one = endpoint(model)
    async with asyncio.TaskGroup() as group:
        group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        for n in (1, 2, 3):
            group.create_task(one.infer(request(n), 5))
        await eventually(lambda: waiting(one) == 3)
        model.once.release()
        await eventually(lambda: len(model.runs) == 2)
        await asyncio.sleep(2.0)  # a run so long that a fifth of a second is a moment
        model.gate.set()
    async with asyncio.TaskGroup() as group:
        for n in (4, 5, 6):  # not all at once: the first must not begin alone
            group.create_task(one.infer(request(n), 5))
            await asyncio.sleep(0.005)
    assert model.runs == [[0], [1, 2, 3], [4, 5, 6]]
    before = asyncio.get_running_loop().time()
    await one.infer(request(7), 5)  # whoever does not come back is not waited for
    assert asyncio.get_running_loop().time() - before < 1.0
    assert model.runs[3:] == [[7]]
    assert one.admission.taken == 0


async def test_a_lonely_client_is_never_kept_waiting_for_others(model: Gated) -> None:
    one = endpoint(model)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(one.infer(request(0), 5))
        await eventually(lambda: len(model.runs) == 1)
        await asyncio.sleep(2.0)
        model.gate.set()
        await first
        times = Times(0.0)
        asked = SystemClock().monotonic()
        await one.infer(request(1), 5, times)
        assert times.began - asked < 0.15  # a tenth of that run would be the moment


async def test_two_batches_may_run_abreast(model: Gated) -> None:
    one = endpoint(model)
    assert one.batcher is not None
    one.batcher.abreast = 2
    async with asyncio.TaskGroup() as group:
        for n in (0, 1):
            group.create_task(one.infer(request(n), 5))
            await eventually(lambda n=n: len(model.runs) == n + 1)  # type: ignore[misc]
        group.create_task(one.infer(request(2), 5))
        await eventually(lambda: waiting(one) == 1)
        assert len(model.runs) == 2
        model.gate.set()
    assert sorted(value for run in model.runs for value in run) == [0, 1, 2]
    assert one.admission.taken == 0


async def test_a_thread_takes_all_that_waits_while_the_others_are_at_work(model: Gated) -> None:
    one = endpoint(model)
    assert one.batcher is not None
    one.batcher.abreast = 2
    async with asyncio.TaskGroup() as group:
        for n in range(2):
            group.create_task(one.infer(request(n), 5))
            await eventually(lambda n=n: len(model.runs) == n + 1)  # type: ignore[misc]
        for n in range(2, 8):
            group.create_task(one.infer(request(n), 5))
        await eventually(lambda: waiting(one) == 6)
        model.once.release()
        await eventually(lambda: len(model.runs) == 3)
        assert model.runs[2] == [2, 3, 4, 5, 6, 7], "the other thread is at work"
        model.gate.set()
    assert one.admission.taken == 0
