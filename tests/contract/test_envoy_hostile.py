"""Between Envoy and a worker: whatever a caller writes, both read the same requests, and nothing comes in by the side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from fairlead.domain.ids import RevisionId
from fairlead.server.http.serve import Listen, Socket, serve
from support.effort import PATIENCE
from support.gateway import World, catalog, eventually, new_world, revision
from support.logs import lines_of
from support.models import scaled_artifact
from support.serving import InProcess, in_process

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.timeout(60),
    pytest.mark.asyncio(loop_scope="module"),
]

KEY = "x-api-key: demo-secret\r\n"
BODY = json.dumps({"instances": [[1.0, 2.0, 3.0]]})
LENGTH = f"content-length: {len(BODY)}\r\n"
PREDICT = "/v1/model/scaled/predict"
SMUGGLED = "GET /internal/identity HTTP/1.1\r\nhost: here\r\n\r\n"


@dataclass
class Front:
    """A gateway, a worker that records what reaches it, and behind it the real model server."""

    world: World
    running: InProcess


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    directory = tmp_path_factory.mktemp("hostile")
    spec = scaled_artifact(directory / "scaled").spec(RevisionId("scaled", "v1", "1"))
    wanted = catalog(
        revision("scaled/v1.1"),
        revision("echo/v1.1", paths={"predict": ("/echo",)}),
        traffic={"scaled/v1": {"1": 100}, "echo/v1": {"1": 100}},
        pins={"scaled": "v1", "echo": "v1"},
        keys={"demo": ("*",)},
    )
    async with new_world() as world, in_process(spec) as running, asyncio.TaskGroup() as group:
        world.set_catalog(wanted)
        world.set_keys({"demo": "demo-secret"})
        await world.add_worker("seen", "echo/v1.1")
        real = await world.add_worker("real", "scaled/v1.1")
        await real.stop()
        stop = asyncio.Event()
        at = Socket(Listen(uds=Path(real.replica.socket)))
        group.create_task(serve(running.app, at, stop=stop, drain_seconds=1))
        world.write_status()
        async with world.running():
            await world.routed()
            yield Front(world, running)
        stop.set()


async def send(front: Front, sent: str | bytes, answers: int = 0) -> bytes:
    """Everything that comes back, until there are that many answers or the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.world.settings.port)
    found, left = b"", False
    try:
        writer.write(sent if isinstance(sent, bytes) else sent.encode("latin-1"))
        async with asyncio.timeout(5 * PATIENCE):
            while (
                not answers
                or found.count(b"HTTP/1.1 ") < answers
                or not found.rstrip().endswith(b"}")
            ):
                part = await reader.read(65536)
                if not part:
                    break
                found += part
                if not left and b"\r\nconnection: close\r\n" in found:
                    left = True
                    writer.write_eof()  # Envoy gives its last word a second, unless its caller is done too
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return found


def statuses(found: bytes) -> list[int]:
    return [int(part[:3]) for part in found.split(b"HTTP/1.1 ")[1:]]


def post(headers: str = "", body: str = "", path: str = PREDICT) -> str:
    return f"POST {path} HTTP/1.1\r\nhost: here\r\n{KEY}{headers}\r\n{body}"


