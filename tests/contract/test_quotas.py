"""Quotas, overlaps, kills and last use at the running gateway: exact, and nobody else notices."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from fairlead.adapters.secrets import SecretsFile
from fairlead.domain.catalog import Catalog, with_key, with_traffic
from fairlead.domain.ids import LineId
from fairlead.domain.keys import Quota, Rate
from fairlead.domain.ports import OldSecret
from fairlead.domain.release import TrafficShare
from fairlead.domain.uses import uses_from_bytes
from support.gateway import CLOCK, World, catalog, eventually, new_world, revision
from support.logs import lines_of

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]

PREDICT = "/v1/model/speech/predict"
INFER = "/v2/models/digits/infer"
KEYS = {"free": ("*",), "app": ("*",), "narrow": ("speech:infer",)}
RATE = {"message": "API rate limit exceeded"}
AT_ONCE = {"message": "API concurrency limit exceeded"}


def wanted(**quotas: Quota) -> Catalog:
    found = catalog(
        revision("speech/v1.1"),
        revision("speech/v1.2", 2),
        revision("digits/v1.1"),
        traffic={"speech/v1": {"1": 50, "2": 50}, "digits/v1": {"1": 100}},
        pins={"speech": "v1", "digits": "v1"},
        keys=KEYS,
    )
    for client, quota in quotas.items():
        found = with_key(found, replace(found.keys[client], quota=quota))
    return found


class Callers:
    """Asks as a key of a world, over and over."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self.world = world
        self._client = client

    async def ask(self, key: str, path: str = PREDICT, **headers: str) -> httpx.Response:
        sent = {
            "x-api-key": f"s-{key}",
            **{name.replace("_", "-"): one for name, one in headers.items()},
        }
        return await self._client.post(path, headers=sent)

    async def ask_with(self, secret: str) -> httpx.Response:
        return await self._client.post(PREDICT, headers={"x-api-key": secret})

    async def statuses(self, key: str, count: int, path: str = PREDICT) -> list[int]:
        return [(await self.ask(key, path)).status_code for _ in range(count)]

    async def change(self, wanted: Catalog) -> float:
        """Set a catalog and wait until it is routed; says how long that took."""
        began = CLOCK.monotonic()
        self.world.set_catalog(wanted)
        await self.world.routed()
        return CLOCK.monotonic() - began

    def lines(self) -> list[dict[str, Any]]:
        return lines_of(self.world.home.logs / "access.jsonl")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with new_world() as world:
        world.set_catalog(wanted())
        world.set_keys({client: f"s-{client}" for client in KEYS})
        for number, one in enumerate(wanted().live()):
            await world.add_worker(f"w{number}", str(one))
        world.write_status()
        yield world


@pytest.fixture
async def callers(world: World) -> AsyncIterator[Callers]:
    async with world.running(), world.client() as client:
        await world.routed()
        yield Callers(world, client)


async def test_a_rate_counts_all_services_and_dialects_together(callers: Callers) -> None:
    await callers.change(wanted(app=Quota(Rate(6, 60, 4)), narrow=Quota(Rate(6, 60, 2))))
    assert await callers.statuses("app", 2) == [200, 200]
    assert await callers.statuses("app", 3, INFER) == [200, 200, 429]
    refused = await callers.ask("app")
    assert (refused.status_code, refused.json()) == (429, RATE)
    assert refused.headers["retry-after"] == "10"
    assert (await callers.ask("app", INFER)).json() == {"error": RATE["message"]}
    # What needs no key costs nothing; what is refused for its scope counts like the rest.
    head = {"x-api-key": "s-app"}
    async with callers.world.client() as client:
        assert (await client.get("/livez", headers=head)).status_code == 200
    assert await callers.statuses("narrow", 3, INFER) == [403, 403, 429]
    assert await callers.statuses("free", 20) == [200] * 20


