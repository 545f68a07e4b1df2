"""Whose word the agent takes for what is routed, and for how long."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fairlead.agent.gateway import GatewayWatch
from fairlead.domain.status import GatewayStatus
from fairlead.kits import processes
from fairlead.kits.clock import FakeClock
from fairlead.kits.files import write_atomic

Eventually = Callable[..., Awaitable[Any]]
NOBODY = 2**22 + 1  # no process has a pid above the kernel's limit


def envoy_lives(world: Any, **changes: Any) -> None:
    """This test's own process stands for a living Envoy."""
    me = processes.identify(os.getpid())
    assert me is not None
    record = {"pid": me.pid, "started": me.started, "boot": me.boot, "mark": "", **changes}
    write_atomic(world.home.gateway / "envoy" / "process.json", json.dumps(record).encode())


def long_after(watch: GatewayWatch, clock: FakeClock) -> GatewayStatus | None:
    """What the watch takes for routed when nothing new has come for an hour."""
    watch.look()
    clock.advance(3_600)
    watch.look()
    return watch.status


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def watch(world: Any, clock: FakeClock) -> GatewayWatch:
    return GatewayWatch(world.home, clock)


def test_nobody_routes_where_there_is_no_status(watch: GatewayWatch, clock: FakeClock) -> None:
    assert long_after(watch, clock) is None


def test_a_silent_gateway_that_lives_is_believed(
    world: Any, watch: GatewayWatch, clock: FakeClock
) -> None:
    world.gateway_says(["w"], "1")
    status = long_after(watch, clock)
    assert status is not None
    assert status.workers == ("w",)


def test_a_dead_gateway_is_believed_while_its_envoy_routes_on(
    world: Any, watch: GatewayWatch, clock: FakeClock
) -> None:
    world.gateway_says(["w"], "1")
    world.gateway_dies()
    envoy_lives(world)
    assert long_after(watch, clock) is not None
    (world.home.gateway / "envoy" / "process.json").unlink()
    watch.look()
    assert watch.status is None
    envoy_lives(world)
    watch.look()
    assert watch.status is not None, "an Envoy that was only late"


def test_a_stranger_with_the_pid_of_a_dead_gateway_is_not_taken_for_it(
    world: Any, watch: GatewayWatch, clock: FakeClock
) -> None:
    world.gateway_says(["w"], "1")
    world.gateway_dies()  # the test's own process lives on, under the pid of the status
    assert long_after(watch, clock) is None


@pytest.mark.parametrize("change", [{"pid": NOBODY}, {"started": 1}, {"boot": "another"}])
def test_a_stranger_with_the_pid_of_a_dead_envoy_is_not_taken_for_it(
    world: Any, watch: GatewayWatch, clock: FakeClock, change: dict[str, Any]
) -> None:
    world.gateway_says(["w"], "1", pid=NOBODY)
    envoy_lives(world, **change)
    assert long_after(watch, clock) is None


def test_an_orderly_end_takes_the_word_back(
    world: Any, watch: GatewayWatch, clock: FakeClock
) -> None:
    world.gateway_says(["w"], "1")
    watch.look()
    world.home.gateway_status.unlink()
    watch.look()
    assert watch.status is None


def test_a_status_nobody_can_read_does_not_wipe_out_the_last_word(
    world: Any, watch: GatewayWatch, clock: FakeClock
) -> None:
    world.gateway_says(["w"], "1")
    watch.look()
    write_atomic(world.home.gateway_status, b"{}")
    status = long_after(watch, clock)
    assert status is not None
    assert status.workers == ("w",)


def test_a_status_nobody_can_read_at_all_lets_nobody_be_retired_while_envoy_routes(
    world: Any, watch: GatewayWatch, clock: FakeClock
) -> None:
    write_atomic(world.home.gateway_status, b"{}")
    assert long_after(watch, clock) is None
    envoy_lives(world)
    status = long_after(watch, clock)
    assert status is not None
    assert status.generation < 0, "it has read no catalog"


def test_when_a_status_was_written_is_never_put_too_late(
    world: Any, watch: GatewayWatch, clock: FakeClock
) -> None:
    world.gateway_says(["w"], "1", written_at=clock.now() + 1e6)
    watch.look()
    assert watch.written_at == float("-inf"), "it may have lain there for long"
    looked = clock.monotonic()
    clock.advance(5)
    world.gateway_says(["w", "v"], "1")
    watch.look()
    assert watch.written_at == looked
    clock.advance(5)
    watch.look()
    assert watch.written_at == looked


async def test_what_a_stopped_gateway_routes_serves_on_until_it_is_gone_for_good(
    world: Any, eventually: Eventually
) -> None:
    old = world.release("digits/v1.1", world.publish("digits"))
    async with world.agent():
        (before,) = (await eventually(world.ready)).values()
        # Its last word is an hour old by the wall clock, as after a long pause.
        said = world.clock.now() - 3_600
        world.gateway_says(before, "1", written_at=said)
        generation = world.catalogs.read().generation
        new = world.release("digits/v1.2", world.publish("digits", 2))
        await eventually(lambda: str(new) in world.ready())
        await asyncio.sleep(0.3)  # several decisions, none of which may end it
        assert world.ready()[str(old)] == before
        world.gateway_says(before, "1", written_at=said, generation=generation)
        world.gateway_dies()
        await eventually(lambda: list(world.ready()) == [str(new)])
        await eventually(lambda: len(world.launcher.running()) == 1)
