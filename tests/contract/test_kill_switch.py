"""The kill switch and the retries of the real Envoy, with shorter times than callers meet."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, NoReturn

import httpx
import pytest

from fairlead.api.http_status import NO_FAULT
from fairlead.domain.catalog import Catalog
from fairlead.domain.kill_switch import KillSwitch
from fairlead.domain.table import RoutingTable
from fairlead.gateway.behind import Behind
from fairlead.gateway.index import index
from fairlead.gateway.state import View, read_gateway_status
from fairlead.gateway.switches import Switches
from support.gateway import CLOCK, World, catalog, eventually, new_world, revision

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(90)]

KEY = {"x-api-key": "demo-secret"}
PREDICT = "/v1/model/speech/predict"
INFER = "/v2/models/speech/infer"
STREAM = "/api/stream"
OFF_SECONDS = 2.0
SWITCH = KillSwitch(seconds=OFF_SECONDS)


def wanted(tag: str = "1") -> Catalog:
    """`speech` with two endpoints, and `other`."""
    return catalog(
        revision(f"speech/v1.{tag}", 1, {"predict": (), "stream": (STREAM,)}),
        revision("other/v1.1"),
        traffic={"speech/v1": {tag: 100}, "other/v1": {"1": 100}},
        pins={"speech": "v1", "other": "v1"},
        keys={"demo": ("*",)},
    )


async def prepare(world: World, replicas: int = 1) -> None:
    world.set_catalog(wanted())
    world.set_keys({"demo": "demo-secret"})
    for number in range(1, replicas + 1):
        await world.add_worker(f"s{number}", "speech/v1.1")
    await world.add_worker("o1", "other/v1.1")
    world.write_status()


async def ask(
    client: httpx.AsyncClient, path: str = PREDICT, status: int = 0, code: str = ""
) -> httpx.Response:
    more = ({"x-status": str(status)} if status else {}) | ({"x-code": code} if code else {})
    return await client.post(path, headers=KEY | more)


def fails(number: int, percent: int) -> bool:
    """Is it this one of so many percent, evenly spread?"""
    return number * percent // 100 != (number + 1) * percent // 100


def _off(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and "switched off" in answer.text


async def trip(client: httpx.AsyncClient, percent: int = 35) -> float:
    """Fail until the switch opens; how long that took."""
    began = CLOCK.monotonic()
    number = 0
    while not _off(await ask(client, status=500 if fails(number, percent) else 0)):
        number += 1
        assert CLOCK.monotonic() < began + 10, "it never opened"
    return CLOCK.monotonic() - began


async def test_it_opens_at_the_share_stays_open_and_opens_at_once_on_relapse() -> None:
    async with new_world(kill_switch=SWITCH) as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            end, number = CLOCK.monotonic() + 3, 0
            while CLOCK.monotonic() < end:
                status = 500 if fails(number, 20) else 200
                answer = await ask(client, status=status)
                assert answer.status_code == status, "20 % is below the share"
                number += 1
            opening = await trip(client)
            shut_at = CLOCK.monotonic()
            seen = len(world.workers["s1"].seen)
            answer = await ask(client, INFER)
            assert (answer.status_code, answer.json()) == (
                503,
                {
                    "error": "This endpoint is switched off after too many failures; it is tried again within 2 s"
                },
            )
            assert answer.headers["retry-after"] == "2"
            assert answer.headers["x-error-code"] == "unavailable"
            assert "message" in (await ask(client)).json()
            assert (await ask(client, STREAM)).status_code == 200, "the other endpoint serves on"
            reached = len(world.workers["s1"].seen)
            while True:
                answer = await ask(client)
                if CLOCK.monotonic() > shut_at + OFF_SECONDS - 1.2:
                    break  # it may have come too late
                assert _off(answer)
                reached = len(world.workers["s1"].seen)
            assert reached == seen + 1, "nothing but the stream reached it"

            async def serves() -> bool:
                return (await ask(client)).status_code == 200

            await eventually(serves, 5, "it is tried again")
            off = CLOCK.monotonic() - shut_at
            relapse = await trip(client)
    assert opening < 3.5
    assert OFF_SECONDS - 1 < off < OFF_SECONDS + 2
    assert relapse < 3.5
    print(f"opened after {opening:.2f} s, off for {off:.2f} s, open again {relapse:.2f} s later")


@pytest.mark.slow
async def test_what_the_callers_do_and_full_queues_never_open_it() -> None:
    async with new_world(kill_switch=SWITCH) as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            end = CLOCK.monotonic() + 3
            while CLOCK.monotonic() < end:
                for status, code in ((400, "invalid"), (429, "quota"), (503, "overloaded")):
                    assert (await ask(client, status=status, code=code)).status_code == status
                impatient = {"x-status": "504", "x-code": "deadline", "x-excuse": "yes"}
                late = await client.post(PREDICT, headers=KEY | impatient)
                assert late.status_code == 504
                assert NO_FAULT not in late.headers, "that is between worker and gateway"
            for _ in range(3):
                await asyncio.gather(*(give_up(client) for _ in range(30)))
                await asyncio.sleep(0.5)  # over several of the switch's looks
            assert (await ask(client)).status_code == 200
            assert len(world.workers["s1"].seen) > 100
            assert await trip(client) < 3.5, "and it still can"


async def give_up(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.TimeoutException):
        await client.post(PREDICT, headers=KEY | {"x-wait": "5"}, timeout=0.1)


async def test_a_move_of_another_service_leaves_an_open_switch_open() -> None:
    async with new_world(kill_switch=KillSwitch(seconds=30)) as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            await trip(client)
            for number in range(2, 5):
                await world.add_worker(f"o{number}", "other/v1.1")
                old = world.workers.pop(f"o{number - 1}")
                world.write_status()
                there = ["s1", f"o{number}"]
                await eventually(
                    lambda names=sorted(there): world.gateway_status()["workers"] == names,
                    5,
                    "moved",
                )
                await old.stop()
                assert _off(await ask(client))
                assert (await ask(client, "/v1/model/other/predict")).status_code == 200


async def test_one_bad_worker_of_two_is_left_out_alone() -> None:
    async with new_world(kill_switch=KillSwitch(seconds=30)) as world:
        await prepare(world, replicas=2)
        world.workers["s1"].status = 500
        async with world.running(), world.client() as client:
            await world.routed()

            async def left_out() -> bool:
                answers = [await ask(client) for _ in range(30)]
                return all(answer.status_code == 200 for answer in answers)

            await eventually(left_out, 10, "only the good one is asked")
            assert (await ask(client)).json() == {"worker": "s2"}


async def test_a_worker_that_refuses_connections_costs_nobody_an_answer() -> None:
    async with new_world() as world:
        await prepare(world, replicas=2)
        async with world.running(), world.client() as client:
            await world.routed()
            # Its socket is still there, and nobody behind it: connections are refused.
            path = world.workers["s1"].replica.socket
            await world.workers["s1"].stop()
            with socket.socket(socket.AF_UNIX) as nobody:
                nobody.bind(path)
                answers = [await ask(client) for _ in range(60)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["worker"] for answer in answers} == {"s2"}


async def test_an_inference_whose_worker_dies_in_the_middle_is_not_run_again() -> None:
    async with new_world() as world:
        await prepare(world, replicas=2)
        async with world.running(), world.client() as client, asyncio.TaskGroup() as group:
            await world.routed()
            for _ in range(5):
                await ask(client)  # the connections that will be used are open
            before = {name: len(one.seen) for name, one in world.workers.items()}
            slow = group.create_task(client.post(PREDICT, headers=KEY | {"x-wait": "20"}))

            def running() -> list[str]:
                return [n for n, one in world.workers.items() if len(one.seen) > before.get(n, 0)]

            await eventually(running, 5, "it runs")
            (name,) = running()
            await world.workers[name].stop()
            answer = await slow
            assert answer.status_code in (502, 503)
            assert "switched off" not in answer.text
            after = {name: len(one.seen) for name, one in world.workers.items()}
    assert sum(after.values()) == sum(before.values()) + 1, "it ran once"


async def test_what_only_reads_is_asked_again_elsewhere() -> None:
    async with new_world() as world:
        await prepare(world, replicas=2)
        world.workers["s1"].status = 503
        async with world.running(), world.client() as client:
            await world.routed()
            failed, seen = 0, world.workers["s1"].seen
            while failed == len(seen):  # it drew the good worker, or the bad one each time
                failed += (await client.get("/v1/model/speech/bio", headers=KEY)).status_code != 200
                assert len(seen) < 15, "it is asked again elsewhere before the switch opens"
            posted = {(await ask(client)).status_code for _ in range(15)}
            assert posted == {200, 503}, "an inference is not"


async def test_an_open_switch_is_told_to_everybody_who_looks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with new_world(kill_switch=SWITCH) as world:
        await prepare(world, replicas=2)
        async with world.running(), world.client() as client:
            await world.routed()

            def switches() -> list[dict[str, Any]]:
                return list(world.gateway_status().get("switches", ()))

            assert await number_of(client, "open", "predict") == 0
            await trip(client, 60)
            await eventually(lambda: [len(one["workers"]) for one in switches()] == [2], 3, "told")
            (switch,) = switches()
            assert switch["endpoint"] == {
                "service": "speech", "line": "v1", "revision": "1", "endpoint": "predict",
            }  # fmt: skip
            assert (switch["workers"], switch["of"]) == (["s1", "s2"], 2)
            assert switch["until"] - switch["since"] == OFF_SECONDS
            assert await number_of(client, "open", "predict") == 1
            assert await number_of(client, "open", "stream") == 0
            assert await number_of(client, "workers_off", "predict") == 2
            assert await number_of(client, "trips_total", "predict") == 2
            health = await client.get("/healthz")
            assert health.status_code == 503
            assert "speech/v1.1/predict is switched off after too many failures" in health.text
            await eventually(lambda: not switches(), OFF_SECONDS + 5, "and over")
            assert await number_of(client, "open", "predict") == 0
    events = [one for one in caplog.records if getattr(one, "event", "") == "kill_switch"]
    assert len(events) == 4, "two opened, two closed"
    texts = [one.getMessage() for one in events]
    assert "worker s1 is switched off for 2 s: 25 % or more of its requests failed" in texts[0]
    assert "is tried again after" in texts[-1]


async def number_of(client: httpx.AsyncClient, name: str, endpoint: str) -> float:
    """One of the switch's metrics; -1 if it is not there."""
    page = await client.get("/metrics")
    labels = f'service="speech",line="v1",revision="1",endpoint="{endpoint}"'
    start = f"fairlead_kill_switch_{name}{{{labels}}} "
    lines = [line for line in page.text.splitlines() if line.startswith(start)]
    return float(lines[0].removeprefix(start)) if lines else -1.0