async def test_a_bucket_fills_evenly_and_never_beyond_its_burst(callers: Callers) -> None:
    await callers.change(wanted(app=Quota(Rate(20, 1, 5))))
    began = CLOCK.monotonic()
    assert await callers.statuses("app", 5) == [200] * 5
    asked, passed = [CLOCK.monotonic()], 0
    while asked[-1] - asked[0] < 1.0:
        answers = await asyncio.gather(*(callers.ask("app") for _ in range(4)))
        passed += [one.status_code for one in answers].count(200)
        asked.append(CLOCK.monotonic())
    assert passed <= 20 * (asked[-1] - began) + 1
    # Whoever does not ask for a quarter of a second, on a busy machine, finds no more than the burst.
    stalls = sum(max(0.0, then - now - 0.25) for now, then in itertools.pairwise(asked))
    assert passed >= 20 * (asked[-2] - asked[0] - stalls) - 2


async def test_moves_and_other_keys_quotas_leave_a_bucket_alone(callers: Callers) -> None:
    quota = Quota(Rate(1, 3600, 3))
    found = wanted(app=quota)
    await callers.change(found)
    assert await callers.statuses("app", 2) == [200, 200]
    await callers.change(with_traffic(found, LineId("speech", "v1"), (TrafficShare("2", 100),)))
    await callers.change(wanted(app=quota, narrow=Quota(concurrency=3)))
    assert await callers.statuses("app", 2) == [200, 429]
    # Another quota of its own is another bucket.
    await callers.change(wanted(app=Quota(Rate(1, 3600, 4))))
    assert await callers.statuses("app", 5) == [200] * 4 + [429]
    await callers.change(wanted())
    assert await callers.statuses("app", 9) == [200] * 9


async def test_a_concurrency_is_exact_and_a_place_is_free_again_at_once(callers: Callers) -> None:
    await callers.change(wanted(app=Quota(concurrency=3)))
    for _ in range(2):
        # So long that all of them come while the first are at it.
        asked = (callers.ask("app", path, x_wait="1.5") for path in [PREDICT, INFER] * 5)
        answers = await asyncio.gather(*asked)
        assert sorted(one.status_code for one in answers) == [200] * 3 + [429] * 7
        refused = next(one for one in answers if one.status_code == 429 and one.url.path == PREDICT)
        assert (refused.json(), refused.headers["retry-after"]) == (AT_ONCE, "1")
        refused = next(one for one in answers if one.status_code == 429 and one.url.path == INFER)
        assert refused.json() == {"error": AT_ONCE["message"]}
    assert all(one == 200 for one in await callers.statuses("app", 20))
    free = await asyncio.gather(*(callers.ask("free", x_wait="0.1") for _ in range(10)))
    assert {one.status_code for one in free} == {200}


async def test_a_caller_that_leaves_gives_its_place_back(callers: Callers) -> None:
    await callers.change(wanted(app=Quota(concurrency=1)))
    with pytest.raises(httpx.ReadTimeout):
        async with callers.world.client() as client:
            await client.post(PREDICT, headers={"x-api-key": "s-app", "x-wait": "9"}, timeout=0.2)

    async def free() -> bool:
        return (await callers.ask("app")).status_code == 200

    await eventually(free, 1, "a place is free")


async def test_another_quota_ends_no_request_and_leaves_nothing_behind(callers: Callers) -> None:
    await callers.change(wanted(app=Quota(Rate(100, 1, 100), 8)))
    slow = asyncio.gather(*(callers.ask("app", x_wait="1.2") for _ in range(8)))
    await eventually(lambda: active(callers.world), 2, "all are under way")
    took = await callers.change(wanted(app=Quota(concurrency=2)))
    assert took < 2.0
    assert await callers.statuses("app", 3) == [200] * 3
    assert {one.status_code for one in await slow} == {200}

    def gates() -> set[str]:
        envoy = callers.world.envoy
        return {name for name in {**envoy.clusters(), **envoy.listeners()} if "quota-" in name}

    await eventually(lambda: len(gates()) == 1, 3, "the old gate is gone")
    await callers.change(wanted())
    await eventually(lambda: not gates(), 3, "the last gate is gone")
    found = await callers.world.envoy.stats(r"^listener_manager\.total_listeners_active$")
    assert found == {"listener_manager.total_listeners_active": 1}


