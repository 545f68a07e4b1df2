"""Deadlines while a cancelled task cleans up: what follows a deadline must happen there, too."""

from __future__ import annotations

import asyncio

import pytest

from fairlead.kits.timeouts import timeout


async def cancelled(cleanup: list[str], *, again: bool) -> None:
    """A task that is cancelled, cleans up with a deadline, and is perhaps cancelled once more meanwhile."""
    at_work, cleaning = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            at_work.set()
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            try:
                async with timeout(60 if again else 0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                cleanup.append("told")
            cleanup.append("went on")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        await at_work.wait()
        task.cancel()
        await cleaning.wait()
        if again:
            task.cancel()


async def test_a_deadline_holds_in_a_task_that_was_cancelled() -> None:
    cleanup: list[str] = []
    await cancelled(cleanup, again=False)
    assert cleanup == ["told", "went on"]


async def test_a_cancellation_within_the_deadline_is_one() -> None:
    cleanup: list[str] = []
    await cancelled(cleanup, again=True)
    assert cleanup == []


async def test_it_is_a_deadline_like_any_other() -> None:
    with pytest.raises(TimeoutError):
        async with timeout(0.0):
            await asyncio.Event().wait()
    async with timeout(None):
        pass
