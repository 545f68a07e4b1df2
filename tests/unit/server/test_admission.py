"""Slots and the queue before them (S0-40)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fairlead.domain.errors import FairleadError, Kind
from fairlead.kits.clock import FakeClock, SystemClock
from fairlead.server.admission import Admission
from fairlead.server.threads import Threads

CLOCK = SystemClock()


async def test_no_limit_lets_everybody_in() -> None:
    admission = Admission(0, CLOCK.monotonic)
    for _ in range(1000):
        await admission.enter()
    assert admission.taken == 1000


async def test_the_queue_is_ten_times_the_slots_and_then_full() -> None:
    admission = Admission(2, CLOCK.monotonic)
    await admission.enter()
    await admission.enter()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(admission.enter()) for _ in range(20)]
        await asyncio.sleep(0)
        assert admission.waiting == 20
        with pytest.raises(FairleadError, match="pending request queue full") as caught:
            await admission.enter()
        assert caught.value.kind is Kind.OVERLOADED
        for _ in range(20):
            admission.leave()
        await asyncio.wait(waiting)
    assert (admission.taken, admission.waiting) == (2, 0)


@pytest.mark.parametrize(
    ("slots", "come", "work", "wait", "refused"),
    [
        # S0-40: slots = containerConcurrency, the queue is ten times as deep, 0 is no limit.
        (0, 500, 500, 0, 0),
        (1, 1, 1, 0, 0),
        (1, 11, 1, 10, 0),
        (1, 12, 1, 10, 1),
        (3, 33, 3, 30, 0),
        (3, 40, 3, 30, 7),
        (1000, 11_001, 1000, 10_000, 1),  # the largest that a release file may say
    ],
)
async def test_who_works_who_waits_and_who_is_refused(
    slots: int, come: int, work: int, wait: int, refused: int
) -> None:
    admission = Admission(slots, CLOCK.monotonic)
    kinds: list[Kind] = []

    async def ask() -> None:
        try:
            await admission.enter()
        except FairleadError as error:
            assert error.message == "pending request queue full"
            kinds.append(error.kind)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask()) for _ in range(come)]
        await asyncio.sleep(0)
        assert (admission.taken, admission.waiting) == (work, wait)
        assert kinds == [Kind.OVERLOADED] * refused
        for _ in range(wait):  # a slot that is given back is the next one's
            admission.leave()
            assert admission.taken == work
        await asyncio.wait(tasks)
    for _ in range(work):
        admission.leave()
    assert (admission.taken, admission.waiting) == (0, 0)


async def test_slots_are_given_in_the_order_of_asking() -> None:
    admission = Admission(1, CLOCK.monotonic)
    await admission.enter()
    order: list[int] = []

    async def ask(number: int) -> None:
        await admission.enter()
        order.append(number)
        admission.leave()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(ask(number))
            await asyncio.sleep(0)
        admission.leave()
    assert order == [0, 1, 2, 3, 4]
    assert admission.taken == 0


async def test_who_gives_up_while_waiting_leaves_the_queue_and_takes_nothing() -> None:
    admission = Admission(1, CLOCK.monotonic)
    await admission.enter()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(admission.enter())
        second = group.create_task(admission.enter())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        assert admission.waiting == 1
        admission.leave()
        await second
    admission.leave()
    assert (admission.taken, admission.waiting) == (0, 0)


async def test_a_slot_handed_to_somebody_who_gives_up_in_that_moment_is_not_lost() -> None:
    admission = Admission(1, CLOCK.monotonic)
    await admission.enter()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(admission.enter())
        second = group.create_task(admission.enter())
        await asyncio.sleep(0)
        admission.leave()  # hands the slot to the first …
        first.cancel()  # … which gives up before it runs
        await second
    admission.leave()
    assert admission.taken == 0


async def test_the_load_is_everybody_in_a_slot_or_in_the_queue_over_time() -> None:
    clock = FakeClock()
    admission = Admission(1, clock.monotonic)
    clock.advance(10)
    await admission.enter()
    clock.advance(2)  # one works
    async with asyncio.TaskGroup() as group:
        second, third = (group.create_task(admission.enter()) for _ in range(2))
        await asyncio.sleep(0)
        clock.advance(3)  # one works, two wait
        third.cancel()
        await asyncio.sleep(0)
        clock.advance(1)  # one works, one waits
        admission.leave()
        await second
    clock.advance(4)  # one works
    assert admission.concurrency_seconds() == pytest.approx(2 + 9 + 2 + 4)
    admission.leave()
    clock.advance(100)
    assert admission.concurrency_seconds() == pytest.approx(2 + 9 + 2 + 4)
    assert admission.asked == 3


async def test_work_is_done_in_as_many_threads_as_are_needed_and_allowed() -> None:
    threads = Threads("test", 2)
    names: set[str] = set()
    together = threading.Barrier(2, timeout=5)

    def work() -> None:
        names.add(threading.current_thread().name)
        together.wait()

    await asyncio.gather(*(asyncio.wrap_future(threads.submit(work)) for _ in range(4)))
    assert names == {"test-1", "test-2"}
    threads.close()


async def test_one_thread_does_one_thing_at_a_time_and_errors_reach_who_asked() -> None:
    threads = Threads("test", 1)

    def fail() -> None:
        raise ValueError("no")

    names = []
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            await asyncio.wrap_future(threads.submit(fail))
        names.append(
            await asyncio.wrap_future(threads.submit(lambda: threading.current_thread().name))
        )
    assert names == ["test-1"] * 3
    threads.close()


async def test_what_is_cancelled_before_its_turn_is_never_run() -> None:
    threads = Threads("test", 1)
    gate = threading.Event()
    ran: list[int] = []
    first = threads.submit(lambda: gate.wait(5))
    second = threads.submit(lambda: ran.append(2))
    third = threads.submit(lambda: ran.append(3))
    assert second.cancel()
    gate.set()
    await asyncio.wrap_future(first)
    await asyncio.wrap_future(third)
    assert ran == [3]
    threads.close()
