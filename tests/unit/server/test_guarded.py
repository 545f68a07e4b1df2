"""Clients that speak HTTP badly: what they get is in order, what they cost is bounded, nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fairlead.api.worker import ServedEndpoint
from fairlead.domain.ids import RevisionId
from support import raw
from support.models import echo_artifact, scaled_artifact
from support.raw import statuses
from support.serving import InProcess, eventually, in_process, listening

pytestmark = pytest.mark.timeout(60)

ROW = b'{"instances": [[1, 2, 3]]}'
PREDICT = b"POST /v1/model/scaled/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
    len(ROW),
    ROW,
)
TEXT = b'{"text": "a"}'
ECHO = b"POST /v1/model/echo/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
    len(TEXT),
    TEXT,
)
LIVE = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
UPGRADE = b"host: x\r\nConnection: Upgrade, close-not\r\nUpgrade: h2c"

Ask = Callable[..., Awaitable[bytes]]
Test = Callable[[InProcess, Path], Awaitable[None]]


@contextlib.asynccontextmanager
async def two_models(directory: Path, keep_alive: float) -> AsyncIterator[tuple[InProcess, Path]]:
    specs = [
        scaled_artifact(directory / "scaled").spec(RevisionId("scaled", "v9", "2")),
        echo_artifact(directory / "echo").spec(
            RevisionId("echo", "v1", "1"), endpoints=(ServedEndpoint(concurrency=1),)
        ),
    ]
    async with (
        in_process(*specs) as running,
        listening(running.app, directory / "s", keep_alive) as path,
    ):
        yield running, path


@pytest.fixture
def on_uvloop(tmp_path: Path) -> Callable[..., None]:
    """Run a test against a server on the loop that workers use."""

    def run(test: Test, keep_alive: float = 60.0) -> None:
        async def within() -> None:
            async with two_models(tmp_path, keep_alive) as (running, path), asyncio.timeout(30):
                await test(running, path)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(within())

    return run


async def ask(path: Path, *parts: bytes) -> bytes:
    """Send the parts in writes of their own, then /livez with a close; everything that comes back."""
    async with raw.connected(path) as one:
        for part in (*parts, LIVE.replace(b"host", b"connection: close\r\nhost")):
            if not await raw.send(one, part):
                break
            await asyncio.sleep(0.02)  # so that it is read on its own
        answers, closed = await raw.receive(one, 5)
        assert closed
        return answers


@pytest.mark.parametrize("first", [PREDICT, ECHO, LIVE, PREDICT + ECHO + LIVE])
def test_what_is_no_http_is_refused_after_the_answers_that_are_due(
    on_uvloop: Callable[..., None], first: bytes
) -> None:
    async def test(running: InProcess, path: Path) -> None:
        answers = await ask(path, first + b"no http\r\n\r\n")
        assert statuses(answers) == [200] * first.count(b"HTTP/1.1") + [400]
        assert b'{"detail":"this is no HTTP request' in answers

    on_uvloop(test)


@pytest.mark.parametrize("first", [b"", PREDICT, ECHO])
def test_a_body_that_goes_wrong_is_refused_in_its_turn(
    on_uvloop: Callable[..., None], first: bytes
) -> None:
    broken = b"POST /v1/model/echo/predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nno\r\n"

    async def test(running: InProcess, path: Path) -> None:
        answers = await ask(path, first + broken)
        assert statuses(answers) == [200] * bool(first) + [400]

    on_uvloop(test)


@pytest.mark.parametrize("request_", [PREDICT, ECHO])
def test_an_upgrade_that_is_not_served_is_ignored_and_its_body_is_no_request(
    on_uvloop: Callable[..., None], request_: bytes
) -> None:
    upgrade = request_.replace(b"host: x", UPGRADE)
    head, body = upgrade.split(b"\r\n\r\n")
    smuggled = LIVE + b" " * (len(body) - len(LIVE)) if len(body) > len(LIVE) else LIVE[: len(body)]

    async def test(running: InProcess, path: Path) -> None:
        whole = await ask(path, upgrade + LIVE)
        cut = await ask(path, head + b"\r\n\r\n", body, LIVE)
        assert statuses(whole) == statuses(cut) == [200, 200, 200]
        assert statuses(await ask(path, head + b"\r\n\r\n", smuggled)) == [422, 200]

    on_uvloop(test)


def test_a_trailer_is_no_header(on_uvloop: Callable[..., None]) -> None:
    chunked = b"POST /v1/model/scaled/predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%b\r\n0\r\nx-request-id: sneaked\r\n\r\n" % (len(ROW), ROW)

    async def test(running: InProcess, path: Path) -> None:
        answers = await ask(path, chunked)
        assert statuses(answers) == [200, 200]
        assert b"sneaked" not in answers

    on_uvloop(test)


@pytest.mark.parametrize(
    "endless",
    [
        b"a: b\r\n" * 12_000,
        b"a: " + b"b" * 70_000,
        b"\r\n" * 40_000,
    ],
)
@pytest.mark.parametrize("start", [LIVE[:-2], PREDICT.split(b"\r\n\r\n")[0] + b"\r\n"])
def test_an_endless_head_is_refused(
    on_uvloop: Callable[..., None], start: bytes, endless: bytes
) -> None:
    async def test(running: InProcess, path: Path) -> None:
        data = endless if endless.startswith(b"\r\n") else start + endless
        assert statuses(await ask(path, data)) == [431]

    on_uvloop(test)


def test_endless_trailers_and_chunk_extensions_are_refused(on_uvloop: Callable[..., None]) -> None:
    start = b"POST /v1/model/echo/predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"

    async def test(running: InProcess, path: Path) -> None:
        for endless in (b"1;" + b"a" * 80_000, b"0\r\n" + b"a: b\r\n" * 14_000):
            assert statuses(await ask(path, start + endless)) == [431]

    on_uvloop(test)


def test_pipelining_without_reading_costs_little_and_every_request_is_answered(
    on_uvloop: Callable[..., None],
) -> None:
    count = 800

    async def test(running: InProcess, path: Path) -> None:
        for request in (LIVE, PREDICT):
            async with raw.connected(path) as one:
                last = request.replace(b"host: x\r\n", b"host: x\r\nconnection: close\r\n")
                sending = asyncio.ensure_future(raw.send(one, request * (count - 1) + last))
                most = 0
                for _ in range(4):
                    await asyncio.sleep(0.02)
                    cycles = (isinstance(it, RequestResponseCycle) for it in gc.get_objects())
                    most = max(most, sum(cycles))
                assert most < 300
                answers, _ = await raw.receive(one, 20)
                assert await sending
                assert statuses(answers) == [200] * count

    on_uvloop(test)


def test_who_pipelines_and_leaves_is_no_error_and_keeps_no_slot(
    on_uvloop: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(running: InProcess, path: Path) -> None:
        for number in range(60):
            async with raw.connected(path) as one:
                await raw.send(one, (ECHO * 3 + PREDICT + LIVE) * 5)
                await asyncio.sleep(0.0005 * (number % 5))
        await eventually(lambda: all(one.in_progress == 0 for one in running.plane.stats))
        assert all(one.admission.taken == 0 for one in running.plane.endpoints())
        assert statuses(await ask(path, ECHO)) == [200, 200]

    on_uvloop(test)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_who_stalls_in_a_body_or_never_reads_is_cut_off(on_uvloop: Callable[..., None]) -> None:
    async def test(running: InProcess, path: Path) -> None:
        for stalled in (ECHO[:-3], PREDICT[:-3], LIVE[:-3]):
            async with raw.connected(path) as one:
                await raw.send(one, stalled)
                assert await raw.receive(one, 5) == (b"", True)
        async with raw.connected(path) as one:
            assert not await raw.send(one, LIVE * 50_000)  # and no answer is read

    on_uvloop(test, keep_alive=0.2)


def test_who_waits_for_an_answer_is_not_cut_off(on_uvloop: Callable[..., None]) -> None:
    async def test(running: InProcess, path: Path) -> None:
        slots = [one for one in running.plane.endpoints() if one.id.service == "echo"]
        await slots[0].admission.enter()  # its only one: until it is free nobody is answered
        asking = asyncio.ensure_future(ask(path, ECHO))
        await asyncio.sleep(1.0)
        slots[0].admission.leave()
        assert statuses(await asking) == [200, 200]

    on_uvloop(test, keep_alive=0.2)


def test_who_waits_for_an_answer_with_a_body_behind_it_that_is_not_read_is_not_cut_off(
    on_uvloop: Callable[..., None],
) -> None:
    async def test(running: InProcess, path: Path) -> None:
        slots = [one for one in running.plane.endpoints() if one.id.service == "echo"]
        await slots[0].admission.enter()  # its only one: until it is free nobody is answered
        async with raw.connected(path) as one:
            await raw.send(one, ECHO + ECHO[:-3])
            for _ in range(3):  # whoever stalls later is cut off first
                async with raw.connected(path) as other:
                    await raw.send(other, PREDICT[:-3])
                    assert await raw.receive(other, 5) == (b"", True)
            slots[0].admission.leave()
            answers, closed = await raw.receive(one, 5)  # and then it is the client's turn
            assert (statuses(answers), closed) == ([200], True)

    on_uvloop(test, keep_alive=0.2)


async def answered(one: socket.socket, count: int) -> bytes:
    """So many answers, which are JSON."""
    found = b""
    while len(statuses(found)) < count or not found.endswith(b"}"):
        part = await asyncio.get_running_loop().sock_recv(one, 1 << 16)
        assert part, found
        found += part
    return found


def test_a_known_head_waits_for_the_answer_before_it(on_uvloop: Callable[..., None]) -> None:
    async def test(running: InProcess, path: Path) -> None:
        slots = [one for one in running.plane.endpoints() if one.id.service == "echo"]
        async with raw.connected(path) as one:
            await raw.send(one, PREDICT)
            await answered(one, 1)
            await slots[0].admission.enter()  # its only one: until it is free nobody is answered
            await raw.send(one, ECHO)
            await eventually(lambda: slots[0].admission.waiting == 1)
            await raw.send(one, PREDICT)
            for _ in range(2):  # whoever asks later is answered
                assert statuses(await ask(path, PREDICT)) == [200, 200]
            slots[0].admission.leave()
            answers = await answered(one, 2)
            assert statuses(answers) == [200, 200]
            assert answers.index(b'"text"') < answers.index(b'"predictions"')

    on_uvloop(test)


def test_a_body_that_nobody_wants_is_no_request_though_its_head_is_known(
    on_uvloop: Callable[..., None],
) -> None:
    nobodys = b"POST /v2/nope HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(PREDICT)

    async def test(running: InProcess, path: Path) -> None:
        async with raw.connected(path) as one:
            await raw.send(one, PREDICT)
            await answered(one, 1)
            await raw.send(one, nobodys)
            assert statuses(await answered(one, 1)) == [404]
            await raw.send(one, PREDICT)  # the body, which was not waited for
            await ask(path)  # by now it has been read
            await raw.send(one, LIVE.replace(b"host", b"connection: close\r\nhost"))
            answers, closed = await raw.receive(one, 5)
            assert closed
            assert statuses(answers) == [200]
            assert b"live" in answers

    on_uvloop(test)


def test_a_body_that_comes_slowly_is_answered_while_it_has_time(
    on_uvloop: Callable[..., None],
) -> None:
    async def test(running: InProcess, path: Path) -> None:
        async with raw.connected(path) as one, raw.connected(path) as other:
            at = len(PREDICT) - len(ROW)
            await raw.send(one, PREDICT[:at])
            await raw.send(other, PREDICT[:-3])  # and no more
            stalls = asyncio.ensure_future(raw.receive(other, 5))
            while not stalls.done() and at < len(PREDICT) - 1:
                await raw.send(one, PREDICT[at : at + 1])
                at += 1
                await asyncio.wait({stalls}, timeout=0.05)
            assert await stalls == (b"", True)
            await raw.send(one, PREDICT[at:])
            assert statuses(await answered(one, 1)) == [200]

    on_uvloop(test, keep_alive=0.4)