async def active(world: World) -> bool:
    found = await world.envoy.stats(r"^cluster\.quota-app.*upstream_rq_active$")
    return sum(found.values()) == 8


async def test_through_a_gate_a_request_is_told_once_and_stays_what_it_was(
    callers: Callers,
) -> None:
    await callers.change(wanted(app=Quota(Rate(1, 3600, 201), 1)))
    for number in range(200):
        free, app = [
            await callers.ask(key, x_sticky_key=f"user-{number}", x_request_id=f"{key}-{number}")
            for key in ("free", "app")
        ]
        assert app.headers["x-served-version"] == free.headers["x-served-version"]
        assert app.headers["x-request-id"] == f"app-{number}"
        assert set(app.headers) == set(free.headers)
    at_once = await asyncio.gather(*(callers.ask("app", x_wait="0.2") for _ in range(2)))
    assert sorted(one.status_code for one in at_once) == [200, 429]
    assert (await callers.ask("app", x_request_id="last")).status_code == 429
    await eventually(lambda: len(callers.lines()) == 403, 3, "every request is in the log")
    lines = {line["request_id"]: line for line in callers.lines()}
    assert len(lines) == 403
    app, free = lines["app-7"], lines["free-7"]
    same = ("method", "path", "peer", "protocol", "status", "upstream", "details")
    assert {name: app[name] for name in same} == {name: free[name] for name in same}
    assert app["client"] == "app"
    assert (lines["last"]["status"], lines["last"]["flags"]) == (429, "RL")
    over = [line for line in lines.values() if line["flags"] == "UO"]
    assert [(line["status"], line["client"]) for line in over] == [(429, "app")]
    workers = [headers for worker in callers.world.workers.values() for _, headers in worker.seen]
    assert not [
        one for one in workers if {"x-fairlead-quota", "x-fairlead-peer", "x-api-key"} & set(one)
    ]


