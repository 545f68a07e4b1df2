"""The fast lane of the HTTP protocol: whatever arrives, however it is cut, ASGI would answer the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import weakref
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, strategies as st
from onnx import helper

from fairlead.api.worker import ServedEndpoint, ServingSettings
from fairlead.domain.ids import RevisionId
from fairlead.server.executions import total
from fairlead.server.http.app import ServerApp
from fairlead.server.http.aside import Aside
from fairlead.server.http.protocol import HttpProtocol
from fairlead.server.http.quick import QuickRequest
from fairlead.server.http.serve import Listen, Socket, serve
from fairlead.server.http.wave import Wave
from support.asked import (
    Asked,
    Served,
    by_asgi,
    read_answer,
    refuses,
    send_cut,
    served_at,
    standing_at,
)
from support.effort import PATIENCE
from support.models import FLOAT, INT64, example, make_artifact, onnx_bytes, scaled_artifact
from support.serving import eventually, in_process, listening
from support.waves import Caller, Ticks

SCALED = RevisionId("scaled", "v9", "2")
PREDICT = "/v1/model/scaled/predict"
INFER = "/v2/models/scaled/infer"


@contextlib.asynccontextmanager
async def served(
    directory: Path, settings: ServingSettings, batching: dict[str, Any] | None = None
) -> AsyncIterator[Served]:
    endpoints = (ServedEndpoint(batching=batching or {}),)
    made = scaled_artifact(directory / "scaled")
    spec = made.spec(SCALED, settings=settings, endpoints=endpoints)
    async with served_at(directory, spec) as found:
        yield found


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, ServingSettings(access_log=False)) as found:
        yield found


def rows(count: int) -> bytes:
    return json.dumps({"instances": [[row, 2.5, -row] for row in range(count)]}).encode()


def tensor(count: int, binary: bool = False) -> bytes:
    one: dict[str, Any] = {"name": "x", "shape": [count, 3], "datatype": "FP32"}
    body: dict[str, Any] = {"inputs": [one], "id": "call"}
    one["data"] = [float(number) for number in range(count * 3)]
    if binary:
        body["parameters"] = {"binary_data_output": True}
    return json.dumps(body).encode()


BODIES = st.one_of(
    st.integers(0, 6).map(rows),  # more than four rows of three are not quick
    st.sampled_from([b"", b"{", b"[]", b'{"instances": [[1]]}', b'{"instances": [["a", 1, 2]]}']),
    st.binary(max_size=20),
    st.just(rows(300)),  # more bytes than are quick
)
INFER_BODIES = st.one_of(
    st.builds(tensor, st.integers(0, 6), st.booleans()), st.just(b"{}"), st.binary(max_size=9)
)
TIMES = st.lists(
    st.sampled_from([("X-Request-Timeout-Ms", "60000"), ("x-request-timeout-ms", "soon")]),
    max_size=1,
)
IDS = st.lists(st.sampled_from([("X-Request-Id", "a-1"), ("x-request-id", "b")]), max_size=1)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    kind = draw(st.sampled_from(["predict"] * 4 + ["infer"] * 2 + ["chunked", "get", "odd"]))
    headers = [*draw(IDS), *draw(TIMES), ("content-type", "application/json")]
    if kind == "predict":
        return Asked("POST", PREDICT, tuple(headers), (draw(BODIES),))
    if kind == "infer":
        return Asked("POST", INFER, tuple(headers), (draw(INFER_BODIES),))
    if kind == "chunked":
        parts = draw(st.lists(st.binary(min_size=1, max_size=5), min_size=2, max_size=3))
        return Asked("POST", PREDICT, tuple(headers), tuple(parts))
    if kind == "get":
        target = draw(st.sampled_from(["/v2/models/scaled", "/livez", PREDICT, "/nope"]))
        return Asked("GET", target, (), (b"",))
    target = draw(st.sampled_from([PREDICT + "?a=b", PREDICT + "/", "/v1/model/other/predict"]))
    return Asked("POST", target, tuple(headers), (rows(1),))


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Served]]:
    """One server for many examples."""
    directory = tmp_path_factory.mktemp("fast")
    with standing_at(directory, scaled_artifact(directory / "scaled").spec(SCALED)) as standing:
        yield standing


@given(
    requests=st.lists(asked(), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 4000), max_size=6),
)
def test_pipelined_and_cut_anywhere_the_answers_are_asgis_in_order(
    standing: tuple[asyncio.Runner, Served], requests: list[Asked], cuts: list[int]
) -> None:
    runner, found = standing

    async def compare() -> None:
        reader, writer = await asyncio.open_unix_connection(str(found.path))
        wire = b"".join(one.wire() for one in requests)
        await send_cut(writer, wire, cuts)
        async with asyncio.timeout(10):
            for one in requests:
                status, headers, body = await read_answer(reader)
                expected = await by_asgi(found.running, one)
                kind, code = (headers.get(name, "") for name in ("content-type", "x-error-code"))
                assert (status, kind, code, body) == expected
                sent = {name.lower(): value for name, value in one.headers}
                assert headers["x-request-id"] == sent.get("x-request-id", headers["x-request-id"])
        writer.close()

    runner.run(compare())
    assert all(route.in_progress == 0 for route in found.running.plane.stats)


async def test_many_at_once_get_their_own_answers(server: Served) -> None:
    async def ask(number: int) -> None:
        reader, writer = await asyncio.open_unix_connection(str(server.path))
        for turn in range(20):
            body = json.dumps({"instances": [[number, turn, 0]]}).encode()
            writer.write(Asked("POST", PREDICT, (), (body,)).wire())
            status, _, answer = await read_answer(reader)
            assert (status, json.loads(answer)) == (
                200,
                {"predictions": [[2 * number, 2 * turn, 0]]},
            )
        writer.close()

    async with asyncio.TaskGroup() as group:
        for number in range(150):  # more than one wave takes
            group.create_task(ask(number))
    hot = [route for route in server.running.plane.stats if route.endpoint]
    assert sum(route.requests for route in hot) == 150 * 20


def _runs(served: Served) -> tuple[int, int]:
    """How many runs there were, and how many rows they had."""
    (endpoint,) = served.running.plane.endpoints()
    sizes = endpoint.executions.by_size
    return sum(one.count for one in sizes.values()), sum(
        rows * one.count for rows, one in sizes.items()
    )


@pytest.mark.parametrize(
    ("said", "shared"), [({}, True), ({"maxBatchSize": 3}, True), ({"enabled": False}, False)]
)
async def test_what_one_turn_reads_shares_a_run_unless_it_may_not(
    tmp_path: Path, said: dict[str, Any], shared: bool
) -> None:
    async with served(tmp_path, ServingSettings(access_log=False), batching=said) as found:
        streams = [await asyncio.open_unix_connection(str(found.path)) for _ in range(12)]
        for number, (_, writer) in enumerate(streams):
            body = json.dumps({"instances": [[number, 1, 0]] * (1 + number % 2)}).encode()
            writer.write(Asked("POST", PREDICT, (), (body,)).wire())
        batches = []
        for number, (reader, writer) in enumerate(streams):
            status, headers, body = await read_answer(reader)
            assert status == 200
            wanted = [[2 * number, 2, 0]] * (1 + number % 2)
            assert json.loads(body) == {"predictions": wanted}
            batches.append(int(headers["server-timing"].split("batch;desc=")[1].split(",")[0]))
            writer.close()
        ran, rows_run = _runs(found)
        assert rows_run == 18
        assert (ran < 12) == shared == (max(batches) > 1)
        if said.get("maxBatchSize"):
            assert max(batches) <= 3


async def test_one_that_fails_in_a_wave_fails_alone(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["w", "x"], ["y"])
    model = onnx_bytes([("x", INT64, ["n"])], [("y", FLOAT, ["n"])], [node], {"w": _table()})
    artifact = make_artifact(
        tmp_path / "m", {"model.onnx": model}, [example({"x": [1]}, {"y": [10.0]})]
    )
    async with in_process(artifact.spec(RevisionId("pick", "v1", "1"))) as running:
        at = Socket(Listen(uds=tmp_path / "s"))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(running.app, at, stop=stop, drain_seconds=5))
            await eventually((tmp_path / "s").exists)
            streams = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(6)]
            for number, (_, writer) in enumerate(streams):
                body = json.dumps({"instances": [99 if number % 2 else number]}).encode()
                writer.write(Asked("POST", "/v1/model/pick/predict", (), (body,)).wire())
            for number, (reader, writer) in enumerate(streams):
                status, _, body = await read_answer(reader)
                if number % 2:
                    assert status == 400
                    assert b"does not take this input" in body
                else:
                    assert (status, json.loads(body)) == (200, {"predictions": [number * 10.0]})
                writer.close()
            stop.set()


def _table() -> Any:
    import numpy as np

    return np.arange(8, dtype=np.float32) * 10


async def test_a_wave_shares_its_time_among_its_requests_and_counts_each_route(
    server: Served,
) -> None:
    tick = 2.0**-16  # seconds, without rounding
    app, caller, wave = server.running.app, Caller(), Wave(Ticks(tick), Aside(), access_log=False)
    asked = [(PREDICT, rows(1)), (INFER, tensor(1)), (PREDICT, rows(1))]
    loop = asyncio.get_running_loop()
    routes = []
    for target, body in asked:
        hot = app.hot_path(target.encode())
        assert hot is not None
        routes.append(hot.choose({}))
        one = QuickRequest(wave, caller, routes[-1], target.encode(), (), {})
        one.body = body
        wave.add(one, loop)
    executions = routes[0].endpoint.executions
    before = total([executions])
    assert [route.stats.in_progress for route in routes] == [2, 1, 2]
    await eventually(lambda: len(caller.answers) == len(asked))
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in caller.answers)
    assert [route.stats.in_progress for route in routes] == [0, 0, 0]
    assert [route.stats.statuses[200] for route in routes] == [2, 1, 2]
    assert executions.requests - before.requests == len(asked)
    # One look before and one after each of a stage: each was decoded in a tick, and encoded in one.
    assert executions.decoding_seconds - before.decoding_seconds == pytest.approx(3 * tick)
    assert executions.encoding_seconds - before.encoding_seconds == pytest.approx(3 * tick)
    # They came at 1, 2 and 3; the run they shared began at 12, and all were sent at 19.
    assert executions.seconds - before.seconds == pytest.approx((18 + 17 + 16) * tick)
    assert executions.queue_seconds - before.queue_seconds == pytest.approx(
        (11 + 10 + 9 - 3) * tick
    )


def join(app: ServerApp, wave: Wave, caller: Caller, body: bytes, **headers: str) -> None:
    """Let a request of `PREDICT` join the wave of this turn."""
    hot = app.hot_path(PREDICT.encode())
    assert hot is not None
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    one = QuickRequest(wave, caller, hot.choose({}), PREDICT.encode(), sent.items(), sent)
    one.body = body
    wave.add(one, asyncio.get_running_loop())


@pytest.mark.parametrize("others", [0, 1, 3])
async def test_one_that_is_late_when_its_wave_is_run_is_told_so_and_not_run(
    server: Served, others: int
) -> None:
    app, late, in_time = server.running.app, Caller(), Caller()
    wave = Wave(Ticks(), Aside(), access_log=False)
    ran, _ = _runs(server)
    join(app, wave, late, rows(1), x_request_timeout_ms="1000")  # decoding takes longer
    for _ in range(others):
        join(app, wave, in_time, rows(1), x_request_timeout_ms="60000")
    await eventually(lambda: len(late.answers + in_time.answers) == 1 + others)
    (told,) = late.answers
    assert told.startswith(b"HTTP/1.1 504 ")
    assert b"no answer within 1 s" in told
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in in_time.answers)
    assert _runs(server)[0] - ran == others


async def test_who_has_left_before_its_wave_is_run_is_not_run(server: Served) -> None:
    caller = Caller(left=True)
    before = _runs(server)
    join(server.running.app, Wave(Ticks(), Aside(), access_log=False), caller, rows(1))
    await eventually(lambda: len(caller.answers) == 1)
    assert caller.answers[0].startswith(b"HTTP/1.1 499 ")
    assert _runs(server) == before


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_what_is_packed_both_ways_is_as_by_asgi(server: Served, encoding: str) -> None:
    window = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}[encoding]
    packer = zlib.compressobj(wbits=window)
    packed = packer.compress(rows(1)) + packer.flush()
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    for headers, body in (
        ((("accept-encoding", encoding),), rows(1)),
        ((("accept-encoding", encoding), ("content-encoding", encoding)), packed),
    ):
        for _ in range(2):  # the second time the head is known
            writer.write(Asked("POST", PREDICT, headers, (body,)).wire())
            status, told, answered = await read_answer(reader)
            assert (status, told["content-encoding"]) == (200, encoding)
            assert json.loads(zlib.decompress(answered, window)) == {"predictions": [[0, 5, 0]]}
    writer.close()


async def test_who_expects_100_continue_is_told_to_go_on(server: Served) -> None:
    head, _, body = Asked("POST", PREDICT, (), (rows(1),)).wire().partition(b"\r\n\r\n")
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    for _ in range(2):
        writer.write(head + b"\r\n\r\n" + body)  # without it, the head is known
        await read_answer(reader)
        writer.write(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await read_answer(reader))[0] == 200
    writer.close()


async def test_connection_close_is_answered_and_obeyed(server: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(Asked("POST", PREDICT, (("Connection", "close"),), (rows(1),)).wire())
    status, headers, _ = await read_answer(reader)
    assert (status, headers["connection"]) == (200, "close")
    assert await reader.read() == b""
    writer.close()


async def test_a_server_that_stops_answers_what_it_has_begun_to_read(server: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    wire = Asked("POST", PREDICT, (), (rows(2),)).wire()
    writer.write(wire[:-5])
    await eventually(lambda: _being_read(server.running.app))
    server.stop.set()
    await eventually(lambda: refuses(server.path))
    writer.write(wire[-5:])
    status, headers, body = await read_answer(reader)
    assert (status, headers["connection"]) == (200, "close")
    assert json.loads(body) == {"predictions": [[0, 5, 0], [2, 5, -2]]}
    assert await reader.read() == b""
    writer.close()


def _being_read(app: ServerApp) -> bool:
    """Is a quick request on its way in?"""
    return any(
        isinstance(one, QuickRequest) and one.connection.cycle is one  # type: ignore[attr-defined]
        for one in gc.get_objects()
    )


async def test_a_client_that_left_is_not_computed_for(server: Served) -> None:
    routes = [route for route in server.running.plane.stats if route.template.endswith("predict")]
    _, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(Asked("POST", PREDICT, (), (rows(1),)).wire())
    writer.transport.abort()
    await eventually(lambda: sum(route.requests for route in routes) == 1)
    assert all(route.in_progress == 0 for route in routes)


async def test_a_closed_connection_leaves_nothing_behind(server: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(Asked("POST", PREDICT, (), (rows(1),)).wire())
    await read_answer(reader)
    gc.collect()
    loop = asyncio.get_running_loop()
    protocols = [
        weakref.ref(one)
        for one in gc.get_objects()
        if isinstance(one, HttpProtocol) and one.loop is loop
    ]
    assert protocols
    gc.disable()
    try:
        writer.close()
        await eventually(lambda: not any(ref() is not None for ref in protocols))
    finally:
        gc.enable()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(tmp_path: Path) -> None:
    spec = scaled_artifact(tmp_path / "scaled").spec(SCALED)
    async with in_process(spec) as running, listening(running.app, tmp_path / "s", 0.2) as path:
        reader, writer = await asyncio.open_unix_connection(str(path))
        start = asyncio.get_running_loop().time()
        # Longer than the limit, never idle; the second head and those after it are known from the first.
        while asyncio.get_running_loop().time() - start < 0.5:
            writer.write(Asked("POST", PREDICT, (), (rows(1),)).wire())
            status, _, _ = await read_answer(reader)
            assert status == 200
        async with asyncio.timeout(5 * PATIENCE):
            assert await reader.read() == b""
        writer.close()


async def test_the_access_line_is_the_same_as_asgis(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fairlead.access")
    async with served(tmp_path, ServingSettings(access_log=True)) as found:
        reader, writer = await asyncio.open_unix_connection(str(found.path))
        writer.write(Asked("POST", PREDICT, (("x-request-id", "r-7"),), (rows(1),)).wire())
        await read_answer(reader)
        await found.running.client.post(PREDICT, content=rows(1), headers={"x-request-id": "r-7"})
        writer.close()
    fast, slow = [record for record in caplog.records if record.name == "fairlead.access"]
    for key in ("request_line", "status_code", "status_phrase", "request_id"):
        assert fast.__dict__[key] == slow.__dict__[key]