CHUNKED = "transfer-encoding: chunked\r\n"
REFUSED = {
    "chunks and length": post(f"{CHUNKED}content-length: 5\r\n", "0\r\n\r\n"),
    "length and chunks": post(f"content-length: 5\r\n{CHUNKED}", "0\r\n\r\n"),
    "two lengths": post("content-length: 0\r\ncontent-length: 5\r\n"),
    "two lengths in one": post("content-length: 0, 5\r\n"),
    "a signed length": post("content-length: +0\r\n"),
    "an encoding nobody knows": post("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
    "chunked is not last": post("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
    "a space before the colon": post("content-length : 0\r\n"),
    "a zero byte": post("x-a: b\0c\r\n"),
    "a fragment": post(LENGTH, BODY, f"{PREDICT}#x"),
    "connect": f"CONNECT here:80 HTTP/1.1\r\nhost: here\r\n{KEY}\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_could_be_read_in_two_ways_reaches_no_worker(front: Front, name: str) -> None:
    before = _requests(front)
    found = await send(front, REFUSED[name] + SMUGGLED, answers=2)
    assert 400 <= statuses(found)[0] < 600
    assert 200 not in statuses(found)
    assert b"rss_bytes" not in found
    again = await send(front, post(LENGTH, BODY), answers=1)
    assert statuses(again) == [200]
    assert _requests(front) == before + 1  # the good one, and nothing before it


@pytest.mark.parametrize("odd", ["x-a: b\r\n content-length: 5", "x-a: b\rcontent-length: 5"])
async def test_odd_line_ends_are_mended_before_a_worker_reads_them(front: Front, odd: str) -> None:
    found = await send(front, post(f"{odd}\r\ncontent-length: 0\r\n", path="/echo"), 1)
    assert statuses(found) == [200]
    seen = front.world.workers["seen"].seen[-1][1]
    assert seen["content-length"] == "0"
    assert seen["x-a"].replace(" ", "") == "bcontent-length:5"  # a value, and nothing else


async def test_a_chunk_longer_than_its_size_is_read_once_and_alike(front: Front) -> None:
    """Envoy forgives it, and writes chunks of its own: the worker gets one body, of the size that was said."""
    broken = post(CHUNKED, "1\r\nabc\r\n0\r\n\r\n")
    found = await send(front, broken + SMUGGLED, 2)
    assert statuses(found) in (
        [400],
        [422],
        [422, 401],
    )  # the last: a request of its own, without a key
    assert b"rss_bytes" not in found
    assert statuses(await send(front, post(LENGTH, BODY), 1)) == [200]


def _requests(front: Front) -> int:
    """How many requests of any kind the real worker has counted."""
    return sum(one.requests for one in front.running.plane.stats)


@pytest.mark.parametrize(
    "path",
    [
        "/internal/identity",
        "/internal/retire",
        "/internal/proved",
        "/metrics/x",
        "//internal/identity",
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "http://here{}",
        "/v1/model/scaled/..{}",
        "/v1/model/scaled/%2e%2e/%2e%2e{}",
        "/static-offline-docs/..{}",
        "/static-offline-docs/%2e%2e{}",
    ],
)
async def test_what_is_between_agent_and_worker_cannot_be_asked_for(
    front: Front, path: str, form: str
) -> None:
    for method in ("GET", "POST"):
        before = _requests(front)
        target = form.format(path)
        found = await send(
            front, f"{method} {target} HTTP/1.1\r\nhost: here\r\n{KEY}content-length: 0\r\n\r\n", 1
        )
        assert statuses(found)[0] in (400, 404, 405)
        assert b"rss_bytes" not in found
        assert _requests(front) == before


async def test_nobody_can_be_somebody_else_or_bring_our_own_headers(front: Front) -> None:
    headers = (
        "X-Client: admin\r\nx-client: root\r\nX_Client: root\r\nx-fairlead-key: x\r\n"
        "x-envoy-original-path: /internal/identity\r\nx-envoy-expected-rq-timeout-ms: 1\r\n"
        "x-envoy-retry-on: 5xx\r\nx-envoy-force-trace: 1\r\nx-envoy-decorator-operation: x\r\n"
        "x-served-version: v9.9\r\nx-artifact-digest: sha256:0\r\nx-forwarded-for: 6.6.6.6\r\n"
        "x-forwarded-proto: https\r\nconnection: x-client, keep-alive\r\ncontent-length: 0\r\n"
    )
    found = await send(front, post(headers, path="/echo"), 1)
    assert statuses(found) == [200]
    line, seen = front.world.workers["seen"].seen[-1]
    assert line == "POST /echo HTTP/1.1"
    assert seen["x-client"] == "demo"
    assert seen["x-envoy-expected-rq-timeout-ms"] == "30000"
    assert {name for name in seen if name.startswith("x-envoy")} == {
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-external-address",  # where the caller is, says Envoy
    }
    assert seen["x-envoy-external-address"] == "127.0.0.1"
    assert "x-api-key" not in seen
    assert "x-fairlead-key" not in seen
    assert seen["x-forwarded-for"].startswith("6.6.6.6,")  # a claim, to which Envoy adds its own
    assert b"v9.9" not in found
    # Another name, which no part of ours reads; a server that took `_` for `-` would have to be told.
    assert seen["x_client"] == "root"


async def test_trailers_are_not_headers(front: Front) -> None:
    body = "0\r\nx-client: root\r\nx-api-key: demo-secret\r\naccept-version: v9\r\n\r\n"
    worker = front.world.workers["seen"]
    before = len(worker.seen)
    assert statuses(await send(front, post(CHUNKED, body, "/echo"), 1)) == [200]
    # This worker takes the last chunk for another head, and would see what is in it.
    assert worker.seen[before][1]["x-client"] == "demo"
    assert not any("root" in str(one) or "secret" in str(one) for one in worker.seen[before:])
    whole = f"{len(BODY):x}\r\n{BODY}\r\n{body}"
    assert statuses(await send(front, post(CHUNKED, whole), 1)) == [200]
    unknown = f"POST /echo HTTP/1.1\r\nhost: here\r\n{CHUNKED}\r\n{body}"
    assert statuses(await send(front, unknown, 1)) == [401]


async def test_an_upgrade_to_http2_is_an_ordinary_request(front: Front) -> None:
    upgrade = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    found = await send(front, post(upgrade + LENGTH, BODY), 1)
    assert statuses(found) == [200]


@pytest.mark.parametrize("protocol", ["websocket", "TLS/1.0", "h2c, websocket", "nobody-knows"])
async def test_an_offer_of_another_protocol_is_not_taken_and_its_body_stays_a_body(
    front: Front, protocol: str
) -> None:
    upgrade = f"connection: upgrade\r\nupgrade: {protocol}\r\n"
    whole = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
    for sent in (post(upgrade + LENGTH, BODY), post(upgrade + CHUNKED, whole)):
        before = _requests(front)
        found = await send(front, sent + SMUGGLED, 2)  # which is the next request, without a key
        assert statuses(found)[0] == 200
        assert b"rss_bytes" not in found
        assert 200 not in statuses(found)[1:]
        assert _requests(front) == before + 1
    empty = post(f"{upgrade}content-length: 0\r\n", path="/echo")
    assert statuses(await send(front, empty, 1)) == [200]
    assert "upgrade" not in front.world.workers["seen"].seen[-1][1]


async def test_an_encoded_slash_is_another_path(front: Front) -> None:
    for path in (
        "/v1/model%2fscaled/predict",
        "/v1/model/scaled%2fpredict",
        "/%76%31/model/scaled/predict",
    ):
        found = await send(front, post(LENGTH, BODY, path), 1)
        assert statuses(found) == [404]


async def test_after_an_error_the_next_callers_request_is_its_own(front: Front) -> None:
    """Workers' connections are shared: what one caller left behind must not be the next one's beginning."""
    length = len(BODY) + 500
    for number in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.world.settings.port)
        part = post(f"content-length: {length}\r\n", BODY + SMUGGLED)
        writer.write(part.encode())
        await writer.drain()
        writer.transport.abort()  # in the middle of a body
        del reader
        good = BODY.replace("1.0", f"{number}.0")
        found = await send(front, post(f"content-length: {len(good)}\r\n", good), 1)
        assert statuses(found) == [200]
        assert json.loads(found.partition(b"\r\n\r\n")[2])["predictions"][0][0] == 2.0 * number


async def test_pipelined_requests_of_one_caller_are_answered_one_by_one(front: Front) -> None:
    bad = post(LENGTH, BODY.replace("1.0", '"a"'))
    found = await send(front, post(LENGTH, BODY) + bad + post(LENGTH, BODY), 3)
    assert statuses(found)[0] == 200
    assert statuses(found)[1] in (400, 422)
    assert statuses(found)[2] == 200


async def test_heads_that_never_end_hold_up_nobody_else(front: Front) -> None:
    slow = []
    try:
        for _ in range(200):
            one = socket.create_connection(("127.0.0.1", front.world.settings.port))
            one.sendall(b"POST /echo HTTP/1.1\r\nx-a: ")
            slow.append(one)
        assert statuses(await send(front, post(LENGTH, BODY), 1)) == [200]
    finally:
        for one in slow:
            one.close()


async def test_envoy_keeps_little_of_a_body_that_nobody_reads(front: Front) -> None:
    """HTTP/2: what a caller may send ahead is bounded for each stream and for the connection."""
    documents = json.loads((front.world.home.envoy / "lds" / "lds.json").read_text())
    manager = documents["resources"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    window = manager["http2_protocol_options"]
    assert window["initial_stream_window_size"] <= 1 << 20
    assert window["initial_connection_window_size"] <= 8 << 20


async def test_a_strangers_id_stays_one_line_of_the_log(front: Front) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07evil"
    found = await send(front, post(f"x-request-id: {evil}\r\n{LENGTH}", BODY), 1)
    assert statuses(found) == [400]
    # What is no control character may stand in a header: it is the log's to write it as JSON.
    found = await send(front, post(f'x-request-id: a"\\,{{\xc2\x9b\r\n{LENGTH}', BODY), 1)
    log = front.world.home.logs / "access.jsonl"
    await eventually(lambda: b'"a\\"' in log.read_bytes(), 5, "the request is logged")
    lines = lines_of(log)
    assert [line["client"] for line in lines if (line["request_id"] or "").startswith('a"')] == [
        "demo"
    ]


async def test_admin_and_sockets_are_for_this_user_only(front: Front) -> None:
    home = front.world.home
    assert home.sockets.stat().st_mode & 0o777 == 0o700
    for path in (home.envoy_admin_socket, home.front_socket):
        assert path.stat().st_mode & 0o077 == 0
    for path in ("/config_dump", "/stats", "/quitquitquit", "/server_info"):
        found = await send(
            front, f"POST {path} HTTP/1.1\r\nhost: here\r\n{KEY}content-length: 0\r\n\r\n", 1
        )
        assert statuses(found) == [404]


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/models/scaled",
        "/v2/models/scaled/ready",
        "/v2/models/scaled/versions/1",
        "/v2/models/scaled/config",
        "/v2/models/scaled/stats",
        "/v2/models/stats",
        "/v1/model/scaled/bio",
    ],
)
async def test_head_is_get_without_a_body(front: Front, path: str) -> None:
    async with front.world.client() as client:
        key = {"x-api-key": "demo-secret"}
        get = await client.get(path, headers=key)
        for _ in range(2):  # on one connection: nothing of the first is left in it
            head = await client.head(path, headers=key)
            assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
            assert head.headers["content-length"] == str(len(get.content))
        assert (await client.head(path.replace("scaled", "nobody"), headers=key)).status_code in (
            (404,) if "scaled" in path else (200,)
        )
