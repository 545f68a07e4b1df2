"""Threads for runs: what they have done they forget."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from fairlead.server.threads import Threads
from support.serving import eventually


class Large:
    """Something that nobody wants to keep."""


def answers(one: Large) -> Large:
    return one


def fails(one: Large) -> Large:
    raise ValueError(one)


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads("test", 1)
    yield made
    made.close()


@pytest.mark.parametrize("work", [answers, fails])
async def test_a_thread_without_work_keeps_nothing_of_its_last(
    threads: Threads, work: Callable[[Large], Large]
) -> None:
    seen: list[weakref.ref[Large]] = []

    def run() -> Large:
        one = Large()
        seen.append(weakref.ref(one))
        return work(one)

    gc.disable()  # it has to go by itself
    try:
        future = threads.submit(run)
        await eventually(future.done)
        del future
        await eventually(lambda: seen[0]() is None)
    finally:
        gc.enable()


async def test_no_thread_is_started_while_another_has_nothing_to_do() -> None:
    threads = Threads("test", 4)
    names = []
    for _ in range(6):
        future = threads.submit(lambda: threading.current_thread().name)
        await eventually(future.done)
        names.append(future.result())
    threads.close()
    assert set(names) == {"test-1"}
