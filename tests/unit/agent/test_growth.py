"""Revision after revision on one agent: what it holds must not grow with how many there were."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from fairlead.domain.ids import RevisionId
from fairlead.domain.status import Replica
from support.effort import PATIENCE

Eventually = Callable[..., Awaitable[Any]]

_LINES, _ROUNDS, _WARM_UP = 10, 20, 8


Container = dict[Any, Any] | list[Any] | set[Any]


def ours() -> Counter[str]:
    """How many objects of each of our own classes there are."""
    gc.collect()
    kinds = (type(one) for one in gc.get_objects())
    return Counter(kind.__name__ for kind in kinds if str(kind.__module__).startswith("fairlead."))


def containers() -> list[tuple[Container, int]]:
    """Every container there is, with its size; but for the event loop's timers, which it tidies up at times."""
    there = [one for one in gc.get_objects() if type(one) in (dict, list, set)]
    return [
        (one, len(one))
        for one in there
        if not (type(one) is list and one and isinstance(one[0], asyncio.TimerHandle))
    ]


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_two_hundred_revisions_leave_nothing_behind(
    world: Any, eventually: Eventually
) -> None:
    """Ten lines at a time, each revision replacing the one before it."""
    artifacts = [world.publish("digits", version) for version in (1, 2)]
    world.settings = replace(world.settings, cores=_LINES)
    launcher = world.launcher
    before: Counter[str] = Counter()
    there: list[tuple[Container, int]] = []
    async with world.agent():
        for number in range(_ROUNDS):
            if number == _WARM_UP:
                before, there = ours(), containers()
            world.clear_catalog()
            wanted = {
                str(world.release(f"digits/v{line}.{number}", artifacts[number % 2]))
                for line in range(_LINES)
            }
            await eventually(lambda wanted=wanted: set(world.ready()) == wanted, 10)
            await eventually(lambda: len(world.status().replicas) == _LINES)
            await eventually(lambda: len(launcher.running()) == _LINES)
            # The fakes' and the store's own memory is not the agent's.
            launcher.workers[:] = launcher.running()
            launcher.started[:] = launcher.started[:1] * len(launcher.started)
            kept = list(world.store.list("catalog/"))[-3:]  # the newest, and the head
            for meta in [*world.store.list("catalog/"), *world.store.list("audit/")]:
                if meta not in kept:
                    world.store.delete(meta.key)
        await asyncio.sleep(0)

        def grown() -> dict[str, int]:
            """Where there is one more for each revision. What still ends is waited for."""
            much = _LINES * (_ROUNDS - _WARM_UP) * 0.8
            after = ours()
            found = {name: after[name] - before[name] for name in after}
            found |= {
                f"{type(one).__name__} {repr(one)[:80]}": len(one) - size
                for one, size in there
                if one is not launcher.started
            }
            return {name: more for name, more in found.items() if more >= much}

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3 * PATIENCE):
                while grown():  # noqa: ASYNC110 - nothing tells that garbage is gone
                    await asyncio.sleep(0.1)
        assert grown() == {}
    assert Replica.__name__ in before
    assert RevisionId.__name__ in before