async def test_a_gateway_that_starts_anew_finds_the_switch_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with new_world(kill_switch=KillSwitch(seconds=30)) as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            await trip(client)
            envoy = world.new_envoy()
            await eventually(lambda: world.gateway_status()["switches"], 3, "told")
            (name,) = (await envoy.switched_off() or {}).keys()
            assert name.startswith("speech/v1.1/predict@")
            view = View(index(RoutingTable()), index(RoutingTable()))
            view.switches = (read_gateway_status(world.home.gateway_status) or fail()).switches
            view.behind = Behind(
                {one.replica.revision: (one.replica,) for one in world.workers.values()}
            )
            since = view.switches[0].since
            caplog.clear()
            await Switches(world.envoy, view, world.settings.kill_switch, CLOCK).look()
            assert [one.since for one in view.switches] == [since]
            assert not view.trips, "it is the same, not another one"


def fail() -> NoReturn:
    raise AssertionError("no status")


@pytest.mark.slow
async def test_a_worker_that_cannot_be_reached_and_one_that_never_answers_count_too() -> None:
    async with new_world(kill_switch=SWITCH, deadline_seconds=0.3) as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()

            async def opens(**headers: str) -> bool:
                asking = [client.post(PREDICT, headers=KEY | headers) for _ in range(30)]
                answers = await asyncio.gather(*asking)
                assert {answer.status_code for answer in answers} <= {503, 504}
                return any(map(_off, answers))

            wait = {"x-wait": "5"}
            await eventually(lambda: opens(**wait), 6, "no answer in time")

            async def serves() -> bool:
                return (await ask(client)).status_code == 200

            await eventually(serves, OFF_SECONDS + 3, "it is tried again")
            await world.workers["s1"].stop()
            await eventually(opens, 6, "no connection")
