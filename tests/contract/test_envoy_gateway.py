"""The gateway in front of real upstreams, with the real Envoy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import xxhash

from fairlead.domain.catalog import Catalog, Kill, with_kill, with_pin, with_traffic
from fairlead.domain.errors import FairleadError
from fairlead.domain.ids import LineId
from fairlead.domain.release import TrafficShare
from fairlead.domain.requests import read_request
from fairlead.domain.why import Explanation, Then, explain
from support.effort import PATIENCE
from support.gateway import World, catalog, eventually, new_world, revision
from support.logs import lines_of
from support.wire import Wire

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]

HASH = xxhash.xxh64_intdigest
KEY = {"x-api-key": "demo-secret"}
PREDICT = "/v1/model/speech/predict"
INFER = "/v2/models/speech/infer"
DATA = Path(__file__).parents[1] / "data" / "tls"


def speech(split: tuple[int, int] = (90, 10)) -> Catalog:
    return catalog(
        revision("speech/v1.1"),
        revision("speech/v1.2"),
        revision("speech/v2.1"),
        traffic={"speech/v1": {"1": split[0], "2": split[1]}, "speech/v2": {"1": 100}},
        pins={"speech": "v1"},
        keys={"demo": ("*",), "other": ("elsewhere",)},
    )


async def prepare(world: World) -> None:
    world.set_catalog(speech())
    world.set_keys({"demo": "demo-secret", "other": "other-secret"})
    await world.add_worker("w1", "speech/v1.1")
    await world.add_worker("w2", "speech/v1.2")
    await world.add_worker("w3", "speech/v2.1")
    world.write_status()


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """`speech`: line v1 split 90/10 and pinned, line v2; their workers ready; two keys."""
    async with new_world() as world:
        await prepare(world)
        yield world


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.running(), world.client() as client:
        await world.routed()
        yield client


async def test_a_request_reaches_the_revision_it_names_and_never_with_the_key(
    world: World, client: httpx.AsyncClient
) -> None:
    sent = {**KEY, "accept-version": "v1.2", "x-client": "somebody-else"}
    answer = await client.post(PREDICT, headers=sent)
    assert (answer.status_code, answer.headers["x-served-version"]) == (200, "v1.2")
    assert "server" not in answer.headers
    line, headers = world.workers["w2"].seen[-1]
    assert line == f"POST {PREDICT} HTTP/1.1"
    assert "x-api-key" not in headers
    assert headers["x-client"] == "demo"


async def test_the_key_is_in_no_log_and_no_status(world: World, client: httpx.AsyncClient) -> None:
    for headers in (KEY, {"x-api-key": "other-secret"}, {"x-api-key": "demo-secret,demo-secret"}):
        await client.post(f"{PREDICT}?x-api-key=demo-secret", headers=headers)
    log = world.home.logs / "access.jsonl"
    await eventually(
        lambda: log.exists() and len(log.read_bytes().splitlines()) == 3, 5, "the log is written"
    )
    secret = [
        path
        for path in world.home.root.rglob("*")
        if path.is_file() and b"demo-secret" in path.read_bytes()
    ]
    assert {path.name for path in secret} == {"keys.json", "rds.json", "rds.pb"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in secret)


async def test_the_access_log_says_who_was_served_what(
    world: World, client: httpx.AsyncClient
) -> None:
    await client.post(PREDICT, headers={**KEY, "accept-version": "v2", "x-request-id": "mine"})
    log = world.home.logs / "access.jsonl"
    await eventually(lambda: log.exists() and log.read_bytes(), 5, "the log is written")
    line = json.loads(log.read_text().splitlines()[-1])
    assert (line["request_id"], line["client"], line["method"]) == ("mine", "demo", "POST")
    assert (line["path"], line["status"]) == (PREDICT, 200)
    assert line["upstream"].startswith("speech/v2.1/predict@")
    assert (line["route"], line["accept_version"]) == ("asked speech/v2 1=100", "v2")
    assert (line["attempts"], line["has_sticky_key"]) == (1, None)
    assert line["upstream_host"] == str(world.home.sockets / "w3.sock")


async def test_a_retry_is_in_the_access_log(world: World, client: httpx.AsyncClient) -> None:
    """A worker that has gone before the agent noticed: its requests go to the other one."""
    await world.add_worker("w4", "speech/v2.1")
    world.write_status()
    log = world.home.logs / "access.jsonl"

    def lines() -> list[dict[str, Any]]:
        return lines_of(log)

    async def both_asked() -> bool:
        await client.post(PREDICT, headers={**KEY, "accept-version": "v2"})
        return all(world.workers[name].seen for name in ("w3", "w4"))

    await eventually_asked(both_asked)
    await world.workers["w4"].stop()

    def told_of(line: dict[str, Any]) -> Explanation:
        return explain(read_request(line), Then(world.catalogs.read(), "v1"), HASH)

    async def retried() -> bool:
        await client.post(PREDICT, headers={**KEY, "accept-version": "v2"})
        return any(line["attempts"] > 1 and line["status"] == 200 for line in lines())

    await eventually_asked(retried)
    line = next(line for line in lines() if line["attempts"] > 1 and line["status"] == 200)
    told = told_of(line)
    assert told.document["retries"] == line["attempts"] - 1
    assert told.document["worker"] == "w3"
    assert "because a worker could not be reached" in dict(told.parts)["retries"]
    for line in lines():
        if line["status"] != 200:  # every try met the worker that has gone
            lost = told_of(line).document
            assert (lost["outcome"]["code"], lost["worker"]) == ("no_worker", "w4")
            assert lost["revision"] == "speech/v2.1"


async def eventually_asked(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(400 * PATIENCE):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("never")


async def test_what_a_caller_makes_long_is_cut_in_the_access_log(
    world: World, client: httpx.AsyncClient
) -> None:
    sent = {**KEY, "accept-version": "v" * 9000, "x-sticky-key": "somebody" * 100}
    await client.get("/" + "p" * 9000, headers={**sent, "x-request-id": "i" * 9000})
    log = world.home.logs / "access.jsonl"
    await eventually(lambda: log.exists() and log.read_bytes(), 5, "the log is written")
    (line,) = [one for one in log.read_bytes().splitlines() if b"pppp" in one]
    assert len(line) < 2048
    assert b"somebody" not in line
    assert json.loads(line)["has_sticky_key"] == ""


@pytest.mark.parametrize(("path", "shape"), [(PREDICT, "message"), (INFER, "error")])
@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([], "No API key found in request"),
        ([("x-api-key", "wrong")], "Invalid authentication credentials"),
        ([("x-api-key", "demo-secret")] * 2, "Duplicate API key found"),
        ([("x-api-key", "")], "Invalid authentication credentials"),
        ([("x-api-key", "Bearer demo-secret")], "Invalid authentication credentials"),
    ],
)
async def test_a_wrong_key_is_told_from_none_and_from_two(
    client: httpx.AsyncClient, path: str, shape: str, headers: list[tuple[str, str]], text: str
) -> None:
    answer = await client.post(path, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {shape: text})
    assert answer.headers["www-authenticate"] == 'Key realm="kong"'


async def test_every_answer_has_a_request_id_and_a_callers_own_is_kept_in_bounds(
    client: httpx.AsyncClient,
) -> None:
    for path in (PREDICT, "/livez", "/nothing"):
        assert len((await client.get(path)).headers["x-request-id"]) == 36
    kept = await client.post(PREDICT, headers={**KEY, "x-request-id": "i" * 500})
    assert kept.headers["x-request-id"] == "i" * 128


async def test_a_caller_cannot_steer_envoy(world: World, client: httpx.AsyncClient) -> None:
    sent = {**KEY, "x-wait": "0.3", "x-envoy-upstream-rq-timeout-ms": "50"}
    assert (await client.post(PREDICT, headers=sent)).status_code == 200
    assert not any(name.startswith("x-envoy-up") for name in world.workers["w1"].seen[-1][1])


async def test_growing_the_canary_moves_nobody_out_of_it(
    world: World, client: httpx.AsyncClient
) -> None:
    async def canaries() -> set[str]:
        found = set()
        for user in range(300):
            sticky = {**KEY, "x-sticky-key": f"user-{user}", "accept-version": "v1"}
            answer = await client.post(PREDICT, headers=sticky)
            if answer.headers["x-served-version"] == "v1.2":
                found.add(f"user-{user}")
        return found

    users = [f"user-{user}" for user in range(300)]
    few = await canaries()
    assert few == {one for one in users if xxhash.xxh64_intdigest(one.encode()) % 10_000 >= 9000}
    line = LineId("speech", "v1")
    shares = (TrafficShare("1", 60), TrafficShare("2", 40))
    world.set_catalog(with_traffic(world.catalogs.read(), line, shares))
    await world.routed()
    many = await canaries()
    assert few < many


async def test_without_a_sticky_key_the_keys_client_decides(client: httpx.AsyncClient) -> None:
    bucket = xxhash.xxh64_intdigest(b"demo") % 10_000
    wanted = "v1.1" if bucket < 9000 else "v1.2"
    for _ in range(50):
        answer = await client.post(PREDICT, headers={**KEY, "accept-version": "v1"})
        assert answer.headers["x-served-version"] == wanted


async def test_a_pin_and_a_kill_take_effect_at_once(
    world: World, client: httpx.AsyncClient
) -> None:
    world.set_catalog(with_pin(world.catalogs.read(), LineId("speech", "v2")))
    await world.routed(1)
    assert (await client.post(PREDICT, headers=KEY)).headers["x-served-version"] == "v2.1"
    world.set_catalog(with_kill(world.catalogs.read(), "speech", Kill("back at noon", 0.0)))
    await world.routed(1)
    answer = await client.post(INFER, headers=KEY)
    assert (answer.status_code, answer.json()) == (503, {"error": "back at noon"})
    assert (await client.get("/healthz")).status_code == 200


async def test_a_key_is_gone_as_soon_as_it_is_revoked(
    world: World, client: httpx.AsyncClient
) -> None:
    assert (await client.post(PREDICT, headers=KEY)).status_code == 200
    world.set_keys({"demo": "new-secret"})

    async def refused() -> bool:
        return (await client.post(PREDICT, headers=KEY)).status_code == 401

    await eventually(refused, 2, "the old secret is refused")
    assert (await client.post(PREDICT, headers={"x-api-key": "new-secret"})).status_code == 200


async def test_a_key_for_other_services_is_refused_by_name(client: httpx.AsyncClient) -> None:
    answer = await client.post(PREDICT, headers={"x-api-key": "other-secret"})
    assert (answer.status_code, answer.json()) == (
        403,
        {"message": "You cannot consume this service"},
    )


async def test_a_dead_worker_is_a_clear_503_and_another_replica_steps_in(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.workers["w3"].stop()
    answer = await client.post(INFER, headers={**KEY, "accept-version": "v2"})
    text = "The upstream server is currently unavailable"
    assert (answer.status_code, answer.json()) == (503, {"error": text})
    assert (await client.get("/healthz")).status_code == 503
    await world.drop_worker("w3")
    await world.add_worker("w4", "speech/v2.1")
    world.write_status()

    async def served() -> bool:
        again = await client.post(INFER, headers={**KEY, "accept-version": "v2"})
        return again.status_code == 200

    await eventually(served, 2, "the replacement answers")


async def test_the_store_may_go_away(world: World, client: httpx.AsyncClient) -> None:
    world.store.broken = True  # type: ignore[attr-defined] # the memory store's
    await eventually(lambda: "store is away" in world.gateway_status()["problem"], 2, "it is said")
    assert (await client.post(PREDICT, headers=KEY)).status_code == 200
    health = await client.get("/healthz")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")


async def test_http2_is_spoken_on_the_same_port(world: World, client: httpx.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.port)
    empty_settings = b"\0\0\0\4\0\0\0\0\0"
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
    frame = await asyncio.wait_for(reader.readexactly(9), 5 * PATIENCE)
    writer.close()
    assert frame[3] == empty_settings[3]
    assert (await client.get("/livez")).http_version == "HTTP/1.1"


async def test_a_request_over_its_deadline_ends_with_504() -> None:
    async with new_world(deadline_seconds=0.4) as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            answer = await client.post(PREDICT, headers={**KEY, "x-wait": "5"})
    text = "The upstream server is timing out"
    assert (answer.status_code, answer.json()) == (504, {"message": text})


async def test_a_slow_caller_and_a_huge_header_are_refused_in_shape() -> None:
    async with new_world(upload_seconds=0.4) as world:
        await prepare(world)
        async with world.running():
            await world.routed()
            wire = Wire("127.0.0.1", world.settings.port)
            slow = await wire.ask("POST", PREDICT, [("x-api-key", "demo-secret")], missing=10)
            huge = await wire.ask("GET", "/v2/models/speech", [("x-big", "x" * 70_000)])
            await wire.close()
    assert (slow.status, json.loads(slow.body)) == (408, {"message": "Request timeout"})
    assert huge.status == 431


async def test_the_access_log_is_rotated_and_goes_on() -> None:
    async with new_world(access_log_bytes=10) as world:
        await prepare(world)
        async with world.running(), world.client() as client:
            await world.routed()
            log = world.home.logs / "access.jsonl"
            old = log.with_name("access.jsonl.1")
            await client.get("/livez")
            await eventually(lambda: old.exists() and b"livez" in old.read_bytes(), 5, "rotated")
            await client.get("/healthz")
            await eventually(lambda: b"healthz" in _all(log, old), 5, "it goes on")


def _all(*paths: Path) -> bytes:
    return b"".join(path.read_bytes() for path in paths if path.exists())


async def test_with_a_certificate_it_speaks_tls_and_only_that() -> None:
    async with new_world(
        certificate=DATA / "certificate.pem", private_key=DATA / "key.pem"
    ) as world:
        await prepare(world)
        async with world.running(), world.client(verify=False) as client:
            await world.routed()
            answer = await client.post(PREDICT, headers=KEY)
            assert (answer.status_code, str(answer.url)[:5]) == (200, "https")
            plain = world.settings.url.replace("https", "http")
            with pytest.raises(httpx.HTTPError):
                await client.post(f"{plain}{PREDICT}", headers=KEY)


async def test_a_busy_port_is_named(world: World) -> None:
    async def nobody(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(nobody, "127.0.0.1", world.settings.port)
    async with server:
        with pytest.RaisesGroup(FairleadError, match=None) as caught:
            async with world.running():
                pass
    assert f"port {world.settings.port} on 127.0.0.1 is in use" in str(caught.value.exceptions[0])
    assert world.envoy_pid() == 0