async def test_an_envoy_that_died_comes_back_with_its_gates_and_moves_on(callers: Callers) -> None:
    await callers.change(wanted(app=Quota(Rate(10, 1, 10), 5), narrow=Quota(concurrency=5)))
    os.kill(callers.world.envoy_pid(), signal.SIGKILL)

    async def back() -> bool:
        try:
            return (await callers.ask("app")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(back, 5, "Envoy is back")
    assert (await callers.ask("narrow")).status_code == 200
    await callers.change(wanted(app=Quota(Rate(1, 3600, 1))))
    assert await callers.statuses("app", 2) == [200, 429]


async def test_no_file_but_those_for_secrets_holds_one(callers: Callers) -> None:
    secrets = SecretsFile(callers.world.home.keys)
    secrets.put("app", "very-secret-app", (OldSecret("very-secret-old", CLOCK.now() + 60),))
    await callers.change(wanted(app=Quota(Rate(1, 3600, 2), 1)))

    async def works() -> bool:
        return (await callers.ask_with("very-secret-old")).status_code == 200

    await eventually(works, 2, "the old secret works")
    for secret in ("very-secret-app", "very-secret-app", "very-secret-wrong"):
        await callers.ask_with(secret)
    await eventually(lambda: len(callers.lines()) >= 4, 3, "the log is written")
    root = callers.world.home.root
    found = {
        str(path.relative_to(root)): path.stat().st_mode & 0o777
        for path in root.rglob("*")
        if path.is_file() and b"very-secret" in path.read_bytes()
    }
    assert found == {
        "gateway/keys.json": 0o600,
        "gateway/envoy/rds.json": 0o600,
        "gateway/envoy/rds/rds.pb": 0o600,
    }


async def test_two_threads_share_one_bucket() -> None:
    async with new_world(concurrency=2) as world:
        world.set_catalog(wanted(app=Quota(Rate(1, 3600, 50))))
        world.set_keys({"app": "s-app"})
        for number, one in enumerate(wanted().live()):
            await world.add_worker(f"w{number}", str(one))
        world.write_status()
        async with world.running(), world.client() as client:
            await world.routed()
            callers = Callers(world, client)
            answers = await asyncio.gather(*(callers.ask("app") for _ in range(120)))
    assert sum(one.status_code == 200 for one in answers) == 50


async def test_an_old_secret_works_for_its_time_and_ends_by_itself(callers: Callers) -> None:
    until = CLOCK.now() + 1.0
    SecretsFile(callers.world.home.keys).put("app", "s-new", (OldSecret("s-app", until),))

    async def new_works() -> bool:
        return (await callers.ask("new")).status_code == 200

    await eventually(new_works, 2, "the new secret works")
    assert (await callers.ask("app")).status_code == 200

    async def old_ended() -> bool:
        return (await callers.ask("app")).status_code == 401

    await eventually(old_ended, 3, "the old secret has ended")
    assert until <= CLOCK.now() < until + 1.0
    assert (await callers.ask("new")).status_code == 200


async def test_a_kill_takes_effect_as_fast_as_a_revoke(callers: Callers) -> None:
    found = wanted(app=Quota(concurrency=5))
    await callers.change(found)
    killed = with_key(found, replace(found.keys["app"], killed="call the platform team"))
    seconds = {"kill": await callers.change(killed)}
    answer = await callers.ask("app")
    assert (answer.status_code, answer.json()) == (403, {"message": "call the platform team"})
    assert (await callers.ask("app", INFER)).json() == {"error": "call the platform team"}
    seconds["revive"] = await callers.change(found)
    assert (await callers.ask("app")).status_code == 200
    seconds["limit"] = await callers.change(wanted(app=Quota(concurrency=6)))
    revoked = replace(found, keys={"free": found.keys["free"]})
    seconds["revoke"] = await callers.change(revoked)
    assert (await callers.ask("app")).status_code == 401
    assert (await callers.ask("free")).status_code == 200
    print("in force after seconds:", {name: round(one, 2) for name, one in seconds.items()})
    assert max(seconds.values()) < 3.0


async def test_uses_are_counted_exactly_through_a_rotation_of_the_log(world: World) -> None:
    # 131 lines of some 550 bytes: rotated once, also by a machine that is too busy to follow twice.
    world.settings = replace(world.settings, access_log_bytes=45_000)
    world.set_catalog(wanted(app=Quota(Rate(1, 3600, 30))))
    began = CLOCK.now()
    async with world.running(), world.client() as client:
        await world.routed()
        callers = Callers(world, client)
        await callers.statuses("free", 90)
        await callers.statuses("app", 40)
        await eventually((world.home.logs / "access.jsonl.1").exists, 5, "the log was rotated")
        assert (await callers.ask("narrow", INFER)).status_code == 403
        told: list[str] = []

        async def counted() -> bool:
            told[:] = [(await client.get("/metrics")).text]
            return 'fairlead_key_requests_total{key="narrow"} 1' in told[0]

        await eventually(counted, 12, "all is counted")
    assert 'fairlead_key_requests_total{key="app"} 40' in told[0]
    assert 'fairlead_key_refused_total{key="app",status="429"} 10' in told[0]
    uses = uses_from_bytes(world.home.key_uses.read_bytes()).keys
    found = {key: (use.requests, dict(use.refused)) for key, use in uses.items()}
    assert found == {"free": (90, {}), "app": (40, {429: 10}), "narrow": (1, {403: 1})}
    assert all(began - 1 <= use.last_used <= CLOCK.now() + 1 for use in uses.values())
