"""Requests for a cold endpoint, through the real Envoy: held, led to whoever comes up, none lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from fairlead.domain.catalog import Catalog
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.kill_switch import KillSwitch
from fairlead.domain.release import EndpointSpec
from fairlead.domain.status import Replica, State
from support.gateway import (
    DIGEST,
    Worker,
    World,
    catalog,
    eventually,
    gateway_process,
    new_world,
    revision,
)
from support.logs import lines_of

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]

KEY = {"x-api-key": "demo-secret"}
PREDICT = "/v1/model/speech/predict"
INFER = "/v2/models/speech/infer"
ONE = RevisionId("speech", "v1", "1")
WAY = EndpointId("speech", "v1", "1")


def speech(spec: EndpointSpec, split: bool = False) -> Catalog:
    first = replace(revision("speech/v1.1"), endpoints=(spec,))
    second = [revision("speech/v1.2")] if split else []
    shares = {"1": 50, "2": 50} if split else {"1": 100}
    return catalog(
        first,
        *second,
        traffic={"speech/v1": shares},
        pins={"speech": "v1"},
        keys={"demo": ("*",)},
    )


class Agent:
    """Hears who waits; brings workers up when a test says so."""

    def __init__(self, world: World) -> None:
        self.heard: list[dict[str, int]] = []
        self._path = world.home.agent_socket
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    @property
    def waiting(self) -> dict[str, int]:
        return self.heard[-1] if self.heard else {}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if not head.startswith("POST /internal/wake "):  # the metrics page asks as well
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                writer.close()
                return
            length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
            said = json.loads(await reader.readexactly(length))["endpoints"]
            self.heard.append(
                {
                    f"{one['service']}/{one['line']}.{one['revision']}/{one['endpoint']}": one[
                        "waiting"
                    ]
                    for one in said
                }
            )
            writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()


class Cold:
    """A world with one cold endpoint and an agent."""

    def __init__(self, world: World, client: httpx.AsyncClient, agent: Agent) -> None:
        self.world, self.client, self.agent = world, client, agent

    async def ask(self, **headers: str) -> httpx.Response:
        return await self.client.post(PREDICT, headers={**KEY, **headers}, content=b"{}")

    async def comes_up(self, name: str = "w1", *, routed: bool = True) -> Worker:
        worker = await self.world.add_worker(name, "speech/v1.1")
        if routed:
            self.world.cold.clear()
        self.world.write_status()
        return worker

    async def waiting(self, count: int) -> None:
        await eventually(
            lambda: self.agent.waiting.get(str(WAY)) == count, 5, f"{count} are told to the agent"
        )

    async def metrics(self) -> dict[str, float]:
        text = (await self.client.get("/metrics")).text
        lines = (
            line for line in text.splitlines() if line.startswith("fairlead_gateway_activator")
        )
        return {line.partition("{")[0][27:]: float(line.split()[-1]) for line in lines}


@contextlib.asynccontextmanager
async def cold_world(
    spec: EndpointSpec | None = None, *, split: bool = False, **settings: Any
) -> AsyncIterator[Cold]:
    async with new_world(**settings) as world:
        world.set_catalog(speech(spec or EndpointSpec("predict", 0, 1), split))
        world.set_keys({"demo": "demo-secret"})
        world.cold.add(WAY)
        if split:
            await world.add_worker("w2", "speech/v1.2")
        world.write_status()
        agent = Agent(world)
        await agent.start()
        try:
            async with world.running(), world.client() as client:
                await world.routed()
                yield Cold(world, client, agent)
        finally:
            agent.stop()


@pytest_asyncio.fixture
async def cold() -> AsyncIterator[Cold]:
    async with cold_world() as cold:
        yield cold


async def test_a_request_is_held_and_answered_by_the_worker_that_comes_up(cold: Cold) -> None:
    asked = asyncio.create_task(cold.ask(**{"x-fairlead-held": "a/b/c/d"}))
    await cold.waiting(1)
    assert cold.world.gateway_status()["workers"] == []
    worker = await cold.comes_up()
    answer = await asked
    assert (answer.status_code, answer.headers["x-served-version"]) == (200, "v1.1")
    _, headers = worker.seen[-1]
    assert "x-fairlead-held" not in headers
    assert "x-api-key" not in headers
    assert headers["x-client"] == "demo"
    assert int(headers["x-envoy-expected-rq-timeout-ms"]) < 30_000
    await cold.waiting(0)
    counts = await cold.metrics()
    assert (counts["waiting"], counts["requests_total"], counts["refused_total"]) == (0, 1, 0)
    assert counts["held_seconds_total"] > 0


async def test_a_configuration_that_only_a_worker_knows_is_held_for_too(cold: Cold) -> None:
    """It had been refused with "try again", which never helped: nobody was woken."""
    page = "/v2/models/speech/config"
    asked = asyncio.create_task(cold.client.get(page, headers=KEY))
    await cold.waiting(1)
    worker = await cold.comes_up()
    answer = await asked
    assert (answer.status_code, answer.json()) == (200, {"worker": "w1"})
    assert answer.headers["x-served-version"] == "v1.1"
    first, headers = worker.seen[-1]
    assert first.startswith(f"GET {page} ")
    assert "x-fairlead-held" not in headers


async def test_a_configuration_is_held_no_longer_than_any_request() -> None:
    async with cold_world(deadline_seconds=1.0) as cold:
        late = await cold.client.get("/v2/models/speech/config", headers=KEY)
    assert (late.status_code, late.headers["x-error-code"]) == (504, "deadline")


async def test_routes_move_to_the_worker_and_back_again(cold: Cold) -> None:
    asked = asyncio.create_task(cold.ask())
    await cold.waiting(1)
    await cold.comes_up()
    assert (await asked).status_code == 200
    log = cold.world.home.logs / "access.jsonl"

    async def direct() -> bool:
        await cold.ask()
        lines = lines_of(log)
        return bool(lines) and lines[-1]["upstream_host"].endswith("/w1.sock")

    await eventually(direct, 5, "requests go to the worker itself")
    held = lines_of(log)[0]
    assert held["upstream"] == "speech/v1.1/predict@activator"
    assert "held;dur=" in held["timing"]
    assert "worker;desc=w1" in held["timing"]
    status = cold.world.gateway_status
    cold.world.cold.add(WAY)
    cold.world.write_status()
    await eventually(lambda: status()["workers"] == [], 5, "the worker may go")
    await cold.world.drop_worker("w1")
    cold.world.write_status()
    again = asyncio.create_task(cold.ask())
    await cold.waiting(1)
    await cold.comes_up("w3")
    assert (await again).status_code == 200


async def test_of_a_split_only_the_cold_share_is_held() -> None:
    async with cold_world(split=True) as cold:
        # By the formula of the split: these two callers lie on its two sides.
        quick = await cold.ask(**{"accept-version": "v1.2"})
        assert quick.headers["x-served-version"] == "v1.2"
        asked = [asyncio.create_task(cold.ask(**{"x-sticky-key": str(n)})) for n in range(20)]
        held = await _count_of_first_share(20)
        assert 0 < held < 20
        await cold.waiting(held)
        await cold.comes_up()
        answers = await asyncio.gather(*asked)
        served = [answer.headers["x-served-version"] for answer in answers]
        assert served.count("v1.1") == held


async def _count_of_first_share(many: int) -> int:
    import xxhash

    return sum(xxhash.xxh64_intdigest(str(n).encode()) % 10_000 < 5_000 for n in range(many))


async def test_a_burst_at_a_cold_endpoint_is_answered_within_its_concurrency() -> None:
    async with cold_world(EndpointSpec("predict", 0, 2, 2)) as cold:
        asked = [asyncio.create_task(cold.ask(**{"x-wait": "0.05"})) for _ in range(40)]
        await cold.waiting(40)
        await cold.comes_up("w1")
        await cold.comes_up("w3")
        most = 0
        while not all(task.done() for task in asked):
            most = max(most, *(one.open for one in cold.world.workers.values()))
            await asyncio.sleep(0.002)
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {200}
        assert most == 2
        by = [answer.json()["worker"] for answer in answers]
        assert min(by.count("w1"), by.count("w3")) >= 15, "both work"


async def test_a_client_that_leaves_waits_no_more(cold: Cold) -> None:
    stays = asyncio.create_task(cold.ask())
    leaves = asyncio.create_task(cold.ask())
    await cold.waiting(2)
    leaves.cancel()
    await cold.waiting(1)
    worker = await cold.comes_up()
    assert (await stays).status_code == 200
    assert len(worker.seen) == 1


async def test_a_client_that_leaves_in_the_middle_frees_the_worker(cold: Cold) -> None:
    asked = asyncio.create_task(cold.ask(**{"x-wait": "30"}))
    await cold.waiting(1)
    worker = await cold.comes_up(routed=False)
    await eventually(lambda: worker.open == 1, 5, "the worker is at it")
    status = cold.world.gateway_status
    await eventually(lambda: status()["workers"] == ["w1"], 5, "it must not be ended")
    asked.cancel()
    await eventually(lambda: worker.open == 0, 1, "the worker's connection is gone")
    await eventually(lambda: status()["workers"] == [], 5, "it may go")


async def test_an_agent_that_dies_is_told_again(cold: Cold) -> None:
    cold.agent.stop()
    asked = asyncio.create_task(cold.ask())
    await asyncio.sleep(0.2)  # it is asked in vain
    assert cold.agent.heard == []
    await cold.agent.start()
    await cold.waiting(1)
    await cold.comes_up()
    assert (await asked).status_code == 200


async def test_the_endpoints_deadline_is_kept_while_a_request_is_held() -> None:
    async with cold_world(EndpointSpec("predict", 0, 1, timeout_seconds=1)) as cold:
        answer = await cold.ask()
        assert (answer.status_code, answer.headers["x-error-code"]) == (504, "deadline")
        await cold.waiting(0)


async def test_the_callers_own_deadline_is_kept_while_a_request_is_held(cold: Cold) -> None:
    answer = await cold.ask(**{"x-request-timeout-ms": "200"})
    assert (answer.status_code, answer.headers["x-error-code"]) == (504, "deadline")
    assert answer.json() == {"message": "no answer within 0.2 s"}


async def test_what_fails_to_come_up_refuses_who_waits(cold: Cold) -> None:
    asked = asyncio.create_task(cold.ask())
    infer = asyncio.create_task(cold.client.post(INFER, headers=KEY, content=b"{}"))
    await cold.waiting(2)
    worker = await cold.world.add_worker("w1", "speech/v1.1")
    secret = "/srv/secret: no such file"
    worker.replica = Replica("w1", ONE, DIGEST, State.FAILED, secret)
    cold.world.write_status()
    answer, shaped = await asked, await infer
    assert (answer.status_code, answer.headers["x-error-code"]) == (503, "unavailable")
    assert answer.json() == {"message": "v1.1 has failed; `fairlead status` says why"}
    assert list(shaped.json()) == ["error"]


async def test_a_worker_that_breaks_off_is_no_clean_end(cold: Cold) -> None:
    asked = asyncio.create_task(cold.ask(**{"x-break": "yes"}))
    await cold.waiting(1)
    await cold.comes_up()
    with pytest.raises(httpx.RemoteProtocolError):
        await asked


async def test_a_worker_that_is_full_is_asked_again_later(cold: Cold) -> None:
    worker = Worker("w1", ONE, cold.world.home.sockets / "w1.sock")
    worker.status, worker.code = 503, "overloaded"
    await worker.start()
    cold.world.workers["w1"] = worker
    asked = asyncio.create_task(cold.ask())
    await cold.waiting(1)
    cold.world.write_status()
    await eventually(lambda: len(worker.seen) >= 2, 5, "it was asked twice")
    worker.status, worker.code = 200, ""
    assert (await asked).status_code == 200


def growing(least: int = 1, most: int = 4) -> EndpointSpec:
    return EndpointSpec("predict", least, most, 1)


async def test_a_burst_at_a_limited_endpoint_waits_for_room_and_is_not_refused() -> None:
    async with cold_world(growing()) as cold:
        await cold.comes_up("w1")
        asked = [asyncio.create_task(cold.ask(**{"x-wait": "0.1"})) for _ in range(40)]
        await eventually(lambda: cold.agent.waiting.get(str(WAY), 0) > 20, 10, "many wait")
        named = cold.world.gateway_status
        await eventually(lambda: named()["workers"] == ["w1"], 5, "it must not be ended")
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_workers_behind_the_activator_are_asked_when_the_gateways_process_is_gone() -> None:
    async with new_world(on_disk=True) as world:
        world.set_catalog(speech(growing()))
        world.set_keys({"demo": "demo-secret"})
        await world.add_worker("w1", "speech/v1.1")
        world.write_status()
        life, owner = os.pipe()
        async with gateway_process(world, life) as process, world.client() as client:
            await world.routed(20)
            first = await client.post(PREDICT, headers=KEY, content=b"{}")
            assert "held;dur=" in first.headers["server-timing"]
            process.kill()
            await process.wait()
            for _ in range(5):
                answer = await client.post(PREDICT, headers=KEY, content=b"{}")
                assert (answer.status_code, answer.json()) == (200, {"worker": "w1"})
        os.close(life)
        os.close(owner)


async def test_of_limited_replicas_the_least_loaded_is_asked() -> None:
    async with cold_world(growing(2, 2)) as cold:
        await cold.comes_up("w1")
        await cold.comes_up("w2")
        status = cold.world.gateway_status
        await eventually(lambda: status()["workers"] == ["w1", "w2"], 5, "both are routed")
        for turn in range(8):
            pair = [cold.ask(**{"x-wait": "0.3"}) for _ in range(2)]
            answers = await asyncio.gather(*pair)
            if turn > 2:  # what waits for a connection that is not open yet does not count there
                assert {answer.json()["worker"] for answer in answers} == {"w1", "w2"}


async def test_a_queue_that_is_full_refuses_in_the_dialects_shape() -> None:
    async with cold_world(most_waiting=3) as cold:
        asked = [asyncio.create_task(cold.ask()) for _ in range(3)]
        await cold.waiting(3)
        full = await cold.ask()
        assert (full.status_code, full.headers["x-error-code"]) == (503, "overloaded")
        assert full.json() == {"message": "pending request queue full"}
        shaped = await cold.client.post(INFER, headers=KEY, content=b"{}")
        assert shaped.json() == {"error": "pending request queue full"}
        await cold.comes_up()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        assert (await cold.metrics())["refused_total"] == 2


async def test_large_bodies_and_answers_pass_as_they_are(cold: Cold) -> None:
    body = os.urandom(3 << 20)
    asked = asyncio.create_task(cold.client.post(PREDICT, headers=KEY, content=body))
    await cold.waiting(1)
    worker = await cold.comes_up()
    assert (await asked).status_code == 200
    assert int(worker.seen[-1][1]["content-length"]) == len(body)


SWITCH = KillSwitch(seconds=2.0)


def is_off(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and "switched off" in answer.text


@pytest.mark.parametrize("spec", [EndpointSpec("predict", 0, 1), growing()], ids=["cold", "grows"])
async def test_a_worker_behind_the_activator_is_switched_off_by_its_failures(
    spec: EndpointSpec,
) -> None:
    async with cold_world(spec, kill_switch=SWITCH) as cold:
        asked = asyncio.create_task(cold.ask())
        await cold.waiting(1)
        # What is cold stays so in the status: its requests go on through the activator.
        worker = await cold.comes_up(routed=spec.min_scale > 0)
        assert (await asked).status_code == 200
        await opens_and_closes(cold, worker)
        await opens_and_closes(cold, worker)


async def opens_and_closes(cold: Cold, worker: Worker) -> None:
    for number in range(1000):
        answer = await cold.ask(**({"x-status": "500"} if number % 3 == 0 else {}))
        if is_off(answer):
            break
    assert is_off(answer), "it never opened"
    assert answer.json()["message"].endswith("it is tried again within 2 s")
    assert (answer.headers["retry-after"], answer.headers["x-error-code"]) == ("2", "unavailable")
    seen = len(worker.seen)
    shaped = await cold.client.post(INFER, headers=KEY, content=b"{}")
    assert "switched off" in shaped.json()["error"]
    assert len(worker.seen) == seen, "nobody asked it"
    status = cold.world.gateway_status
    await eventually(lambda: status().get("switches"), 2, "the status tells it")
    (switch,) = status()["switches"]
    assert (switch["workers"], switch["of"]) == (["w1"], 1)

    async def serves() -> bool:
        return (await cold.ask()).status_code == 200

    await eventually(serves, 5, "it is tried again")
    await eventually(lambda: not status().get("switches"), 5, "the status tells that too")


@pytest.mark.parametrize(
    ("headers", "opens"),
    [
        ({"x-status": "500", "x-excuse": "deadline"}, False),
        ({"x-status": "400"}, False),
        ({"x-break": "chunked"}, True),
        ({"x-wait": "5"}, True),
    ],
    ids=["excused", "the caller's fault", "broken off", "too late"],
)
async def test_what_counts_against_a_worker_behind_the_activator(
    headers: dict[str, str], *, opens: bool
) -> None:
    spec = EndpointSpec("predict", 0, 1, timeout_seconds=1)
    async with cold_world(spec, kill_switch=SWITCH) as cold:
        await cold.comes_up(routed=False)
        assert (await cold.ask()).status_code == 200  # it is there: none of what follows is held

        async def off() -> bool:
            await asyncio.gather(*(cold.ask(**headers) for _ in range(20)), return_exceptions=True)
            return is_off(await cold.ask())

        if opens:
            await eventually(off, 10, "it opens")
        else:
            assert not await off()
            assert not await off()


async def test_of_two_workers_behind_the_activator_only_the_failing_one_is_left_out() -> None:
    async with cold_world(growing(2), kill_switch=KillSwitch()) as cold:
        bad = await cold.comes_up("w1")
        good = await cold.comes_up("w2")
        bad.status = 500
        status = cold.world.gateway_status
        await eventually(lambda: status()["workers"] == ["w1", "w2"], 5, "both are routed")

        async def left_out() -> bool:
            await asyncio.gather(*(cold.ask(**{"x-wait": "0.01"}) for _ in range(20)))
            return bool(status().get("switches"))

        await eventually(left_out, 10, "one is left out")
        (switch,) = status()["switches"]
        assert (switch["workers"], switch["of"]) == (["w1"], 2)
        seen, others = len(bad.seen), len(good.seen)
        answers = await asyncio.gather(*(cold.ask() for _ in range(20)))
        assert {answer.json()["worker"] for answer in answers} == {"w2"}
        assert (len(bad.seen), len(good.seen)) == (seen, others + 20)
