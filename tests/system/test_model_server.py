"""A real worker on a unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from fairlead.api.worker import ServedEndpoint, ServingSettings
from fairlead.domain.ids import RevisionId
from support.models import echo_artifact, example, make_artifact, scaled_artifact
from support.serving import Worker, eventually, until_ready, worker

pytestmark = pytest.mark.timeout(120)

SCALED = RevisionId("scaled", "v9", "2")
PREDICT = "/v1/model/scaled/predict"
INFER = "/v2/models/scaled/infer"
INSTANCES = {"instances": [[1, 2, 3]]}
X = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}

ENDING = "this server is ending; ask again"
SLEEPER = """
import time
class Model:
    def predict(self, request: float) -> str:
        time.sleep(request)
        return "done"
"""


def sleeper(directory: Path) -> Any:
    return make_artifact(directory, {"model.py": SLEEPER}, [example(0.001, "done")])


@pytest_asyncio.fixture
async def scaled(tmp_path: Path) -> AsyncIterator[Worker]:
    spec = scaled_artifact(tmp_path / "a", version=5).spec(SCALED, socket=tmp_path / "w.sock")
    async with worker(spec, tmp_path) as started:
        yield started


async def in_progress(started: Worker) -> list[float]:
    text = (await started.client.get("/metrics")).text
    name = "fairlead_requests_in_progress{"
    return [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)]


def oip(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


BAD: list[tuple[str, str, bytes, dict[str, str], int]] = [
    ("malformed", PREDICT, b'{"instances": [[1,', {}, 422),
    ("malformed", INFER, b'{"inputs": [', {}, 400),
    ("not UTF-8", PREDICT, b'{"instances": "\xff"}', {}, 422),
    ("not UTF-8", INFER, b'{"inputs": "\xff"}', {}, 400),
    ("empty", PREDICT, b"", {}, 422),
    ("empty", INFER, b"", {}, 400),
    ("wrong dtype", PREDICT, b'{"instances": [["a", 1, 2]]}', {}, 422),
    ("wrong dtype", INFER, oip({**X, "datatype": "INT64"}), {}, 400),
    ("unknown dtype", INFER, oip({**X, "datatype": "COMPLEX"}), {}, 400),
    ("wrong shape", PREDICT, b'{"instances": [[1, 2]]}', {}, 422),
    ("wrong shape", INFER, oip({**X, "shape": [3]}), {}, 400),
    ("shape against data", INFER, oip({**X, "shape": [2, 3]}), {}, 400),
    ("negative shape", INFER, oip({**X, "shape": [-1, 3]}), {}, 400),
    ("negative shape", INFER, oip({**X, "shape": [-1, -3]}), {}, 400),
    ("huge shape", INFER, oip({**X, "shape": [2**62, 3]}), {}, 400),
    ("huge shape", INFER, oip({**X, "shape": [10**400, 3]}), {}, 400),
    ("huge rank", INFER, oip({**X, "shape": [1] * 100_000}), {}, 400),
    ("unknown tensor", INFER, oip({**X, "name": "z"}), {}, 400),
    ("missing tensor", INFER, oip(), {}, 400),
    ("tensor twice", INFER, oip(X, X), {}, 400),
    ("unknown output", INFER, oip(X, outputs=[{"name": "z"}]), {}, 400),
    ("missing key", INFER, oip({"name": "x"}), {}, 400),
    ("missing key", PREDICT, b'{"instance": [[1, 2, 3]]}', {}, 422),
    ("deep nesting", PREDICT, b'{"instances": ' + b"[" * 100_000, {}, 422),
    ("deep nesting", INFER, b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}, 400),
    ("deep nesting", INFER, oip(X)[:-1] + b',"junk":' + b'{"a":' * 100_000, {}, 400),
    ("deep nesting in data", INFER, oip({**X, "data": "?"}).replace(b'"?"', b"[" * 100_000), {}, 400),
    ("null", PREDICT, b'{"instances": [[1, 2, null]]}', {}, 422),
    ("NaN", PREDICT, b'{"instances": [[1, 2, NaN]]}', {}, 422),
    ("overflow", INFER, oip({**X, "data": [1, 2, 1e300]}), {}, 400),
    ("binary out of bounds", INFER, oip(X), {"inference-header-content-length": "999999"}, 400),
    ("binary header is text", INFER, oip(X), {"inference-header-content-length": "x"}, 400),
    ("binary too short", INFER, oip({**{k: X[k] for k in ("name", "shape", "datatype")}, "parameters": {"binary_data_size": 2**62}}), {"inference-header-content-length": "0"}, 400),
    ("method", PREDICT + "s", b"{}", {}, 404),
]  # fmt: skip


async def test_bad_input_gets_the_dialects_own_4xx_and_the_worker_lives(scaled: Worker) -> None:
    before = await scaled.identity()
    for name, path, body, headers, status in BAD:
        answer = await scaled.client.post(path, content=body, headers=headers)
        assert answer.status_code == status, (name, answer.text[:300])
        assert len(answer.content) < 1000, name
        if path == INFER:
            assert isinstance(answer.json()["error"], str), name
        elif status == 422:
            assert answer.json()["detail"][0]["loc"][0] == "body", name
        good = await scaled.client.post(PREDICT, json=INSTANCES)
        assert good.json() == {"predictions": [[2.0, 4.0, 6.0]]}, name
    after = await scaled.identity()
    assert after["pid"] == before["pid"]
    assert after["ready"] is True


async def test_a_hundred_megabytes_are_refused_declared_or_streamed_without_holding_them(
    scaled: Worker,
) -> None:
    before = await scaled.identity()
    size = 100 * 1024 * 1024
    chunk = b"1," * (512 * 1024)

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(size // len(chunk)):
            yield chunk

    for path, key in ((PREDICT, "detail"), (INFER, "error")):
        for headers in ({"content-length": str(size)}, {}):
            answer = await scaled.client.post(path, content=stream(), headers=headers)
            assert answer.status_code == 413
            assert "67108864 bytes" in answer.json()[key]
    assert (await scaled.client.post(PREDICT, json=INSTANCES)).status_code == 200
    after = await scaled.identity()
    assert after["pid"] == before["pid"]
    grown = int(str(after["rss_bytes"])) - int(str(before["rss_bytes"]))
    assert grown < 100 * 1024 * 1024


async def test_a_large_tensor_travels_as_bytes(scaled: Worker) -> None:
    rows = 500_000
    blob = struct.pack("<f", 1.5) * (3 * rows)
    asked = oip(
        {
            "name": "x",
            "shape": [rows, 3],
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(blob)},
        },
        parameters={"binary_data_output": True},
    )
    answer = await scaled.client.post(
        INFER, content=asked + blob, headers={"inference-header-content-length": str(len(asked))}
    )
    length = int(answer.headers["inference-header-content-length"])
    assert answer.content[length:] == struct.pack("<f", 3.0) * (3 * rows)


async def test_clients_that_leave_take_nothing_along(tmp_path: Path) -> None:
    spec = sleeper(tmp_path / "a").spec(
        RevisionId("slow", "v1", "1"),
        socket=tmp_path / "w.sock",
        endpoints=(ServedEndpoint(concurrency=1),),
    )
    path = "/v1/model/slow/predict"
    async with worker(spec, tmp_path) as started, asyncio.TaskGroup() as group:
        tasks = [group.create_task(started.client.post(path, content=b"0.3")) for _ in range(5)]
        await eventually(lambda: _all_in(started, 5))
        tasks[0].cancel()  # one that runs
        tasks[3].cancel()  # one that waits
        await asyncio.wait(tasks)
        assert [task.result().text for task in (tasks[1], tasks[2], tasks[4])] == ['"done"'] * 3
        await eventually(lambda: _all_in(started, 0))
        assert (await started.client.post(path, content=b"0.001")).status_code == 200
        metrics = (await started.client.get("/metrics")).text
        assert 'kind="cancelled",line="v1",revision="1",service="slow"} 2.0' in metrics


async def _all_in(started: Worker, count: int) -> bool:
    return await in_progress(started) == [count]


async def test_a_worker_told_to_end_finishes_what_it_has_begun_and_leaves_no_socket(
    tmp_path: Path,
) -> None:
    spec = sleeper(tmp_path / "a").spec(RevisionId("slow", "v1", "1"), socket=tmp_path / "w.sock")
    async with worker(spec, tmp_path) as started, asyncio.TaskGroup() as group:
        path = "/v1/model/slow/predict"
        under_way = group.create_task(started.client.post(path, content=b"1"))
        await eventually(lambda: _all_in(started, 1))
        ended = group.create_task(started.stop())
        assert (await under_way).text == '"done"'
        assert await ended == 0
        assert not list(tmp_path.glob("w.sock*"))


async def test_a_drain_ends_at_its_deadline_even_if_the_model_hangs(tmp_path: Path) -> None:
    spec = sleeper(tmp_path / "a").spec(
        RevisionId("slow", "v1", "1"), socket=tmp_path / "w.sock", drain_seconds=1.0
    )
    async with worker(spec, tmp_path) as started, asyncio.TaskGroup() as group:
        hangs = group.create_task(_ask(started.client, "/v1/model/slow/predict", b"60"))
        await eventually(lambda: _all_in(started, 1))
        assert await started.stop(seconds=8) == 0
        answer = await hangs
        assert answer is not None
        assert (answer.status_code, answer.json()) == (503, {"detail": ENDING})


async def test_code_that_never_ends_or_wants_to_end_the_process_leaves_the_worker_alive(
    tmp_path: Path,
) -> None:
    code = (
        "class Model:\n"
        "    concurrent = True\n"
        "    def predict(self, request: int) -> int:\n"
        "        while request == 0:\n"
        "            pass\n"
        "        return exit(3) if request == 3 else request\n"
    )
    made = make_artifact(tmp_path / "a", {"model.py": code}, [example(1, 1)])
    spec = made.spec(RevisionId("odd", "v1", "1"), socket=tmp_path / "w.sock", deadline_seconds=1.0)
    path = "/v1/model/odd/predict"
    async with worker(spec, tmp_path) as started:
        before = await started.identity()
        assert before["inline"] is False
        assert float(str(before["run_microseconds"])) > 0
        answer = await started.client.post(path, content=b"3")
        assert answer.status_code == 500
        assert answer.json() == {"detail": "the model's code failed (SystemExit); its log says why"}
        async with asyncio.TaskGroup() as group:
            endless = group.create_task(started.client.post(path, content=b"0"))
            await eventually(lambda: _all_in(started, 1))
            assert (await started.client.get("/livez")).status_code == 200
            assert (await started.client.post(path, content=b"2")).text == "2"
            assert not endless.done()
        assert endless.result().status_code == 504
        assert (await started.identity())["pid"] == before["pid"]


async def _ask(client: httpx.AsyncClient, path: str, body: bytes) -> httpx.Response | None:
    try:
        return await client.post(path, content=body)
    except httpx.TransportError:
        return None


async def test_a_worker_whose_owner_is_gone_ends(tmp_path: Path) -> None:
    theirs, mine = os.pipe()
    spec = echo_artifact(tmp_path / "a").spec(socket=tmp_path / "w.sock", life_fd=theirs)
    async with worker(spec, tmp_path) as started:
        os.close(theirs)
        os.close(mine)
        async with asyncio.timeout(15):
            assert await started.process.wait() == 0
        assert not list(tmp_path.glob("w.sock*"))


@pytest.mark.parametrize("name", ["model.py", "suffix.txt", "manifest.json"])
async def test_a_damaged_artifact_is_never_served_and_the_log_says_why(
    tmp_path: Path, name: str
) -> None:
    made = echo_artifact(tmp_path / "a")
    data = bytearray((made.directory / name).read_bytes())
    data[len(data) // 2] ^= 1
    (made.directory / name).write_bytes(data)
    spec = made.spec(socket=tmp_path / "w.sock")
    async with worker(spec, tmp_path, ready=False) as started:
        async with asyncio.timeout(20):
            assert await started.process.wait() == 1
        lines = [json.loads(line) for line in started.log.read_text().splitlines()]
        (error,) = [line for line in lines if line["levelname"] == "ERROR"]
        assert error["event"] == "worker"
        assert "echo/v1.1 is not served" in error["message"]
        assert name in error["message"]
        assert "exc_info" not in error
        assert not list(tmp_path.glob("w.sock*"))


async def test_a_model_that_fails_its_examples_ends_the_worker(
    tmp_path: Path,
) -> None:
    code = "class Model:\n    def predict(self, request: int) -> int:\n        return 1\n"
    made = make_artifact(tmp_path / "a", {"model.py": code}, [example(1, 2)])
    spec = made.spec(socket=tmp_path / "w.sock")
    async with worker(spec, tmp_path, ready=False) as started:
        async with asyncio.timeout(20):
            assert await started.process.wait() == 1
        assert (
            "golden example 1: response: 2 expected within 0, 1 answered" in started.log.read_text()
        )


async def _raw(started: Worker, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(started.socket))
    writer.write(data)
    await writer.drain()
    async with asyncio.timeout(10):
        found = await reader.read()
    writer.close()
    return found


async def test_pipelined_requests_are_answered_in_order_and_a_connection_ends_when_asked(
    scaled: Worker,
) -> None:
    def post(number: int, *headers: str, version: str = "1.1") -> bytes:
        body = json.dumps({"instances": [[number, 0, 0]]}).encode()
        lines = [
            f"POST {PREDICT} HTTP/{version}",
            "host: x",
            f"content-length: {len(body)}",
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    found = await _raw(scaled, post(1) + post(2) + post(3, "connection: close"))
    assert found.count(b"HTTP/1.1 200 OK") == 3
    assert [found.index(b"[[%d.0,0.0,0.0]]" % n) for n in (2, 4, 6)] == sorted(
        found.index(b"[[%d.0,0.0,0.0]]" % n) for n in (2, 4, 6)
    )
    assert found.count(b"connection: close") == 1
    assert b"connection: close" in await _raw(scaled, post(1, version="1.0"))
    waits = post(1, "expect: 100-continue", "connection: close")
    assert (await _raw(scaled, waits)).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_the_identity_says_what_an_agent_must_know(scaled: Worker) -> None:
    found = await scaled.identity()
    assert found["pid"] == scaled.process.pid
    expected = {"worker": "w1", "service": "scaled", "line": "v9", "revision": "2", "ready": True}
    assert {key: found[key] for key in expected} == expected
    assert str(found["digest"]).startswith("sha256:")
    assert isinstance(found["inline"], bool)
    assert float(str(found["run_microseconds"])) > 0
    assert int(str(found["rss_bytes"])) > 10_000_000


async def test_a_cold_start_is_quick_and_needs_no_framework(tmp_path: Path) -> None:
    spec = scaled_artifact(tmp_path / "a").spec(SCALED, socket=tmp_path / "w.sock")
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with worker(spec, tmp_path, ready=False) as started:
        await until_ready(started)
        assert loop.time() - start < 5.0  # 0.6 s on a quiet machine; this one may be busy
        assert (await started.client.post(PREDICT, json=INSTANCES)).status_code == 200
        maps = Path(f"/proc/{started.process.pid}/maps")
        if maps.exists():
            assert "pydantic_core" not in maps.read_text()


@pytest.mark.enable_socket
async def test_every_live_call_sends_a_heartbeat_if_that_is_on_and_lives_without_its_receiver(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    beats: list[bytes] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beats.append((await reader.readuntil(b"\r\n")).strip())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    settings = ServingSettings(
        betterstack_enable=True,
        betterstack_base_url=f"http://127.0.0.1:{unused_tcp_port}/beat/",
        betterstack_api_token="token",
    )
    spec = echo_artifact(tmp_path / "a").spec(socket=tmp_path / "w.sock", settings=settings)
    async with worker(spec, tmp_path) as started:
        async with await asyncio.start_server(receive, "127.0.0.1", unused_tcp_port):
            assert (await started.client.get("/v1/live")).json() == {"live": True}
        assert beats == [b"POST /beat/token HTTP/1.1"]
        assert (await started.client.get("/v1/live")).json() == {"live": True}
        assert "the heartbeat was not delivered" in started.log.read_text()
        assert "token" not in started.log.read_text().replace("betterstack_api_token", "")
