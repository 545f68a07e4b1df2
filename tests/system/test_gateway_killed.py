"""The gateway's own process: killed, replaced, ended. Envoy serves on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from fairlead.domain.catalog import Catalog
from fairlead.kits import processes
from support.gateway import (
    World,
    catalog,
    eventually,
    gateway_process as gateway,
    new_world,
    revision,
)
from support.wire import Wire

KEY = ("x-api-key", "demo-secret")
PREDICT = "/v1/model/speech/predict"


def at(number: int) -> Catalog:
    return catalog(
        revision(f"speech/v1.{number}"),
        traffic={"speech/v1": {str(number): 100}},
        pins={"speech": "v1"},
        keys={"demo": ("*",)},
    )


@contextlib.asynccontextmanager
async def home() -> AsyncIterator[tuple[World, int, int]]:
    """A home with one ready revision, and both ends of a life pipe."""
    async with new_world(on_disk=True) as world:
        world.set_catalog(at(1))
        world.set_keys({"demo": "demo-secret"})
        await world.add_worker("w1", "speech/v1.1")
        world.write_status()
        life, owner = os.pipe()
        try:
            yield world, life, owner
        finally:
            for handle in (life, owner):
                with contextlib.suppress(OSError):
                    os.close(handle)


async def served(world: World) -> str:
    wire = Wire("127.0.0.1", world.settings.port)
    try:
        answer = await wire.ask("POST", PREDICT, [KEY])
    except (OSError, asyncio.IncompleteReadError):
        return "nobody"
    finally:
        await wire.close()
    return answer.headers.get("x-served-version", str(answer.status))


async def test_a_killed_gateway_stops_nobody_and_the_next_one_adopts_its_envoy() -> None:
    async with home() as (world, life, _owner):
        async with gateway(world, life) as first:
            await world.routed(15)
            pid = world.envoy_pid()
            first.kill()
            await first.wait()
        assert {await served(world) for _ in range(20)} == {"v1.1"}
        # Meanwhile the agent replaces the worker's revision; the old one stays until it is free.
        await world.add_worker("w2", "speech/v1.2")
        world.set_catalog(at(2))
        world.write_status()
        stop = asyncio.Event()
        seen: list[str] = []

        async def load() -> None:
            while not stop.is_set():
                seen.append(await served(world))

        async with asyncio.TaskGroup() as group:
            loading = group.create_task(load())
            async with gateway(world, life) as second:
                await world.routed(15)
                await eventually(
                    lambda: world.gateway_status()["workers"] == ["w2"], 10, "the old one is free"
                )
                assert world.envoy_pid() == pid
                assert await served(world) == "v1.2"
                stop.set()
                await loading  # whoever comes while it ends is nobody's
                second.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(second.wait(), 15) == 0
        assert set(seen) == {"v1.1", "v1.2"}
        assert processes.identify(pid) is None


async def test_without_its_owner_it_drains_and_ends_with_its_envoy() -> None:
    async with home() as (world, life, owner), gateway(world, life) as process:
        await world.routed(15)
        pid = world.envoy_pid()
        wire = Wire("127.0.0.1", world.settings.port)
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(wire.ask("POST", PREDICT, [KEY, ("x-wait", "0.7")]))
            await eventually(lambda: world.workers["w1"].seen, 5, "a request is under way")
            os.close(owner)
        assert (await slow).status == 200
        await wire.close()
        assert await asyncio.wait_for(process.wait(), 15) == 0
        assert processes.identify(pid) is None
        assert not world.home.gateway_status.exists()


@pytest.mark.slow
async def test_two_gateways_on_one_home_are_one_too_many() -> None:
    async with home() as (world, life, _owner), gateway(world, life):
        await world.routed(15)
        async with gateway(world, life) as second:
            assert second.stderr is not None
            words = await second.stderr.read()
            assert await second.wait() == 1
        assert b"another gateway runs on" in words
        assert await served(world) == "v1.1"


@pytest.mark.timeout(60)
async def test_gateway_and_envoy_killed_together_come_back_with_the_same_routes() -> None:
    async with home() as (world, life, _owner):
        async with gateway(world, life) as first:
            await world.routed(15)
            os.kill(world.envoy_pid(), signal.SIGKILL)
            first.kill()
            await first.wait()
        await eventually(lambda: processes.identify(world.envoy_pid()) is None, 5, "both are dead")
        async with gateway(world, life):

            async def back() -> bool:
                return await served(world) == "v1.1"

            await eventually(back, 10, "it serves again")
