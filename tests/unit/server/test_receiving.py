"""Large binary bodies, which go past the parser: however they arrive, ASGI would answer the same; nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings as hypothesis, strategies as st

from fairlead.api.worker import ServingSettings
from fairlead.domain.ids import RevisionId
from fairlead.server.http.blocks import Blocks
from fairlead.server.http.guarded import GuardedProtocol
from support import raw
from support.asked import Asked, by_asgi, read_answer, send_cut
from support.models import scaled_artifact
from support.serving import InProcess, eventually, in_process, listening

pytestmark = pytest.mark.timeout(60)

SCALED = RevisionId("scaled", "v9", "2")
INFER = "/v2/models/scaled/infer"
ROWS = 30_000  # 360 kB
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
LIVE = Asked("GET", "/livez", (), (b"",))
SMALL = Asked("POST", "/v1/model/scaled/predict", (), (b'{"instances": [[1, 2, 3]]}',))
MIB = 1 << 20


def tensor(rows: int, first: float = 0.0, *, said: int | None = None) -> tuple[bytes, bytes]:
    """The JSON of a question and the bytes behind it."""
    values = np.arange(rows * 3, dtype=np.float32) + np.float32(first)
    size = values.nbytes if said is None else said
    one = {"name": "x", "shape": [rows, 3], "datatype": "FP32"}
    head = {"inputs": [one | {"parameters": {"binary_data_size": size}}], "id": "call"}
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    return json.dumps(head | {"outputs": wanted}).encode(), values.tobytes()


def asked(
    rows: int = ROWS,
    first: float = 0.0,
    *more: tuple[str, str],
    chunks: int = 1,
    said: int | None = None,
) -> Asked:
    text, binary = tensor(rows, first, said=said)
    body = text + binary
    size = -(-len(body) // chunks)
    parts = tuple(body[at : at + size] for at in range(0, len(body), size))
    headers = (("Inference-Header-Content-Length", str(len(text))), *more)
    return Asked("POST", INFER, headers, parts)


@contextlib.asynccontextmanager
async def standing(
    directory: Path, settings: ServingSettings | None = None
) -> AsyncIterator[tuple[InProcess, Path]]:
    settings = settings or ServingSettings(access_log=False)
    spec = scaled_artifact(directory / "scaled").spec(SCALED, settings=settings)
    async with in_process(spec) as running, listening(running.app, directory / "s") as path:
        yield running, path
        await eventually(lambda: running.app.bodies.held == 0)
        assert all(route.in_progress == 0 for route in running.plane.stats)


@pytest.fixture(scope="module", params=LOOPS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[asyncio.Runner, InProcess, Path]]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        stack = contextlib.AsyncExitStack()
        entered = stack.enter_async_context(standing(tmp_path_factory.mktemp("large")))
        yield runner, *runner.run(entered)
        runner.run(stack.aclose())


def straight(wanted: set[int]) -> Callable[[GuardedProtocol, int], None]:
    """In place of `body_received`: note who was read past the parser."""
    before = GuardedProtocol.body_received

    def noted(self: GuardedProtocol, size: int) -> None:
        wanted.add(size)
        before(self, size)

    return noted


KINDS: st.SearchStrategy[Asked] = st.one_of(
    st.builds(asked, st.just(ROWS), st.integers(0, 99).map(float)),
    st.builds(asked, st.just(ROWS), chunks=st.integers(2, 4)),
    st.builds(asked, st.integers(0, 3)),
    st.just(asked(ROWS, said=7)),  # wrong, and found out when all of it is here
    st.just(asked(ROWS, 0.0, ("accept-encoding", "gzip"))),
    st.sampled_from([LIVE, SMALL]),
)


@hypothesis(max_examples=40)
@given(
    requests=st.lists(KINDS, min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 1_500_000), max_size=5),
)
def test_pipelined_and_cut_anywhere_the_answers_are_asgis_in_order(
    server: tuple[asyncio.Runner, InProcess, Path], requests: list[Asked], cuts: list[int]
) -> None:
    runner, running, path = server

    async def compare() -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        wire = b"".join(one.wire() for one in requests)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(send_cut(writer, wire, cuts))
            for one in requests:
                status, headers, body = await read_answer(reader)
                expected = await by_asgi(running, one)
                if headers.get("content-encoding"):
                    assert status == expected[0]
                    continue
                kind, code = (headers.get(name, "") for name in ("content-type", "x-error-code"))
                assert (status, kind, code, body) == expected
        writer.close()

    runner.run(compare())
    assert running.app.bodies.held == 0


def test_a_large_body_is_read_past_the_parser_and_its_memory_comes_back(
    server: tuple[asyncio.Runner, InProcess, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, running, path = server
    seen: set[int] = set()
    monkeypatch.setattr(GuardedProtocol, "body_received", straight(seen))

    async def ask() -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        for turn in range(4):
            writer.write(asked(ROWS, float(turn)).wire())
            status, headers, body = await read_answer(reader)
            assert status == 200
            length = int(headers["inference-header-content-length"])
            found = np.frombuffer(body[length:], np.float32)
            factor = 2
            wanted = (np.arange(ROWS * 3, dtype=np.float32) + turn) * factor
            assert (found == wanted).all()
            for name in ("x-request-id", "x-served-version", "server-timing"):
                assert headers[name]
            await eventually(lambda: running.app.blocks.lent == 0)
        writer.close()

    runner.run(ask())
    assert seen
    assert 0 < running.app.blocks.idle_bytes < 4 * ROWS * 12  # used again, not four times taken


@pytest.mark.parametrize("loop", LOOPS)
def test_more_than_all_bodies_may_hold_is_refused_at_once_and_the_connection_goes_on(
    tmp_path: Path, loop: str
) -> None:
    async def within() -> None:
        settings = ServingSettings(bodies_limit_bytes=300_000, access_log=False)
        async with standing(tmp_path, settings) as (running, path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            for _ in range(2):
                writer.write(asked().wire() + LIVE.wire())
                status, _, body = await read_answer(reader)
                assert status == 503
                assert b"300000 bytes together" in body
                status, _, body = await read_answer(reader)
                assert (status, body) == (200, b'{"live":true}')
            await eventually(lambda: running.app.blocks.lent == 0)
            writer.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(within())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_behind(
    tmp_path: Path, loop: str
) -> None:
    async def within() -> None:
        async with standing(tmp_path) as (running, path):
            wire = asked().wire()
            for sent in (500, 20_000, 300_000, len(wire) - 1):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(
                    asked(ROWS).wire()
                )  # the second one is read by the intake from its head on
                await read_answer(reader)
                writer.write(wire[:sent])
                await writer.drain()
                await eventually(lambda: running.app.blocks.lent == 1)
                writer.transport.abort()
                await eventually(lambda: running.app.blocks.lent == 0)
            await eventually(lambda: running.app.bodies.held == 0)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(within())


@pytest.mark.parametrize("loop", LOOPS)
def test_who_expects_100_continue_is_told_to_go_on(tmp_path: Path, loop: str) -> None:
    async def within() -> None:
        async with standing(tmp_path) as (_, path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            one = asked(ROWS, 0.0, ("Expect", "100-continue"))
            (body,) = one.body
            writer.write(one.wire()[: -len(body)])
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            status, _, _ = await read_answer(reader)
            assert status == 200
            writer.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(within())


async def test_a_client_that_stalls_in_the_middle_is_cut_off(tmp_path: Path) -> None:
    spec = scaled_artifact(tmp_path / "scaled").spec(SCALED)
    async with in_process(spec) as running, listening(running.app, tmp_path / "s", 0.2) as path:
        async with raw.connected(path) as one:
            await raw.send(one, asked().wire()[:100_000])
            _, closed = await raw.receive(one, 5)
            assert closed
        await eventually(lambda: running.app.blocks.lent == 0)


async def test_connection_close_is_obeyed_after_a_large_answer(tmp_path: Path) -> None:
    async with standing(tmp_path) as (_, path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(asked(ROWS, 0.0, ("Connection", "close")).wire() + LIVE.wire())
        status, headers, _ = await read_answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await reader.read() == b""
        writer.close()


async def test_a_body_beyond_the_limit_takes_no_memory(tmp_path: Path) -> None:
    settings = ServingSettings(body_limit_bytes=300_000, access_log=False)
    async with standing(tmp_path, settings) as (running, path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(asked().wire())
        status, _, _ = await read_answer(reader)
        assert status == 413
        assert running.app.blocks.lent == running.app.blocks.idle_bytes == 0
        writer.close()


async def test_a_body_that_lies_about_its_json_is_answered(tmp_path: Path) -> None:
    async with standing(tmp_path) as (_, path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        for said in ("0", "1", "360000", "999999999", "18446744073709551616", "-1", ""):
            one = asked()
            lying = Asked(one.method, one.target, ((one.headers[0][0], said),), one.body)
            writer.write(lying.wire())
            status, _, _ = await read_answer(reader)
            assert status == 400
        writer.close()


@pytest.mark.parametrize("rows", [1, ROWS])
async def test_a_body_may_be_nothing_but_bytes(tmp_path: Path, rows: int) -> None:
    values = np.arange(rows * 3, dtype=np.float32)
    header = ("Inference-Header-Content-Length", "0")
    async with standing(tmp_path) as (running, path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        for body, expected in ((values.tobytes(), 200), (values.tobytes()[1:], 400)):
            writer.write(Asked("POST", INFER, (header,), (body,)).wire())
            status, headers, answered = await read_answer(reader)
            assert status == expected
            if expected == 200:
                length = int(headers["inference-header-content-length"])
                assert json.loads(answered[:length])["outputs"][0]["shape"] == [rows, 3]
                assert (np.frombuffer(answered[length:], np.float32) == 2 * values).all()
        await eventually(lambda: running.app.blocks.lent == 0)
        writer.close()


# The memory itself.


async def test_a_block_lies_well_and_is_used_again() -> None:
    blocks = Blocks(64 * MIB)
    for at in (0, 1, 131, 64):
        memory = blocks.lend(5 * MIB, at)
        assert len(memory) == 5 * MIB
        assert np.frombuffer(memory, np.uint8).ctypes.data % 64 == -at % 64
        memory[:] = bytes([at % 256]) * len(memory)
        del memory
        assert blocks.lent == 0
        await asyncio.sleep(0)
    assert 5 * MIB <= blocks.idle_bytes <= 6 * MIB


async def test_a_block_that_somebody_keeps_a_part_of_is_nobody_elses() -> None:
    blocks = Blocks(64 * MIB)
    memory = blocks.lend(MIB)
    memory[:] = b"a" * MIB
    kept: Any = np.frombuffer(memory[100:200], np.uint8).reshape(10, 10)[3:4]
    del memory
    for _ in range(3):
        other = blocks.lend(MIB)
        other[:] = b"b" * MIB
        del other
        await asyncio.sleep(0)
    assert bytes(kept.ravel()) == b"a" * 10
    assert blocks.lent == 1
    thread = threading.Thread(target=kept.fill, args=(0,))  # and its last reference goes there
    del kept
    thread.start()
    thread.join()
    del thread
    await eventually(lambda: blocks.lent == 0)


async def test_what_waits_for_its_next_use_is_bounded_and_given_back() -> None:
    blocks = Blocks(64 * MIB, idle_seconds=0.02)
    many = [blocks.lend(16 * MIB - 64) for _ in range(8)]
    many += [blocks.lend(300_000) for _ in range(8)]
    del many
    assert blocks.lent == 0
    await asyncio.sleep(0)
    assert 0 < blocks.idle_bytes <= 64 * MIB
    await eventually(lambda: blocks.idle_bytes == 0)
    memory = blocks.lend(MIB)  # and from the beginning
    del memory
    await asyncio.sleep(0)
    assert blocks.idle_bytes
    await eventually(lambda: blocks.idle_bytes == 0)
