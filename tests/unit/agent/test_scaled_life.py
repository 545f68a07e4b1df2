"""An agent whose units go cold, come back when somebody asks, and share the memory there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fairlead.adapters.memory.workers import Behaviour
from fairlead.api.agent import WAKE_PATH, Wake, wakes_to_json
from fairlead.api.worker import WorkerSpec
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.release import EndpointSpec
from fairlead.domain.scaling import Rules
from fairlead.domain.status import State
from support.effort import PATIENCE
from support.plain import NO_TLS

Eventually = Callable[..., Any]
SLEEPY = EndpointSpec("predict", 0, 4, 1)
ROOMY = replace(SLEEPY, concurrency=2)  # one request does not fill a replica's slots to 70 %
PREDICT = EndpointId("digits", "v1", "1", "predict")
MIB = 1 << 20


@pytest.fixture
def quick(world: Any) -> Any:
    """Decisions in tenths of seconds."""
    world.settings = replace(
        world.settings,
        load_seconds=0.02,
        scaling=Rules(window_seconds=0.3),
        patience_seconds=0.5,
        loaded_seconds=0.0,
    )
    return world


def route(world: Any) -> None:
    """Be a gateway that leads to every ready worker at once, and to nobody else."""
    workers = [name for names in world.ready().values() for name in names]
    world.gateway_says(workers, "1")


async def ask(world: Any, body: bytes, path: str = WAKE_PATH) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(world.home.agent_socket), verify=NO_TLS)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://agent", timeout=40
    ) as client:
        return await client.post(path, content=body)


async def wake(world: Any, *endpoints: EndpointId, waiting: int = 1) -> None:
    answer = await ask(world, wakes_to_json(Wake(one, waiting) for one in endpoints))
    assert answer.status_code == 202


async def gone(world: Any, eventually: Eventually) -> None:
    """Until everything is cold and no worker is left."""

    def nobody() -> bool:
        route(world)
        status = world.status()
        return bool(status and status.cold and not status.replicas and not world.launcher.running())

    await eventually(nobody)


@contextlib.asynccontextmanager
async def cold_agent(
    world: Any, eventually: Eventually, endpoint: EndpointSpec = SLEEPY, **options: bool
) -> AsyncIterator[RevisionId]:
    """An agent whose one revision has been ready and is cold now."""
    revision: RevisionId = world.release("digits/v1.1", world.publish("digits"), 0, endpoint)
    route(world)
    async with world.agent(**options):
        await eventually(world.ready)
        await gone(world, eventually)
        yield revision


async def test_one_that_nobody_asks_goes_and_comes_back_when_somebody_does(
    quick: Any, eventually: Eventually
) -> None:
    async with cold_agent(quick, eventually, ROOMY) as revision:
        status = quick.status()
        assert status.cold == (PREDICT,)
        assert [(one.wished, one.why) for one in status.scales] == [
            (0, "scaled to zero: nobody asked for it")
        ]
        assert status.up(quick.catalogs.read()) == {revision}
        assert quick.launcher.spare, "the next start shall be quick"
        started = len(quick.launcher.started)
        await wake(quick, PREDICT)
        await eventually(quick.ready)
        assert len(quick.launcher.started) == started + 1, "one who waits is one worker"
        assert not quick.status().cold
        began = quick.clock.monotonic()
        await wake(quick, PREDICT, waiting=0)
        await gone(quick, eventually)
        assert quick.clock.monotonic() - began > 0.2, "not before another window"


async def test_one_that_drains_is_back_without_a_new_worker(
    quick: Any, eventually: Eventually
) -> None:
    quick.release("digits/v1.1", quick.publish("digits"), 0, ROOMY)
    route(quick)
    async with quick.agent():
        (worker,) = (await eventually(quick.ready))["digits/v1.1"]
        quick.gateway_says([worker], "1")  # and stays at it: so it cannot end
        await eventually(lambda: quick.status().cold)
        assert quick.state(RevisionId("digits", "v1", "1"))[0] is State.DRAINING
        await wake(quick, PREDICT)
        assert await eventually(quick.ready) == {"digits/v1.1": [worker]}
        assert len(quick.launcher.started) == 1


async def test_one_that_is_asked_stays(quick: Any, eventually: Eventually) -> None:
    behaviour = Behaviour(busy=0.1)
    quick.launcher.behave = lambda _: behaviour
    quick.release("digits/v1.1", quick.publish("digits"), 0, SLEEPY)
    route(quick)
    async with quick.agent():
        (worker,) = (await eventually(quick.ready))["digits/v1.1"]
        route(quick)
        began = quick.clock.monotonic()
        await eventually(lambda: quick.clock.monotonic() - began > 0.6)
        assert quick.ready() == {"digits/v1.1": [worker]}
        behaviour.busy = 3.0
        assert len((await eventually(lambda: _many(quick, 4)))["digits/v1.1"]) == 4


def _many(world: Any, number: int) -> Any:
    found = world.ready()
    return found if len(found.get("digits/v1.1", ())) == number else None


async def test_a_hundred_who_wait_get_as_many_workers_as_the_release_allows(
    quick: Any, eventually: Eventually
) -> None:
    async with cold_agent(quick, eventually), asyncio.timeout(4 * PATIENCE):
        while not _many(quick, 4):
            await wake(quick, PREDICT, waiting=100)  # said again and again, as a gateway does
            await asyncio.sleep(0.05)


async def test_one_that_cannot_be_loaded_any_more_is_not_cold_but_failed(
    quick: Any, eventually: Eventually
) -> None:
    async with cold_agent(quick, eventually) as revision:
        quick.launcher.behave = lambda _: Behaviour(fails="no such library")
        await wake(quick, PREDICT)
        state = await eventually(
            lambda: found if (found := quick.state(revision)) and found[0] is State.FAILED else None
        )
        assert state[1] == "no such library"
        assert quick.status().cold == ()
        assert quick.status().reasons() == {revision: "failed: no such library"}
        quick.launcher.behave = lambda _: Behaviour()
        await eventually(quick.ready)
        await gone(quick, eventually)


async def test_the_next_agent_leaves_cold_what_is_cold(quick: Any, eventually: Eventually) -> None:
    async with cold_agent(quick, eventually, kill=True):
        pass
    started = len(quick.launcher.started)
    async with quick.agent():
        pid = quick.status().pid
        assert pid == os.getpid()
        began = quick.clock.monotonic()
        await eventually(lambda: quick.clock.monotonic() - began > 0.2)
        assert quick.status().cold == (PREDICT,)
        assert len(quick.launcher.started) == started
        await wake(quick, PREDICT)
        await eventually(quick.ready)


async def test_endpoints_that_scale_apart_have_workers_that_serve_one_each(
    quick: Any, eventually: Eventually
) -> None:
    ends = EndpointSpec("stream", 0, 4, 1, timeout_seconds=3600), EndpointSpec("validate", 2, 2, 4)
    manifest = quick.publish("digits", engine="onnx")  # small, and shares a process with nobody
    quick.release("digits/v1.1", manifest, 0, *ends)
    route(quick)
    async with quick.agent():
        found = await eventually(lambda: _many(quick, 3))
        replicas = quick.status().ready()[RevisionId("digits", "v1", "1")]
        assert sorted(one.endpoint for one in replicas) == ["stream", "validate", "validate"]
        specs: dict[str, WorkerSpec] = {
            one.spec.worker: one.spec for one in quick.launcher.running()
        }
        for one in replicas:
            assert [end.name for end in specs[one.worker].endpoints] == [one.endpoint]
        drains = {spec.only: spec.drain_seconds for spec in specs.values()}
        assert drains == {"stream": 3600, "validate": quick.settings.drain_seconds}
        assert len(quick.launcher.started) == 3

        def half_cold() -> Any:
            route(quick)
            return quick.status().cold

        assert await eventually(half_cold) == (EndpointId("digits", "v1", "1", "stream"),)
        left = await eventually(lambda: _many(quick, 2))
        assert set(left["digits/v1.1"]) < set(found["digits/v1.1"])
        assert quick.status().up(quick.catalogs.read())
    # Adopted, they are what they were.


async def test_adopted_workers_serve_the_endpoints_they_served(
    quick: Any, eventually: Eventually
) -> None:
    quick.settings = replace(quick.settings, scaling=Rules(window_seconds=60.0))
    ends = EndpointSpec("stream", 0, 4, 1), EndpointSpec("validate", 1, 2, 4)
    quick.release("digits/v1.1", quick.publish("digits"), 0, *ends)
    route(quick)
    async with quick.agent(kill=True):
        before = await eventually(lambda: _many(quick, 2))
    async with quick.agent():
        assert await eventually(lambda: _many(quick, 2)) == before
        found = quick.status().ready()[RevisionId("digits", "v1", "1")]
        assert sorted(one.endpoint for one in found) == ["stream", "validate"]


@pytest.fixture
def tight(quick: Any) -> Any:
    """Memory for two workers."""
    quick.settings = replace(
        quick.settings, memory_budget_bytes=200 * MIB, scaling=Rules(window_seconds=60.0)
    )
    quick.launcher.behave = lambda _: Behaviour(memory=80 * MIB)
    return quick


async def test_a_budget_loads_what_fits_and_what_is_asked(
    tight: Any, eventually: Eventually
) -> None:
    names = ("ants", "bees", "cats", "dogs")
    for name in names:
        tight.release(f"{name}/v1.1", tight.publish(name))
    route(tight)
    async with tight.agent():

        def settled() -> Any:
            route(tight)
            found = tight.status()
            ready = tight.ready()
            there = len(ready) == 2 and found is not None and len(found.cold) == 2
            return ready if there else None

        before = await eventually(settled)
        assert tight.status().problem == ""
        cold = tight.status().cold[0]
        why = {one.why for one in tight.status().scales if one.unit.revision == cold.revision_id}
        assert why == {
            "the memory budget of 200 MiB is full; minScale 1 has to wait; it comes up when somebody asks"
        }
        await wake(tight, cold)
        name = str(cold.revision_id)
        after = await eventually(lambda: found if (found := settled()) and name in found else None)
        assert len(after.keys() & before.keys()) == 1
        await wake(tight, cold, waiting=0)
        assert await eventually(settled) == after, "nothing comes back by itself"
        page = await _metrics(tight)
        async with asyncio.timeout(4 * PATIENCE):
            # Who has just come is weighed at the next look.
            while page["fairlead_agent_memory_bytes"] != 160 * MIB:
                page = await _metrics(tight)
        assert page["fairlead_agent_memory_budget_bytes"] == 200 * MIB
        assert page["fairlead_agent_memory_bytes"] == 160 * MIB
        assert page["fairlead_agent_cold_endpoints"] == 2
        assert page["fairlead_agent_wakes_total"] == 1


async def _metrics(world: Any) -> dict[str, float]:
    transport = httpx.AsyncHTTPTransport(uds=str(world.home.agent_socket), verify=NO_TLS)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://agent", timeout=40
    ) as client:
        answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    families = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    return {one.name: one.value for family in families for one in family.samples if not one.labels}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"endpoints": [{"service": "s"}]}', b'{"endpoints": 1}', b"{" * 5_000_000],
)
async def test_a_wake_that_is_none_is_refused(
    world: Any, eventually: Eventually, body: bytes
) -> None:
    async with world.agent():
        await eventually(world.status)
        answer = await ask(world, body)
        assert answer.status_code in (400, 413)
        assert (await ask(world, b"", "/internal/other")).status_code == 404


async def test_who_waits_for_what_is_not_here_changes_nothing(
    quick: Any, eventually: Eventually
) -> None:
    quick.release("digits/v1.1", quick.publish("digits"), 0, SLEEPY)
    route(quick)
    async with quick.agent():
        await eventually(quick.ready)
        await wake(quick, replace(PREDICT, endpoint="other"), replace(PREDICT, line="v2"))
        await gone(quick, eventually)
