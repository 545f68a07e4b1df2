"""Moving traffic while it flows: swaps, deaths and restarts, with the real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fairlead.domain.catalog import Catalog
from support.gateway import CLOCK, World, catalog, eventually, new_world, revision
from support.wire import Wire

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(90)]

KEY = ("x-api-key", "demo-secret")
PREDICT = "/v1/model/speech/predict"
SWAPS = 30


def at(number: int) -> Catalog:
    """`speech` at revision `number`, alone."""
    return catalog(
        revision(f"speech/v1.{number}"),
        traffic={"speech/v1": {str(number): 100}},
        pins={"speech": "v1"},
        keys={"demo": ("*",)},
    )


@dataclass
class Load:
    """What constant callers saw."""

    served: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0


@contextlib.asynccontextmanager
async def load(world: World, callers: int = 4) -> AsyncIterator[Load]:
    """Callers that never stop; every tenth request takes a while."""
    seen = Load()
    done = asyncio.Event()

    async def call(number: int) -> None:
        wire = Wire("127.0.0.1", world.settings.port)
        while not done.is_set():
            number += 1
            began = CLOCK.monotonic()
            wait = [("x-wait", "0.3")] if number % 10 == 0 else []
            try:
                answer = await wire.ask("POST", PREDICT, [KEY, *wait])
            except (OSError, asyncio.IncompleteReadError) as error:
                seen.failed.append(repr(error))
                await wire.close()
                continue
            finally:
                seen.longest_seconds = max(seen.longest_seconds, CLOCK.monotonic() - began)
            if answer.status == 200:
                version = answer.headers["x-served-version"]
                seen.served[version] = seen.served.get(version, 0) + 1
            else:
                seen.failed.append(f"{answer.status} {answer.body!r}")
        await wire.close()

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(call(number * 3))
        try:
            yield seen
        finally:
            done.set()


async def prepare(world: World) -> None:
    world.set_catalog(at(1))
    world.set_keys({"demo": "demo-secret"})
    await world.add_worker("w1", "speech/v1.1")
    world.write_status()


@pytest.mark.slow
async def test_thirty_swaps_under_load_fail_nobody() -> None:
    async with new_world() as world:
        await prepare(world)
        async with world.running():
            await world.routed()
            async with load(world) as seen:
                for number in range(2, SWAPS + 2):
                    await swap(world, number)
    assert seen.failed == []
    assert len(seen.served) == SWAPS + 1, seen.served
    print(f"{sum(seen.served.values())} requests, longest {seen.longest_seconds:.2f} s")


async def swap(world: World, number: int) -> None:
    """As an agent does it: start the new one, say so, end the old one once nobody needs it."""
    old, new = f"w{number - 1}", f"w{number}"
    await world.add_worker(new, f"speech/v1.{number}")
    world.set_catalog(at(number))
    world.write_status()
    await world.routed()
    await eventually(lambda: world.gateway_status()["workers"] == [new], 5, f"{old} is free")
    await world.drop_worker(old)
    world.write_status()


async def test_a_stream_that_outlives_the_drain_is_not_waited_for_for_ever() -> None:
    async with new_world(drain_seconds=0.6) as world:
        await prepare(world)
        async with world.running(), asyncio.TaskGroup() as group:
            await world.routed()
            wire = Wire("127.0.0.1", world.settings.port)
            long = group.create_task(wire.ask("POST", PREDICT, [KEY, ("x-wait", "20")]))
            await eventually(lambda: world.workers["w1"].seen, 2, "it has begun")
            began = CLOCK.monotonic()
            await swap(world, 2)
            assert 0.6 < CLOCK.monotonic() - began < 3
            assert (await long).status == 503
            await wire.close()


async def test_a_killed_envoy_is_back_with_the_same_routes() -> None:
    async with new_world() as world:
        await prepare(world)
        async with world.running():
            await world.routed()
            async with load(world) as seen:
                await eventually(lambda: sum(seen.served.values()) > 50, 5, "traffic flows")
                first = world.envoy_pid()
                began = CLOCK.monotonic()
                os.kill(first, signal.SIGKILL)
                await eventually(lambda: world.envoy_pid() not in (0, first), 5, "a new one")
                before = sum(seen.served.values())
                await eventually(lambda: sum(seen.served.values()) > before + 50, 5, "it serves")
                seconds = CLOCK.monotonic() - began
    assert seconds < 5
    assert set(seen.served) == {"v1.1"}
    print(f"full service after {seconds:.2f} s, {len(seen.failed)} requests failed")


@pytest.mark.parametrize("put_back", [False, True])
async def test_an_envoy_whose_directory_was_removed_is_replaced_by_one_that_sees_what_changes(
    tmp_path: Path, put_back: bool
) -> None:
    async with new_world() as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            first = world.envoy_pid()
            shutil.copytree(world.home.envoy, tmp_path / "copy", symlinks=True)
            shutil.rmtree(world.home.envoy)
            if put_back:
                shutil.copytree(tmp_path / "copy", world.home.envoy, symlinks=True)
            await world.add_worker("w2", "speech/v1.2")
            world.set_catalog(at(2))
            world.write_status()
            await world.routed(15)
            await eventually(lambda: world.envoy_pid() not in (0, first), 5, "a new one")
            await eventually(lambda: accepts(world.settings.port), 5, "it serves")
            answer = await client.post(PREDICT, headers=[KEY])
            assert (answer.status_code, answer.headers["x-served-version"]) == (200, "v1.2")
            assert world.gateway_status()["problem"] == ""


async def accepts(port: int) -> bool:
    """Does somebody listen?"""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_a_swap_while_envoy_is_dead_is_made_when_it_is_back() -> None:
    async with new_world() as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            os.kill(world.envoy_pid(), signal.SIGKILL)
            await world.add_worker("w2", "speech/v1.2")
            world.set_catalog(at(2))
            world.write_status()
            await world.routed()

            async def moved() -> bool:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    wire = Wire("127.0.0.1", world.settings.port)
                    answer = await wire.ask("POST", PREDICT, [KEY])
                    await wire.close()
                    return answer.headers.get("x-served-version") == "v1.2"
                return False

            await eventually(moved, 5, "the new revision serves")
            assert (await client.get("/healthz")).status_code in (200, 503)


async def test_an_unproved_revision_gets_no_traffic_and_says_why() -> None:
    async with new_world() as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            world.set_catalog(
                catalog(
                    revision("speech/v1.1"),
                    revision("speech/v1.2"),
                    traffic={"speech/v1": {"1": 50, "2": 50}},
                    pins={"speech": "v1"},
                    keys={"demo": ("*",)},
                )
            )
            await world.routed()
            versions = set()
            for user in range(40):
                sent = dict([KEY, ("x-sticky-key", str(user))])
                versions.add((await client.post(PREDICT, headers=sent)).headers["x-served-version"])
            assert versions == {"v1.1"}
            named = await client.post(PREDICT, headers=dict([KEY, ("accept-version", "v1.2")]))
            assert (named.status_code, named.json()) == (
                503,
                {"message": "speech/v1.2 is not ready: not started"},
            )
            assert world.gateway_status()["effective"][0]["traffic"] == [
                {"tag": "1", "percent": 100}
            ]


@pytest.mark.slow
async def test_a_move_that_envoy_slept_through_is_made_when_it_wakes() -> None:
    async with new_world() as world:
        await prepare(world)
        async with world.running():
            await world.routed()
            os.kill(world.envoy_pid(), signal.SIGSTOP)
            try:
                await world.add_worker("w2", "speech/v1.2")
                world.set_catalog(at(2))
                world.write_status()
                await eventually(
                    lambda: "routes stay" in world.gateway_status()["problem"], 25, "it failed"
                )
                age = CLOCK.now() - world.gateway_status()["written_at"]
                assert age < 1.5, "the status stays young meanwhile"
            finally:
                os.kill(world.envoy_pid(), signal.SIGCONT)
            await world.routed(20)
            wire = Wire("127.0.0.1", world.settings.port)
            answer = await wire.ask("POST", PREDICT, [KEY])
            await wire.close()
            assert answer.headers["x-served-version"] == "v1.2"
            assert world.gateway_status()["problem"] == ""


async def test_a_worker_is_told_how_long_its_caller_waits() -> None:
    async with new_world(deadline_seconds=1.5) as world:
        await prepare(world)
        async with world.running():
            await world.routed()
            wire = Wire("127.0.0.1", world.settings.port)
            forged = ("x-envoy-expected-rq-timeout-ms", "999999")
            answer = await wire.ask("POST", PREDICT, [KEY, forged])
            await wire.close()
            _, headers = world.workers["w1"].seen[-1]
            assert headers["x-envoy-expected-rq-timeout-ms"] == "1500"
            assert not [name for name in answer.headers if name.startswith("x-envoy-")]
